"""Histogram of a load test: percentiles against the sorted durations."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webpy_socketio.load.histogram import PERCENTILES, Histogram


@given(st.lists(st.floats(1e-5, 100.0), min_size=1, max_size=300))
def test_percentiles_are_within_one_percent(durations: list[float]) -> None:
    histogram = Histogram()
    for duration in durations:
        histogram.record(duration)
    durations.sort()
    for percent in PERCENTILES:
        exact = durations[math.ceil(len(durations) * percent / 100) - 1]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.01)
    assert histogram.percentile(100) <= histogram.maximum == durations[-1]
    assert histogram.mean == pytest.approx(sum(durations) / len(durations))
    assert histogram.count_up_to(1000.0) == histogram.count == len(durations)


def test_empty_histogram_has_only_a_count() -> None:
    assert Histogram().summary() == {"count": 0}


def test_size_does_not_depend_on_number_of_durations() -> None:
    histogram = Histogram()
    for number in range(100_000):
        histogram.record(number % 1000 / 1000)
    assert len(histogram._buckets) < 1000
