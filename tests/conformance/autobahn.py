"""Runs Autobahn's WebSocket cases (package kosoku) against an echo server.

``python tests/conformance/autobahn.py URL CASE…`` with cases such as ``1.1.1`` or ``6.*``. Writes a
line of JSON per case: its id, the verdicts on messages and closing, and the reason of each.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from kosoku import FailureError, run_fuzzingclient

#: Number of concurrent cases. Most of their time is spent waiting for timeouts.
CONCURRENCY = 8


async def main(url: str, *cases: str) -> None:
    try:
        results = await run_fuzzingclient(url, cases, concurrency=CONCURRENCY)
    except FailureError as failure:  # the results include failed cases
        results = failure.results
    for result in results:
        verdicts = result.behavior.value, result.behavior_close.value
        reasons = result.result, result.result_close
        sys.stdout.write(json.dumps([result.case_id, *verdicts, *reasons]) + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    sys.stdout.flush()
    # Skips the interpreter's shutdown, in which threads of kosoku 0.1.0 sometimes abort.
    os._exit(0)
