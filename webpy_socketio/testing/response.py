"""HTTP responses."""

from __future__ import annotations

import http.client
import io
import json as stdlib_json
from typing import Any

__all__ = ["Response"]


class Response:
    """The response to an HTTP request."""

    def __init__(self, answer: bytes, method: str = "GET") -> None:
        read = http.client.HTTPResponse(_Readable(answer), method=method)  # type: ignore[arg-type]
        read.begin()
        #: Status code, such as 200.
        self.status = read.status
        #: Reason phrase, such as "OK".
        self.reason = read.reason
        #: Headers as a mapping with case-insensitive names.
        self.headers = read.headers
        #: Body as bytes.
        self.body = read.read()

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(self.headers.get_content_charset("utf-8"))

    def json(self) -> Any:
        """Return the body decoded from JSON."""
        return stdlib_json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason}: {self.text[:200]!r}>"


class _Readable:
    """The part of a socket that `http.client` uses."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)
