"""Settings of ``ours.py`` with several workers; ``BENCH_REDIS`` is the URL of Redis."""

import os

SOCKETIO_BACKPLANE = os.environ["BENCH_REDIS"]
SOCKETIO_DRAIN_TIME = 0.0  # stop at once: disconnecting clients would disturb the next measurement
