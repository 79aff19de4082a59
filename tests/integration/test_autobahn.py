"""Autobahn's WebSocket cases against `tests/conformance/websocket_server.py`.

Groups 1 to 7 and 10: framing, pings, reserved bits and opcodes, fragments, UTF-8, closing,
automatic fragmentation. Of 12 and 13 (compression) one case for each kind of data and offer, with
whole and with fragmented messages; all 216 take several minutes. Skipped: 9 (speed).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.test_conformance import SERVERS, serve

#: Number of cases in each group.
GROUPS = {1: 16, 2: 11, 3: 7, 4: 10, 5: 20, 6: 145, 7: 37, 10: 1}

#: Cases of compression: 1,000 messages of 4 KB each, and of 8 KB in fragments of 256 bytes.
#: (kosoku 0.1.0 cannot read uncompressed messages of a connection with compression, which RFC 7692
#: §6 permits. It fails in cases of short messages, and in 12.5, whose data does not shrink.)
COMPRESSED = [
    f"{kind}.{case}"
    for kind in ("12.1", "12.2", "12.3", "12.4", "13.1", "13.2", "13.4", "13.6", "13.7")
    for case in (5, 11)
]

#: Cases whose offer limits the window of the server, which declines it.
DECLINED = ["13.3.5", "13.5.5"]

#: Cases with the verdict NON-STRICT, which RFC 6455 permits.
NON_STRICT = {
    # A message right before an invalid frame is not echoed: both are read together, and the invalid
    # frame closes the connection first.
    *("3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"),
    # UTF-8 is checked when the message is complete, not for each fragment.
    *("6.4.1", "6.4.2", "6.4.3", "6.4.4"),
}

#: Cases without a verdict: data after a close frame, and undefined close codes.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("kosoku") is None,
        reason="kosoku is not installed, which brings Autobahn's cases; no wheel for this machine?",
    ),
    pytest.mark.time_limit(120),
]


class Verdict(NamedTuple):
    case: str
    messages: str
    closing: str
    reason: str
    closing_reason: str


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    """Run the echo server and return its port; output on stderr fails the tests."""
    yield from serve("websocket_server.py", 1)


@pytest.fixture(scope="module")
def verdicts(server: int) -> list[Verdict]:
    """Run all cases, in their own process because they do not work with gevent's patches."""
    run = subprocess.run(
        [
            sys.executable,
            Path(SERVERS / "autobahn.py"),
            f"ws://127.0.0.1:{server}/",
            *(f"{group}.*" for group in GROUPS),
            *COMPRESSED,
            *DECLINED,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return [Verdict(*json.loads(line)) for line in run.stdout.splitlines()]


@pytest.mark.parametrize("group", GROUPS)
def test_autobahn_cases_pass(verdicts: list[Verdict], group: int) -> None:
    of_group = [verdict for verdict in verdicts if verdict.case.split(".")[0] == str(group)]
    assert len(of_group) == GROUPS[group]
    for verdict in of_group:
        if verdict.case in INFORMATIONAL:
            allowed = {("INFORMATIONAL", "INFORMATIONAL")}
        elif verdict.case in NON_STRICT:
            allowed = {("OK", "OK"), ("NON-STRICT", "OK")}
        else:
            allowed = {("OK", "OK")}
        assert verdict[1:3] in allowed, verdict


@pytest.mark.parametrize("case", COMPRESSED)
def test_autobahn_compression_case_passes(verdicts: list[Verdict], case: str) -> None:
    (verdict,) = [verdict for verdict in verdicts if verdict.case == case]
    assert verdict[1:3] == ("OK", "OK"), verdict


@pytest.mark.parametrize("case", DECLINED)
def test_autobahn_offer_of_a_small_window_is_declined(verdicts: list[Verdict], case: str) -> None:
    (verdict,) = [verdict for verdict in verdicts if verdict.case == case]
    assert verdict[1:3] == ("UNIMPLEMENTED", "OK"), verdict
