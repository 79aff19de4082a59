"""A cluster in which every message has a number, and the verdict over who heard what.

Four processes on one Redis. In each, somebody speaks all the time to everybody, to a channel, to
several channels at once, and to one session of the next process; and a client listens, who is told of
each gap that its process signals. So what it got is one stream, of messages and of gaps, to which
`verdict` holds three rules:

- who speaks is heard in order;
- nothing is heard twice;
- what is not heard was told as a gap, after the last message before it: as many as are missing, if the
  gap had a number.

Messages and gaps have the phase in which they were sent, which the test raises (`Cluster.trouble`): a
loss has to be told in its own trouble, and without trouble there is none.
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

__all__ = ["Cluster", "Gap", "Heard", "Member", "Speaker", "verdict"]

#: Channels of everybody; what `Speaker.kind` "room" and "several" speak to.
CHANNELS = ("room", "left", "right")

PROGRAM = application_source(
    """
import gevent
from gevent.fileobject import FileObject
from webpy_socketio.backplane import counts, gap, publisher, subscriber
from webpy_socketio.clients import clients

OPTIONS = {"plugins": [], "log": None, "backplane": os.environ["BACKPLANE"]}
subscriber.CONFIRM_TIMEOUT = 20.0
phase = 0
quiet = False
failed = {}
writer = reader = None

@gap.connect
def told(sender, node, missed, topic, **extra):
    try:
        emit("gap", phase, node, missed, topic and [topic.kind, topic.name], local=True)
    except NoSocket:
        pass

def speak(kind, function):
    node = clients.backplane._numbering.node
    number = 0
    while True:
        for _ in range(0 if quiet else 5):
            try:
                function([[node, *kind], number, phase])
            except SocketIOError as error:
                failed.setdefault(" ".join([node, *kind]), {})[number] = type(error).__name__
            number += 1
        gevent.sleep(0.1)

@on_event("begin")
def begin(request, socket, context):
    gevent.spawn(speak, ["all"], broadcast)
    gevent.spawn(speak, ["room"], lambda message: broadcast_channel(message, "room"))
    gevent.spawn(speak, ["several"], socket.send_and_broadcast_channel)

def write_to(session_id):
    global writer, reader
    if session_id == reader:
        return
    if writer is not None:
        writer.kill()
    reader = session_id
    writer = gevent.spawn(speak, ["letter", session_id], lambda message: send(session_id, message))

def obey():
    for line in FileObject(sys.stdin.fileno(), "r", closefd=False):
        exec(line, globals())
        say("DONE")

gevent.spawn(obey)
"""
)


class Speaker(NamedTuple):
    """Whoever has a row of numbers of his own, from 0 on."""

    #: The process, and which start of it.
    node: str
    #: "all", "room", "several" or "letter".
    kind: str
    #: Whom a letter is for.
    session: str = ""

    @property
    def topics(self) -> list[tuple[str, str]]:
        """Where it speaks, as `Gap.topic` has it."""
        match self.kind:
            case "all":
                return [("all", "")]
            case "room":
                return [("channel", "room")]
            case "several":
                return [("channel", name) for name in CHANNELS]
            case _:
                return [("session", self.session)]


class Heard(NamedTuple):
    """A message that came."""

    phase: int
    speaker: Speaker
    number: int


class Gap(NamedTuple):
    """A gap that was told; the fields are those of the signal."""

    phase: int
    node: str | None
    missed: int | None
    topic: tuple[str, str] | None

    def covers(self, speaker: Speaker) -> bool:
        """Whether a message of this speaker may be what is missing."""
        return self.node in (None, speaker.node) and (
            self.topic is None or self.topic in speaker.topics
        )


#: Of each speaker, what it was told of a message, by number: "NoSocket" or "BackplaneError".
Failed = Mapping[Speaker, Mapping[int, str]]


def verdict(
    stream: Sequence[Heard | Gap],
    phases: Collection[int],
    own: str,
    known: Collection[Speaker] = (),
    failed: Failed | None = None,
) -> list[str]:
    """What is wrong with what one client heard; losses and gaps are those of some phases.

    `own` is the node of its process, of which nothing may be missing; of `known` speakers it is not
    known how far they were when it began to listen.
    """
    wrong: list[str] = []
    last: dict[Speaker, tuple[int, int]] = {}
    told = [
        (place, item)
        for place, item in enumerate(stream)
        if isinstance(item, Gap) and item.phase in phases
    ]
    uncounted: Counter[tuple[str, tuple[str, str]]] = Counter()
    for place, item in enumerate(stream):
        if isinstance(item, Gap):
            continue
        phase, speaker, number = item
        errors = (failed or {}).get(speaker, {})
        before, since = last.get(speaker, (number - 1 if speaker in known else -1, -1))
        last[speaker] = (max(number, before), place)
        if number <= before:
            wrong.append(f"{speaker}: {number} after {before}")
        if errors.get(number) == "NoSocket":
            wrong.append(f"{speaker}: {number} is heard, and nobody was there")
        missing = [n for n in range(before + 1, number) if n not in errors]
        if not missing or phase not in phases:
            continue
        text = f"{speaker}: {missing} are missing, phase {phase}"
        gaps = [gap for at, gap in told if at > since and gap.covers(speaker)]
        if speaker.node == own:
            wrong.append(f"{text}: in its own process")
        elif not gaps:
            wrong.append(f"{text}, and no gap was told")
        elif all(gap.missed is not None for gap in gaps):
            for topic in speaker.topics:
                uncounted[speaker.node, topic] += len(missing)
    for (node, topic), count in uncounted.items():
        found = sum(gap.missed or 0 for _, gap in told if (gap.node, gap.topic) == (node, topic))
        if found < count:
            wrong.append(f"{count} of {node} are missing on {topic}, and told were {found}")
    return wrong


class Member:
    """A process of the cluster, and the client that listens there."""

    def __init__(self, url: str, folder: Path) -> None:
        self.server = ServerProcess(PROGRAM, folder, {"BACKPLANE": url})
        self._listening: Any = None
        #: What ended the client's connection, if anything did.
        self._end: BaseException | None = None

    def listen(self, known: Collection[Speaker]) -> None:
        """Connect the client, and let the process speak."""
        #: What came, in order; and of that, the gaps.
        self.stream: list[Heard | Gap] = []
        self.gaps: list[Gap] = []
        #: Who spoke already when it began.
        self.known = set(known)
        self._last: dict[Speaker, int] = {}
        self._spoken = 0
        self._moved = gevent.event.Event()
        self.order("say(clients.backplane._numbering.node)")
        self.node = self.server.process.next_line()
        self.done()
        self.client = raw.WebSocket(self.server.port)
        raw.OPENED.remove(self.client.sock)  # it outlives a test
        self.client.connect()
        for channel in CHANNELS:
            # What is said already comes in between.
            self.client.emit("__subscribe__", channel, ack=7)
            while not self._take().startswith("437"):
                pass
        self._listening = gevent.spawn(self._listen)
        self._listening.link(lambda ended: self._moved.set())

    def begin(self) -> None:
        """Let the process speak."""
        self.client.emit("begin")

    def order(self, line: str) -> None:
        """Let the process run a line of Python; `done` waits for it."""
        self.server.process.say(line)

    def done(self) -> None:
        """Wait until an order is carried out."""
        self.server.process.wait_for("DONE")

    def do(self, line: str) -> None:
        """Order, and wait."""
        self.order(line)
        self.done()

    def ask(self, expression: str) -> Any:
        """The value of an expression there."""
        self.order(f"say(__import__('json').dumps({expression}))")
        value = json.loads(self.server.process.next_line())
        self.done()
        return value

    def until(self, condition: Callable[[], Any]) -> None:
        """Wait until something is so that changes with what is heard."""
        while not condition():
            self._moved.clear()
            # Whoever hears nothing any more is a fault of its own, and nothing to wait for.
            assert not self._listening.dead, f"{self.node}: its client was closed, {self._end!r}"
            self._moved.wait()

    def until_heard(self, speakers: Collection[Speaker], phase: int) -> None:
        """Wait until each of these was heard in that phase."""
        self.until(lambda: all(self._last.get(speaker, -1) >= phase for speaker in speakers))

    def until_gap(self, phase: int, outage: bool = True) -> None:
        """Wait until a gap is told since that phase: of an outage, or of a number."""
        self.until(
            lambda: any(gap.phase >= phase and (gap.missed is None) == outage for gap in self.gaps)
        )

    def until_spoken(self, count: int = 10) -> None:
        """Wait for so many more of its own messages: local delivery goes on."""
        goal = self._spoken + count
        self.until(lambda: self._spoken >= goal)

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        self.server.process.popen.send_signal(number)

    def hang_up(self) -> None:
        """The client goes."""
        if self._listening is not None:
            self._listening.kill()
            self.client.sock.close()

    def close(self) -> None:
        """End."""
        self.hang_up()
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
                speaker = Speaker(*words)
                self.stream.append(Heard(phase, speaker, number))
                self._last[speaker] = phase
                self._spoken += speaker.node == self.node
            self._moved.set()
        return packet


class Cluster:
    """Four members; the last one's way to Redis is a `Proxy`."""

    SIZE = 4

    def __init__(self, redis: RedisServer, folder: Path) -> None:
        self.redis = redis.start()
        self.proxy = Proxy(redis.port)
        self.phase = 0
        #: Whether it is as it was before the last trouble.
        self.sound = True
        self.members: list[Member] = []
        self._said: dict[Speaker, dict[int, str]] = {}
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
        self.write_letters()

    def close(self) -> None:
        """End all of it."""
        for member in self.members:
            member.close()
        self.proxy.close()
        self.redis.stop()

    def speakers(self, listener: Member | None = None) -> list[Speaker]:
        """Whom one of them, or anybody, is to hear."""
        speakers = [
            Speaker(member.node, kind)
            for member in self.members
            for kind in ("all", "room", "several")
        ]
        for member, reader in self._correspondence():
            if listener in (None, reader):
                speakers.append(Speaker(member.node, "letter", reader.client.id))
        return speakers

    def write_letters(self) -> None:
        """Each member writes to the client of the next one."""
        for member, reader in self._correspondence():
            member.do(f"write_to({reader.client.id!r})")

    def next_phase(self, members: Sequence[Member] | None = None) -> int:
        """Tell them, or some, that a phase begins."""
        self.phase += 1
        for member in self.members if members is None else members:
            member.do(f"phase = {self.phase}")
        return self.phase

    def settle(self) -> None:
        """Wait until everybody hears everybody, what is said from now on."""
        phase = self.next_phase()
        for member in self.members:
            member.until_heard(self.speakers(member), phase)

    @contextlib.contextmanager
    def trouble(self) -> Iterator[int]:
        """Something is done to the cluster within; yields the phase. Afterwards comes the verdict.

        Before it nothing may be missing and no gap told.
        """
        self.sound = False
        self.settle()
        calm = self.phase
        phase = self.next_phase()
        members = {member.node: (member.stream, member.known) for member in self.members}
        yield phase
        self.settle()
        # Who has heard so much has told its gap as well: it is told after the messages that were
        # there with it, and before what somebody says who heard of this phase later.
        self.settle()
        self._gather_failures()
        members |= {member.node: (member.stream, member.known) for member in self.members}
        wrong: list[str] = []
        for node, (stream, known) in members.items():
            early = [item for item in stream if isinstance(item, Gap) and item.phase == calm]
            wrong += [f"{node}: {gap} in the calm" for gap in early]
            for phases in ([calm], range(phase, self.phase + 1)):
                found = verdict(stream, phases, node, known, self._said)
                wrong += [f"{node}: {text}" for text in found]
        assert not wrong, "\n".join(wrong[:20])
        self.sound = True

    def _gather_failures(self) -> None:
        for member in self.members:
            for words, failures in member.ask("failed").items():
                said = self._said.setdefault(Speaker(*words.split(" ")), {})
                said.update({int(number): error for number, error in failures.items()})

    def _correspondence(self) -> list[tuple[Member, Member]]:
        return list(zip(self.members, self.members[1:] + self.members[:1], strict=True))
