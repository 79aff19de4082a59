"""Who hears what of a cluster of four processes, whatever is done to it: see `losses`."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import gevent
import pytest

from .delivery_check import Cluster, Gap, Heard, Speaker, verdict
from .faults import Link
from .redis_server import RedisServer

pytestmark = pytest.mark.patience(60)

ANN, BOB = Speaker("a", "room"), Speaker("b", "all")
SEVERAL = Speaker("a", "several")
ROOM = ("channel", "room")


def heard(*numbers: int, speaker: Speaker = ANN, phase: int = 1) -> list[Heard]:
    return [Heard(phase, speaker, number) for number in numbers]


class TestVerdict:
    """The judge is judged first."""

    @pytest.mark.parametrize(
        "stream",
        [
            heard(0, 1, 2),
            [*heard(0, 1), *heard(0, 1, speaker=BOB), *heard(2), *heard(2, speaker=BOB)],
            [*heard(0, 1, 4), Gap(1, None, None, None)],
            [*heard(0, 1), Gap(1, None, None, None), *heard(4)],
            [*heard(0, 1, 4), Gap(1, "a", 2, ROOM)],
            [*heard(0, 1, 3, 5), Gap(1, "a", 1, ROOM), Gap(1, "a", 1, ROOM)],
            [*heard(0, 1, 4), Gap(1, "a", None, ROOM)],
            [*heard(2), Gap(1, "a", 2, ROOM)],
            [*heard(0, 1), Gap(1, None, None, None), *heard(2)],
            [
                *heard(0, 2, speaker=SEVERAL),
                *(Gap(1, "a", 1, ("channel", name)) for name in ("left", "right", "room")),
            ],
            heard(0, 4, phase=2),  # which is another trouble's matter
        ],
    )
    def test_nothing_is_wrong(self, stream: list[Heard | Gap]) -> None:
        assert verdict(stream, [1], "own") == []

    @pytest.mark.parametrize(
        ("stream", "text"),
        [
            (heard(0, 1, 1), "1 after 1"),
            (heard(0, 2, 1), "1 after 2"),
            ([*heard(0, 1), *heard(1, phase=2)], "1 after 1"),
            (heard(0, 1, 4), "[2, 3] are missing"),
            (heard(1, 2), "[0] are missing"),
            ([*heard(0, 1, 4), Gap(2, None, None, None)], "no gap was told"),
            ([Gap(1, None, None, None), *heard(0, 1, 4)], "no gap was told"),
            ([*heard(0, 1), Gap(1, None, None, None), *heard(2, 4)], "no gap was told"),
            ([*heard(0, 1, 4), Gap(1, "b", 2, ROOM)], "no gap was told"),
            ([*heard(0, 1, 4), Gap(1, "a", 2, ("all", ""))], "no gap was told"),
            ([*heard(0, 1, 4), Gap(1, "a", 1, ROOM)], "2 of a are missing"),
            (
                [*heard(0, 2), *heard(0, 2, speaker=SEVERAL), Gap(1, "a", 1, ROOM)],
                "2 of a are missing",
            ),
            ([*heard(0, 2, speaker=SEVERAL), Gap(1, "a", 1, ROOM)], "told were 0"),
        ],
    )
    def test_something_is_wrong(self, stream: list[Heard | Gap], text: str) -> None:
        assert any(text in wrong for wrong in verdict(stream, [1], "own"))

    def test_nothing_of_the_own_process_is_missing(self) -> None:
        stream = [*heard(0, 1, 4), Gap(1, None, None, None)]
        assert "own process" in verdict(stream, [1], "a")[0]

    def test_what_was_said_before_is_not_missing(self) -> None:
        assert verdict(heard(5, 6), [1], "own", {ANN}) == []
        assert len(verdict(heard(5, 7), [1], "own", {ANN})) == 1

    def test_what_failed_may_be_missing(self) -> None:
        failed = {ANN: {1: "BackplaneError", 2: "BackplaneError", 3: "NoSocket"}}
        assert verdict(heard(0, 2, 4), [1], "own", failed=failed) == []
        assert "nobody was there" in verdict(heard(0, 3), [1], "own", failed=failed)[0]
        assert len(verdict(heard(0, 5), [1], "own", failed=failed)) == 1


@pytest.fixture(scope="module")
def clusters() -> Iterator[list[Cluster]]:
    """The last one is in use."""
    clusters: list[Cluster] = []
    yield clusters
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def cluster(clusters: list[Cluster], tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """One for all troubles, until one of them leaves it in disorder."""
    if clusters and not clusters[-1].sound:
        clusters.pop().close()
    if not clusters:
        redis = RedisServer(tmp_path_factory.mktemp("redis"))
        clusters.append(Cluster(redis, tmp_path_factory.mktemp("cluster")))
    return clusters[-1]


def kill(cluster: Cluster, kind: str) -> None:
    cluster.redis.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def signal_redis(cluster: Cluster, number: int) -> None:
    assert cluster.redis.process is not None
    cluster.redis.process.popen.send_signal(number)


def unread(redis: RedisServer) -> list[int]:
    """For each who listens to Redis, the bytes that wait for him there."""
    return [int(client["omem"]) for client in redis.ask("CLIENT LIST", "TYPE", "pubsub")]


def gaps(cluster: Cluster, phase: int) -> list[list[Gap]]:
    """Those of each member, since that phase."""
    return [[gap for gap in member.gaps if gap.phase >= phase] for member in cluster.members]


class TestTrouble:
    def test_none(self, cluster: Cluster) -> None:
        with cluster.trouble() as phase:
            for member in cluster.members:
                member.until_spoken(100)
        assert gaps(cluster, phase) == [[]] * 4

    def test_what_publishes_is_cut_off(self, cluster: Cluster) -> None:
        with cluster.trouble() as phase:
            for number in range(20):
                kill(cluster, "normal")
                cluster.members[number % 4].until_spoken(3)
        # Nobody's own ear was cut off: what is missing has a number.
        assert all(gap.missed for told in gaps(cluster, phase) for gap in told)

    def test_what_listens_is_cut_off(self, cluster: Cluster) -> None:
        with cluster.trouble() as phase:
            for number in range(3):
                kill(cluster, "pubsub")
                cluster.members[number].until_spoken(3)
            for member in cluster.members:
                member.until_gap(phase)

    def test_kill_9(self, cluster: Cluster) -> None:
        victim = cluster.members[1]
        with cluster.trouble() as phase:
            others = [member for member in cluster.members if member is not victim]
            known = cluster.speakers()
            victim.signal(signal.SIGKILL)
            victim.server.process.wait()
            victim.hang_up()
            for member in others:
                member.until_spoken()
            victim.server.start()
            victim.do(f"phase = {phase}")
            victim.listen(known)
            victim.begin()
            cluster.write_letters()
        told = gaps(cluster, phase)
        assert told == [[]] * 4  # who was there lost nothing

    def test_a_process_stands_still(self, cluster: Cluster) -> None:
        with cluster.trouble() as phase:
            cluster.members[2].signal(signal.SIGSTOP)
            cluster.members[0].until_spoken(100)
            cluster.members[2].signal(signal.SIGCONT)
        assert not any(gap.missed is None for told in gaps(cluster, phase) for gap in told)

    def test_a_process_stands_still_until_redis_cuts_it_off(self, cluster: Cluster) -> None:
        redis = cluster.redis
        with cluster.trouble() as phase:
            redis.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 4mb 0 0")
            cluster.members[2].signal(signal.SIGSTOP)
            while len(waiting := unread(redis)) == 4:
                if sum(count > 0 for count in waiting) < 2:  # the others have read all of it
                    redis.ask("PUBLISH", "webpy_socketio:1:channel:/,room", b"ballast" * 100_000)
                gevent.sleep(0.01)
            cluster.members[2].signal(signal.SIGCONT)
            cluster.members[2].until_gap(phase)
        redis.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")

    @pytest.mark.parametrize("kept", [False, True], ids=["without its data", "with its data"])
    def test_redis_is_restarted(self, kept: bool, cluster: Cluster) -> None:
        with cluster.trouble() as phase:
            if kept:
                cluster.redis.keep()
                for member in cluster.members:
                    member.until_gap(phase)
            cluster.redis.stop()
            for member in cluster.members:  # which goes on
                member.until_spoken(50)
            cluster.redis.start()
            for member in cluster.members:
                member.until_gap(phase)

    def test_redis_stands_still_and_too_much_waits(self, cluster: Cluster) -> None:
        with cluster.trouble() as phase:
            before = [member.ask("counts['dropped']") for member in cluster.members]
            signal_redis(cluster, signal.SIGSTOP)
            # Only here: a busy machine may be late by a second as well.
            for member in cluster.members:
                member.do("publisher.MAX_WAITING = 300")
            for member, count in zip(cluster.members, before, strict=True):
                # Of each kind some: a letter would be missed by one only.
                while member.ask("counts['dropped']") < count + 50:
                    member.until_spoken()
                member.do("quiet = True")  # nothing follows that would show the loss
            signal_redis(cluster, signal.SIGCONT)
            for member in cluster.members:
                member.until_gap(phase, outage=False)
            for member in cluster.members:
                member.do("publisher.MAX_WAITING = 16_384")
                member.do("quiet = False")
        assert all(gap.missed for told in gaps(cluster, phase) for gap in told)

    def test_what_is_under_way_is_lost(self, cluster: Cluster) -> None:
        last = cluster.members[-1]
        told: list[Gap] = []
        with cluster.trouble() as phase:
            while not told:  # it may have been nothing but an answer that was under way
                cluster.proxy.everything(Link.black_hole)
                last.until_spoken()
                cluster.proxy.everything(Link.reset)
                last.until_gap(cluster.phase)
                cluster.settle()
                told = [gap for found in gaps(cluster, phase)[:-1] for gap in found]
        assert all(gap.missed and gap.node == last.node for gap in told)

    def test_the_way_to_redis_is_slow(self, cluster: Cluster) -> None:
        with cluster.trouble():
            cluster.proxy.latency = 0.2
            for member in cluster.members:
                member.until_spoken(100)
            cluster.proxy.latency = 0.0

    def test_the_way_to_redis_swallows_everything(self, cluster: Cluster) -> None:
        last = cluster.members[-1]
        with cluster.trouble():
            # Its next connections are to notice it soon.
            last.do("publisher.PING_INTERVAL = subscriber.PING_INTERVAL = 0.2")
            last.do("publisher.ANSWER_TIMEOUT = subscriber.READ_TIMEOUT = 1.5")
            cluster.proxy.everything(Link.reset)
            last.until_gap(cluster.phase)
            last.do("publisher.ANSWER_TIMEOUT, subscriber.READ_TIMEOUT = 5.0, 15.0")
            phase = cluster.next_phase()
            cluster.proxy.everything(Link.black_hole)
            last.until_gap(phase)
        last.do("publisher.PING_INTERVAL = subscriber.PING_INTERVAL = 10.0")

    def test_topics_are_poisoned(self, cluster: Cluster) -> None:
        redis = cluster.redis
        names = [f"webpy_socketio:1:{name}" for name in ("all:/,", "channel:/,room")]
        with cluster.trouble() as phase, redis.redis.Redis(port=redis.port) as link:
            spy = link.pubsub(ignore_subscribe_messages=True)
            spy.subscribe(*names)
            seen = []
            while len(seen) < 50:
                if message := spy.get_message(timeout=1.0):
                    seen.append((message["channel"], message["data"]))
            spy.close()
            for name, envelope in seen:  # and once more
                link.publish(name, envelope)
                link.publish(name, envelope[:-1])
                link.publish(name, b"\x80\x04poison.")
                link.publish(name, b'{"v":1,"node":"n","epoch":1,"number":1,"text":"1"}')
            for member in cluster.members:
                member.until_spoken(30)
        assert gaps(cluster, phase) == [[]] * 4

    def test_all_of_it_at_once(self, cluster: Cluster) -> None:
        with cluster.trouble() as phase:
            cluster.members[0].signal(signal.SIGSTOP)
            kill(cluster, "normal")
            cluster.proxy.latency = 0.05
            cluster.redis.stop()
            cluster.members[1].until_spoken()
            cluster.redis.start()
            cluster.members[0].signal(signal.SIGCONT)
            for kind in ("normal", "pubsub", "normal"):
                cluster.members[2].until_spoken()
                kill(cluster, kind)
            cluster.proxy.everything(Link.reset)
            cluster.proxy.latency = 0.0
            for member in cluster.members:
                member.until_gap(phase)
