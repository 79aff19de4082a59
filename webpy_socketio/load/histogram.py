"""Histogram of durations with a relative error of half a percent."""

from __future__ import annotations

import math

__all__ = ["PERCENTILES", "Histogram"]

#: Percentiles of reports.
PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)

#: Buckets per factor of e: the borders of a bucket differ by one percent.
_RESOLUTION = 100.0

#: Smallest duration that is distinguished, in seconds.
_MINIMUM = 1e-6


class Histogram:
    """Counts durations in logarithmic buckets; its size does not depend on their number."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.maximum = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration."""
        bucket = math.floor(math.log(max(seconds, _MINIMUM)) * _RESOLUTION)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1
        self.total += seconds
        self.maximum = max(self.maximum, seconds)

    @property
    def mean(self) -> float:
        """The mean in seconds; 0 if the histogram is empty."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Return the duration, in seconds, that `percent` of all durations do not exceed."""
        rank = math.ceil(self.count * percent / 100)
        passed = 0
        for bucket in sorted(self._buckets):
            passed += self._buckets[bucket]
            if passed >= rank:
                return min(math.exp((bucket + 0.5) / _RESOLUTION), self.maximum)
        return self.maximum

    def count_up_to(self, seconds: float) -> int:
        """Return the number of durations in buckets that begin below `seconds`."""
        end = math.log(max(seconds, _MINIMUM)) * _RESOLUTION
        return sum(count for bucket, count in self._buckets.items() if bucket < end)

    def summary(self) -> dict[str, float | int]:
        """Return count, mean, percentiles and maximum, in milliseconds."""
        if not self.count:
            return {"count": 0}
        return {
            "count": self.count,
            "mean": _milliseconds(self.mean),
            **{f"p{value:g}": _milliseconds(self.percentile(value)) for value in PERCENTILES},
            "max": _milliseconds(self.maximum),
        }


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
