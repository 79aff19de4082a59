"""Strict JSON: values that the other side could not decode are rejected."""

from __future__ import annotations

import contextlib
import enum
import gc
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.parallel import stable_id
from webpy_socketio.engine.io import json
from webpy_socketio.exceptions import ContentError, EncodeError, ProtocolError

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)

#: Values that a handler may try to send.
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.binary(max_size=5)
    | st.complex_numbers()
    | st.builds(object)
    | st.datetimes()
    | st.uuids(),
    lambda children: (
        st.lists(children, max_size=4)
        | st.tuples(children, children)
        | st.sets(st.integers(), max_size=2)
        | st.dictionaries(
            st.text(max_size=3)
            | st.integers()
            | st.floats()
            | st.none()
            | st.binary(max_size=2)
            | st.tuples(st.integers()),
            children,
            max_size=4,
        )
    ),
    max_leaves=15,
)

quickly = settings(max_examples=80, deadline=None, database=None)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def read(text: bytes) -> Any:
    """Decode bytes and load them; invalid UTF-8 becomes lone surrogates, as in a lax decoder."""
    return json.loads(text.decode("utf-8", "surrogateescape"))


class TestLoads:
    @pytest.mark.parametrize(
        "text",
        [
            b"",
            b"NaN",
            b"[Infinity]",
            b'{"a":-Infinity}',
            b'"\xff"',
            b'"\xed\xa0\x80"',
            b"[1,]",
            b"{'a':1}",
            b"[1] [2]",
            b'"\\ud800',
            b"[" * 100_000,
        ],
        ids=lambda text: text[:20].decode("latin-1") or "empty",
    )
    def test_loads_of_invalid_json_raises(self, text: bytes) -> None:
        with pytest.raises(ProtocolError):
            read(text)

    @pytest.mark.parametrize(
        "text",
        [
            b"1e400",
            b"[-1e400]",
            b"9" * 5000,
            b'["\\ud800",1e400]',
            nested(json.MAX_DEPTH + 1),
            nested(100_000),
            b'{"a":' * 200 + b"1" + b"}" * 200,
        ],
        ids=lambda text: text[:20].decode("latin-1"),
    )
    def test_loads_json_beyond_a_limit_raises_content_error(self, text: bytes) -> None:
        with pytest.raises(ContentError):
            read(text)

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (b'"\\ud800"', "\ufffd"),
            (b'["\\udfff\\ud800"]', ["\ufffd\ufffd"]),
            (b'"\\ud83c\\udf89\\udf89"', "\U0001f389\ufffd"),
            (b'"\\\\ud83c\\\\\\ud83c"', "\\ud83c\\\ufffd"),
            (b'{"\\uDfFf":{"\\uD83C":1}}', {"\ufffd": {"\ufffd": 1}}),
        ],
    )
    def test_loads_lone_surrogate_becomes_replacement_character(
        self, text: bytes, value: Any
    ) -> None:
        assert read(text) == value

    def test_dumps_accepts_the_deepest_nesting_of_loads(self) -> None:
        value = read(nested(json.MAX_DEPTH))
        assert json.dumps(value) == nested(json.MAX_DEPTH)

    def test_loads_of_many_shallow_brackets_succeeds(self) -> None:
        assert read(b"[" + b"[]," * 500 + b"[]]") == [[]] * 501
        assert read(b'"' + b"[" * 500 + b'"') == "[" * 500

    @pytest.mark.parametrize("end", ["[]]", "nonsense"])
    def test_garbage_collector_is_disabled_during_large_loads(self, end: str) -> None:
        phases: list[str] = []
        text = "[" + "[]," * 100_000 + end
        gc.collect()
        gc.callbacks.append(lambda phase, info: phases.append(phase))
        try:
            with contextlib.suppress(ProtocolError):
                json.loads(text)
        finally:
            gc.callbacks.pop()
        # At most the collection that was due afterwards.
        assert phases in ([], ["start", "stop"])
        assert gc.isenabled()

    @given(st.binary(max_size=40))
    @quickly
    def test_loads_of_random_bytes_raises_only_documented_errors(self, text: bytes) -> None:
        with contextlib.suppress(ContentError, ProtocolError):
            value = read(text)
            assert read(json.dumps(value)) == value

    @given(st.text('[]{}",:0123456789.eE+-truefalsn\\u d8', max_size=40))
    @example("1E310")  # JSON, but not a double
    @quickly
    def test_loads_of_json_like_text_raises_only_documented_errors(self, text: str) -> None:
        with contextlib.suppress(ContentError, ProtocolError):
            value = json.loads(text)
            assert read(json.dumps(value)) == value


@dataclass
class Point:
    x: float
    y: float = 0.0


class Level(enum.Enum):
    LOW = 0.5
    BROKEN = math.nan


class TestDumps:
    @given(VALUES)
    @quickly
    def test_dumps_and_loads_round_trip(self, value: Any) -> None:
        assert read(json.dumps(value)) == value

    @given(ANYTHING)
    @quickly
    def test_dumps_of_any_value_raises_only_encode_error(self, value: Any) -> None:
        attachments: list[bytes] = []
        with contextlib.suppress(EncodeError):
            text = json.dumps(value, attachments)
            assert text.count(b'"_placeholder":true') >= len(attachments)
            read(text)

    def test_dumps_writes_no_spaces(self) -> None:
        assert json.dumps({"a": [1, 2], "b": None}) == b'{"a":[1,2],"b":null}'

    @pytest.mark.parametrize(
        "value",
        [
            math.nan,
            [math.inf],
            {"a": [{"b": -math.inf}]},
            (1, (None, math.nan)),
            {math.nan: 1},
            Point(1.0, math.nan),
            [Point(math.inf)],
            Level.BROKEN,
            {"level": [Level.BROKEN]},
        ],
        ids=repr,
    )
    def test_dumps_of_nan_raises(self, value: Any) -> None:
        with pytest.raises(EncodeError, match="NaN or Infinity"):
            json.dumps(value)

    def test_dumps_of_none_and_null_text_succeeds(self) -> None:
        assert read(json.dumps([None, "null", {"null": 1.5}])) == [
            None,
            "null",
            {"null": 1.5},
        ]

    @pytest.mark.parametrize(
        "value",
        ["\ud800", {"\udfff": 1}, 2**64, -(2**63) - 1, object(), {1, 2}, 1j, {b"k": 1}, {(1,): 2}],
        ids=stable_id,
    )
    def test_dumps_of_unsupported_type_raises(self, value: Any) -> None:
        with pytest.raises(EncodeError, match="cannot send this value"):
            json.dumps([value])

    def test_dumps_of_a_cycle_raises(self) -> None:
        circle: list[Any] = []
        circle.append(circle)
        with pytest.raises(EncodeError):
            json.dumps(circle)

    def test_encode_error_names_the_unsupported_type(self) -> None:
        with pytest.raises(EncodeError, match="complex is not a type that JSON can represent"):
            json.dumps([1j])

    def test_dict_keys_become_text_as_in_javascript(self) -> None:
        assert read(json.dumps({1: "a", None: "b", False: "c"})) == {
            "1": "a",
            "null": "b",
            "false": "c",
        }


class TestAttachments:
    def test_bytes_become_placeholders_in_order(self) -> None:
        attachments: list[bytes] = []
        text = json.dumps(["e", b"a", {"k": bytearray(b"b")}, [memoryview(b"c")]], attachments)
        assert attachments == [b"a", b"b", b"c"]
        assert read(text) == [
            "e",
            {"_placeholder": True, "num": 0},
            {"k": {"_placeholder": True, "num": 1}},
            [{"_placeholder": True, "num": 2}],
        ]

    def test_attachments_with_non_text_keys_are_counted_once(self) -> None:
        attachments: list[bytes] = []
        text = json.dumps([b"a", {1: b"b"}], attachments)
        assert attachments == [b"a", b"b"]
        assert read(text)[1] == {"1": {"_placeholder": True, "num": 1}}

    def test_bytes_without_attachments_list_raise(self) -> None:
        with pytest.raises(EncodeError, match="bytes is not a type"):
            json.dumps(b"a")

    def test_placeholder_look_alike_with_bytes_raises(self) -> None:
        look_alike = {"_placeholder": True, "num": 0}
        with pytest.raises(EncodeError, match="_placeholder"):
            json.dumps([b"a", look_alike], [])
        assert read(json.dumps([look_alike], [])) == [look_alike]
        text = json.dumps([b"a", '{"_placeholder":true}'], [])
        assert read(text)[1] == '{"_placeholder":true}'
