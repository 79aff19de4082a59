"""A load test: connects clients, sends events at a fixed rate, and measures the answers.

Events are sent at the times of a schedule, whether earlier ones are answered or not. A slow server
therefore does not reduce the load, which would hide its worst latencies ("coordinated omission").
"""

from __future__ import annotations

import gc
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gevent
import gevent.event
from gevent.pool import Pool

from webpy_socketio.load.client import ConnectFailed, LoadClient
from webpy_socketio.load.result import ACKNOWLEDGEMENT, PING, Interval, Result
from webpy_socketio.load.target import Target

__all__ = ["LoadTest", "Plan"]

#: Seconds to wait for the first acknowledgement, which shows that a handler answers.
_PROBE_TIMEOUT = 2.0

#: Maximum of concurrent connection attempts, because the backlog of a server is limited.
_CONNECTING = 100

#: Events sent before the event loop reads answers.
_BATCH_SIZE = 100

#: Seconds between two rounds of sending.
_TICK = 0.001

#: Maximum number of intervals of a test.
_MAX_INTERVALS = 60


@dataclass(frozen=True)
class Plan:
    """What the clients do."""

    clients: int
    #: Events per second and client.
    rate: float
    #: Seconds for which events are sent.
    seconds: float
    event: str = "load"
    #: Argument of the event.
    data: Any = None
    namespace: str = "/"
    #: Payload of the CONNECT packet.
    auth: Any = None
    #: Additional headers of the handshake.
    headers: Sequence[tuple[str, str]] = ()
    #: Seconds within which an answer must arrive, and a client must be connected.
    timeout: float = 5.0
    #: Connection attempts per second.
    connect_rate: float = 1000.0


class LoadTest:
    """One load test.

    Args:
        target: The server.
        plan: What the clients do.
        on_progress: Called with the phase, ``"connecting"`` or ``"sending"``, and the share of it
            that is done, from 0 to 1.
    """

    def __init__(
        self, target: Target, plan: Plan, on_progress: Callable[[str, float], None]
    ) -> None:
        self.result = Result(target.url, plan.clients, plan.rate, plan.event)
        self._target = target
        self._plan = plan
        self._on_progress = on_progress
        self._packet = json.dumps(
            [plan.event] if plan.data is None else [plan.event, plan.data], separators=(",", ":")
        )
        self._clients: list[LoadClient] = []
        #: Number of clients that are connected now.
        self._open = 0
        self._stopping = gevent.event.Event()
        #: Deadlines of answers, in their order.
        self._deadlines: deque[tuple[float, LoadClient, int]] = deque()
        self._began = 0.0
        self._interval_length = max(1.0, plan.seconds / _MAX_INTERVALS)

    def stop(self) -> None:
        """End the test early; the result includes what was measured so far."""
        self.result.is_interrupted = True
        self._stopping.set()

    def run(self) -> Result:
        """Run the test, and return the result."""
        try:
            self._connect()
            if self._clients and not self._stopping.is_set():
                self._probe()
                # A full collection stops the generator. Lag with 5,000 clients: p99 20 ms, not 200.
                gc.collect()
                gc.freeze()
                self._send()
                self._await_answers()
        finally:
            gc.unfreeze()
            for client in self._clients:
                client.close()
        return self.result

    # -- Observer: called by clients on the hub

    def answered(self, began: float) -> None:
        if self._began:
            latency = time.monotonic() - began
            self.result.latency.record(latency)
            # In the interval in which the event was sent.
            self._interval(began).latency.record(latency)

    def event_received(self) -> None:
        if self._began:
            self.result.received += 1
            self._interval(time.monotonic()).received += 1

    def lost(self, kind: str) -> None:
        self._open -= 1
        self._count_error(kind)

    # -- phases

    def _connect(self) -> None:
        pool = Pool(_CONNECTING)
        began = time.monotonic()
        for number in range(self._plan.clients):
            delay = began + number / self._plan.connect_rate - time.monotonic()
            if self._stopping.wait(delay) if delay > 0 else self._stopping.is_set():
                break
            pool.spawn(self._connect_one)
            self._on_progress("connecting", (number + 1) / self._plan.clients)
        while not self._stopping.is_set() and pool.join(0.1) is False:
            pass
        pool.kill()

    def _connect_one(self) -> None:
        plan = self._plan
        client = LoadClient(self._target, self, plan.namespace, plan.auth, plan.headers)
        began = time.monotonic()
        try:
            client.connect(plan.timeout)
        except ConnectFailed as error:
            self._count_error(str(error))
            return
        self.result.connecting.record(time.monotonic() - began)
        self.result.connected += 1
        self._open += 1
        self._clients.append(client)

    def _probe(self) -> None:
        """Measure with WebSocket pings if no handler acknowledges the event."""
        client = self._clients[0]
        client.emit(self._packet, True)
        deadline = time.monotonic() + min(_PROBE_TIMEOUT, self._plan.timeout)
        while client.pending and time.monotonic() < deadline and not self._stopping.is_set():
            gevent.sleep(0.01)
        if client.pending or not client.is_open:
            self.result.measured_with = PING
        client.pending.clear()

    def _send(self) -> None:
        plan, result = self._plan, self.result
        rate = plan.rate * len(self._clients)
        self._began = time.monotonic()
        sent = 0
        while self._open and not self._stopping.is_set():
            now = time.monotonic()
            result.seconds = min(now - self._began, plan.seconds)
            self._on_progress("sending", result.seconds / plan.seconds)
            due = int(result.seconds * rate) + 1
            while sent < min(due, round(plan.seconds * rate)):
                self._send_one(self._clients[sent % len(self._clients)], sent / rate)
                sent += 1
                if sent % _BATCH_SIZE == 0:
                    gevent.sleep(0)
            self._expire(time.monotonic())
            if result.seconds >= plan.seconds:
                return
            gevent.sleep(max(_TICK, self._began + sent / rate - time.monotonic()))

    def _send_one(self, client: LoadClient, scheduled: float) -> None:
        if not client.is_open:
            return
        now = time.monotonic()
        self.result.lag.record(max(0.0, now - self._began - scheduled))
        has_answers = self.result.measured_with == ACKNOWLEDGEMENT
        number = client.emit(self._packet, has_answers)
        if number is None:
            number = client.ping()
        self.result.sent += 1
        self._interval(now).sent += 1
        self._deadlines.append((now + self._plan.timeout, client, number))

    def _await_answers(self) -> None:
        while self._deadlines and not self._stopping.is_set():
            deadline, client, number = self._deadlines[0]
            if number not in client.pending:
                self._deadlines.popleft()
            elif time.monotonic() > deadline:
                self._expire(time.monotonic())
            else:
                gevent.sleep(0.01)

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] < now:
            _, client, number = self._deadlines.popleft()
            if client.pending.pop(number, None) is not None:
                self._count_error(f"no {self.result.measured_with} within {self._plan.timeout:g} s")

    def _count_error(self, kind: str) -> None:
        self.result.errors[kind] += 1
        if self._began:
            self._interval(time.monotonic()).errors += 1

    def _interval(self, moment: float) -> Interval:
        """Return the interval of a moment; answers after the end belong to the last one."""
        length, intervals = self._interval_length, self.result.intervals
        last = max(0, round(self._plan.seconds / length) - 1)
        index = min(int((moment - self._began) / length), last)
        while len(intervals) <= index:
            intervals.append(Interval(len(intervals) * length))
        return intervals[index]
