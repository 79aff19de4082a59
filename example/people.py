"""The people: their names, their connections, and who was sent away.

A person is a browser: `who` is its session's public name. A name belongs to whoever has it first, in
one room, for as long as one of their tabs is there.
"""

import contextlib
import math
import time

from rooms import database
from texts import checked, fold, mixes_alphabets

from webpy_socketio import BackplaneError, NoSocket, emit, send
from webpy_socketio.plugins import presence

NAME_LENGTH = 40
RESERVED = {"admin", "admins", "system", "system message", "you"}
AWAY = 60  # seconds for which an admin sends somebody away

sockets = {}  # who -> the connections in this process


def create():
    """Make the table, unless it is there."""
    database.query("CREATE TABLE IF NOT EXISTS away (who TEXT PRIMARY KEY, until REAL NOT NULL)")


def take_name(socket, room, name, who, admin):
    """Let somebody be in a room under a name, and return it; ValueError says why not."""
    name = checked(name, "A name", NAME_LENGTH)
    if fold(name) in RESERVED:
        raise ValueError("That name is kept for the chat itself.")
    if mixes_alphabets(name):
        raise ValueError("That name mixes alphabets whose letters look alike.")
    key = fold(name)
    if holder(room, key) in (None, who):
        meta = {"name": name, "who": who, "admin": admin, "id": socket.session.session_id}
        presence.track(socket, room, key, meta)
        if holder(room, key) == who:
            return name
        # Two came at the same moment, in two processes: the other one was first.
        presence.untrack(socket, room)
    raise ValueError("That name is in use here.")


def holder(room, key):
    """Return who has a name in a room, or None."""
    metas = presence.members(room).get(key)
    return metas[0]["who"] if metas else None


def tabs(room, who):
    """Return what presence knows of each tab that a person has in a room."""
    found = presence.members(room).values()
    return [meta for metas in found for meta in metas if meta["who"] == who]


def send_to(tabs, message):
    """Send to each of these tabs, in whichever process it is; return whether anybody got it."""
    reached = False
    for tab in tabs:
        try:
            send(tab["id"], message)
        except NoSocket:  # closed a moment ago
            continue
        reached = True
    return reached


def send_away(who):
    """End a person's connections, and let no new one in for a while."""
    now = time.time()
    until = now + AWAY
    database.delete("away", where="until < $now", vars=locals())
    database.query("INSERT OR REPLACE INTO away (who, until) VALUES ($who, $until)", vars=locals())
    disconnect(who, "An admin has sent you away.")


def seconds_away(who):
    """Return for how many seconds a person is still to stay away."""
    row = database.select("away", where={"who": who}).first()
    return max(0, math.ceil(row.until - time.time())) if row else 0


def disconnect(who, why):
    """End a person's connections: those of other processes are told to go, and do it themselves."""
    with contextlib.suppress(NoSocket, BackplaneError):
        emit("goodbye", who, why)
    for socket in list(sockets.get(who, ())):
        socket.disconnect()
