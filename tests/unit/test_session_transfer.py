"""Session transfer: the form of sessions between processes."""

from __future__ import annotations

import pytest

from webpy_socketio.carried_messages import Carried, CarriedMessage
from webpy_socketio.engine.io.packets import Message
from webpy_socketio.session_transfer import TransferredSession, decode, encode


def test_decode_with_a_missing_part_raises_value_error() -> None:
    missed = [CarriedMessage("epoch", number, Message(b"text", [b"bytes"])) for number in range(3)]
    values = ("pid", "id", "/", [], {}, {}, None, "transport close", 1.0, 0, [])
    data = encode([TransferredSession(*values, Carried(missed))])
    assert len(decode(data)[0].carried.messages) == 3
    header, _, rest = data.partition(b"\n")
    for part in (rest[:5], rest[5:], rest + b"more"):
        with pytest.raises(ValueError, match="not a transferred session"):
            decode(header + b"\n" + part)
