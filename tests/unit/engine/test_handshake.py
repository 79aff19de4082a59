"""Plain handshakes, answered without the library, compared with its answers."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from webpy_socketio.engine.engineio import handshake
from webpy_socketio.exceptions import ProtocolError

PLAIN = {
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_UPGRADE": "websocket",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
}

#: Values of each header, valid and invalid; None leaves the header out.
VALUES: dict[str, list[str | None]] = {
    "HTTP_CONNECTION": [None, "", "Upgrade", "upgrade", "keep-alive, Upgrade", "close", "Upgrade,"],
    "HTTP_UPGRADE": [None, "", "websocket", "WebSocket", "websocket, h2c", "h2c"],
    "HTTP_SEC_WEBSOCKET_VERSION": [None, "", "12", "13", "13,13", "1³"],
    "HTTP_SEC_WEBSOCKET_KEY": [
        *(
            None,
            "",
            "dGhlIHNhbXBsZSBub25jZQ==",
            "dGhlIHNhbXBsZSBub25jZR==",
            "dGhlIHNhbXBsZSBub25jZQ",
        ),
        *("dGhlIHNhbXBsZSBub25jZQ==\n", "dGhl-HNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQo=x"),
        "QQ==",
    ],
    "HTTP_SEC_WEBSOCKET_PROTOCOL": [None, "", "chat", "chat, other", "\x01"],
    "HTTP_SEC_WEBSOCKET_EXTENSIONS": [None, "", "permessage-deflate", ";;", "a\tb", "é", "\x85"],
}


def describe(environ: dict[str, Any], compression: bool) -> Any:
    """Return the answer to a handshake, or its error, in a form that can be compared."""
    try:
        answer = handshake.check(environ, compression)
    except ProtocolError as error:
        return str(error)
    if isinstance(answer, handshake.Accepted):
        return re.sub(rb"Date: [^\r]+", b"Date:", answer.head), answer.compressed
    return answer.status_code, answer.body


def test_rfc_example_is_accepted() -> None:
    answer = handshake.check(PLAIN)
    assert isinstance(answer, handshake.Accepted)
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer.head
    assert not answer.compressed


@pytest.mark.parametrize("compression", [False, True])
def test_plain_handshakes_have_the_answers_of_the_library(
    compression: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    environs = []
    for (one, ones), (other, others) in itertools.combinations(VALUES.items(), 2):
        for first, second in itertools.product(ones, others):
            values = {**PLAIN, one: first, other: second}
            environs.append({name: value for name, value in values.items() if value is not None})
    answers = [describe(environ, compression) for environ in environs]
    with monkeypatch.context() as patch:
        patch.setattr(handshake, "_answer_plain", lambda *_: None)
        assert answers == [describe(environ, compression) for environ in environs]
    plain = sum(handshake._answer_plain(environ, compression) is not None for environ in environs)
    assert 0 < plain < len(environs)
