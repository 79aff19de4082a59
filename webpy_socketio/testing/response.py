"""The answer to an HTTP request."""

from __future__ import annotations

import http.client
import io
import json as stdlib_json
from typing import Any

__all__ = ["Response"]


class Response:
    """An answer to an HTTP request."""

    def __init__(self, answer: bytes, method: str = "GET") -> None:
        read = http.client.HTTPResponse(_Readable(answer), method=method)  # type: ignore[arg-type]
        read.begin()
        #: The number: 200.
        self.status = read.status
        #: The number's words: "OK".
        self.reason = read.reason
        #: A mapping; the case of names does not matter.
        self.headers = read.headers
        #: The body as it came.
        self.body = read.read()

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode(self.headers.get_content_charset("utf-8"))

    def json(self) -> Any:
        """The body as JSON."""
        return stdlib_json.loads(self.body)

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason}: {self.text[:200]!r}>"


class _Readable:
    """What `http.client` reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)
