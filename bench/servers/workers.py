"""Settings with which ``ours.py`` is served by several workers; the Redis is named by the one who starts them."""

import os

SOCKETIO_BACKPLANE = os.environ["BENCH_REDIS"]
SOCKETIO_DRAIN_TIME = 0.0  # what follows is not to be disturbed by farewells
