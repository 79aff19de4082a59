"""Cluster in which every message is numbered, and a check of what each client received.

Four processes share one Redis. Each continuously sends to all sockets, to a channel, to several
channels at once, and to one session of the next process. In each process one client receives these
messages and an event for each `gap` signal. Its stream of messages and gaps must follow three
rules, which `verdict` checks:

- messages of a sender arrive in order;
- no message arrives twice;
- a missing message is covered by a gap that follows the last message before it; a gap with a
  number counts all missing messages.

Messages and gaps contain the phase in which they were sent. `Cluster.disturbance` starts a new
phase: a loss must be reported in its phase, and a phase without a failure has no gap.
"""

from __future__ import annotations

import contextlib
import json
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gevent
import gevent.event

from . import raw
from .faults import Proxy
from .redis_server import RedisServer
from .servers import ServerProcess, application_source

__all__ = ["Cluster", "Gap", "Member", "Received", "Sender", "verdict"]

#: Channels to which all clients subscribe; recipients for `Sender.kind` "room" and "several".
CHANNELS = ("room", "left", "right")

PROGRAM = application_source(
    """
import gevent
from gevent.fileobject import FileObject
from webpy_socketio.backplane import publisher, subscriber
from webpy_socketio.runtime import default_runtime
from webpy_socketio.signals import gap

registry = default_runtime.registry
OPTIONS = {"plugins": [], "log": None, "backplane": os.environ["BACKPLANE"]}
# Redis may be late on a busy machine. Messages dropped after ANSWER_TIMEOUT are a real gap.
subscriber.CONFIRM_TIMEOUT = publisher.ANSWER_TIMEOUT = 20.0
phase = 0
paused = False
failed = {}
writer = reader = None

@gap.connect
def report_gap(sender, node, missed, topic, **extra):
    try:
        emit("gap", phase, node, missed, topic and [topic.kind, topic.name], local=True)
    except NoSocket:
        pass

def send_numbered(kind, function):
    node = default_runtime.registry.backplane._sequence.node
    number = 0
    while True:
        for _ in range(0 if paused else 5):
            try:
                function([[node, *kind], number, phase])
            except SocketIOError as error:
                failed.setdefault(" ".join([node, *kind]), {})[number] = type(error).__name__
            number += 1
        gevent.sleep(0.1)

@on_event("begin")
def begin(request, socket, context):
    gevent.spawn(send_numbered, ["all"], broadcast)
    gevent.spawn(send_numbered, ["room"], lambda message: broadcast_channel(message, "room"))
    gevent.spawn(send_numbered, ["several"], socket.send_and_broadcast_channel)

def send_directly_to(session_id):
    global writer, reader
    if session_id == reader:
        return
    if writer is not None:
        writer.kill()
    reader = session_id
    writer = gevent.spawn(
        send_numbered, ["direct", session_id], lambda message: send(session_id, message)
    )

def pubsub():
    return registry.backplane._subscriber._pubsub

def run_commands():
    for line in FileObject(sys.stdin.fileno(), "r", closefd=False):
        exec(line, globals())
        say("DONE")

gevent.spawn(run_commands)
"""
)


class Sender(NamedTuple):
    """Source of a sequence of messages, numbered from 0."""

    #: Node id of the process; new after each start.
    node: str
    #: "all", "room", "several" or "direct".
    kind: str
    #: Recipient of direct messages.
    session: str = ""

    @property
    def topics(self) -> list[tuple[str, str]]:
        """Topics on which it publishes, in the form of `Gap.topic`."""
        match self.kind:
            case "all":
                return [("all", "")]
            case "room":
                return [("channel", "room")]
            case "several":
                return [("channel", name) for name in CHANNELS]
            case _:
                return [("session", self.session)]


class Received(NamedTuple):
    """A received message."""

    phase: int
    sender: Sender
    number: int


class Gap(NamedTuple):
    """A reported gap; the fields are those of the signal."""

    phase: int
    node: str | None
    missed: int | None
    topic: tuple[str, str] | None

    def covers(self, sender: Sender) -> bool:
        """Return whether a missing message of this sender may belong to the gap."""
        return self.node in (None, sender.node) and (
            self.topic is None or self.topic in sender.topics
        )


#: Exceptions raised for messages, by sender and number: "NoSocket" or "BackplaneError".
Failed = Mapping[Sender, Mapping[int, str]]


def verdict(
    stream: Sequence[Received | Gap],
    phases: Collection[int],
    own: str,
    known: Collection[Sender] = (),
    failed: Failed | None = None,
) -> list[str]:
    """Return violations of the rules in one client's stream, for losses and gaps of some phases.

    `own` is the node of its process, whose messages must not be missing. Senders in `known` had
    already sent messages when the client connected.
    """
    wrong: list[str] = []
    last: dict[Sender, tuple[int, int]] = {}
    reported = [
        (place, item)
        for place, item in enumerate(stream)
        if isinstance(item, Gap) and item.phase in phases
    ]
    uncounted: Counter[tuple[str, tuple[str, str]]] = Counter()
    for place, item in enumerate(stream):
        if isinstance(item, Gap):
            continue
        phase, sender, number = item
        errors = (failed or {}).get(sender, {})
        before, since = last.get(sender, (number - 1 if sender in known else -1, -1))
        last[sender] = (max(number, before), place)
        if number <= before:
            wrong.append(f"{sender}: {number} after {before}")
        if errors.get(number) == "NoSocket":
            wrong.append(f"{sender}: {number} was received although NoSocket was raised")
        missing = [n for n in range(before + 1, number) if n not in errors]
        if not missing or phase not in phases:
            continue
        text = f"{sender}: {missing} are missing, phase {phase}"
        gaps = [gap for at, gap in reported if at > since and gap.covers(sender)]
        if sender.node == own:
            wrong.append(f"{text}: in its own process")
        elif not gaps:
            wrong.append(f"{text}, and no gap was reported")
        elif all(gap.missed is not None for gap in gaps):
            for topic in sender.topics:
                uncounted[sender.node, topic] += len(missing)
    for (node, topic), count in uncounted.items():
        found = sum(
            gap.missed or 0 for _, gap in reported if (gap.node, gap.topic) == (node, topic)
        )
        if found < count:
            wrong.append(f"{count} of {node} are missing on {topic}, but {found} were reported")
    return wrong


class Member:
    """A process of the cluster and the client connected to it."""

    def __init__(self, url: str, folder: Path) -> None:
        self.server = ServerProcess(PROGRAM, folder, {"BACKPLANE": url})
        self._listening: Any = None
        #: Exception that ended the client's connection.
        self._end: BaseException | None = None

    def listen(self, known: Collection[Sender]) -> None:
        """Connect the client and subscribe it to the channels."""
        #: Messages and gaps in the order received; and the gaps alone.
        self.stream: list[Received | Gap] = []
        self.gaps: list[Gap] = []
        #: Senders that were active before the client connected.
        self.known = set(known)
        self._last: dict[Sender, int] = {}
        self._own_messages = 0
        self._received = gevent.event.Event()
        self.send_line("say(default_runtime.registry.backplane._sequence.node)")
        self.node = self.server.process.next_line()
        self.wait_done()
        self.client = raw.WebSocket(self.server.port)
        raw.OPENED.remove(self.client.sock)  # it outlives a test
        self.client.connect()
        for channel in CHANNELS:
            # Messages arrive before the acknowledgement.
            self.client.emit("__subscribe__", channel, ack=7)
            while not self._take().startswith("437"):
                pass
        self._listening = gevent.spawn(self._listen)
        self._listening.link(lambda ended: self._received.set())

    def begin(self) -> None:
        """Start sending messages."""
        self.client.emit("begin")

    def send_line(self, line: str) -> None:
        """Send a line of Python to the process; `wait_done` waits for its execution."""
        self.server.process.say(line)

    def wait_done(self) -> None:
        """Wait until the process has executed a line."""
        self.server.process.wait_for("DONE")

    def execute(self, line: str) -> None:
        """Execute a line of Python in the process, and wait."""
        self.send_line(line)
        self.wait_done()

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the process."""
        self.send_line(f"say(__import__('json').dumps({expression}))")
        value = json.loads(self.server.process.next_line())
        self.wait_done()
        return value

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait until a condition on the received messages is true."""
        while not condition():
            self._received.clear()
            # A closed client would wait without end.
            assert not self._listening.dead, f"{self.node}: its client was closed, {self._end!r}"
            self._received.wait()

    def wait_for_messages(self, senders: Collection[Sender], phase: int) -> None:
        """Wait until messages of these senders were received in that phase or later."""
        self.until(lambda: all(self._last.get(sender, -1) >= phase for sender in senders))

    def wait_for_gap(self, phase: int, outage: bool = True) -> None:
        """Wait for a gap since that phase: of an outage, or with a number."""
        self.until(
            lambda: any(gap.phase >= phase and (gap.missed is None) == outage for gap in self.gaps)
        )

    def wait_for_own_messages(self, count: int = 10) -> None:
        """Wait for `count` more messages of its own process: local delivery continues."""
        goal = self._own_messages + count
        self.until(lambda: self._own_messages >= goal)

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self.server.process.popen.send_signal(number)

    def disconnect(self) -> None:
        """Disconnect the client."""
        if self._listening is not None:
            self._listening.kill()
            self.client.sock.close()

    def close(self) -> None:
        """Disconnect the client and kill the process."""
        self.disconnect()
        self.signal(signal.SIGCONT)
        self.server.process.kill()

    def _listen(self) -> None:
        try:
            while True:
                self._take()
        except (raw.Closed, OSError) as end:
            self._end = end

    def _take(self) -> str:
        packet = self.client.receive()
        assert isinstance(packet, str)
        if packet.startswith("42"):
            event, *args = json.loads(packet[2:])
            if event == "gap":
                phase, node, missed, topic = args
                self.gaps.append(Gap(phase, node, missed, topic and (topic[0], topic[1])))
                self.stream.append(self.gaps[-1])
            else:
                ((words, number, phase),) = args
                sender = Sender(*words)
                self.stream.append(Received(phase, sender, number))
                self._last[sender] = phase
                self._own_messages += sender.node == self.node
            self._received.set()
        return packet


class Cluster:
    """Four members; the last one is connected to Redis through a `Proxy`."""

    SIZE = 4

    def __init__(self, redis: RedisServer, folder: Path) -> None:
        self.redis = redis.start()
        self.proxy = Proxy(redis.port)
        self.phase = 0
        #: Whether the cluster has recovered from the last disturbance.
        self.intact = True
        self.members: list[Member] = []
        self._failures: dict[Sender, dict[int, str]] = {}
        urls = [redis.url] * (self.SIZE - 1) + [f"redis://127.0.0.1:{self.proxy.port}"]
        try:
            for number, url in enumerate(urls):
                self.members.append(Member(url, folder / str(number)))
            for member in self.members:
                member.listen(())
        except BaseException:
            self.close()
            raise
        for member in self.members:
            member.begin()
        self.start_direct_messages()

    def close(self) -> None:
        """Stop all processes."""
        for member in self.members:
            member.close()
        self.proxy.close()
        self.redis.stop()

    def senders(self, listener: Member | None = None) -> list[Sender]:
        """Return the senders whose messages one member, or any member, receives."""
        senders = [
            Sender(member.node, kind)
            for member in self.members
            for kind in ("all", "room", "several")
        ]
        for member, reader in self._direct_pairs():
            if listener in (None, reader):
                senders.append(Sender(member.node, "direct", reader.client.id))
        return senders

    def start_direct_messages(self) -> None:
        """Start direct messages of each member to the client of the next one."""
        for member, reader in self._direct_pairs():
            member.execute(f"send_directly_to({reader.client.id!r})")

    def next_phase(self, members: Sequence[Member] | None = None) -> int:
        """Start a new phase in all members, or in some."""
        self.phase += 1
        for member in self.members if members is None else members:
            member.execute(f"phase = {self.phase}")
        return self.phase

    def settle(self) -> None:
        """Wait until all members receive messages of all others that were sent from now on."""
        phase = self.next_phase()
        for member in self.members:
            member.wait_for_messages(self.senders(member), phase)

    @contextlib.contextmanager
    def disturbance(self) -> Iterator[int]:
        """Yield the phase of a failure that the body causes, and check all streams afterwards.

        Before the failure, no message may be missing and no gap reported.
        """
        self.intact = False
        self.settle()
        before = self.phase
        phase = self.next_phase()
        members = {member.node: (member.stream, member.known) for member in self.members}
        yield phase
        self.settle()
        # A client that has received these messages has received its gap, too. A gap is sent after
        # the messages read with it, and before messages of the next phase.
        self.settle()
        self._gather_failures()
        members |= {member.node: (member.stream, member.known) for member in self.members}
        wrong: list[str] = []
        for node, (stream, known) in members.items():
            early = [item for item in stream if isinstance(item, Gap) and item.phase == before]
            wrong += [f"{node}: {gap} before the disturbance" for gap in early]
            for phases in ([before], range(phase, self.phase + 1)):
                found = verdict(stream, phases, node, known, self._failures)
                wrong += [f"{node}: {text}" for text in found]
        assert not wrong, "\n".join(wrong[:20])
        self.intact = True

    def _gather_failures(self) -> None:
        for member in self.members:
            for words, failures in member.evaluate("failed").items():
                failures_of_sender = self._failures.setdefault(Sender(*words.split(" ")), {})
                failures_of_sender.update(
                    {int(number): error for number, error in failures.items()}
                )

    def _direct_pairs(self) -> list[tuple[Member, Member]]:
        return list(zip(self.members, self.members[1:] + self.members[:1], strict=True))
