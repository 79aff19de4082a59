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
from webpy_socketio.assets import socketio_import_map, socketio_scripts, template_dir
from webpy_socketio.backplane.connector import RedisConnector
from webpy_socketio.backplane.hash_tags import hash_tag, hash_tags, is_redis_cluster
from webpy_socketio.backplane.outage import Outage
from webpy_socketio.backplane.pubsub import PubSub
from webpy_socketio.bus.patterns import NamePattern
from webpy_socketio.cluster import connect_redis
from webpy_socketio.engine.io.clock import monotonic
from webpy_socketio.events import *  # noqa: F403
from webpy_socketio.exceptions import *  # noqa: F403
from webpy_socketio.feeds import Feed
from webpy_socketio.http_server import HTTPServer
from webpy_socketio.labels import Labels
from webpy_socketio.log_format import JSONFormatter, RequestIdFilter, request_id
from webpy_socketio.publication import Publication
from webpy_socketio.runtime import Runtime, default_runtime
from webpy_socketio.server import SocketIOServer
from webpy_socketio.socket import Socket
from webpy_socketio.socket_info import Handshake, SocketInfo
from webpy_socketio.targets import Target
from webpy_socketio.timers import call_later
from webpy_socketio.version import __version__

broadcast = default_runtime.broadcast
broadcast_channel = default_runtime.broadcast_channel
configure = default_runtime.configure
configured = default_runtime.configured
emit = default_runtime.emit
emit_to_servers = default_runtime.emit_to_servers
everyone = default_runtime.everyone
get_stats = default_runtime.get_stats
run_on_hub = default_runtime.run_on_hub
send = default_runtime.send
sockets = default_runtime.sockets
to = default_runtime.to
to_sockets = default_runtime.to_sockets

__all__ = [
    "Acknowledgement",
    "Feed",
    "HTTPServer",
    "JSONFormatter",
    "Labels",
    "NamePattern",
    "Handshake",
    "Outage",
    "Publication",
    "Runtime",
    "PubSub",
    "RedisConnector",
    "RequestIdFilter",
    "Socket",
    "SocketInfo",
    "SocketIOServer",
    "Target",
    "__version__",
    "broadcast",
    "broadcast_channel",
    "call_later",
    "get_stats",
    "hash_tag",
    "hash_tags",
    "is_redis_cluster",
    "configure",
    "configured",
    "default_runtime",
    "emit",
    "emit_to_servers",
    "everyone",
    "monotonic",
    "connect_redis",
    "request_id",
    "run_on_hub",
    "send",
    "signals",
    "socketio_import_map",
    "socketio_scripts",
    "socketio_urls",
    "sockets",
    "template_dir",
    "to",
    "to_sockets",
    *events.__all__,
    *exceptions.__all__,
]
