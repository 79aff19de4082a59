"""A visitor: cookies, requests to the application's pages, and sockets that bring the cookies along."""

from __future__ import annotations

import json as stdlib_json
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from http.cookies import CookieError, Morsel, SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from webpy_socketio.testing.client import Client
from webpy_socketio.testing.memory import HOST, MemorySocket
from webpy_socketio.testing.response import Response

if TYPE_CHECKING:
    from webpy_socketio.testing.server import TestServer

__all__ = ["Browser"]

#: Characters that a path may have as they are.
_PLAIN = "/?&=%:+,;@!$'()*[]~#"


class Browser:
    """One visitor of the application: keeps cookies, gets pages, opens sockets.

    `headers` are sent with each request, the handshakes of sockets among them. Every cookie goes to
    every page: their paths and domains are not looked at. Redirects are not followed.
    """

    def __init__(
        self,
        server: TestServer,
        *,
        cookies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self._server = server
        #: The cookies, by name.
        self.cookies: dict[str, str] = dict(cookies or {})
        #: Headers of every request.
        self.headers: dict[str, str] = dict(headers or {})
        #: What the application sees as REMOTE_ADDR.
        self.address = address

    def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Response:
        """Get a page."""
        return self.request("GET", path, headers=headers)

    def post(
        self,
        path: str,
        data: Mapping[str, Any] | str | bytes = b"",
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a form, if `data` is a mapping; a body as it is; or `json`."""
        kind = None
        if json is not None:
            data, kind = stdlib_json.dumps(json), "application/json"
        elif isinstance(data, Mapping):
            data, kind = urlencode(data, doseq=True), "application/x-www-form-urlencoded"
        body = data.encode() if isinstance(data, str) else data
        given = dict(headers or {})
        if kind is not None:
            given = {"Content-Type": kind, **given}
        return self.request("POST", path, body, headers=given)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Make any request; returns when everything that it caused has happened."""
        given: dict[str, str] = {"Host": HOST, **self.all_headers(headers), "Connection": "close"}
        if body is not None:
            given["Content-Length"] = str(len(body))
        lines = [f"{method} {quote(path, safe=_PLAIN)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in given.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        sock = MemorySocket(head + (body or b""))
        self._server.handle(sock, self.address, f"{method} {path}")
        response = Response(bytes(sock.answer), method)
        self.keep_cookies(response.headers.get_all("Set-Cookie", ()))
        self._server.settle()
        return response

    def connect(
        self,
        namespace: str = "/",
        *,
        auth: dict[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Client:
        """Open a socket, as ``io(namespace, {auth, query})`` does in a page.

        Raises `Refused` with the reason if a gate denies it, and `HandshakeRefused`, which has the
        ``response``, if it does not even come to that: a wrong origin, a login page in between.
        """
        client = Client(self._server, self, namespace)
        client.open(auth, query or {}, headers)
        return client

    def all_headers(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        """What every request sends, and what this one does."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {**({"Cookie": cookies} if cookies else {}), **self.headers, **(headers or {})}

    def keep_cookies(self, lines: Iterable[str]) -> None:
        """Take the ``Set-Cookie`` headers of an answer."""
        for line in lines:
            try:
                morsels = SimpleCookie(line).values()
            except CookieError as error:
                raise AssertionError(f"a cookie that no browser would keep: {line!r}") from error
            for morsel in morsels:
                self.cookies.pop(morsel.key, None)
                if not _is_over(morsel):
                    self.cookies[morsel.key] = morsel.coded_value


def _is_over(morsel: Morsel[str]) -> bool:
    """Whether a cookie is to be forgotten: one that ended before it was sent."""
    if morsel["max-age"] != "":
        return int(morsel["max-age"]) <= 0
    expires = morsel["expires"]
    return expires != "" and parsedate_to_datetime(expires).timestamp() <= time.time()
