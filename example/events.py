"""The chat: handlers for browsers that connect, enter a room, join and send messages.

Importing this module connects its handlers. Those with `channel=` run for sockets in a room.
"""

import contextlib
import functools
import logging
import time

import messages
import people
import rooms
import web
from texts import checked

from webpy_socketio import (
    BackplaneError,
    NoSocket,
    Refused,
    emit,
    on_connect,
    on_connecting,
    on_event,
    on_finish,
    on_message,
    on_resume,
    on_subscribe,
    on_subscribing,
    signals,
    to,
)
from webpy_socketio.plugins import presence

ROOM = "^(room|admin)-"
TYPING_INTERVAL = 1.0  # seconds: more frequent typing indicators of a tab are dropped

log = logging.getLogger("chat")


def answered(handler):
    """Acknowledge with {"ok": True, …}, or with the text of a ValueError of the handler."""

    @functools.wraps(handler)
    def answer(*args):
        try:
            return {"ok": True, **(handler(*args) or {})}
        except ValueError as error:
            return {"ok": False, "error": str(error)}
        except BackplaneError:  # with several processes, presence is kept in Redis
            return {"ok": False, "error": "The list of users is unavailable. Try again soon."}

    return answer


# -- connections


@on_connecting
def not_sent_away(request, socket, context):
    """Gate. The page shows the reason of a rejection."""
    seconds = people.seconds_away(web.ctx.session.who)
    if seconds:
        raise Refused(f"An admin has sent you away. You may come back in {seconds} s.")


@on_connect
def remember(request, socket, context):
    """Store the user of this socket: web.py's session is available in `connect`."""
    session = web.ctx.session
    context.update(who=session.who, admin=session.get("admin", False))
    people.sockets.setdefault(session.who, set()).add(socket)


@on_resume
def remember_again(request, socket, context, missed):
    """Store a socket that may have moved here from another process."""
    people.sockets.setdefault(context["who"], set()).add(socket)


@on_finish
def forget(request, socket, context):
    connections = people.sockets.get(context.get("who"), set())
    connections.discard(socket)
    if not connections:
        people.sockets.pop(context.get("who"), None)


@signals.release.connect
def forget_moved(sender, **extra):
    """Forget a socket that moves to another process."""
    forget(sender.request, sender, sender.context)


@on_subscribing
def rooms_only(request, socket, context, channel):
    """Gate of all channels: sockets may subscribe to one existing room."""
    if rooms.at(channel) is None:
        raise Refused("There is no such room.")
    if socket.channels:
        raise Refused("One room at a time.")


@on_subscribing(channel="^admin-")
def admins_only(request, socket, context, channel):
    """Second gate of the admins' room: all matching gates must accept."""
    if not context["admin"]:
        raise Refused("Only admins may enter this room.")


@on_subscribe(channel=ROOM)
def enter(request, socket, context, channel):
    """Reset the state of a socket that entered a room; it has no name yet, and only reads."""
    context.update(room=channel, name=None, typing=False, typed=0.0)


@on_event("join", channel=ROOM)
@answered
def join(request, socket, context, name):
    """Take a name. Tabs of one browser share it, also with the socket of a lost connection."""
    who, admin = context["who"], context["admin"]
    context["name"] = people.take_name(socket, context["room"], name, who, admin)
    return {"name": context["name"]}


@on_event("leave", channel=ROOM)
@answered
def leave(request, socket, context):
    """Release the name; the socket keeps reading."""
    context["name"] = None
    presence.untrack(socket, context["room"])


# -- messages


@on_message(channel=ROOM)
@answered
def talk(request, socket, context, message):
    """Send a message to the room, including its sender."""
    check_joined(socket, context)
    text, token = read(message)
    stored = messages.keep(context["room"], context["who"], context["name"], text, token)
    if (
        stored is not None
    ):  # None: a repetition, because the page did not receive the acknowledgement
        socket.send_and_broadcast_channel(stored)


@on_event("history", channel=ROOM)
@answered
def history(request, socket, context, number):
    """Return the messages after this number; requires a subscription to the room."""
    return {"messages": messages.since(context["room"], number)}


@signals.gap.connect
def missed(sender, **extra):
    """Ask the pages of this process to fetch messages: it may have missed those of others."""
    with contextlib.suppress(NoSocket):
        emit("missed", local=True)


@on_event("private", channel=ROOM)
@answered
def private(request, socket, context, to, message):
    """Send to all tabs of one user and to those of the sender, without storing the message."""
    check_joined(socket, context)
    text, token = read(message)
    theirs = people.tabs(context["room"], to)
    if to == context["who"]:
        raise ValueError("That is you.")
    note = {"kind": "private", "name": context["name"], "who": context["who"], "text": text}
    note.update(to=theirs[0]["name"] if theirs else None, token=token, time=time.time())
    if not people.send_to(theirs, note):
        raise ValueError("They have just left; your message was not delivered.")
    people.send_to(people.tabs(context["room"], context["who"]), note)


@on_event("typing", channel=ROOM)
def typing(request, socket, context, on):
    """Notify the room that a user starts or stops typing; a lost one does no harm."""
    now, on = time.monotonic(), bool(on)
    known = on == context["typing"] and (not on or now < context["typed"] + TYPING_INTERVAL)
    if context["name"] is None or known:
        return
    context.update(typing=on, typed=now)
    # Volatile: not sent again to a page that was away in the meantime.
    to(context["room"]).volatile.emit("typing", context["name"], context["who"], on)


def check_joined(socket, context):
    if people.seconds_away(context["who"]):  # sent away in another process, still connected
        socket.disconnect()
        raise ValueError("An admin has sent you away.")
    if context["name"] is None:
        raise ValueError("Join first.")


def read(message):
    """Return the text and the token of a message; without a token it may be stored twice."""
    fields = message if isinstance(message, dict) else {"text": message}
    text = checked(fields.get("text"), "A message", messages.LENGTH, lines=True)
    token = fields.get("token")
    return text, token if isinstance(token, str) and 0 < len(token) <= 64 else None


# -- admins


@on_event("send away", channel=ROOM)
@answered
def send_away(request, socket, context, who):
    """Disconnect a user in all processes, for a minute."""
    if not context["admin"]:
        raise ValueError("Only admins may do that.")
    theirs = people.tabs(context["room"], who)
    if not theirs:
        raise ValueError("They have just left.")
    if theirs[0]["admin"]:
        raise ValueError("Admins do not send each other away.")
    people.send_away(who)
    log.info("%s was sent away by %s", theirs[0]["name"], context["name"] or context["who"])


@presence.joined.connect
def log_joined(sender, channel, metas, **extra):
    """Log with presence's own signals; receivers ignore unused keywords with `extra`."""
    log.info("%s joined %s", metas[0]["name"], channel)


@presence.left.connect
def log_left(sender, channel, metas, **extra):
    log.info("%s left %s", metas[0]["name"], channel)
