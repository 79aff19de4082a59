"""How the servers of this folder run: they say which port they got, and serve."""

from __future__ import annotations

import logging
import sys

from webpy_socketio.engine import EngineServer


def run(server: EngineServer) -> None:
    """Start, print ``PORT <port>``, and serve until a signal ends the process."""
    # The suites' clients make mistakes on purpose; what is said of them is tested elsewhere.
    logging.getLogger("webpy_socketio.engine.notices").disabled = True
    server.start()
    sys.stdout.write(f"PORT {server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()
