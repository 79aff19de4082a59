"""Requests to the pages of the application, with cookies."""

from __future__ import annotations

import json as stdlib_json
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from http.cookies import CookieError, Morsel, SimpleCookie
from typing import Any, Protocol
from urllib.parse import quote, urlencode

from webpy_socketio.testing.memory import HOST, MemorySocket
from webpy_socketio.testing.response import Response

__all__ = ["PageClient", "PageHost"]

#: Characters of a path that are not quoted.
_PLAIN = "/?&=%:+,;@!$'()*[]~#"


class PageHost(Protocol):
    """The part of the server that handles requests."""

    def settle(self) -> None:
        """Return once the server is idle."""

    def handle(self, sock: MemorySocket, address: str, what: str) -> None:
        """Let the server handle a request."""


class PageClient:
    """A visitor of the application's pages, with cookies; the base class of `Browser`."""

    def __init__(
        self,
        server: PageHost,
        *,
        cookies: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self._server = server
        #: The cookies, by name.
        self.cookies: dict[str, str] = dict(cookies or {})
        #: Headers sent with every request.
        self.headers: dict[str, str] = dict(headers or {})
        #: The client's address (REMOTE_ADDR).
        self.address = address

    def get(self, path: str, *, headers: Mapping[str, str] | None = None) -> Response:
        """Send a GET request."""
        return self.request("GET", path, headers=headers)

    def post(
        self,
        path: str,
        data: Mapping[str, Any] | str | bytes = b"",
        *,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a POST request with a form (if `data` is a mapping), a raw body, or `json`."""
        kind = None
        if json is not None:
            data, kind = stdlib_json.dumps(json), "application/json"
        elif isinstance(data, Mapping):
            data, kind = urlencode(data, doseq=True), "application/x-www-form-urlencoded"
        body = data.encode() if isinstance(data, str) else data
        own = dict(headers or {})
        if kind is not None:
            own = {"Content-Type": kind, **own}
        return self.request("POST", path, body, headers=own)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request, and return the response once all its effects have happened."""
        sent: dict[str, str] = {"Host": HOST, **self.all_headers(headers), "Connection": "close"}
        if body is not None:
            sent["Content-Length"] = str(len(body))
        lines = [f"{method} {quote(path, safe=_PLAIN)} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items()]
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        sock = MemorySocket(head + (body or b""))
        self._server.handle(sock, self.address, f"{method} {path}")
        response = Response(bytes(sock.answer), method)
        self.keep_cookies(response.headers.get_all("Set-Cookie", ()))
        self._server.settle()
        return response

    def all_headers(self, headers: Mapping[str, str] | None) -> dict[str, str]:
        """Return the headers of one request: cookies, common headers and its own."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {**({"Cookie": cookies} if cookies else {}), **self.headers, **(headers or {})}

    def keep_cookies(self, lines: Iterable[str]) -> None:
        """Store the cookies of ``Set-Cookie`` headers."""
        for line in lines:
            try:
                morsels = SimpleCookie(line).values()
            except CookieError as error:
                raise AssertionError(f"not a valid Set-Cookie header: {line!r}") from error
            for morsel in morsels:
                self.cookies.pop(morsel.key, None)
                if not _is_expired(morsel):
                    self.cookies[morsel.key] = morsel.coded_value


def _is_expired(morsel: Morsel[str]) -> bool:
    """Return whether a cookie deletes the stored one: its expiry is in the past."""
    if morsel["max-age"] != "":
        return int(morsel["max-age"]) <= 0
    expires = morsel["expires"]
    return expires != "" and parsedate_to_datetime(expires).timestamp() <= time.time()
