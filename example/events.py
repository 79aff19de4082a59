"""The chat itself: what happens when a browser connects, enters a room, joins and talks.

Importing this module connects its functions. Those with `channel=` run for sockets that are in a room.
"""

import logging
import time

import rooms
import web
from texts import checked, fold

from webpy_socketio import Refused, on_connect, on_event, on_message, on_subscribe, on_subscribing
from webpy_socketio.plugins import presence

ROOM = "^room-"
NAME_LENGTH = 40
MESSAGE_LENGTH = 2000

log = logging.getLogger("chat")


@on_connect
def remember(request, socket, context):
    """Remember whose browser this is: `connect` runs where web.py's session can be read."""
    context["who"] = web.ctx.session.who


@on_subscribing
def rooms_only(request, socket, context, channel):
    """The gate: one room that exists, and no other channel."""
    if rooms.at(channel) is None:
        raise Refused("There is no such room.")
    if socket.channels:
        raise Refused("One room at a time.")


@on_subscribe(channel=ROOM)
def enter(request, socket, context, channel):
    """In the room, and without a name so far: free to look, not yet to talk."""
    context.update(room=channel, name=None)


@on_event("join", channel=ROOM)
def join(request, socket, context, name):
    """Take a name. Other tabs of one browser may share it; so may its ghost after a lost connection."""
    try:
        name = checked(name, "A name", NAME_LENGTH)
    except ValueError as error:
        return {"ok": False, "error": str(error)}
    room, who, key = context["room"], context["who"], fold(name)
    if any(meta["who"] != who for meta in presence.members(room).get(key, [])):
        return {"ok": False, "error": "That name is in use here."}
    presence.track(socket, room, key, {"name": name, "who": who})
    context["name"] = name
    return {"ok": True, "name": name, "who": who}


@on_event("leave", channel=ROOM)
def leave(request, socket, context):
    """Give the name back, and go on looking."""
    context["name"] = None
    presence.untrack(socket, context["room"])
    return {"ok": True}


@on_message(channel=ROOM)
def talk(request, socket, context, message):
    """Send what somebody said to everybody in the room, the sender included."""
    name, who = context["name"], context["who"]
    if name is None:
        return {"ok": False, "error": "Join first."}
    try:
        text = checked(message, "A message", MESSAGE_LENGTH, lines=True)
    except ValueError as error:
        return {"ok": False, "error": str(error)}
    said = {"kind": "said", "name": name, "who": who, "text": text, "time": time.time()}
    socket.send_and_broadcast_channel(said)
    return {"ok": True}


@presence.joined.connect
def log_joined(sender, channel, metas, **extra):
    """Presence has signals of its own; receivers leave to `extra` what they do not need."""
    log.info("%s joined %s", metas[0]["name"], channel)


@presence.left.connect
def log_left(sender, channel, metas, **extra):
    log.info("%s left %s", metas[0]["name"], channel)
