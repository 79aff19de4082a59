"""Parsers: how Socket.IO packets are encoded. A server and its clients must use the same parser.

A parser is a module with the functions of `Parser`: `webpy_socketio.engine.socketio.packets` for
JSON, the default of all clients, and `webpy_socketio.engine.socketio.msgpack` for MessagePack.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from webpy_socketio.engine.io.packets import Message
from webpy_socketio.engine.socketio import packets
from webpy_socketio.engine.socketio.packets import Packet
from webpy_socketio.exceptions import ConfigurationError

__all__ = ["PacketDecoder", "Parser", "as_json", "get_parser", "read_event"]


class PacketDecoder(Protocol):
    """Decodes the messages of one session."""

    @property
    def size(self) -> int:
        """Size of the last packet: characters of its text plus bytes of its attachments."""

    @property
    def incomplete(self) -> Packet | None:
        """The packet whose attachments are missing, or None."""

    def feed(self, data: str | bytes) -> Packet | None:
        """Decode one Engine.IO message; return the packet, or None if it is not complete.

        Raises:
            ProtocolError: The message is not valid at this point.
        """


class Parser(Protocol):
    """Encodes and decodes packets. The messages are shared by all recipients of the runtime."""

    #: The value of SOCKETIO_PARSER.
    NAME: str
    #: Whether the first message of a client is binary.
    BINARY: bool

    def new_decoder(self) -> PacketDecoder:
        """Return the decoder of a new session."""

    def encode_event(
        self, namespace: str, event: str, args: Sequence[Any], identifier: int | None = None
    ) -> Message:
        """Encode an event. Raises `EncodeError`."""

    def encode_ack(self, namespace: str, identifier: int, args: Sequence[Any]) -> Message:
        """Encode the acknowledgement of an event. Raises `EncodeError`."""

    def add_offset(self, namespace: str, message: Message, epoch: bytes, number: int) -> Message:
        """Return an event with an offset, epoch and number, as last argument."""

    def ends_with_text(self, message: Message) -> bool:
        """Return whether the last argument of an event is text, or the event has no arguments."""

    def encode_connect(
        self, namespace: str, session_id: str, pid: str | None = None, received: int = 0
    ) -> Message:
        """Encode the response to an accepted CONNECT, with what the client needs to resume it."""

    def encode_connect_error(self, namespace: str, reason: str, data: Any = None) -> Message:
        """Encode the response to a rejected CONNECT. Raises `EncodeError`."""

    def encode_disconnect(self, namespace: str) -> Message:
        """Encode the end of a namespace."""

    def from_json(
        self,
        namespace: str,
        body: bytes,
        attachments: Sequence[bytes],
        identifier: int | None = None,
    ) -> Message:
        """Return an event of another process, which is JSON, for sending."""


def get_parser(name: str) -> Parser:
    """Return the parser for a value of SOCKETIO_PARSER.

    Raises:
        ConfigurationError: The library ``msgpack``, which is optional, is not installed.
    """
    if name == packets.NAME:
        return packets
    try:
        from webpy_socketio.engine.socketio import msgpack
    except ImportError as error:
        raise ConfigurationError(
            f'SOCKETIO_PARSER = "msgpack" needs the library "msgpack" ({error}): '
            'pip install "webpy_socketio[msgpack]"'
        ) from error
    return msgpack


def as_json(message: Message) -> Message:
    """Return an event as JSON, whichever parser encoded it."""
    if message.text is not None:
        return message
    from webpy_socketio.engine.socketio import msgpack

    return msgpack.to_json(message)


def read_event(namespace: str, message: Message) -> list[Any]:
    """Return name and arguments of an event; bytes are placeholders, as in JSON."""
    return packets.read_event(namespace, as_json(message))
