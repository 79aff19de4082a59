"""The rooms, stored in SQLite.

web.py opens a connection for each greenlet, and commits after each statement. Greenlets switch on
network I/O only, and there is none in between: no greenlet waits for the lock of another one.
Another process may wait for the duration of a statement.
"""

import sqlite3

import settings
import web
from texts import checked, slugify

NAME_LENGTH = 60
MOST_ROOMS = 100
STARTERS = ["Lobby", "Kaffeeküche", "談話室"]
ADMINS = "admins"  # the slug of the room that only admins may enter

database = web.database(dbn="sqlite", db=str(settings.DATA / "chat.sqlite"))


def create():
    """Create the table with a few rooms, if it does not exist."""
    database.query("CREATE TABLE IF NOT EXISTS room (slug TEXT PRIMARY KEY, name TEXT NOT NULL)")
    if not everything():
        for name in STARTERS:
            create_one(slugify(name), name)
    create_one(ADMINS, "Admins")


def create_one(slug, name):
    """Insert a room unless another process has just done so."""
    database.query("INSERT OR IGNORE INTO room (slug, name) VALUES ($slug, $name)", vars=locals())


def everything():
    """Return all rooms, each with `name` and `slug`, oldest first."""
    return list(database.select("room", order="rowid"))


def find(slug):
    """Return the room with this slug, or None."""
    return database.select("room", where={"slug": slug}).first()


def add(name):
    """Add a room and return its slug; ValueError has the reason of a rejection."""
    name = checked(name, "A room's name", NAME_LENGTH)
    if len(everything()) >= MOST_ROOMS:
        raise ValueError(f"There are {MOST_ROOMS} rooms already, which is the limit.")
    slug, number = slugify(name), 1
    while True:
        try:
            database.insert("room", seqname=False, slug=slug, name=name)
        except sqlite3.IntegrityError:  # taken: try lobby-2, lobby-3, …
            number += 1
            slug = f"{slugify(name)}-{number}"
        else:
            return slug


def channel_of(room):
    """Return the channel of a room; gates recognize the admins' room by the prefix."""
    return f"{'admin' if room.slug == ADMINS else 'room'}-{room.slug}"


def at(channel):
    """Return the room of a channel, or None."""
    room = find(channel.partition("-")[2])
    return room if room and channel_of(room) == channel else None
