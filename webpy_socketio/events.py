"""Decorators for handlers, one for each stage.

::

    @on_message(channel="^room-")
    def message(request, socket, context, message):
        socket.send_and_broadcast_channel(message)

Each decorator connects a handler to the signal of its stage and returns the function unchanged.

``channel=`` takes a regular expression for ``re.match``, as text or compiled. The handler then
receives an event if the pattern matches the channel of the event. Events without a channel match if
the pattern matches any channel of the socket; the handler runs once, however many match.

``namespace=`` takes the name of a Socket.IO namespace, or a compiled pattern for ``re.match`` that
ends with ``$``. Without it, a handler receives the events of all namespaces.

A module that is imported twice registers its handlers once: a function replaces an earlier one with
the same file and qualified name. The reloader of web.py imports the main script twice.
"""

from __future__ import annotations

from webpy_socketio.runtime import default_runtime

__all__ = [
    "off",
    "on_connect",
    "on_connecting",
    "on_disconnect",
    "on_error",
    "on_event",
    "on_finish",
    "on_message",
    "on_receiving",
    "on_resume",
    "on_subscribe",
    "on_subscribing",
    "on_suspend",
    "on_unsubscribe",
    "registered_handlers",
]

_events = default_runtime.events

on_connecting = _events.on_connecting
on_connect = _events.on_connect
on_receiving = _events.on_receiving
on_message = _events.on_message
on_subscribing = _events.on_subscribing
on_subscribe = _events.on_subscribe
on_unsubscribe = _events.on_unsubscribe
on_error = _events.on_error
on_suspend = _events.on_suspend
on_resume = _events.on_resume
on_disconnect = _events.on_disconnect
on_finish = _events.on_finish
on_event = _events.on_event
off = _events.off
registered_handlers = _events.registered_handlers
