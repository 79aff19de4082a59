"""Everything the package raises on purpose: whose fault it is, and what to do.

::

    SocketIOError
    ├── ConfigurationError        yours, at start: nothing runs until it is mended
    │   ├── SettingsError         a SOCKETIO_* name, type or value
    │   ├── PluginError           a name in SOCKETIO_PLUGINS
    │   ├── EventError            a decorated handler that can never be called
    │   ├── PatchingError         web.py was imported before gevent patched
    │   └── ListenError           the address to listen on cannot be had
    ├── CallerError               yours, at run time: nothing was sent or changed
    │   ├── AcknowledgementError  an event acknowledged a second time
    │   ├── EncodeError           a value that the wire cannot hold
    │   ├── ChannelError          a channel name, or one channel too many
    │   └── WrongContext          a call that cannot work where it is made
    ├── NoSocket                  nobody's: nobody is there to receive
    ├── BackplaneError            the operator's: nobody is there here, and Redis is away
    ├── Disconnected              nobody's: the client went while you waited for it
    ├── CallTimeout               the client's: it did not acknowledge in time
    ├── Refused                   yours to raise: a gate says no, and why
    ├── ContentError              the client's: its message exceeds a limit and is dropped
    └── ProtocolError             the client's: it broke a rule and is closed
        └── MessageTooBig         ... the rule about size

The module imports nothing, so that every other one may import it.
"""

from __future__ import annotations

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
    "PatchingError",
    "PluginError",
    "ProtocolError",
    "Refused",
    "SettingsError",
    "SocketIOError",
    "WrongContext",
]


class SocketIOError(Exception):
    """The root: ``except SocketIOError`` catches whatever the package raises on purpose."""


class ConfigurationError(SocketIOError):
    """The server cannot start as it is configured; the text says what to change."""


class SettingsError(ConfigurationError, ValueError):
    """A setting has an unknown name, a wrong type or an impossible value."""


class PluginError(ConfigurationError, ImportError):
    """A name in ``SOCKETIO_PLUGINS`` cannot be imported or installed."""


class EventError(ConfigurationError, TypeError):
    """A handler is decorated in a way in which it could never be called."""


class PatchingError(ConfigurationError, RuntimeError):
    """web.py was imported before ``gevent.monkey.patch_all()`` ran.

    ``web.ctx`` is a thread-local made when web.py is imported: unpatched, all greenlets would
    share one, and one visitor's request would be seen by another.
    """


class ListenError(ConfigurationError, OSError):
    """The address to listen on cannot be had: it is taken, or not ours."""


class CallerError(SocketIOError):
    """A call was wrong; it changed nothing and sent nothing."""


class AcknowledgementError(CallerError, RuntimeError):
    """A withheld acknowledgement was given a second time."""


class EncodeError(CallerError, ValueError):
    """A value cannot be sent: JSON has no word for it, or it is larger than an outbox."""


class ChannelError(CallerError, ValueError):
    """A channel's name is not acceptable, or the socket holds as many as it may."""


class WrongContext(CallerError, RuntimeError):
    """A call cannot work where it was made: one that waits, on gevent's hub, where nothing may wait;
    or one of a socket's methods, in a process that was forked from the socket's server.
    """


class NoSocket(SocketIOError, LookupError):
    """Nobody is there to receive an out-of-band message."""


class BackplaneError(SocketIOError, ConnectionError):
    """Nobody is there to receive in this process, and the others cannot be asked.

    The text says what is wrong with Redis. The message may have arrived or not: Redis may be gone
    before it answers.
    """


class Disconnected(SocketIOError, ConnectionError):
    """The connection ended while its answer was awaited."""


class CallTimeout(SocketIOError, TimeoutError):
    """The client did not acknowledge an event within the time given."""


class Refused(SocketIOError):
    """Raised by a receiver of a gate to deny what the client asked.

    The text is shown to the client::

        @on_subscribing(channel="^staff-")
        def staff_only(request, socket, context, channel):
            if not context.get("staff"):
                raise Refused("for staff only")
    """


class ContentError(SocketIOError, ValueError):
    """A message of the client exceeds a limit of content, such as the depth of its JSON.

    The message is dropped and its acknowledgement is an error. The connection stays.
    """


class ProtocolError(SocketIOError, ValueError):
    """The client broke a rule of the protocol; its connection is closed, nobody else's.

    ``close_code`` is the WebSocket close code that fits (RFC 6455, 7.4.1).
    """

    close_code = 1002


class MessageTooBig(ProtocolError):
    """The client sent a message or body above ``SOCKETIO_MAX_MESSAGE_SIZE``."""

    close_code = 1009
