"""The rooms, kept in SQLite.

web.py opens a connection for each greenlet, and commits after each statement. Greenlets switch at
network I/O, and there is none between the two: no greenlet ever waits for another one's lock.
"""

import sqlite3

import settings
import web
from texts import checked, slugify

NAME_LENGTH = 60
STARTERS = ["Lobby", "Kaffeeküche", "談話室"]

database = web.database(dbn="sqlite", db=str(settings.DATA / "chat.sqlite"))


def create():
    """Make the table, with a few rooms to start from, unless it is there."""
    settings.DATA.mkdir(parents=True, exist_ok=True)
    database.query("CREATE TABLE IF NOT EXISTS room (slug TEXT PRIMARY KEY, name TEXT NOT NULL)")
    if not everything():
        for name in STARTERS:
            add(name)


def everything():
    """Return all rooms, each with `name` and `slug`, oldest first."""
    return list(database.select("room", order="rowid"))


def find(slug):
    """Return the room with this slug, or None."""
    return database.select("room", where={"slug": slug}).first()


def add(name):
    """Add a room and return its slug; ValueError says what is wrong with the name."""
    name = checked(name, "A room's name", NAME_LENGTH)
    slug, number = slugify(name), 1
    while True:
        try:
            database.insert("room", seqname=False, slug=slug, name=name)
        except sqlite3.IntegrityError:  # taken: the next one is lobby-2, then lobby-3
            number += 1
            slug = f"{slugify(name)}-{number}"
        else:
            return slug


def channel_of(room):
    """Return the channel in which the people of a room talk."""
    return f"room-{room.slug}"


def at(channel):
    """Return the room whose channel this is, or None."""
    prefix, _, slug = channel.partition("-")
    return find(slug) if prefix == "room" else None
