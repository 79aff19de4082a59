"""What was said, kept in SQLite: the last messages of each room.

A room's messages are numbered from 1 on, without a gap. A page that was away asks for what follows
the last number it has, and one that gets a number too high knows that it missed something.
"""

import sqlite3
import time

from rooms import database

LENGTH = 2000
KEPT = 1000  # of each room
ANSWERED = 100  # at once


def create():
    """Make the table, unless it is there."""
    database.query(
        "CREATE TABLE IF NOT EXISTS message (room TEXT, id INTEGER, who TEXT, name TEXT, text TEXT, "
        "time REAL, token TEXT, PRIMARY KEY (room, id), UNIQUE (room, who, token))"
    )


def keep(room, who, name, text, token):
    """Keep a message and return it; None if this browser has sent the same `token` before."""
    now = time.time()
    try:
        with database.transaction():
            database.query(
                "INSERT INTO message (room, id, who, name, text, time, token) "
                "SELECT $room, COALESCE(MAX(id), 0) + 1, $who, $name, $text, $now, $token "
                "FROM message WHERE room = $room",
                vars=locals(),
            )
            said = database.select("message", where="rowid = last_insert_rowid()").first()
            old = said.id - KEPT
            database.delete("message", where="room = $room AND id <= $old", vars=locals())
    except sqlite3.IntegrityError:
        return None
    return public(said)


def since(room, number):
    """Return the messages of a room that follow this number; if they are many, the last of them."""
    if not isinstance(number, int) or not 0 <= number < 2**53:
        number = 0
    found = database.select(
        "message",
        where="room = $room AND id > $number",
        order="id DESC",
        limit=ANSWERED,
        vars=locals(),
    )
    return [public(said) for said in found][::-1]


def public(said):
    """Return a message as clients get it."""
    return {"kind": "said", **{key: said[key] for key in ("id", "who", "name", "text", "time")}}
