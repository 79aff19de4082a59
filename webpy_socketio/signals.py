"""The stages of a connection: a blinker signal for each.

===============  =======================  ===================================================
signal           keywords                 sent
===============  =======================  ===================================================
``connecting``   ``auth``                 gate: before a connection is accepted
``connect``      ``auth``                 when the connection is established
``receiving``    ``message``, ``event``,  gate: before the handlers of a message run
                 ``args``, ``channel``
``message``      ``message``, ``event``,  for each message or custom event of the client
                 ``args``, ``channel``
``subscribing``  ``channel``,             gate: before a socket subscribes to a channel;
                 ``by_client``            ``by_client`` is False if the server subscribes it
``subscribe``    ``channel``              after a socket has subscribed
``unsubscribe``  ``channel``, ``reason``  after a socket has left a channel; at the end of a
                                          connection, once for each channel
``error``        ``exception``,           after a receiver raised, its result could not be sent,
                 ``by_client``            or the client sent invalid data (``by_client`` is True)
``suspend``      ``reason``               when a connection was lost that the client may resume;
                                          only with ``SOCKETIO_RECOVERY_TIME``
``resume``       ``missed``               when the client has resumed it; ``missed`` is the number
                                          of messages that were sent again
``disconnect``   ``reason``               when the connection has closed; after a loss with
                                          ``SOCKETIO_RECOVERY_TIME``, when that time is over
``finish``       ``reason``               after all other stages, also when the server stops
===============  =======================  ===================================================

The sender is the `Socket`. All stages have the keywords ``request`` (the WSGI environ of the
handshake), ``socket``, ``context`` (a dict that lives as long as the connection) and ``namespace``
(the name of the Socket.IO namespace). A receiver accepts the keywords it needs, and ``**extra`` for
those of later versions::

    @signals.message.connect
    def count(sender, socket, message, **extra):
        ...

Receivers run in the order in which they were connected, in the greenlet of the client's connection,
and may wait. If the server subscribes a socket, `subscribing` runs in the calling greenlet. An
exception does not stop other receivers; it is sent as ``error``. In a gate, any exception rejects;
raise `Refused` to send a reason to the client.

Unlike in blinker, receivers are strongly referenced unless connected with ``weak=True``, and
``first=True`` inserts a receiver before all others. With ``enabled=function``, a receiver is
skipped while the function returns False. Connecting a receiver that cannot be called raises
`EventError`.

``reason`` is one of Socket.IO's: "client namespace disconnect", "server namespace disconnect",
"transport close", "transport error", "ping timeout", "parse error", "forced close", "slow reader"
or "server shutting down". In ``unsubscribe`` it is None if the connection stays open.

Eight more signals are not stages. Without receivers they cost nothing.

``handled``
    After the receivers of a stage other than ``error`` have run. Has the keywords of the stage,
    ``stage`` (its name), ``seconds`` (duration, including waits), ``failures`` (number of receivers
    that raised; 0 for gates, whose failures are rejections) and ``refused`` (the reason if a gate
    rejected, otherwise None).

``sent``
    For each event sent to clients of this process. The sender is the name of the namespace. Has
    the keywords ``sockets`` (list of recipients), ``size`` (bytes on the wire for one of them) and
    ``read`` (function that returns the event's name and arguments as a list). Receivers must not
    wait.

``published``
    Before a message is sent to channels: once for each message, in the process where it originates,
    if that runs a server; not for ``local=True``. The sender is the name of the namespace. Has the
    keyword ``publication``, a `webpy_socketio.Publication`. Receivers must not wait.

``packet``
    For each packet of a client that does not reach a handler: pong, acknowledgement, CONNECT,
    DISCONNECT, WebSocket ping, or a packet of a namespace that the client is not connected to. The
    sender is the Engine.IO session; its ``close(reason)`` closes it. Has the keyword ``request``.
    Receivers must not wait.

``gap``
    When messages of other processes are missing or may be missing. Has the keywords ``node`` (the
    process that sent them), ``missed`` (their number) and ``topic`` (with ``namespace`` and
    ``name``, that of a channel). All three are None if the messages are unknown, as after an
    outage. Receivers run in a new greenlet and may wait. The sender is the backplane.

``cluster_event``
    When another server has sent an event (`webpy_socketio.emit_to_servers`). Has the keywords
    ``event`` (its name), ``args`` (list of its arguments) and ``node`` (the process that sent it).
    The first value other than None that a receiver returns is the answer, if one was requested.
    Receivers run in a new greenlet and may wait. The sender is the runtime.

``release``
    When a suspended socket moves to another server (:doc:`/how-to/reconnections`). No stage of this
    socket follows here, except its last ones if the other server does not confirm the move. For
    plugins that keep state for each socket. The sender is the socket. Has the keywords ``socket``,
    ``remaining`` (seconds until the session ends) and ``state``, an empty dict. What receivers add
    to it must be JSON, and arrives with ``adopt``. Receivers must not wait.

``adopt``
    When a suspended socket has moved here, before ``resume`` or its last stages. The sender is the
    socket, which has its session id, channels and context. Has the keywords ``socket`` and
    ``state``. Receivers must not wait.
"""

from __future__ import annotations

from webpy_socketio.bus.stages import Stage
from webpy_socketio.runtime import default_runtime

__all__ = [
    "GATES",
    "STAGES",
    "Stage",
    "adopt",
    "cluster_event",
    "connect",
    "connecting",
    "disconnect",
    "error",
    "finish",
    "gap",
    "handled",
    "message",
    "packet",
    "published",
    "receiving",
    "release",
    "resume",
    "sent",
    "subscribe",
    "subscribing",
    "suspend",
    "unsubscribe",
]

_signals = default_runtime.signals

connecting = _signals.connecting
connect = _signals.connect
receiving = _signals.receiving
message = _signals.message
subscribing = _signals.subscribing
subscribe = _signals.subscribe
unsubscribe = _signals.unsubscribe
error = _signals.error
suspend = _signals.suspend
resume = _signals.resume
disconnect = _signals.disconnect
finish = _signals.finish
handled = _signals.handled
sent = _signals.sent
published = _signals.published
packet = _signals.packet
gap = _signals.gap
cluster_event = _signals.cluster_event
release = _signals.release
adopt = _signals.adopt

#: All stages, in the order of a connection's life.
STAGES = _signals.stages

#: The stages that can reject; their receivers run before the change or the handlers.
GATES = _signals.gates
