"""Scaling model: what processes, channels, clients and Redis cost, checked against measurements.

``python bench/run.py scaling`` measures the costs of the parts, predicts the cost of a message for
several processes, compares it with measurements, and prints what the model says for a million
clients. See ``docs/explanation/scaling.rst``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from crowd import Client, CrowdError, cpu_of, run, wait_until_idle
from database import RedisError, running_redis
from environment import BUILD, HERE
from measurement import MeasurementError, running_server

__all__ = ["Costs", "Deployment", "main"]

#: Messages of one measurement, after the first ones.
MESSAGES, WARMING = 3000, 500

#: Rounds with new servers, and measurements of each figure in a round. The smallest counts: the
#: speed of a machine drifts, also within seconds, and other programs only add to CPU time.
ROUNDS, REPEATS = 5, 4

#: Messages that wait for their acknowledgements, for each process.
OUTSTANDING = 4

#: Members of a channel from which the cost of a recipient follows.
MANY = 22

#: Topics whose memory in Redis is measured, and clients whose memory is measured.
TOPICS, CLIENTS = 100, 500

#: Connections of a process, a practical size.
CONNECTIONS = 50_000

#: Fraction of a core that a process may use on average, so that peaks have room.
LOAD = 0.6

#: Largest difference between prediction and measurement.
TOLERANCE = 0.2


@dataclass(frozen=True)
class Costs:
    """CPU time in microseconds, and memory in bytes."""

    #: A message of a client with its handler and acknowledgement, and each local recipient.
    inbound: float
    recipient: float
    #: Publishing, with the own copy that Redis sends back; and a message of another process.
    publish: float
    delivery: float
    #: Subscribing to a channel and leaving it: the first and last subscriber of a process.
    subscription: float
    #: Redis: a PUBLISH, and each process that receives it.
    redis_publish: float
    redis_copy: float
    #: Memory of a client in a channel of its own, and of the topic in Redis.
    client_bytes: float
    topic_bytes: float


@dataclass(frozen=True)
class Deployment:
    """Clients that are distributed at random."""

    processes: int
    channels: int
    clients: int

    @property
    def members(self) -> float:
        """Clients of a channel; each client is in one."""
        return self.clients / self.channels

    @property
    def others(self) -> float:
        """Processes, besides that of the sender, with members of its channel."""
        share: float = (1 - 1 / self.processes) ** (self.members - 1)
        return (self.processes - 1) * (1 - share)

    def cpu(self, costs: Costs) -> float:
        """Return the CPU time of all processes for one message, in microseconds."""
        shared = costs.publish + self.others * costs.delivery if self.processes > 1 else 0.0
        return costs.inbound + shared + (self.members - 1) * costs.recipient

    def redis_cpu(self, costs: Costs) -> float:
        """Return the CPU time of Redis for one message, in microseconds."""
        if self.processes == 1:
            return 0.0
        return costs.redis_publish + (self.others + 1) * costs.redis_copy

    def total(self, costs: Costs) -> float:
        """Return the CPU time of all processes and Redis for one message, in microseconds."""
        return self.cpu(costs) + self.redis_cpu(costs)

    def capacity(self, costs: Costs, cores: float) -> float:
        """Return messages a second that this number of cores can serve, with Redis on them."""
        return cores * 1e6 / self.total(costs)

    def topics(self) -> float:
        """Return the number of subscriptions of all processes to topics of channels."""
        return self.channels * (self.others + 1)


class _Setup:
    """Running servers, and their Redis."""

    def __init__(self, ports: Sequence[int], pids: Sequence[int], redis: str | None) -> None:
        self.ports = ports
        self.pids = pids
        self.redis = redis
        self.redis_pid = 0
        self.clients: list[Client] = []
        if redis is not None:
            self.redis_pid = int(self.redis_info("server")["process_id"])

    def connect(self, process: int, channel: str) -> Client:
        client = Client(self.ports[process], process)
        client.subscribe(channel)
        self.clients.append(client)
        return client

    def redis_info(self, section: str) -> dict[str, str]:
        import redis

        assert self.redis is not None
        with redis.Redis(port=urlsplit(self.redis).port or 6379) as client:
            return {name: str(value) for name, value in client.info(section).items()}

    def measure(self, senders: Sequence[Client]) -> tuple[float, float]:
        """Return CPU time for one message: of all processes, and of Redis."""
        outstanding = OUTSTANDING * len(self.pids)
        run(self.clients, senders, WARMING, outstanding)
        return min((self._measure(senders, outstanding) for _ in range(REPEATS)), key=sum)

    def _measure(self, senders: Sequence[Client], outstanding: int) -> tuple[float, float]:
        redis = [self.redis_pid] if self.redis_pid else []
        wait_until_idle([*self.pids, *redis])
        before = sum(map(cpu_of, self.pids)), sum(map(cpu_of, redis))
        run(self.clients, senders, MESSAGES, outstanding)
        wait_until_idle([*self.pids, *redis])
        after = sum(map(cpu_of, self.pids)), sum(map(cpu_of, redis))
        return (after[0] - before[0]) / MESSAGES, (after[1] - before[1]) / MESSAGES

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()


@contextlib.contextmanager
def _setup(processes: int, with_redis: bool = True) -> Iterator[_Setup]:
    """Run processes and a Redis that share all cores."""
    cores = os.sched_getaffinity(0)
    BUILD.mkdir(exist_ok=True)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(running_redis(cores)) if with_redis else None
        command = [sys.executable, str(HERE / "servers" / "ours.py"), "0", "1"]
        if url is not None:
            command.append(url)
        found = [
            stack.enter_context(running_server(command, cores, f"scaling-{number}.log"))
            for number in range(processes)
        ]
        setup = _Setup([port for port, _ in found], [pid for _, pid in found], url)
        stack.callback(setup.close)
        yield setup


def _channels(processes: int, members: int, with_redis: bool = True) -> tuple[float, float]:
    """Return the cost of a message: of all processes, and of Redis.

    All clients send. Two members of a channel are in different processes; the places of many are
    random.
    """
    places = random.Random(0)
    with _setup(processes, with_redis) as setup:
        for member in range(members):
            for channel in range(8 * processes):
                process = channel + member if members <= 2 else places.randrange(processes)
                setup.connect(process % processes, f"room-{channel}")
        return setup.measure(setup.clients)


def _subscriptions() -> float:
    with _setup(1) as setup:
        clients = [setup.connect(0, f"own-{number}") for number in range(20)]
        before = cpu_of(setup.pids[0])
        count = 0
        for turn in range(25):
            for number, client in enumerate(clients):
                client.call("__subscribe__", f"extra-{number}-{turn}")
                client.call("__unsubscribe__", f"extra-{number}-{turn}")
                count += 1
        return (cpu_of(setup.pids[0]) - before) / count


def _memory() -> tuple[float, float]:
    """Return the memory of a client in a process, and of its topics in Redis."""
    with _setup(1) as setup:
        for number in range(50):
            setup.connect(0, f"first-{number}")
        client = setup.clients[0]
        before = _resident(setup.pids[0])
        for number in range(CLIENTS):
            setup.connect(0, f"room-{number}")
        grown = _resident(setup.pids[0]) - before
        used = int(setup.redis_info("memory")["used_memory"])
        for number in range(TOPICS):
            client.call("__subscribe__", f"topic-{number}-{'x' * 10}")
        topics = int(setup.redis_info("memory")["used_memory"]) - used
    return grown / CLIENTS, topics / TOPICS


def _resident(pid: int) -> int:
    text = Path(f"/proc/{pid}/statm").read_text(encoding="ascii")
    return int(text.split()[1]) * resource.getpagesize()


class Parts:
    """Costs of a message, from deployments with 1, 2 and `MANY` members of a channel.

    The costs depend on the number of processes that share the cores.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._inbound: list[float] = []
        #: CPU time of all processes, and of Redis, by the number of members.
        self._found: dict[int, list[tuple[float, float]]] = {1: [], 2: [], MANY: []}

    def measure(self) -> None:
        """Measure each part once."""
        self._inbound.append(_channels(self._processes, 1, with_redis=False)[0])
        for members, found in self._found.items():
            found.append(_channels(self._processes, members))

    def costs(self, subscription: float, memory: tuple[float, float]) -> Costs:
        """Return the costs, with those that are measured separately."""
        alone, pair, crowd = (min(cpu for cpu, _ in each) for each in self._found.values())
        redis_alone, redis_crowd = (
            min(redis for _, redis in self._found[members]) for members in (1, MANY)
        )
        channels = 8 * self._processes
        others = Deployment(self._processes, channels, MANY * channels).others
        added = pair - alone  # one delivery, and one recipient
        recipient = (crowd - alone - others * added) / (MANY - 1 - others)
        copy = (redis_crowd - redis_alone) / others
        inbound = min(self._inbound)
        return Costs(
            inbound=inbound,
            recipient=recipient,
            publish=alone - inbound,
            delivery=added - recipient,
            subscription=subscription,
            redis_publish=max(0.0, redis_alone - copy),
            redis_copy=copy,
            client_bytes=memory[0],
            topic_bytes=memory[1],
        )


def measure_deployment(deployment: Deployment) -> float:
    """Return the measured CPU time for one message, of all processes and Redis."""
    with _setup(deployment.processes) as setup:
        placed: dict[int, list[Client]] = {}
        places = [number % deployment.processes for number in range(deployment.clients)]
        random.Random(0).shuffle(places)  # as the formula assumes; it has no pattern
        for number, process in enumerate(places):
            channel = number % deployment.channels
            placed.setdefault(process, []).append(setup.connect(process, f"room-{channel}"))
        senders = [client for group in zip(*placed.values(), strict=True) for client in group]
        return sum(setup.measure(senders))


def _million(costs: Costs) -> Iterator[str]:
    """Yield what the model says for a million clients."""
    rate = 1e6 / 60
    yield f"A million clients, one message each a minute ({rate:,.0f} a second), {LOAD:.0%} load:"
    yield "  members   processes  messages/s   Redis   topics of   memory of   memory of"
    yield "  a channel  (cores)   a process    cores   all (10^6)  processes   topics"
    for members in (2, 10, 100, 1000):
        processes = 1_000_000 // CONNECTIONS
        while True:
            deployment = Deployment(processes, round(1e6 / members), 1_000_000)
            needed = rate * deployment.cpu(costs) / 1e6 / LOAD
            if needed <= processes:
                break
            processes = max(processes + 1, int(needed))
        redis = rate * deployment.redis_cpu(costs) / 1e6 / LOAD
        # Each process also subscribes to a topic of each of its clients.
        topics = deployment.topics() + 1e6
        yield (
            f"  {members:8,}  {processes:9,}  {rate / processes:10,.0f}  {redis:6.1f}  "
            f"{topics / 1e6:9.1f}  {1e6 * costs.client_bytes / 2**30:7.1f} GiB  "
            f"{topics * costs.topic_bytes / 2**30:6.1f} GiB"
        )


def report(costs: Mapping[int, Costs], checks: Sequence[tuple[Deployment, float]]) -> Iterator[str]:
    """Yield the lines of the report; costs by the number of processes that share the cores."""
    yield f"CPU time in microseconds, on {_processor()}, {os.cpu_count()} cores, "
    yield f"Python {platform.python_version()}:"
    most = costs[max(costs)]
    yield f"  {'processes that share the cores':40}" + "".join(f"{each:8}" for each in costs)
    for name, field in (
        ("inbound message with acknowledgement  i", "inbound"),
        ("local recipient                       r", "recipient"),
        ("publish                               p", "publish"),
        ("delivery from Redis                   d", "delivery"),
        ("Redis: PUBLISH                        q", "redis_publish"),
        ("Redis: copy for a process             w", "redis_copy"),
    ):
        yield f"  {name:40}" + "".join(f"{getattr(each, field):8.1f}" for each in costs.values())
    yield f"  subscribe and unsubscribe               {most.subscription:8.1f}"
    yield "Memory in bytes:"
    yield f"  client with a channel                   {most.client_bytes:8,.0f}"
    yield f"  topic in Redis                          {most.topic_bytes:8,.0f}"
    yield ""
    yield "CPU time for a message, processes and Redis together:"
    yield "  processes  channels  clients  predicted  measured  difference  messages/s (2 cores)"
    for deployment, measured in checks:
        found = costs[deployment.processes]
        predicted = deployment.total(found)
        yield (
            f"  {deployment.processes:9}  {deployment.channels:8}  {deployment.clients:7}  "
            f"{predicted:9.1f}  {measured:8.1f}  {predicted / measured - 1:+10.0%}  "
            f"{deployment.capacity(found, 2):12,.0f}"
        )
    yield ""
    yield from _million(most)


#: Few and many members of a channel. There are twice as many channels as messages under way, as
#: messages to a channel that wait together share the write to each recipient.
DEPLOYMENTS = (
    Deployment(2, 16, 64),
    Deployment(2, 16, 320),
    Deployment(4, 32, 128),
    Deployment(4, 32, 640),
)


def main(arguments: Sequence[str] = ()) -> int:
    """Run from the command line; returns 1 if a prediction is wrong by more than 20 %."""
    parser = argparse.ArgumentParser(prog="run.py scaling", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="measurements of each figure")
    options = parser.parse_args(arguments)
    try:
        parts = {count: Parts(count) for count in sorted({each.processes for each in DEPLOYMENTS})}
        found: dict[Deployment, list[float]] = {each: [] for each in DEPLOYMENTS}
        for number in range(options.rounds):  # parts and deployments alternate: speed drifts
            _log(f"round {number + 1} of {options.rounds}")
            for each in parts.values():
                each.measure()
            for deployment in DEPLOYMENTS:
                found[deployment].append(measure_deployment(deployment))
        subscription, memory = _subscriptions(), _memory()
        costs = {count: each.costs(subscription, memory) for count, each in parts.items()}
        checks = [(deployment, min(rounds)) for deployment, rounds in found.items()]
    except (CrowdError, MeasurementError, RedisError) as error:
        _log(str(error))
        return 1
    lines = list(report(costs, checks))
    sys.stdout.write("\n".join(lines) + "\n")
    wrong = [
        deployment
        for deployment, measured in checks
        if abs(deployment.total(costs[deployment.processes]) / measured - 1) > TOLERANCE
    ]
    for deployment in wrong:
        _log(f"the prediction for {deployment} is wrong by more than {TOLERANCE:.0%}")
    return 1 if wrong else 0


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _log(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
