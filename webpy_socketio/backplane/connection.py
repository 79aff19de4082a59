"""Single-use connection to Redis, built on the library `redis`.

Clients of that library reconnect and retry on their own. A retried message may arrive twice, and a
renewed subscription hides which messages were missed. This module therefore uses the library's
plain `Connection` and discards it after its first failure.
"""

from __future__ import annotations

import select
import ssl
import time
from collections.abc import Sequence
from typing import Any

import gevent
import gevent.socket
import redis
from gevent.monkey import get_original
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

try:
    import hiredis
except ImportError:  # `redis` is installed without its parser in C
    hiredis = None

from webpy_socketio.backplane.addresses import Kind, RedisAddress
from webpy_socketio.engine.workers.forking import close_in_child
from webpy_socketio.exceptions import BackplaneError, ConfigurationError

__all__ = ["RedisConnection", "check_files"]

#: Seconds for connecting. Together with the longest of `reconnect_delays` it is below 5: all
#: processes are connected again 5 seconds after Redis is back.
CONNECT_TIMEOUT = 2.0

#: Topics in one command.
BATCH = 500

#: The commands that publish, with the sizes and values of the topic and the envelope.
_PUBLISH = b"*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"
_SPUBLISH = _PUBLISH.replace(b"$7\r\nPUBLISH", b"$8\r\nSPUBLISH")

#: Publishes pairs of a topic and an envelope, and returns the number of receivers of each.
_PUBLISH_ALL = """
local counts = {}
for i = 1, #ARGV, 2 do counts[#counts + 1] = redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end
return counts
"""

#: Intervals of a timeout: a connection is lost after this many consecutive ones without a byte.
IDLE_INTERVALS = 3

#: Result of hiredis while a reply is incomplete.
_INCOMPLETE = object()

#: Bytes of one read.
CHUNK = 65_536

#: Text of the library's exception for a connection that the server has closed.
_CLOSED = "Connection closed by server."

#: What a program that rejects a login rejects.
_CREDENTIALS = {
    "Redis": "user name or password",
    "Sentinel": "sentinel_username or sentinel_password",
}

#: Exceptions that the library raises for a closed connection. The last two occur when another
#: greenlet closes the connection during a read.
_FAILURES = (redis.RedisError, OSError, ValueError, AttributeError)


class RedisConnection:
    """Connection to one server that is open from `__init__` until its first failure.

    Failures raise `BackplaneError`. `timeout` is the number of seconds without a byte after which a
    pending read or write fails. `connect_timeout` is that of connecting, by default
    `CONNECT_TIMEOUT`.

    A server that rejects a write because it is a replica ends the connection: it was the master
    when the connection was opened, and another one is now.

    Time during which the process was suspended does not count towards the timeout: a paused virtual
    machine, ``SIGSTOP``, a blocked event loop. Data that arrived meanwhile is read before the
    timeout is checked.
    """

    def __init__(
        self, address: RedisAddress, timeout: float, connect_timeout: float | None = None
    ) -> None:
        #: For messages.
        self.address = str(address)
        self.closed = False
        #: Replies to the commands of the last `execute`, in their order.
        self.replies: list[Any] = []
        self._info: bytes | None = None
        self._program = address.program
        self._has_tls = address.tls is not None
        self._interval = timeout / IDLE_INTERVALS
        #: Timer of a pending read of a gevent socket; otherwise the socket has a timeout.
        self._timer: Any = None
        self._sock: Any = None
        self._connection = _new_connection(address, timeout, connect_timeout or CONNECT_TIMEOUT)
        self._try(self._connection.connect)
        self._sock = self._connection._sock
        close_in_child(self._sock)
        self._sock.settimeout(self._interval)
        #: Parser of replies: that of the library, without the layers of Python above it; or None.
        self._reader: Any = None if hiredis is None else _new_reader(self._connection)
        # With TLS, data may be available although the socket is not readable, and the reverse.
        if isinstance(self._sock, gevent.socket.socket) and not self._has_tls:
            self._hub: Any = gevent.get_hub()
            self._timer = self._hub.loop.timer(self._interval, self._interval)
        self._readable = _poll(self._sock, "POLLIN")
        self._writable = _poll(self._sock, "POLLOUT")

    def send(self, *words: str | bytes) -> None:
        """Send one command; after a failure, data received before the close can still be read."""
        self._write(self._connection.pack_command(*words))

    def send_all(self, commands: Sequence[Sequence[str | bytes]]) -> None:
        """Send commands in one write, as `send` does."""
        self._write(self._connection.pack_commands(commands))

    def subscribe(self, topics: Sequence[bytes]) -> None:
        """Subscribe to topics; Redis confirms each."""
        self._send_in_batches("SUBSCRIBE", topics)

    def unsubscribe(self, topics: Sequence[bytes]) -> None:
        """Unsubscribe from topics; Redis confirms each."""
        self._send_in_batches("UNSUBSCRIBE", topics)

    def read(self) -> Any:
        """Wait for the next reply or message, and return it."""
        return self._try(self._read_response)

    def read_before(self, deadline: float) -> Any:
        """Wait for the next reply or message, and return it; None if the deadline passes.

        Args:
            deadline: Time of `time.monotonic`.
        """
        try:
            return self._try(self._read_response_before, deadline)
        finally:
            if not self.closed:
                self._sock.settimeout(self._interval)

    def has_data(self) -> bool:
        """Return whether a read would return at once, with data or because the connection ended."""
        if self._readable is not None and not self.closed:
            return self._is_readable()
        return bool(self._try(self._connection.can_read, 0))

    def execute(self, *commands: Sequence[str | bytes | int]) -> list[Any]:
        """Send commands in one write, and return the reply to each.

        A command that Redis rejects has a `BackplaneError` in place of its reply.

        Raises:
            BackplaneError: The connection ended. `replies` contains the replies received until
                then; Redis may or may not have executed the other commands.
        """
        return self._execute(self._connection.pack_commands(commands), len(commands))

    def _execute(self, packed: Sequence[bytes], count: int) -> list[Any]:
        """Send packed commands, and return their replies as `execute` does."""
        failure: BackplaneError | None = None
        replies: list[Any] = []
        self.replies = replies
        try:
            self._write(packed)
        except BackplaneError as error:
            failure = error  # Redis may have replied to the first commands
        try:
            while len(replies) < count:
                try:
                    replies.append(self.read())
                except _CommandError as error:
                    rejection = BackplaneError(str(error))
                    rejection.__cause__ = error.__cause__
                    replies.append(rejection)
        except BackplaneError as error:
            raise (failure or error) from error.__cause__
        return replies

    def publish(self, envelopes: Sequence[tuple[bytes, bytes]]) -> list[int | BackplaneError]:
        """Publish (topic, envelope) pairs; return the number of receivers of each."""
        return self._publish(_PUBLISH, envelopes)

    def publish_sharded(
        self, envelopes: Sequence[tuple[bytes, bytes]]
    ) -> list[int | BackplaneError]:
        """Publish (topic, envelope) pairs on a node of a cluster, as `publish` does."""
        return self._publish(_SPUBLISH, envelopes)

    def _publish(
        self, template: bytes, envelopes: Sequence[tuple[bytes, bytes]]
    ) -> list[int | BackplaneError]:
        packed = [
            template % (len(topic), topic, len(envelope), envelope) for topic, envelope in envelopes
        ]
        return self._execute([b"".join(packed)], len(packed))

    def publish_together(
        self, groups: Sequence[Sequence[tuple[bytes, bytes]]]
    ) -> list[int | BackplaneError]:
        """Publish groups of (topic, envelope) pairs; return the number of receivers of each pair.

        Redis executes no command of another client between the pairs of a group.
        """
        commands: list[Sequence[str | bytes | int]] = [
            ("PUBLISH", *group[0])
            if len(group) == 1
            else ("EVAL", _PUBLISH_ALL, 0, *[word for pair in group for word in pair])
            for group in groups
        ]
        try:
            return _flatten(groups, self.execute(*commands))
        except BackplaneError:
            self.replies = _flatten(groups, self.replies)
            raise

    def check(self) -> None:
        """Raise `BackplaneError` if the connection was closed while it was idle."""
        if self._readable is not None and not self.closed and not self._is_readable():
            return
        if self._try(self._receive_at_once):
            self._fail(f"{self.address} sent data without a command")

    def server_info(self, key: str) -> bytes:
        """Return the section ``server`` of INFO, as of the first call.

        The key matters in a Redis Cluster only.

        Raises:
            BackplaneError: The connection has ended, or Redis rejects the command.
        """
        if self._info is None:
            (info,) = self.execute(("INFO", "server"))
            if isinstance(info, BackplaneError):
                raise info
            self._info = info
        return self._info

    def ping(self) -> None:
        """Send a PING and wait for the reply."""
        self.send("PING")
        self.read()

    def close(self) -> None:
        """Close the connection; a pending read raises `BackplaneError`."""
        self.closed = True
        self._connection.disconnect()
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _send_in_batches(self, command: str, topics: Sequence[bytes]) -> None:
        # Never PSUBSCRIBE: a channel name may contain an asterisk.
        for start in range(0, len(topics), BATCH):
            self.send(command, *topics[start : start + BATCH])

    def _is_readable(self) -> bool:
        return bool(self._readable.poll(0)) or (self._has_tls and self._sock.pending() > 0)

    def _receive_at_once(self) -> bytes:
        """Return data that has arrived; empty if there is none for the reader, as within TLS."""
        self._sock.settimeout(0.0)
        try:
            data: bytes = self._sock.recv(CHUNK)
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""
        finally:
            self._sock.settimeout(self._interval)
        if not data:
            raise redis.ConnectionError(_CLOSED)
        return data

    def _try(self, function: Any, *args: Any, **keywords: Any) -> Any:
        if self.closed:  # the library would reconnect
            raise BackplaneError(f"the connection to {self.address} is closed")
        try:
            return function(*args, **keywords)
        except redis.AuthenticationError as error:
            self._fail(
                f"{self.address} rejected the {_CREDENTIALS[self._program]} in "
                f"SOCKETIO_BACKPLANE ({error}); special characters in them must be percent-encoded",
                error,
            )
        except redis.ResponseError as error:
            if isinstance(error, redis.ReadOnlyError) or "-READONLY" in str(error):
                self._fail(f"{self.address} is a replica, which accepts no writes: {error}", error)
            raise _CommandError(f"{self.address} rejected a command: {error}") from error
        except _FAILURES as error:
            remedy = _remedy(error, self._has_tls) if self._sock is None else ""
            text = str(error).rstrip(".") if remedy else str(error)
            self._fail(f"{self.address} is unreachable: {text}{remedy}", error)
        except BaseException:
            self.close()
            raise

    def _read_response(self) -> Any:
        reader = self._reader
        if reader is None:
            return self._with_intervals(
                self._connection.read_response, disable_decoding=True, disconnect_on_error=False
            )
        reply = reader.gets()
        while reply is _INCOMPLETE:
            self._feed(self._with_intervals(self._receive))
            reply = reader.gets()
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _with_intervals(self, function: Any, **keywords: Any) -> Any:
        """Call a function until it returns in time, as long as the connection is not lost."""
        idle: _IdleTimeout | None = None
        began = time.monotonic()
        while True:
            try:
                return function(**keywords)
            except (TimeoutError, redis.TimeoutError):
                if idle is None:
                    idle = _IdleTimeout(self._interval, began)
                if idle.is_over(self._readable):
                    raise

    def _receive(self) -> bytes:
        """Wait for data for one interval, and return it."""
        timer = self._timer
        if timer is not None and gevent.get_hub() is self._hub:
            # In place of the timeout of a gevent socket: one timer for all reads, and no attempt to
            # read before the wait (measured: 6 µs less).
            timer.again(_throw_timeout, gevent.getcurrent())
            try:
                gevent.socket.wait(self._sock._read_event)
            finally:
                if self._timer is timer:  # not closed meanwhile
                    timer.stop()
        data: bytes = self._sock.recv(CHUNK)
        return data

    def _feed(self, data: bytes) -> None:
        if not data:
            raise redis.ConnectionError(_CLOSED)
        self._reader.feed(data)

    def _read_response_before(self, deadline: float) -> Any:
        reader = self._reader
        try:
            if reader is None:
                self._sock.settimeout(max(0.001, deadline - time.monotonic()))
                return self._connection.read_response(
                    disable_decoding=True, disconnect_on_error=False
                )
            reply = reader.gets()
            while reply is _INCOMPLETE:
                self._sock.settimeout(max(0.001, deadline - time.monotonic()))
                self._feed(self._sock.recv(CHUNK))
                reply = reader.gets()
        except (TimeoutError, redis.TimeoutError):
            return None
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _write(self, packed: Sequence[bytes]) -> None:
        try:
            if not self.closed:
                self._send_all(packed)
                return
        except ConnectionError as error:  # the built-in one: Redis closed the connection
            raise BackplaneError(f"{self.address} is unreachable: {error}") from error
        except _FAILURES as error:
            self._fail(f"{self.address} is unreachable: {error}", error)
        except BaseException:
            self.close()
            raise
        raise BackplaneError(f"the connection to {self.address} is closed")

    def _send_all(self, packed: Sequence[bytes]) -> None:
        for item in packed:
            left = memoryview(item)
            idle: _IdleTimeout | None = None
            began = time.monotonic()
            while left:
                try:
                    left = left[self._sock.send(left) :]
                    idle, began = None, time.monotonic()
                except TimeoutError:
                    if idle is None:
                        idle = _IdleTimeout(self._interval, began)
                    if idle.is_over(self._writable):
                        raise

    def _fail(self, text: str, cause: BaseException | None = None) -> None:
        self.close()
        raise BackplaneError(text) from cause


class _IdleTimeout:
    """Decides after each socket timeout whether the connection is lost.

    The timer of a suspended process fires late, and before data that arrived meanwhile is read. An
    interval therefore counts only if the socket is not ready and the timer was late by less than
    one interval. A suspension counts as one interval at most.
    """

    def __init__(self, interval: float, began: float) -> None:
        self._interval = interval
        self._began = began
        self._count = 0

    def is_over(self, poller: Any) -> bool:
        """Count an interval without a byte, and return whether it was the last one allowed."""
        began, self._began = self._began, time.monotonic()
        if (poller is not None and poller.poll(0)) or self._began - began > 2 * self._interval:
            self._count = 0
        else:
            self._count += 1
        return self._count >= IDLE_INTERVALS


def _new_reader(connection: Connection) -> Any:
    """Return a parser of hiredis that creates the exceptions of the library."""
    return hiredis.Reader(
        protocolError=redis.InvalidResponse,
        replyError=connection._parser.parse_error,
        notEnoughData=_INCOMPLETE,
    )


def _throw_timeout(greenlet: Any) -> None:
    greenlet.throw(TimeoutError("timed out"))


def _poll(sock: Any, event: str) -> Any:
    """Return the operating system's poll object for one event, or None if it has none.

    The library uses gevent's: a watcher, a timer and two greenlet switches for each check, which
    takes as long as the PUBLISH that follows.
    """
    if not hasattr(select, event):
        return None
    poller = get_original("select", "poll")()
    poller.register(sock.fileno(), getattr(select, event))
    return poller


def _flatten(
    groups: Sequence[Sequence[object]], replies: Sequence[Any]
) -> list[int | BackplaneError]:
    """Return one reply for each pair of the groups that Redis has replied to."""
    flat: list[int | BackplaneError] = []
    for group, reply in zip(groups, replies, strict=False):
        flat += reply if isinstance(reply, list) else [reply] * len(group)
    return flat


def _new_connection(address: RedisAddress, timeout: float, connect_timeout: float) -> Any:
    """Return a connection of the library that is not open yet."""
    keywords: dict[str, Any] = {
        "db": address.database,
        "username": address.credentials.username,
        "password": address.credentials.password,
        "socket_timeout": timeout,
        "socket_connect_timeout": connect_timeout,
        "retry": Retry(NoBackoff(), 0),
        # RESP 2: replies and published messages arrive in order, in one stream.
        "protocol": 2,
    }
    if address.kind is Kind.UNIX_SOCKET:
        return UnixDomainSocketConnection(address.path, **keywords)
    (host,) = address.hosts
    keywords |= {"host": host.name, "port": host.port, "socket_keepalive": True}
    options = address.tls
    if options is None:
        return Connection(**keywords)
    # The handshake has the timeout of replies.
    keywords["socket_timeout"] = min(timeout, connect_timeout)
    return SSLConnection(
        **keywords,
        ssl_ca_certs=options.ca_certs,
        ssl_certfile=options.certfile,
        ssl_keyfile=options.keyfile,
        ssl_check_hostname=options.check_hostname,
        ssl_cert_reqs=options.cert_reqs,
    )


def check_files(address: RedisAddress) -> None:
    """Check that the files of certificates can be read.

    Raises:
        ConfigurationError: A file is missing or has no valid contents.
    """
    options = address.tls
    if options is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        names = "ssl_ca_certs"
        if options.ca_certs is not None:
            context.load_verify_locations(options.ca_certs)
        names = "ssl_certfile and ssl_keyfile"
        if options.certfile is not None:
            context.load_cert_chain(options.certfile, options.keyfile, password="")
    except OSError as error:
        raise ConfigurationError(
            f"{names} in SOCKETIO_BACKPLANE cannot be used: {error.strerror or error}"
        ) from error


def _remedy(error: BaseException, has_tls: bool) -> str:
    """Return the end of a message about a connection that cannot be opened; may be empty."""
    cause = error.__context__ or error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            "; in SOCKETIO_BACKPLANE, use a host name of the certificate, and set ssl_ca_certs to "
            "the file of its issuer"
        )
    if has_tls and isinstance(cause, (ssl.SSLError, TimeoutError)):
        return (
            "; check that this port expects TLS, and whether it requires a certificate of the "
            "client (ssl_certfile)"
        )
    if not has_tls and (_CLOSED in str(error) or isinstance(cause, ConnectionResetError)):
        return "; if this port expects TLS, use rediss:// or rediss+sentinel://"
    return ""


class _CommandError(BackplaneError):
    """Error reply of Redis; the connection remains usable."""
