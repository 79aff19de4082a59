"""The reader of a connection, compared with a buffered file on the same bytes."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webpy_socketio.engine.http.connection_reader import ConnectionReader

calls = st.lists(
    st.tuples(st.sampled_from(["read", "readline", "skip"]), st.integers(0, 8)), max_size=30
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@given(st.binary(max_size=10), st.lists(st.sampled_from(b"ab\r\n"), max_size=40), calls)
def test_reads_are_those_of_a_file(
    prefix: bytes, rest: list[int], wanted: list[tuple[str, int]]
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(bytes(rest))
        theirs.shutdown(socket.SHUT_WR)
        reader, file = ConnectionReader(ours, prefix), io.BytesIO(prefix + bytes(rest))
        for name, size in wanted:
            if name == "skip":
                size = min(size, len(reader.peek()))
                reader.skip(size)
                file.read(size)
            else:
                assert getattr(reader, name)(size) == getattr(file, name)(size)
        assert reader.readline() == file.readline()
        assert reader.read() == file.read()


def test_peek_returns_all_that_has_arrived(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    reader = ConnectionReader(ours, b"ab")
    theirs.sendall(b"cd")
    assert reader.peek() == b"ab"
    assert reader.read(1) == b"a"
    assert reader.buffered == b"b"
    reader.add(b"x")
    assert reader.read(4) == b"bxcd"
    theirs.close()
    assert reader.peek() == b""
    assert not reader.fill()
