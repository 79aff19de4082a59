"""The official Socket.IO Admin UI can connect, and sees what happens; off unless it is named.

Name it in ``SOCKETIO_PLUGINS``, and give it credentials; without them the server does not start::

    SOCKETIO_PLUGINS = ["webpy_socketio.plugins.message_logger", "webpy_socketio.plugins.admin"]
    SOCKETIO_ADMIN_USERNAME = "admin"
    SOCKETIO_ADMIN_PASSWORD = "$scrypt$ln=14,r=8,p=5$..."      # what hash_password returned

It brings the namespace ``/admin``, whose clients are its own: no handler of yours hears of them. The
UI sees the sockets of this process, their channels (as "rooms"), namespaces and events. It cannot
change anything, unless ``SOCKETIO_ADMIN_READONLY`` is False; with ``SOCKETIO_ADMIN_MODE = "production"``
it sees numbers only.

The protocol is that of the npm package @socket.io/admin-ui (0.5.1), whose server side is the reference.
Its lines in the log go to ``webpy_socketio.admin``.
"""

from __future__ import annotations

from typing import Any

from webpy_socketio import SettingsError, signals
from webpy_socketio.plugins.admin.namespace import AdminNamespace
from webpy_socketio.plugins.admin.passwords import hash_password
from webpy_socketio.plugins.admin.serializers import client_of

__all__ = ["NAMESPACE", "hash_password", "install", "namespaces", "uninstall"]

#: The one that the UI asks for.
NAMESPACE = "/admin"


def namespaces(settings: Any) -> dict[str, AdminNamespace]:
    """The namespace for one server. Raises `SettingsError` without credentials."""
    if not settings.admin_username or not settings.admin_password:
        raise SettingsError(
            "webpy_socketio.plugins.admin needs SOCKETIO_ADMIN_USERNAME and SOCKETIO_ADMIN_PASSWORD, "
            "which is a password's hash. This asks for the password, and shows its hash:\n\n"
            '    python -c "from getpass import getpass; '
            "from webpy_socketio.plugins.admin import hash_password; "
            'print(hash_password(getpass()))"\n'
        )
    return {NAMESPACE: AdminNamespace(settings)}


def install(settings: Any) -> None:
    """Note from now on when clients come: all that is done while nobody watches."""
    signals.connect.connect(_note)


def uninstall() -> None:
    """End."""
    signals.connect.disconnect(_note)


def _note(sender: Any, request: dict[str, Any], **extra: Any) -> None:
    client_of(request)
