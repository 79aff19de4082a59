"""The exceptions of the package, grouped by cause.

::

    SocketIOError
    ├── ConfigurationError        application, at startup: the server does not start
    │   ├── SettingsError         invalid name, type or value of a SOCKETIO_* setting
    │   ├── PluginError           plugin that cannot be imported or installed
    │   ├── EventError            invalid use of an on_* decorator
    │   ├── PatchingError         web.py was imported before gevent patched it
    │   └── ListenError           listen address in use or not available
    ├── CallerError               application, at run time: nothing was sent or changed
    │   ├── AcknowledgementError  event acknowledged twice, or after its timeout
    │   ├── EncodeError           value that cannot be sent
    │   ├── ChannelError          invalid channel name, or channel limit reached
    │   └── WrongContext          call that is not possible in this context
    ├── NoSocket                  normal operation: no socket to send to
    ├── BackplaneError            infrastructure: no local socket, and Redis did not respond
    │   └── NodeUnavailable       a node of a Redis Cluster cannot execute a command now
    ├── Disconnected              normal operation: client disconnected during a call
    ├── CallTimeout               clients or servers: no answer in time
    ├── Refused                   raised by applications: a gate rejects the client
    ├── ContentError              client: message exceeds a content limit and is dropped
    └── ProtocolError             client: protocol violation, the session is closed
        └── MessageTooBig         client: message exceeds the size limit
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AcknowledgementError",
    "BackplaneError",
    "CallTimeout",
    "CallerError",
    "ChannelError",
    "ConfigurationError",
    "ContentError",
    "Disconnected",
    "EncodeError",
    "EventError",
    "ListenError",
    "MessageTooBig",
    "NoSocket",
    "NodeUnavailable",
    "PatchingError",
    "PluginError",
    "ProtocolError",
    "Refused",
    "SettingsError",
    "SocketIOError",
    "WrongContext",
]


class SocketIOError(Exception):
    """Base class of all exceptions of the package."""


class ConfigurationError(SocketIOError):
    """The server cannot start with its configuration. The message names what to change."""


class SettingsError(ConfigurationError, ValueError):
    """A setting has an unknown name, a wrong type or an invalid value.

    Correct the setting: the message has its source, its value and the accepted values.
    """


class PluginError(ConfigurationError, ImportError):
    """A plugin in ``SOCKETIO_PLUGINS`` cannot be imported or installed.

    Correct the name, or install the dependencies of the plugin.
    """


class EventError(ConfigurationError, TypeError):
    """A handler is decorated so that it can never be called.

    Correct the arguments of the decorator or the signature of the handler.
    """


class PatchingError(ConfigurationError, RuntimeError):
    """web.py was imported before ``gevent.monkey.patch_all()`` was called.

    Without patching, all greenlets share one ``web.ctx``, so that requests see each other's data.
    Call ``gevent.monkey.patch_all()`` before importing web.py, or start with
    ``python -m webpy_socketio serve``.
    """


class ListenError(ConfigurationError, OSError):
    """The server cannot listen on its address, because it is in use or not available.

    Change ``SOCKETIO_HOST`` or ``SOCKETIO_PORT``, or stop the other process.
    """


class CallerError(SocketIOError):
    """A call of the application is invalid. It has sent and changed nothing."""


class AcknowledgementError(CallerError, RuntimeError):
    """An event was acknowledged twice, or after its timeout.

    Acknowledge each event once, and within the timeout of `Socket.withhold_acknowledgement`.
    """


class EncodeError(CallerError, ValueError):
    """A value cannot be represented as JSON, or exceeds ``SOCKETIO_OUTBOX_BYTES``.

    Convert the value to JSON types or ``bytes``, or send less.
    """


class ChannelError(CallerError, ValueError):
    """A channel name is invalid, or the socket has reached ``SOCKETIO_MAX_CHANNELS``.

    Choose another name, unsubscribe from a channel, or raise the limit.
    """


class WrongContext(CallerError, RuntimeError):
    """A call is not possible in this context.

    Blocking calls cannot run on gevent's hub: call them in a greenlet. Methods of a socket cannot
    run in a process that was forked from its server: use ``SOCKETIO_BACKPLANE`` there.
    """


class NoSocket(SocketIOError, LookupError):
    """No socket is connected that could receive the message.

    This is part of normal operation. Catch it if a missing recipient is acceptable.
    """


class BackplaneError(SocketIOError, ConnectionError):
    """No socket of this process could receive the message, and Redis did not respond.

    The message has the error of Redis; check ``SOCKETIO_BACKPLANE``. Other processes may have
    received the message nevertheless, as the connection may fail after publishing.
    """


class NodeUnavailable(BackplaneError):
    """A node of a Redis Cluster is unreachable, or does not serve a slot now.

    Commands for other nodes are not affected. Try again later.
    """


class Disconnected(SocketIOError, ConnectionError):
    """The client is not connected, or disconnected while a call waited for it.

    This is part of normal operation. Catch it where `Socket.call` is used.
    """


class CallTimeout(SocketIOError, TimeoutError):
    """Answers to a call are missing, because its timeout has passed or a process failed.

    Catch it, and treat the event as not handled. The clients may have received it.

    Args:
        text: The message.
        answers: The answers that have arrived, in the form that the call would have returned.
        silent_processes: Number of processes that have not responded at all, as they are suspended,
            have ended or have lost Redis; their clients' answers are missing.
    """

    def __init__(self, text: str = "", answers: Any = (), silent_processes: int = 0) -> None:
        super().__init__(text)
        #: The answers that have arrived; an empty tuple for `Socket.call`.
        self.answers = answers
        #: Number of processes that have not responded.
        self.silent_processes = silent_processes


class Refused(SocketIOError):
    """Raised by handlers of a gate to reject the client's request.

    The text is sent to the client::

        @on_subscribing(channel="^staff-")
        def staff_only(request, socket, context, channel):
            if not context.get("staff"):
                raise Refused("for staff only", data={"code": 403})

    Args:
        *args: The text, which the client receives as ``error.message`` or ``error``.
        data: JSON-serializable value that the client receives as ``error.data`` of the event
            ``connect_error``, or as ``data`` of an acknowledgement. None sends nothing. If JSON
            cannot represent it, the client receives the text only, and the error is reported.
    """

    #: The value of the argument `data`; a class attribute, as subclasses may not call `__init__`.
    data: Any = None

    def __init__(self, *args: object, data: Any = None) -> None:
        super().__init__(*args)
        if data is not None:
            self.data = data


class ContentError(SocketIOError, ValueError):
    """A message of the client exceeds a content limit, such as the nesting depth of JSON.

    The message is dropped and acknowledged with an error; the connection stays open. Send less in
    one message. `Socket.call` raises it for an acknowledgement that exceeds a limit.
    """


class ProtocolError(SocketIOError, ValueError):
    """The client violated the protocol, and its session is closed.

    Correct the client, or load the client version that the server supports.
    """

    #: WebSocket close code (RFC 6455 §7.4.1).
    close_code = 1002


class MessageTooBig(ProtocolError):
    """The client sent a message or body larger than ``SOCKETIO_MAX_MESSAGE_SIZE``."""

    close_code = 1009
