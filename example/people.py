"""The users: their names, their connections, and the list of users sent away.

A user is a browser: `who` is the public name of its session. A name belongs to the first user who
takes it, in one room, while one of the user's tabs is in the room.
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
AWAY = 60  # seconds for which a user is sent away

sockets = {}  # who -> the connections in this process


def create():
    """Create the table if it does not exist."""
    database.query("CREATE TABLE IF NOT EXISTS away (who TEXT PRIMARY KEY, until REAL NOT NULL)")


def take_name(socket, room, name, who, admin):
    """Track a user in a room under a name, and return it; ValueError: the name is rejected."""
    name = checked(name, "A name", NAME_LENGTH)
    if fold(name) in RESERVED:
        raise ValueError("That name is reserved.")
    if mixes_alphabets(name):
        raise ValueError("That name mixes alphabets whose letters look alike.")
    key = fold(name)
    if holder(room, key) in (None, who):
        meta = {"name": name, "who": who, "admin": admin, "id": socket.session.session_id}
        presence.track(socket, room, key, meta)
        if holder(room, key) == who:
            return name
        # Two processes accepted the name at the same moment, and the other one was first.
        presence.untrack(socket, room)
    raise ValueError("That name is in use here.")


def holder(room, key):
    """Return the user who has a name in a room, or None."""
    metas = presence.members(room).get(key)
    return metas[0]["who"] if metas else None


def tabs(room, who):
    """Return the presence meta of each tab that a user has in a room."""
    found = presence.members(room).values()
    return [meta for metas in found for meta in metas if meta["who"] == who]


def send_to(tabs, message):
    """Send to each of these tabs, in any process; return whether one was reached."""
    reached = False
    for tab in tabs:
        try:
            send(tab["id"], message)
        except NoSocket:  # just closed
            continue
        reached = True
    return reached


def send_away(who):
    """Close a user's connections, and reject new ones for a while."""
    now = time.time()
    until = now + AWAY
    database.delete("away", where="until < $now", vars=locals())
    database.query("INSERT OR REPLACE INTO away (who, until) VALUES ($who, $until)", vars=locals())
    disconnect(who, "An admin has sent you away.")


def seconds_away(who):
    """Return the seconds until a banned user may return."""
    row = database.select("away", where={"who": who}).first()
    return max(0, math.ceil(row.until - time.time())) if row else 0


def disconnect(who, why):
    """Close a user's connections; pages of other processes disconnect on an event."""
    with contextlib.suppress(NoSocket, BackplaneError):
        emit("goodbye", who, why)
    for socket in list(sockets.get(who, ())):
        socket.disconnect()
