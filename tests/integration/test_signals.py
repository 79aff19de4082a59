"""The stages as blinker signals: order, isolation, keywords and receivers."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import blinker
import gevent
import pytest
import web
from gevent import monkey

import webpy_socketio
from tests.conftest import Journal, Site, socket_of
from webpy_socketio import Refused, signals
from webpy_socketio.bus.signals import collect_robust, send_robust
from webpy_socketio.exceptions import EventError
from webpy_socketio.runtime import default_runtime
from webpy_socketio.signals import STAGES, Stage

emit = default_runtime.signals.emit
check_gate = default_runtime.signals.check_gate


class Sender:
    """The attributes of a socket that signals use."""

    def __init__(self) -> None:
        self.namespace = "/"
        self.request: dict[str, Any] = {"PATH_INFO": "/"}
        self.context: dict[str, Any] = {}
        self.receiver_cache: Any = None
        self.channels: tuple[str, ...] = ()


@pytest.fixture
def stage() -> Stage:
    return Stage("a stage", "for tests")


@pytest.fixture
def sender() -> Any:
    return Sender()


def recorder(journal: list[Any], name: Any) -> Callable[..., None]:
    def receiver(sender: Any, **keywords: Any) -> None:
        journal.append(name)

    return receiver


class TestCatalogue:
    def test_stages_are_in_the_order_of_a_connection(self) -> None:
        assert [stage.name for stage in STAGES] == [
            "connecting",
            "connect",
            "receiving",
            "message",
            "subscribing",
            "subscribe",
            "unsubscribe",
            "error",
            "suspend",
            "resume",
            "disconnect",
            "finish",
        ]

    @pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
    def test_stages_are_blinker_signals_with_their_name(self, stage: Stage) -> None:
        assert isinstance(stage, blinker.Signal)
        assert getattr(signals, stage.name) is stage
        assert stage.name in signals.__all__
        assert f"``{stage.name}``" in (signals.__doc__ or "")

    def test_stages_are_public(self) -> None:
        assert webpy_socketio.signals is signals


class TestOrder:
    def test_receivers_run_in_the_order_they_were_connected(
        self, stage: Stage, sender: Any
    ) -> None:
        called: list[int] = []
        for number in range(50):
            stage.connect(recorder(called, number), weak=False)
        emit(stage, sender)
        assert called == list(range(50))

    def test_receivers_of_one_sender_run_in_the_order_of_connection(
        self, stage: Stage, sender: Any
    ) -> None:
        called: list[int] = []
        for number in range(20):
            to = sender if number % 3 else blinker.ANY
            stage.connect(recorder(called, number), sender=to, weak=False)
        emit(stage, sender)
        assert called == list(range(20))

    def test_connecting_again_keeps_receiver_and_position(self, stage: Stage, sender: Any) -> None:
        called: list[str] = []
        first, second = recorder(called, "first"), recorder(called, "second")
        for receiver in (first, second, first):
            stage.connect(receiver)
        emit(stage, sender)
        assert called == ["first", "second"]

    def test_receiver_disconnected_and_connected_again_runs_last(
        self, stage: Stage, sender: Any
    ) -> None:
        called: list[str] = []
        first, second = recorder(called, "first"), recorder(called, "second")
        stage.connect(first)
        stage.connect(second)
        stage.disconnect(first)
        stage.connect(first)
        emit(stage, sender)
        assert called == ["second", "first"]

    def test_receiver_connected_first_runs_before_the_others(
        self, stage: Stage, sender: Any
    ) -> None:
        called: list[Any] = []
        stage.connect(recorder(called, "one"))
        stage.connect(recorder(called, "of this sender"), sender=sender)
        stage.connect(recorder(called, "first"), first=True)
        stage.connect(recorder(called, "two"))
        stage.connect(recorder(called, "first of all"), sender=sender, first=True)
        emit(stage, sender)
        assert called == ["first of all", "first", "one", "of this sender", "two"]
        assert list(stage.receivers_for(blinker.ANY)) == list(stage.receivers_for(object()))
        called.clear()
        emit(stage, Sender())  # type: ignore[arg-type]
        assert called == ["first", "one", "two"]

    def test_connected_receiver_keeps_its_position_with_first(
        self, stage: Stage, sender: Any
    ) -> None:
        called: list[str] = []
        first, second = recorder(called, "first"), recorder(called, "second")
        stage.connect(first)
        stage.connect(second)
        stage.connect(second, first=True)
        emit(stage, sender)
        assert called == ["first", "second"]

    def test_receivers_may_be_connected_and_disconnected_during_emit(
        self, stage: Stage, sender: Any
    ) -> None:
        called: list[str] = []
        late = recorder(called, "late")

        @stage.connect
        def once(sender: Any, **keywords: Any) -> None:
            called.append("once")
            stage.disconnect(once)
            stage.connect(late)

        emit(stage, sender)
        called.clear()
        emit(stage, sender)
        assert called == ["late"]


class TestIsolation:
    def test_exception_is_counted_and_other_receivers_run(self, stage: Stage, sender: Any) -> None:
        called: list[int] = []
        errors: list[Any] = []

        def bad(sender: Any, **keywords: Any) -> None:
            raise ValueError("bad")

        def failed(sender: Any, exception: Any, **keywords: Any) -> None:
            errors.append(exception)

        signals.error.connect(failed)
        stage.connect(recorder(called, 1), weak=False)
        stage.connect(bad)
        stage.connect(recorder(called, 2), weak=False)
        _, failures, _ = emit(stage, sender)
        assert called == [1, 2]
        assert failures == 1
        assert [str(error) for error in errors] == ["bad"]

    def test_exception_is_logged_with_receiver_and_traceback(
        self, stage: Stage, sender: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        def clumsy(sender: Any, **keywords: Any) -> None:
            raise ValueError("bad")

        stage.connect(clumsy)
        emit(stage, sender)
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.name == "webpy_socketio"
        assert "clumsy" in record.getMessage()
        assert "'a stage'" in record.getMessage()
        assert record.exc_info

    def test_receiver_returning_a_coroutine_fails(self, stage: Stage, sender: Any) -> None:
        errors: list[Any] = []

        async def never(sender: Any, **keywords: Any) -> None:
            raise AssertionError("never awaited")

        def failed(sender: Any, exception: Any, **keywords: Any) -> None:
            errors.append(exception)

        signals.error.connect(failed)
        stage.connect(lambda sender, **keywords: never(sender))
        assert emit(stage, sender)[1] == 1
        assert "coroutine" in str(errors[0])

    def test_gate_receiver_returning_a_coroutine_rejects(self, stage: Stage, sender: Any) -> None:
        async def never(sender: Any, **keywords: Any) -> None:
            raise Refused("never awaited")

        stage.connect(lambda sender, **keywords: never(sender))
        with pytest.raises(Refused, match=r"^not allowed$"):
            check_gate(stage, sender)

    def test_muted_signal_calls_no_receivers(self, stage: Stage, sender: Any) -> None:
        called: list[int] = []
        stage.connect(recorder(called, 1), weak=False)
        with stage.muted():
            emit(stage, sender)
            check_gate(stage, sender)
        assert called == []
        emit(stage, sender)
        assert called == [1]

    def test_muted_error_signal_calls_no_receivers(self, stage: Stage, sender: Any) -> None:
        called: list[str] = []
        errors = recorder(called, "error")

        def bad(sender: Any, **keywords: Any) -> None:
            raise ValueError("bad")

        signals.error.connect(errors)
        stage.connect(bad)
        with signals.error.muted():
            assert emit(stage, sender)[1] == 1
        assert called == []


class TestReceivers:
    def test_values_are_collected_in_order_without_none(self, stage: Stage, sender: Any) -> None:
        for value in (None, 0, "", None, "last"):
            stage.connect(lambda sender, value=value, **keywords: value, weak=False)
        assert emit(stage, sender)[0] == [0, "", "last"]

    def test_only_weak_receivers_are_garbage_collected(self, stage: Stage, sender: Any) -> None:
        called: list[str] = []
        stage.connect(recorder(called, "weak"), weak=True)
        stage.connect(recorder(called, "strong"))
        gc.collect()
        emit(stage, sender)
        assert called == ["strong"]

    def test_second_import_of_the_main_script_replaces_its_receivers(
        self, stage: Stage, sender: Any
    ) -> None:
        source = (
            "def receiver(sender, **extra): return __name__\n"
            "def other(sender, **extra): return __name__\n"
        )
        code = compile(source, "chat.py", "exec")
        for name in ("__main__", "chat"):
            module = {"__name__": name}
            exec(code, module)
            stage.connect(module["receiver"])
            stage.connect(module["other"])
        assert emit(stage, sender)[0] == ["chat", "chat"]

    def test_weak_method_receiver_lives_as_long_as_its_object(
        self, stage: Stage, sender: Any
    ) -> None:
        called: list[str] = []

        class Counter:
            def receive(self, sender: Any, **keywords: Any) -> None:
                called.append("method")

        counter = Counter()
        stage.connect(counter.receive, weak=True)
        emit(stage, sender)
        del counter
        gc.collect()
        emit(stage, sender)
        assert called == ["method"]

    def test_receiver_of_one_sender_does_not_receive_others(
        self, site: Site, journal: Journal
    ) -> None:
        first, second = site.connect(), site.connect()
        socket = default_runtime.registry.find(first.id)

        def receiver(sender: Any, message: Any, **keywords: Any) -> None:
            journal.append((sender, message))

        signals.message.connect(receiver, sender=socket)
        second.emit_and_wait("message", "of the second")
        first.emit_and_wait("message", "of the first")
        assert journal == [(socket, "of the first")]

    def test_receiver_may_accept_some_of_the_keywords(self, site: Site, journal: Journal) -> None:
        @signals.message.connect
        def receiver(sender: Any, message: Any, **extra: Any) -> None:
            journal.append(message)

        site.connect().emit_and_wait("message", "hello")
        assert journal == ["hello"]


#: Keywords of each stage, in addition to request, socket, context and namespace.
KEYWORDS: dict[str, set[str]] = {
    "connecting": {"auth"},
    "connect": {"auth"},
    "receiving": {"message", "event", "args", "channel"},
    "message": {"message", "event", "args", "channel"},
    "subscribing": {"channel", "by_client"},
    "subscribe": {"channel"},
    "unsubscribe": {"channel", "reason"},
    "error": {"exception", "by_client"},
    "disconnect": {"reason"},
    "finish": {"reason"},
}


class TestConditions:
    """Receivers that are connected with ``enabled``."""

    @pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
    def test_receiver_of_a_stage_runs_only_while_its_condition_holds(
        self, stage: Stage, sender: Any
    ) -> None:
        called: list[Any] = []
        condition: list[bool] = []
        stage.connect(recorder(called, "always"))
        stage.connect(recorder(called, "sometimes"), enabled=lambda: bool(condition))
        keywords = {"message": 1, "event": "e", "args": [1], "channel": "a"}

        def send() -> list[Any]:
            called.clear()
            if stage is signals.error:
                default_runtime.signals.report_error(sender, ValueError(), "a test")
            elif stage in signals.GATES:
                check_gate(stage, sender, **keywords)
            else:
                emit(stage, sender, **keywords)
            return list(called)

        assert send() == ["always"]
        condition.append(True)
        assert send() == ["always", "sometimes"]
        condition.clear()
        assert send() == ["always"]

    @pytest.mark.parametrize("send", [collect_robust, send_robust], ids=lambda send: send.__name__)
    def test_receiver_of_another_signal_runs_only_while_its_condition_holds(
        self, stage: Stage, send: Callable[..., Any]
    ) -> None:
        called: list[Any] = []
        condition: list[bool] = []
        stage.connect(recorder(called, "sometimes"), enabled=lambda: bool(condition))
        send(stage, None)
        assert called == []
        condition.append(True)
        send(stage, None)
        assert called == ["sometimes"]

    def test_receiver_of_handled_runs_only_while_its_condition_holds(
        self, stage: Stage, sender: Any
    ) -> None:
        called: list[Any] = []
        condition: list[bool] = []
        signals.handled.connect(recorder(called, "handled"), enabled=lambda: bool(condition))
        emit(stage, sender)
        assert called == []
        condition.append(True)
        emit(stage, sender)
        assert called == ["handled"]

    def test_receiver_gets_the_same_keywords_with_a_condition(self, sender: Any) -> None:
        received: list[dict[str, Any]] = []

        def first(sender: Any, **keywords: Any) -> None:
            received.append(keywords)

        def second(sender: Any, **keywords: Any) -> None:
            received.append(keywords)

        signals.message.connect(first)
        signals.message.connect(second, enabled=lambda: True)
        emit(signals.message, sender, message=1, event="e", args=[1], channel="a")
        one, other = received
        assert one == other
        assert {"request", "socket", "context", "namespace", "channel"} <= one.keys()

    def test_failing_condition_is_reported_and_other_receivers_run(
        self, stage: Stage, sender: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        called: list[Any] = []
        stage.connect(recorder(called, "first"), enabled=lambda: bool(1 / 0))
        stage.connect(recorder(called, "second"))
        assert emit(stage, sender)[1] == 1
        assert called == ["second"]
        assert caplog.records

    def test_receiver_connected_again_without_condition_always_runs(
        self, stage: Stage, sender: Any
    ) -> None:
        called: list[Any] = []
        receiver = recorder(called, "run")
        stage.connect(receiver, enabled=lambda: False)
        emit(stage, sender)
        stage.disconnect(receiver)
        stage.connect(receiver)
        emit(stage, sender)
        assert called == ["run"]

    @pytest.mark.parametrize("is_enabled", [False, True])
    def test_web_context_of_a_receiver_with_a_condition_is_that_of_the_handshake(
        self, site: Site, is_enabled: bool
    ) -> None:
        seen: list[Any] = []

        def note(sender: Any, channel: str, **extra: Any) -> None:
            seen.append((channel, web.ctx.get("ip")))

        for stage in (signals.subscribe, signals.unsubscribe):
            stage.connect(note, enabled=lambda: is_enabled)
        client = site.connect()
        assert client.call("__subscribe__", "a") == [{"ok": True}]
        assert client.call("__unsubscribe__", "a") == [{"ok": True}]
        assert seen == ([("a", "127.0.0.1")] * 2 if is_enabled else [])

    def test_receiver_of_a_subscription_runs_besides_one_whose_condition_does_not_hold(
        self, site: Site
    ) -> None:
        seen: list[Any] = []
        for stage in (signals.subscribe, signals.unsubscribe):
            stage.connect(recorder(seen, "never"), enabled=lambda: False)
            stage.connect(lambda sender, **extra: seen.append(web.ctx.get("ip")))
        client = site.connect()
        client.call("__subscribe__", "a")
        client.call("__unsubscribe__", "a")
        assert seen == ["127.0.0.1"] * 2

    def test_web_context_of_error_receivers_of_a_rejected_subscription_is_that_of_the_handshake(
        self, site: Site
    ) -> None:
        seen: list[Any] = []
        signals.error.connect(lambda sender, **extra: seen.append(web.ctx.get("ip")))
        client = site.connect()
        (answer,) = client.call("__subscribe__", "")
        assert answer["ok"] is False
        client.barrier()
        assert seen == ["127.0.0.1"]

    def test_weak_receiver_cannot_have_a_condition(self, stage: Stage) -> None:
        with pytest.raises(EventError, match="weak=True and enabled="):
            stage.connect(recorder([], 1), weak=True, enabled=lambda: True)


class TestSentSignal:
    """`sent`: events sent to clients of this process."""

    @pytest.fixture
    def sent(self) -> Journal:
        sent = Journal()

        def receive(
            sender: Any, sockets: Any, size: int, read: Callable[[], Any], **extra: Any
        ) -> None:
            sent.append((sender, [socket.session_id for socket in sockets], read(), size))

        signals.sent.connect(receive)
        return sent

    def test_sent_is_documented_and_not_a_stage(self) -> None:
        assert "``sent``" in (signals.__doc__ or "")
        assert signals.sent not in STAGES
        assert "sent" in signals.__all__

    def test_sent_is_sent_for_each_way_of_sending(
        self, serve: Callable[..., Site], sent: Journal
    ) -> None:
        site = serve(namespaces=["/", "/a[b"])
        one, two = site.connect(), site.connect()
        one.call("__subscribe__", "room")
        first = socket_of(one)
        first.send("1")
        first.emit("two", 2, [2])
        first.broadcast("3")
        first.send_and_broadcast("4")
        first.send_and_broadcast_channel("5")
        webpy_socketio.broadcast_channel("6", "room")
        webpy_socketio.send(two.id, {"7": b"bytes"})
        both = [one.id, two.id]
        placeholder = {"_placeholder": True, "num": 0}
        assert [entry[:3] for entry in sent] == [
            ("/", [one.id], ["message", "1"]),
            ("/", [one.id], ["two", 2, [2]]),
            ("/", [two.id], ["message", "3"]),
            ("/", both, ["message", "4"]),
            ("/", [one.id], ["message", "5"]),
            ("/", [one.id], ["message", "6"]),
            ("/", [two.id], ["message", {"7": placeholder}]),
        ]
        size = sent[0][3]
        assert size == len('..42["message","1"]')
        three = site.websocket()
        three.connect(namespace="/a[b,")
        webpy_socketio.emit("x", 1, namespace="/a[b")
        assert sent[-1][0] == "/a[b"
        assert sent[-1][2] == ["x", 1]

    def test_sent_is_sent_for_a_call(self, site: Site, sent: Journal) -> None:
        client = site.connect()
        asking = gevent.spawn(socket_of(client).call, "question", 1)
        client.receive()
        client.send("430[2]")
        assert asking.get() == 2
        assert [entry[2] for entry in sent] == [["question", 1]]

    def test_sent_is_not_sent_for_acknowledgements_and_without_recipients(
        self, site: Site, sent: Journal
    ) -> None:
        client = site.connect()
        socket = socket_of(client)
        client.emit_and_wait("message", "x")
        socket.broadcast("no other socket")
        client.send("41")
        while socket.connected:
            gevent.sleep(0)
        socket.send("too late")
        assert sent == []

    def test_sent_from_another_thread_is_sent_in_the_socket_thread(self, site: Site) -> None:
        here = monkey.get_original("_thread", "get_ident")
        threads = Journal()
        signals.sent.connect(lambda sender, **keywords: threads.append(here()), weak=False)
        client = site.connect()
        gevent.get_hub().threadpool.apply(socket_of(client).send, ("x",))
        assert client.event() == ["message", "x"]
        assert threads == [here()]

    def test_exception_of_sent_receiver_does_not_stop_delivery(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(sender: Any, **keywords: Any) -> None:
            raise ValueError("broken")

        signals.sent.connect(fail)
        heard = Journal()
        signals.sent.connect(lambda sender, **keywords: heard.append(sender), weak=False)
        client = site.connect()
        webpy_socketio.broadcast("news")
        assert client.event() == ["message", "news"]
        assert heard == ["/"]
        assert "fail" in caplog.text


class TestKeywords:
    def test_stages_have_their_keywords(self, site: Site, journal: Journal) -> None:
        def record(stage: Stage) -> Callable[..., None]:
            def receiver(sender: Any, **keywords: Any) -> None:
                journal.append((stage.name, sender, keywords))

            return receiver

        for stage in STAGES:
            stage.connect(record(stage), weak=False)
        client = site.connect('{"name":"Ann"}')
        client.call("__subscribe__", "room")
        client.emit_and_wait("__channel__", "room", "hello")
        client.emit_and_wait("custom", 1, [2])
        client.emit_and_wait("__channel__", "elsewhere", "hello")
        client.call("__unsubscribe__", "room")
        client.call("__subscribe__", "other")
        client.send("1")
        journal.wait(lambda journal: journal[-1][0] == "finish")
        assert [name for name, _, _ in journal] == [
            *("connecting", "connect", "subscribing", "subscribe"),
            *("receiving", "message", "receiving", "message"),
            *("error", "unsubscribe", "subscribing", "subscribe"),
            *("disconnect", "unsubscribe", "finish"),
        ]
        for name, sender, keywords in journal:
            common = {"request", "socket", "context", "namespace"}
            assert keywords.keys() == common | KEYWORDS[name]
            assert keywords["namespace"] == "/"
            assert keywords["socket"] is sender
            assert keywords["request"] is sender.request
            assert keywords["context"] is sender.context
        sent_keywords = [
            (name, {k: keywords[k] for k in KEYWORDS[name]}) for name, _, keywords in journal
        ]
        assert sent_keywords[0] == ("connecting", {"auth": {"name": "Ann"}})
        assert sent_keywords[1] == ("connect", {"auth": {"name": "Ann"}})
        assert sent_keywords[2][1] == {"channel": "room", "by_client": True}
        assert sent_keywords[4][1] == sent_keywords[5][1]
        assert sent_keywords[5][1] == {
            "message": "hello",
            "event": "message",
            "args": ["hello"],
            "channel": "room",
        }
        assert sent_keywords[6][1] == sent_keywords[7][1]
        assert sent_keywords[7][1] == {
            "message": [1, [2]],
            "event": "custom",
            "args": [1, [2]],
            "channel": None,
        }
        assert sent_keywords[8][1]["by_client"] is True
        assert sent_keywords[9][1] == {"channel": "room", "reason": None}
        assert sent_keywords[-3][1] == {"reason": "transport close"}
        assert sent_keywords[-2][1] == {"channel": "other", "reason": "transport close"}
        assert sent_keywords[-1][1] == {"reason": "transport close"}

    def test_documentation_lists_the_keywords(self) -> None:
        documented = signals.__doc__ or ""
        for name, keywords in KEYWORDS.items():
            after = documented.partition(f"``{name}``")[2]
            for keyword in keywords:
                assert f"``{keyword}``" in after, (name, keyword)


class TestHandledSignal:
    """`handled`: the duration of receivers and the result of gates."""

    @pytest.fixture
    def sent_keywords(self) -> list[dict[str, Any]]:
        sent_keywords: list[dict[str, Any]] = []

        def receiver(sender: Any, **keywords: Any) -> None:
            assert keywords["socket"] is sender
            sent_keywords.append(keywords)

        signals.handled.connect(receiver)
        return sent_keywords

    def test_handled_is_sent_for_each_stage_with_its_keywords(
        self, site: Site, sent_keywords: list[dict[str, Any]], stages: Journal
    ) -> None:
        client = site.connect()
        client.call("__subscribe__", "room")
        client.emit_and_wait("__channel__", "room", "hello")
        client.emit_and_wait("__channel__", "elsewhere", "an error")
        client.call("__unsubscribe__", "room")
        client.send("1")
        stages.wait_for(("finish", "transport close"))
        assert [keywords["stage"] for keywords in sent_keywords] == [
            *("connecting", "connect", "subscribing", "subscribe", "receiving", "message"),
            *("unsubscribe", "disconnect", "finish"),
        ]
        for keywords in sent_keywords:
            own = {"stage", "seconds", "failures", "refused"}
            common = {"request", "socket", "context", "namespace"}
            assert keywords.keys() == own | common | KEYWORDS[keywords["stage"]]
            assert keywords["seconds"] > 0
            assert (keywords["failures"], keywords["refused"]) == (0, None)
        assert sent_keywords[5]["message"] == "hello"
        assert sent_keywords[5]["channel"] == "room"

    def test_handled_is_sent_for_stages_without_receivers(
        self, site: Site, sent_keywords: list[dict[str, Any]]
    ) -> None:
        site.connect().emit_and_wait("draw", 1)
        assert [keywords["stage"] for keywords in sent_keywords] == [
            "connecting",
            "connect",
            "message",
        ]
        assert sent_keywords[2]["event"] == "draw"

    def test_handled_counts_failures(
        self, stage: Stage, sender: Any, sent_keywords: list[dict[str, Any]]
    ) -> None:
        def bad(sender: Any, **keywords: Any) -> None:
            raise ValueError("bad")

        stage.connect(bad)
        stage.connect(recorder([], 1), weak=False)
        emit(stage, sender)
        assert (sent_keywords[0]["failures"], sent_keywords[0]["refused"]) == (1, None)

    @pytest.mark.parametrize(
        ("error", "text"),
        [(Refused("no"), "no"), (Refused(), "refused"), (KeyError("no"), "not allowed")],
    )
    def test_handled_contains_the_reason_of_a_gate(
        self,
        error: Exception,
        text: str,
        stage: Stage,
        sender: Any,
        sent_keywords: list[dict[str, Any]],
    ) -> None:
        def deny(sender: Any, **keywords: Any) -> None:
            raise error

        stage.connect(deny)
        with pytest.raises(Refused):
            check_gate(stage, sender)
        assert [keywords["refused"] for keywords in sent_keywords] == [text]

    def test_exception_of_handled_receiver_is_sent_as_error_only(
        self, site: Site, journal: Journal
    ) -> None:
        def bad(sender: Any, **keywords: Any) -> None:
            raise ValueError("bad")

        def failed(sender: Any, exception: Any, **keywords: Any) -> None:
            journal.append(str(exception))

        @signals.message.connect
        def answer(sender: Any, **keywords: Any) -> str:
            return "answer"

        client = site.connect()
        signals.handled.connect(bad)
        signals.error.connect(failed)
        assert client.call("message") == ["answer"]
        assert journal == ["bad"]

    def test_handled_is_documented(self) -> None:
        documented = signals.__doc__ or ""
        for word in ("`handled`", "``stage``", "``seconds``", "``failures``", "``refused``"):
            assert word in documented
        assert signals.handled not in STAGES
