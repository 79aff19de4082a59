"""The messages, stored in SQLite: the last ones of each room.

The messages of a room are numbered from 1 without gaps. A page that reconnects requests the
messages after its last number. A number out of sequence shows a page that it missed a message.
"""

import sqlite3
import time

from rooms import database

LENGTH = 2000
KEPT = 1000  # of each room
ANSWERED = 100  # messages per request


def create():
    """Create the table if it does not exist."""
    database.query(
        "CREATE TABLE IF NOT EXISTS message (room TEXT, id INTEGER, who TEXT, name TEXT, "
        "text TEXT, time REAL, token TEXT, PRIMARY KEY (room, id), UNIQUE (room, who, token))"
    )


def keep(room, who, name, text, token):
    """Store a message and return it, or None if this browser has sent the same `token` before."""
    now = time.time()
    try:
        with database.transaction():
            database.query(
                "INSERT INTO message (room, id, who, name, text, time, token) "
                "SELECT $room, COALESCE(MAX(id), 0) + 1, $who, $name, $text, $now, $token "
                "FROM message WHERE room = $room",
                vars=locals(),
            )
            row = database.select("message", where="rowid = last_insert_rowid()").first()
            old = row.id - KEPT
            database.delete("message", where="room = $room AND id <= $old", vars=locals())
    except sqlite3.IntegrityError:
        return None
    return public(row)


def since(room, number):
    """Return the messages of a room after this number, the last 100 at most."""
    if not isinstance(number, int) or not 0 <= number < 2**53:
        number = 0
    found = database.select(
        "message",
        where="room = $room AND id > $number",
        order="id DESC",
        limit=ANSWERED,
        vars=locals(),
    )
    return [public(row) for row in found][::-1]


def public(row):
    """Return a message as clients receive it."""
    return {"kind": "said", **{key: row[key] for key in ("id", "who", "name", "text", "time")}}
