"""The chat itself: what happens when a browser connects, enters a room, joins and talks.

Importing this module connects its functions. Those with `channel=` run for sockets that are in a room.
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
    on_subscribe,
    on_subscribing,
)
from webpy_socketio.backplane import gap
from webpy_socketio.plugins import presence

ROOM = "^(room|admin)-"
TYPING_PAUSE = 1.0  # seconds; a tab that tells sooner that it is still typing is not passed on

log = logging.getLogger("chat")


def answered(handler):
    """Answer the page: {"ok": True, …}, or what is wrong, which a handler says with a ValueError."""

    @functools.wraps(handler)
    def answer(*args):
        try:
            return {"ok": True, **(handler(*args) or {})}
        except ValueError as error:
            return {"ok": False, "error": str(error)}
        except BackplaneError:  # with several processes, presence is kept in Redis
            return {"ok": False, "error": "Nobody can tell who is here just now. Try again soon."}

    return answer


# -- coming and going


@on_connecting
def not_sent_away(request, socket, context):
    """A gate: its reason is shown by the page."""
    seconds = people.seconds_away(web.ctx.session.who)
    if seconds:
        raise Refused(f"An admin has sent you away. You may come back in {seconds} s.")


@on_connect
def remember(request, socket, context):
    """Remember whose browser this is: `connect` runs where web.py's session can be read."""
    session = web.ctx.session
    context.update(who=session.who, admin=session.get("admin", False))
    people.sockets.setdefault(session.who, set()).add(socket)


@on_finish
def forget(request, socket, context):
    connections = people.sockets.get(context.get("who"), set())
    connections.discard(socket)
    if not connections:
        people.sockets.pop(context.get("who"), None)


@on_subscribing
def rooms_only(request, socket, context, channel):
    """The gate of all channels: one room that exists."""
    if rooms.at(channel) is None:
        raise Refused("There is no such room.")
    if socket.channels:
        raise Refused("One room at a time.")


@on_subscribing(channel="^admin-")
def admins_only(request, socket, context, channel):
    """One gate more for the admins' room: all that match have to pass."""
    if not context["admin"]:
        raise Refused("Only admins may enter this room.")


@on_subscribe(channel=ROOM)
def enter(request, socket, context, channel):
    """In the room, and without a name so far: free to look, not yet to talk."""
    context.update(room=channel, name=None, typing=False, typed=0.0)


@on_event("join", channel=ROOM)
@answered
def join(request, socket, context, name):
    """Take a name. Other tabs of one browser may share it; so may its ghost after a lost connection."""
    who, admin = context["who"], context["admin"]
    context["name"] = people.take_name(socket, context["room"], name, who, admin)
    return {"name": context["name"]}


@on_event("leave", channel=ROOM)
@answered
def leave(request, socket, context):
    """Give the name back, and go on looking."""
    context["name"] = None
    presence.untrack(socket, context["room"])


# -- talking


@on_message(channel=ROOM)
@answered
def talk(request, socket, context, message):
    """Send what somebody said to everybody in the room, the sender included."""
    check_joined(socket, context)
    text, token = read(message)
    said = messages.keep(context["room"], context["who"], context["name"], text, token)
    if said is not None:  # otherwise it was said before, and the page did not get the answer
        socket.send_and_broadcast_channel(said)


@on_event("history", channel=ROOM)
@answered
def history(request, socket, context, number):
    """What was said after the message of this number. Who is not in the room never gets here."""
    return {"messages": messages.since(context["room"], number)}


@gap.connect
def missed(sender, **extra):
    """Of several processes, this one may have missed what others sent: let its pages ask for it."""
    with contextlib.suppress(NoSocket):
        emit("missed", local=True)


@on_event("private", channel=ROOM)
@answered
def private(request, socket, context, to, message):
    """Send to all tabs of one person, and to those of the sender; it is not kept."""
    check_joined(socket, context)
    text, token = read(message)
    theirs = people.tabs(context["room"], to)
    if to == context["who"]:
        raise ValueError("That is you.")
    note = {"kind": "private", "name": context["name"], "who": context["who"], "text": text}
    note.update(to=theirs[0]["name"] if theirs else None, token=token, time=time.time())
    if not people.send_to(theirs, note):
        raise ValueError("They have just left: nobody got your message.")
    people.send_to(people.tabs(context["room"], context["who"]), note)


@on_event("typing", channel=ROOM)
def typing(request, socket, context, on):
    """Tell the room that somebody writes, or not any more; who missed it missed nothing."""
    now, on = time.monotonic(), bool(on)
    known = on == context["typing"] and (not on or now < context["typed"] + TYPING_PAUSE)
    if context["name"] is None or known:
        return
    context.update(typing=on, typed=now)
    with contextlib.suppress(NoSocket):  # this one may be gone by now
        emit("typing", context["name"], context["who"], on, channel=context["room"])


def check_joined(socket, context):
    if people.seconds_away(context["who"]):  # sent away in another process, and did not go
        socket.disconnect()
        raise ValueError("An admin has sent you away.")
    if context["name"] is None:
        raise ValueError("Join first.")


def read(message):
    """Return the text and the token of what a page sent; without a token it may be said twice."""
    fields = message if isinstance(message, dict) else {"text": message}
    text = checked(fields.get("text"), "A message", messages.LENGTH, lines=True)
    token = fields.get("token")
    return text, token if isinstance(token, str) and 0 < len(token) <= 64 else None


# -- admins


@on_event("send away", channel=ROOM)
@answered
def send_away(request, socket, context, who):
    """Disconnect a person, everywhere, for a minute."""
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
    """Presence has signals of its own; receivers leave to `extra` what they do not need."""
    log.info("%s joined %s", metas[0]["name"], channel)


@presence.left.connect
def log_left(sender, channel, metas, **extra):
    log.info("%s left %s", metas[0]["name"], channel)
