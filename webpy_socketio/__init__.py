"""Real-time messaging for web.py: a Socket.IO server that sends a signal for every stage.

Patch the standard library in the first lines of the program, before web.py is imported::

    from gevent import monkey; monkey.patch_all()
    import web
    from webpy_socketio import SocketIOServer, socketio_urls
    from webpy_socketio.events import on_message

    @on_message
    def message(request, socket, context, message):
        socket.send_and_broadcast(message)

    urls = ("/", "index") + socketio_urls
    app = web.application(urls, globals())
    if __name__ == "__main__":
        SocketIOServer(("127.0.0.1", 8000), app.wsgifunc()).serve_forever()
"""

from webpy_socketio import events, exceptions, signals
from webpy_socketio.acknowledgement import Acknowledgement
from webpy_socketio.application import socketio_urls
from webpy_socketio.assets import socketio_scripts, template_dir
from webpy_socketio.backplane.outage import Outage
from webpy_socketio.cluster import configured, connect_redis
from webpy_socketio.config.settings import configure
from webpy_socketio.emitter import broadcast, broadcast_channel, emit, run_on_hub, send, sockets
from webpy_socketio.engine.io.clock import monotonic
from webpy_socketio.events import *  # noqa: F403
from webpy_socketio.exceptions import *  # noqa: F403
from webpy_socketio.http_server import HTTPServer
from webpy_socketio.server import SocketIOServer
from webpy_socketio.socket import Socket
from webpy_socketio.stats import get_stats
from webpy_socketio.timers import call_later
from webpy_socketio.version import __version__

__all__ = [
    "Acknowledgement",
    "HTTPServer",
    "Outage",
    "Socket",
    "SocketIOServer",
    "__version__",
    "broadcast",
    "broadcast_channel",
    "call_later",
    "get_stats",
    "configure",
    "configured",
    "emit",
    "monotonic",
    "connect_redis",
    "run_on_hub",
    "send",
    "signals",
    "socketio_scripts",
    "socketio_urls",
    "sockets",
    "template_dir",
    *events.__all__,
    *exceptions.__all__,
]
