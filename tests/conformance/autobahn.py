"""Runs Autobahn's WebSocket cases, as the package kosoku has them, against an echo server.

``python tests/conformance/autobahn.py URL CASE…`` where a case is ``1.1.1`` or ``6.*``. Writes one
line of JSON a case: its id, the two verdicts (on the messages, on the closing), and why.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from kosoku import FailureError, run_fuzzingclient

#: Cases at once. Most of a case's time is spent waiting for what is not to happen.
CONCURRENCY = 8


async def main(url: str, *cases: str) -> None:
    try:
        results = await run_fuzzingclient(url, cases, concurrency=CONCURRENCY)
    except FailureError as failure:  # a verdict too, and in the results
        results = failure.results
    for result in results:
        verdicts = result.behavior.value, result.behavior_close.value
        reasons = result.result, result.result_close
        sys.stdout.write(json.dumps([result.case_id, *verdicts, *reasons]) + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    sys.stdout.flush()
    # Not by way of the interpreter's end: kosoku's threads are still there (0.1.0), and now and then
    # one of them aborts the process over it.
    os._exit(0)
