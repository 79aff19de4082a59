"""Names of keys in a Redis Cluster: what a script uses is in one slot."""

from __future__ import annotations

from redis.crc import key_slot

from webpy_socketio.backplane.hash_tags import PARTS, hash_tag, hash_tags
from webpy_socketio.plugins.history import scripts as history
from webpy_socketio.plugins.history.store import Limits, Rule
from webpy_socketio.plugins.presence import scripts as presence

CLUSTER, SINGLE = "redis+cluster://host", "redis://host"

#: Names that contain braces must not choose a slot.
CHANNELS = [("/", "room"), ("/", "{x}"), ("/chat", "a}{b"), ("/", ":diffs:"), ("/", ":log:")]


def slot(name: str) -> int:
    return key_slot(name.encode())


class TestHashTags:
    def test_slots_of_tags_are_distributed_evenly(self) -> None:
        slots = [key_slot(tag.encode()) for tag in hash_tags()]
        assert [slot * PARTS // 16_384 for slot in slots] == list(range(PARTS))

    def test_tag_of_a_name_is_one_of_all(self) -> None:
        tags = {hash_tag(f"/,room-{number}") for number in range(1000)}
        assert tags == set(hash_tags())
        assert hash_tag("/,room") == hash_tag("/,room")


class TestPresence:
    def test_all_keys_of_a_channel_are_in_one_slot(self) -> None:
        names = presence.Names(CLUSTER, "app")
        for channel in CHANNELS:
            call = names.join("node", channel, "connection", "key", "{}")
            part, second = call.keys
            assert part in names.parts
            nouns = ("connections", "keys", "position", "diffs")
            used = [names.of(noun, ",".join(channel)) for noun in nouns]
            shared = [f"{part}:{noun}" for noun in ("nodes", "leaving", "life", "here", "claim:n")]
            everything = [second, names.node_key(part, "node"), *used, *shared]
            assert {slot(name) for name in everything} == {slot(part)}
            assert call.command()[2:5] == (2, part, second)
            topic = names.of("diffs", ",".join(channel)).encode()
            assert names.channel_of(topic) == channel

    def test_single_redis_has_one_part_and_one_key(self) -> None:
        names = presence.Names(SINGLE, "app")
        assert names.parts == ("app:1:presence",)
        assert names.read(("/", "room")).command()[2:4] == (1, "app:1:presence")
        assert names.of("keys", "/,room") == "app:1:presence:keys:/,room"


class TestHistory:
    def test_all_keys_of_a_channel_are_in_one_slot(self) -> None:
        names = history.Names(CLUSTER, "app", Limits(1000, 16_000, 10_000))
        for channel in CHANNELS:
            call = names.append(channel, Rule(10, 60.0), b"record")
            base, second = call.keys
            used = [names.topic(channel).decode(), f"{base}:store", f"{base}:used", second]
            assert {slot(name) for name in used} == {slot(base)}
            assert names.channel(names.topic(channel)) == channel

    def test_parts_share_the_limits_and_keep_one_channel_in_any_case(self) -> None:
        assert limits(Limits(1000, 32_000, 16_000)) == (1000, 2000, 1000)
        assert limits(Limits(1000, 1000, 160)) == (1000, 1000, 100)
        assert limits(Limits(1000, 1000, 10)) == (1000, 1000, 10)

    def test_single_redis_has_the_prefix_without_a_tag(self) -> None:
        names = history.Names(SINGLE, "app", Limits(1, 1, 1))
        assert names.read(("/", "room"), 0, 1, 1.0).keys == ("app:1:history",)


def limits(given: Limits) -> tuple[int, ...]:
    """Return the limits of one part in a cluster: bytes of a channel, of all, and channels."""
    call = history.Names(CLUSTER, "app", given).append(("/", "room"), Rule(10, 60.0), b"")
    found: tuple[int, ...] = call.arguments[3:6]
    return found
