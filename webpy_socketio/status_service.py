"""The status socket of a server, in the folder of its workers or in one of its own."""

from __future__ import annotations

import logging
import shutil
import socket
from collections.abc import Callable

from webpy_socketio.engine import PeerWorkers
from webpy_socketio.engine.workers.runtime_folder import RuntimeFolder, make_runtime_folder
from webpy_socketio.engine.workers.status_socket import StatusSocket

__all__ = ["StatusService", "open_status_service"]

logger = logging.getLogger("webpy_socketio")


class StatusService:
    """A status socket, with its folder if no other process uses it.

    Args:
        answer: Returns the answer to a query.
        peers: The other workers of the server; None without.

    Raises:
        ValueError: The folder cannot be used.
        OSError: The folder or the socket cannot be created.
    """

    def __init__(self, answer: Callable[[str], bytes], peers: PeerWorkers | None) -> None:
        self._folder: RuntimeFolder | None = None
        if peers is not None:
            self._socket = StatusSocket(peers.folder, peers.name, answer)
            return
        self._folder = make_runtime_folder()
        try:
            self._socket = StatusSocket(self._folder.path, 0, answer)
        except BaseException:
            self._remove_folder()
            raise

    def close(self) -> None:
        """Remove the socket, and the own folder."""
        self._socket.close()
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self._folder is not None:
            self._folder.close()
            shutil.rmtree(self._folder.path, ignore_errors=True)


def open_status_service(
    answer: Callable[[str], bytes], peers: PeerWorkers | None
) -> StatusService | None:
    """Open a status socket; return None if the system or the file system does not allow it."""
    if not hasattr(socket, "AF_UNIX"):
        return None
    try:
        return StatusService(answer, peers)
    except (OSError, ValueError) as error:
        logger.info("webpy-socketio status cannot show this process: %s", str(error))
        return None
