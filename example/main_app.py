"""A chat on web.py and webpy_socketio: its pages. Run it: `python example/main_app.py`.

The messages of a room are handled in events.py.
"""

from gevent import monkey

monkey.patch_all()  # before web.py is imported, so that its web.ctx is local to each greenlet

import contextlib
import hashlib
import hmac
import logging
import secrets
import sys
import time
from urllib.parse import quote

import events  # noqa: F401 - connects the chat's handlers
import messages
import people
import rooms
import settings
import web
from texts import checked, tidy
from web.contrib.template import render_mako

from webpy_socketio import (
    BackplaneError,
    NoSocket,
    SocketIOServer,
    broadcast,
    broadcast_channel,
    configure,
    socketio_urls,
    template_dir,
)
from webpy_socketio.plugins import presence

urls = (
    "/", "Rooms",
    "/room/([^/]+)", "Room",
    "/sysmsg", "SystemMessage",
    "/login", "Login",
    "/logout", "Logout",
    r"/static/([a-z]+)\.(css|js|svg)", "Static",
)  # fmt: skip
urls += socketio_urls

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
STATIC_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}

configure(settings)

app = web.application(urls, globals())
render = render_mako(
    directories=[str(settings.HERE / "templates"), template_dir],
    default_filters=["h"],  # every ${…} is escaped
    strict_undefined=True,
)


settings.DATA.mkdir(parents=True, exist_ok=True)
for module in (rooms, messages, people):
    module.create()


class Sessions(web.session.DiskStore):
    """Sessions in files, shared by the processes of one machine."""

    def cleanup(self, timeout):
        with contextlib.suppress(FileNotFoundError):  # another process cleans up too
            super().cleanup(timeout)


def initialize():
    """Fill a new session: `csrf` authenticates forms, `who` identifies the browser."""
    session.update(csrf=secrets.token_urlsafe(), who=secrets.token_hex(8), admin=False)


store = Sessions(str(settings.DATA / "sessions"))
session = web.session.Session(app, store, initializer=initialize)


def prepare():
    """Store the session for events.py and set the headers, before every request."""
    web.ctx.session = session
    for name, value in HEADERS.items():
        web.header(name, value)


app.add_processor(web.loadhook(prepare))


def is_admin():
    return session.get("admin", False)


def page(template, **values):
    visitor = {"csrf": session.get("csrf", ""), "admin": is_admin(), "path": web.ctx.path}
    html = getattr(render, template)(**visitor, **values)
    web.header("Content-Type", "text/html; charset=utf-8")
    web.header("Cache-Control", "no-cache, private")
    return html


def problem(status, text):
    """Return an HTTP error with a page of the site."""
    return web.HTTPError(status, {}, page("problem", heading=status.partition(" ")[2], text=text))


app.notfound = lambda: problem("404 Not Found", "There is nothing at this address.")
app.internalerror = lambda: problem("500 Internal Server Error", "That went wrong on our side.")


def posted(**defaults):
    """Return the fields of a submitted form; reject a form without the session's token."""
    try:
        form = web.input(_method="post", csrf="", **defaults)
        token = form.csrf.encode()
    except (ValueError, AttributeError):  # not UTF-8, or a file in place of text
        raise problem("400 Bad Request", "This form cannot be read.") from None
    if not hmac.compare_digest(token, session.csrf.encode()):
        text = "The form is too old, or cookies are off. Go back, reload the page, send it again."
        raise problem("403 Forbidden", text)
    return form


class Rooms:
    """The list of rooms, and a form that adds one."""

    def GET(self, typed="", error=None):
        channels = {rooms.channel_of(room): room for room in rooms.everything()}
        try:
            counts = presence.counts(channels)
        except BackplaneError:  # Redis is unreachable; earlier counts may be outdated
            counts = {}
        counted = [(room, counts.get(channel)) for channel, room in channels.items()]
        return page("rooms", rooms=counted, typed=typed, error=error, admins=rooms.ADMINS)

    def POST(self):
        name = posted(name="").name
        try:
            slug = rooms.add(name)
        except ValueError as error:
            web.ctx.status = "400 Bad Request"
            return self.GET(tidy(name), error)
        raise web.seeother(f"/room/{quote(slug)}")


class Room:
    """The page of a room; events.py and chat.js implement it."""

    def GET(self, slug):
        room = rooms.find(slug)
        if room is None:
            raise problem("404 Not Found", "There is no such room.")
        limits = {"name": people.NAME_LENGTH, "message": messages.LENGTH}
        return page(
            "room",
            room=room,
            channel=rooms.channel_of(room),
            who=session.who,
            limits=limits,
            for_admins=room.slug == rooms.ADMINS,
        )


class SystemMessage:
    """A form for admins that sends to one room or to all rooms, outside any connection."""

    def GET(self, **shown):
        if not is_admin():
            raise web.seeother("/login?to=sysmsg")
        shown = {"typed": "", "chosen": "", "error": None, "done": None, **shown}
        return page("sysmsg", rooms=rooms.everything(), **shown)

    def POST(self):
        form = posted(text="", room="")
        if not is_admin():
            raise web.seeother("/login?to=sysmsg")
        try:
            self.send(checked(form.text, "A message", messages.LENGTH, lines=True), form.room)
        except NoSocket:
            return self.GET(
                typed=form.text, chosen=form.room, error="No user is connected to read it."
            )
        except BackplaneError:
            error = "No user is connected to this process, and the others cannot be reached."
            return self.GET(typed=form.text, chosen=form.room, error=error)
        except ValueError as error:
            web.ctx.status = "400 Bad Request"
            return self.GET(typed=tidy(form.text, lines=True), chosen=form.room, error=error)
        return self.GET(chosen=form.room, done="Sent.")

    def send(self, text, slug):
        message = {"kind": "system", "text": text, "time": time.time()}
        if not slug:
            broadcast(message)
        elif room := rooms.find(str(slug)):
            broadcast_channel(message, rooms.channel_of(room))
        else:
            raise ValueError("There is no such room.")


class Login:
    """The sign-in of admins: a password; the session stores the result."""

    WAYS = {"sysmsg": "/sysmsg", rooms.ADMINS: f"/room/{rooms.ADMINS}"}  # noqa: RUF012

    def GET(self, to=None, error=None):
        shown = settings.PASSWORD if settings.PASSWORD == settings.DEMO_PASSWORD else None
        to = web.input(_method="get", to="").to if to is None else to
        return page("login", to=to, error=error, demo_password=shown)

    def POST(self):
        form = posted(password="", to="")
        if not hmac.compare_digest(str(form.password).encode(), settings.PASSWORD.encode()):
            web.ctx.status = "403 Forbidden"
            return self.GET(form.to, "That is not the password.")
        # Change the session ID, so that a stolen or planted one is worthless (session fixation).
        del store[session.session_id]
        session.update(session_id=secrets.token_hex(20), csrf=secrets.token_urlsafe(), admin=True)
        raise web.seeother(self.WAYS.get(form.to, "/"))


class Logout:
    """Delete the session, and close its connections, whose rights do not change otherwise."""

    def POST(self):
        posted()
        session.kill()
        people.disconnect(session.who, "You have signed out.")
        raise web.seeother("/")


class Static:
    """A file of static/. The pattern in `urls` allows plain names in this folder only."""

    def GET(self, name, kind):
        session.send_cookie = False  # the same for all visitors: no session needed
        try:
            body = (settings.HERE / "static" / f"{name}.{kind}").read_bytes()
        except FileNotFoundError:
            raise app.notfound() from None
        web.header("Content-Type", f"{STATIC_TYPES[kind]}; charset=utf-8")
        web.header("Cache-Control", "no-cache")  # store it, but revalidate each time
        web.modified(etag=hashlib.sha256(body).hexdigest()[:16])
        return body


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    SocketIOServer(None, app.wsgifunc(), resource="socket.io").serve_forever()
