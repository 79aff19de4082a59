"""History in one runtime: what is stored, who follows, and the event ``history``."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import orjson

from webpy_socketio import BackplaneError, NamePattern, Publication, Runtime, Socket
from webpy_socketio.plugins.history.followers import Followers, Position, Request, exclusion
from webpy_socketio.plugins.history.memory import MemoryStore
from webpy_socketio.plugins.history.redis import RedisStore
from webpy_socketio.plugins.history.store import (
    Channel,
    Entry,
    Limits,
    Page,
    Record,
    Rule,
    Store,
)
from webpy_socketio.signals import Stage

__all__ = ["Rules", "RuntimeHistory", "describe", "limits_of"]

logger = logging.getLogger("webpy_socketio")

#: Maximum number of messages in an answer to the event ``history``, and their bytes.
MAX_ANSWER, MAX_ANSWER_BYTES = 1_000, 500_000

#: Maximum length of an epoch that a client sends.
MAX_EPOCH = 100


class Rules:
    """The rule of each channel: that of the first pattern that matches."""

    def __init__(self, rules: Mapping[str, Mapping[str, Any]] | None) -> None:
        self._rules = [
            (
                NamePattern(re.compile(pattern), f"SOCKETIO_HISTORY[{pattern!r}]"),
                Rule(rule["size"], rule["ttl"]),
            )
            for pattern, rule in (rules or {}).items()
        ]

    def find(self, channel: Channel) -> Rule | None:
        """Return the rule of a channel, or None if its messages are not stored."""
        for pattern, rule in self._rules:
            if pattern.match(channel[1]):
                return rule
        return None


def limits_of(settings: Any) -> Limits:
    """Return the limits of the store that follow from the settings."""
    return Limits(settings.history_bytes, settings.history_total_bytes, settings.history_channels)


class RuntimeHistory:
    """History in one runtime: its receivers, its store, and the followers of each channel."""

    def __init__(self, settings: Any, runtime: Runtime) -> None:
        self._runtime = runtime
        self._rules = Rules(settings.history)
        self._max_requests: int = settings.max_channels
        self._followers: dict[Channel, Followers] = {}
        self.store: Store = self._open(settings)  # calls the methods of a listener
        #: Requests of clients that are about to subscribe.
        self._requests: dict[Socket, dict[str, Request]] = {}
        self._node = secrets.token_urlsafe(6)
        self._numbers = count(1)
        signals = runtime.signals
        self._receivers: dict[Stage, Callable[..., Any]] = {
            signals.published: self._on_published,
            signals.subscribe: self._on_subscribe,
            signals.unsubscribe: self._on_unsubscribe,
            signals.finish: self._on_finish,
            signals.release: self._on_release,
            signals.adopt: self._on_adopt,
        }
        for stage, receiver in self._receivers.items():
            stage.connect(receiver)
        self._handler = runtime.events.on_event("history")(self._on_history)

    def close(self) -> None:
        """Disconnect from the signals, and close the store."""
        self._runtime.events.off(self._handler)
        for stage, receiver in self._receivers.items():
            stage.disconnect(receiver)
        for followers in self._followers.values():
            followers.close()
        self._followers.clear()
        for socket, requests in self._requests.items():
            for channel in requests:
                self._feed((socket.namespace, channel)).discard(socket)
        self._requests.clear()
        self.store.close()

    def fetch(self, channel: Channel, limit: int, since: Position | None) -> tuple[Page, bool]:
        """Return messages of a channel, and whether none is missing after `since`.

        Raises:
            BackplaneError: Redis did not reply within a second.
        """
        rule = self._rules.find(channel)
        if rule is None:
            return Page("", 0), since is None
        if since is None:
            return self.store.read_last(channel, limit), True
        page = self.store.read(channel, since[1], limit)
        return check_since(page, since, lambda: self.store.read_last(channel, limit))

    # -- storing

    def _open(self, settings: Any) -> Store:
        limits = limits_of(settings)
        if settings.backplane is None:
            return MemoryStore(self, limits)
        location = (settings.backplane, settings.backplane_prefix)
        return RedisStore(*location, self, limits, self._rules.find)

    def _on_published(self, sender: Any, publication: Publication, **extra: Any) -> None:
        if publication.is_volatile:
            return
        record = None
        for name in publication.channels:
            channel = (publication.namespace, name)
            rule = self._rules.find(channel)
            if rule is None:
                continue
            if record is None:
                record = Record(
                    f"{self._node}{next(self._numbers)}",
                    publication.body,
                    publication.attachments,
                    publication.excluded_sockets,
                    publication.excluded_channels,
                )
            if self.store.append(channel, rule, record):
                publication.divert(name)

    def on_change(self, channel: Channel) -> None:
        followers = self._followers.get(channel)
        if followers is not None:
            followers.wake()

    def on_unrecorded(self, channel: Channel, record: Record) -> None:
        followers = self._followers.get(channel)
        if followers is not None:
            followers.deliver_unrecorded(record)

    def on_reconnected(self) -> None:
        for followers in self._followers.values():
            followers.wake()

    # -- followers

    def _feed(self, channel: Channel) -> Any:
        namespace, name = channel
        return self._runtime.feed(name, namespace=namespace)

    def _on_subscribe(self, sender: Any, socket: Socket, channel: str, **extra: Any) -> None:
        request = self._requests.get(socket, {}).pop(channel, None)
        if request is not None:
            self._follow(socket, channel, request)

    def _on_unsubscribe(self, sender: Any, socket: Socket, channel: str, **extra: Any) -> None:
        target = (socket.namespace, channel)
        # Between both signals, the client may have announced its next subscription.
        if channel not in self._requests.get(socket, ()):
            self._feed(target).discard(socket)
        followers = self._followers.get(target)
        if followers is not None:
            followers.remove(socket)
            if followers.is_empty:
                del self._followers[target]
                followers.close()

    def _on_finish(self, sender: Any, socket: Socket, **extra: Any) -> None:
        for channel in self._requests.pop(socket, {}):
            self._feed((socket.namespace, channel)).discard(socket)

    def _on_release(self, sender: Any, socket: Socket, state: dict[str, Any], **extra: Any) -> None:
        """Remove a socket that moves to another process, and store what it follows."""
        followed = [
            name for name in socket.channels if socket in self._feed((socket.namespace, name))
        ]
        state["history"] = followed
        for name in followed:
            self._on_unsubscribe(sender, socket, name)
        self._on_finish(sender, socket)

    def _on_adopt(self, sender: Any, socket: Socket, state: dict[str, Any], **extra: Any) -> None:
        """Send new messages to a socket that has moved here; the client asks for missed ones."""
        for name in state.get("history") or ():
            if name in socket.channels and self._rules.find((socket.namespace, name)) is not None:
                self._feed((socket.namespace, name)).add(socket)
                self._followers_of((socket.namespace, name)).add_silently(socket)

    def _followers_of(self, channel: Channel) -> Followers:
        followers = self._followers.get(channel)
        if followers is None:
            followers = Followers(channel, self.store, self._feed(channel))
            self._followers[channel] = followers
        return followers

    def _follow(self, socket: Socket, channel: str, request: Request) -> None:
        if not socket.connected or channel not in socket.channels:
            return
        self._followers_of((socket.namespace, channel)).add(socket, request)

    # -- the event

    def _on_history(
        self, request: dict[str, Any], socket: Socket, context: dict[str, Any], *args: Any
    ) -> dict[str, Any] | None:
        """Answer the event ``history`` of a client."""
        asked = args[0] if len(args) == 1 else None
        if not isinstance(asked, dict) or not isinstance(asked.get("channel"), str):
            return {"ok": False, "error": "history needs an object with a channel"}
        channel, limit, since = asked["channel"], asked.get("limit"), asked.get("since")
        position = _position(since)
        if limit is None:
            limit = MAX_ANSWER
        if type(limit) is not int or limit < 0 or (since is not None and position is None):
            return {"ok": False, "error": "limit is a number, since an object {epoch, offset}"}
        target = (socket.namespace, channel)
        if "follow" in asked:
            return self._announce(socket, target, asked["follow"] is True, Request(limit, position))
        if channel not in socket.channels:
            return {"ok": False, "error": "not subscribed to this channel"}
        try:
            page, recovered = self.fetch(target, min(limit, MAX_ANSWER), position)
        except BackplaneError:
            return {"ok": False, "error": "history is not available"}
        return {"ok": True, **describe_page(page, recovered, position, socket)}

    def _announce(
        self, socket: Socket, channel: Channel, follows: bool, request: Request
    ) -> dict[str, Any]:
        """Remember that the next subscription of a client is one with history, or forget it."""
        name = channel[1]
        rule = self._rules.find(channel)
        if not follows or rule is None:
            if self._requests.get(socket, {}).pop(name, None) is not None:
                self._feed(channel).discard(socket)
            if follows:
                return {"ok": False, "error": "this channel has no history"}
            return {"ok": True}
        requests = self._requests.setdefault(socket, {})
        if name not in requests and len(requests) >= self._max_requests:
            return {"ok": False, "error": "too many channels"}
        request = Request(min(request.limit, rule.size), request.since)
        self._feed(channel).add(socket)
        if name in socket.channels:
            self._follow(socket, name, request)
        else:
            requests[name] = request
        return {"ok": True}


def check_since(page: Page, since: Position, read_last: Callable[[], Page]) -> tuple[Page, bool]:
    """Return a page that was read from a position, and True; the last messages if some are lost."""
    epoch, offset = since
    first = page.entries[0].offset if page.entries else page.tail + 1
    if page.epoch == epoch and first == offset + 1:
        return page, True
    return read_last(), False


def _position(since: Any) -> Position | None:
    if not isinstance(since, dict):
        return None
    epoch, offset = since.get("epoch"), since.get("offset")
    if not isinstance(epoch, str) or len(epoch) > MAX_EPOCH:
        return None
    if type(offset) is not int or not 0 <= offset < 2**53:
        return None
    return epoch, offset


def describe(entry: Entry) -> dict[str, Any]:
    """Return an entry as an object with ``offset``, ``time``, ``event`` and ``args``."""
    event, *args = orjson.loads(entry.record.body)
    if entry.record.attachments:
        args = _fill(args, entry.record.attachments)
    return {"offset": entry.offset, "time": entry.time, "event": event, "args": args}


def _fill(value: Any, attachments: tuple[bytes, ...]) -> Any:
    """Return a value with the bytes in place of their placeholders."""
    if isinstance(value, list):
        return [_fill(each, attachments) for each in value]
    if isinstance(value, dict):
        number = value.get("num")
        if value.get("_placeholder") is True and isinstance(number, int):
            return attachments[number] if 0 <= number < len(attachments) else None
        return {key: _fill(each, attachments) for key, each in value.items()}
    return value


def describe_page(
    page: Page, recovered: bool, since: Position | None, socket: Socket
) -> dict[str, Any]:
    """Return the answer to the event ``history``: its position is that of the last message."""
    messages: list[dict[str, Any]] = []
    size, offset = 0, page.tail
    entries = list(page.entries)
    if since is None or not recovered:  # the last messages: the newest ones that fit
        kept = 0
        for entry in reversed(entries):
            size += entry.record.size
            if size > MAX_ANSWER_BYTES and kept:
                break
            kept += 1
        entries, size = entries[len(entries) - kept :], 0
    for entry in entries:
        size += entry.record.size
        if size > MAX_ANSWER_BYTES and messages:
            break
        offset = entry.offset
        if not exclusion(entry.record)(socket):
            messages.append(describe(entry))
    if not page.entries and recovered and since is not None:
        offset = since[1]
    return {"recovered": recovered, "epoch": page.epoch, "offset": offset, "messages": messages}
