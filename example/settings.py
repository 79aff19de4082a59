"""Settings of the chat. `webpy_socketio.configure` reads the SOCKETIO_* names."""

import os
from pathlib import Path

import web

web.config.debug = False  # no reloader, which would import main_app twice; no SQL on stderr
web.config.session_parameters.update(cookie_name="chat_session", samesite="Lax")

HERE = Path(__file__).resolve().parent

# The folder of the SQLite file and of the sessions.
DATA = Path(os.environ.get("CHAT_DATA") or HERE / "data")

# The admins' password. The default one is shown on the sign-in page.
DEMO_PASSWORD = "let me in"
PASSWORD = os.environ.get("CHAT_PASSWORD") or DEMO_PASSWORD

SOCKETIO_HOST = "127.0.0.1"
SOCKETIO_PORT = int(os.environ.get("PORT") or 8000)

# Only this machine can connect to that address, so a proxy in front of the chat runs here as well.
SOCKETIO_TRUSTED_PROXIES = ["127.0.0.1"]

# Several processes need a Redis: "redis://127.0.0.1:6379". A single one does not.
SOCKETIO_BACKPLANE = os.environ.get("BACKPLANE") or None
SOCKETIO_BACKPLANE_PREFIX = "chat"

SOCKETIO_PLUGINS = [
    "webpy_socketio.plugins.message_logger",
    "webpy_socketio.plugins.presence",
]


# Seconds within which a page whose connection was lost continues where it was.
SOCKETIO_RECOVERY_TIME = 120


def SOCKETIO_PRESENCE_KEY(request, socket, context):
    """Do not track open pages (None): events.py tracks users once they have chosen a name."""


# Seconds until a user of a process that has died counts as gone.
SOCKETIO_PRESENCE_GRACE = 3
