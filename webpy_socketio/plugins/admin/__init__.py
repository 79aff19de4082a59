"""Server side of the official Socket.IO Admin UI.

Add the plugin to ``SOCKETIO_PLUGINS`` and set credentials; without them the server does not start::

    SOCKETIO_PLUGINS = ["webpy_socketio.plugins.message_logger", "webpy_socketio.plugins.admin"]
    SOCKETIO_ADMIN_USERNAME = "admin"
    SOCKETIO_ADMIN_PASSWORD = "$scrypt$ln=14,r=8,p=5$..."      # returned by hash_password()

The plugin adds the namespace ``/admin``. Its clients are separate: application handlers are not
called for them. The UI shows the sockets of all processes, their channels (as "rooms"), namespaces
and events. It is read-only unless ``SOCKETIO_ADMIN_READONLY`` is False. With ``SOCKETIO_ADMIN_MODE
= "production"`` it shows statistics only.

The protocol is that of the npm package @socket.io/admin-ui (0.5.1) and its reference server. Log
lines are written to the logger ``webpy_socketio.admin``.
"""

from __future__ import annotations

from typing import Any

from webpy_socketio import Runtime, SettingsError
from webpy_socketio.plugins.admin.cluster import AdminCluster, clusters
from webpy_socketio.plugins.admin.namespace import AdminNamespace
from webpy_socketio.plugins.admin.passwords import hash_password
from webpy_socketio.plugins.admin.serializers import client_of

__all__ = ["NAMESPACE", "hash_password", "install", "namespaces", "uninstall"]

#: Namespace that the UI connects to.
NAMESPACE = "/admin"


def namespaces(settings: Any, runtime: Runtime) -> dict[str, AdminNamespace]:
    """Return the admin namespace for one server.

    Args:
        settings: Settings of the server.
        runtime: Runtime of the server, whose sockets are shown.

    Raises:
        SettingsError: ``SOCKETIO_ADMIN_USERNAME`` or ``SOCKETIO_ADMIN_PASSWORD`` is missing.
    """
    if not settings.admin_username or not settings.admin_password:
        raise SettingsError(
            "webpy_socketio.plugins.admin needs SOCKETIO_ADMIN_USERNAME and "
            "SOCKETIO_ADMIN_PASSWORD, "
            "the hash of a password. This command asks for a password and prints its hash:\n\n"
            '    python -c "from getpass import getpass; '
            "from webpy_socketio.plugins.admin import hash_password; "
            'print(hash_password(getpass()))"\n'
        )
    return {NAMESPACE: AdminNamespace(settings, runtime)}


def install(settings: Any, runtime: Runtime) -> None:
    """Start recording when clients connect, and receiving events of other processes.

    All other receivers wait for the first admin.

    Args:
        settings: Settings of the server.
        runtime: Runtime of the server.
    """
    clusters[runtime] = AdminCluster(settings, runtime)
    runtime.signals.connect.connect(_record_client)


def uninstall(runtime: Runtime) -> None:
    """Stop recording when clients connect."""
    cluster = clusters.pop(runtime, None)
    if cluster is not None:
        cluster.close()
    runtime.signals.connect.disconnect(_record_client)


def _record_client(sender: Any, request: dict[str, Any], **extra: Any) -> None:
    client_of(request)
