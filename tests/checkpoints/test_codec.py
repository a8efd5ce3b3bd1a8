"""What is stored, what is refused, and how it is said."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME
from pydantic import BaseModel

from threadmill.checkpoints.codec import Codec, encode_json
from threadmill.checkpoints.compression import Blob
from threadmill.checkpoints.packing import FORMAT
from threadmill.errors import InvariantViolated, StateUnserializable
from threadmill.testing.checkpoints import checkpoint


class Model(BaseModel):
    """A state that knows how to dump itself."""

    who: str
    extra: Any = None


class Refusing(BaseModel):
    """A state whose own code fails."""

    def model_dump(self, **_: Any) -> dict[str, Any]:
        raise LookupError("not today")


@dataclass
class Holder:
    """A value around another."""

    value: Any


@pytest.mark.parametrize(
    "value",
    [
        None,
        "a\x00b",
        b"\x00\xff",
        [1, {"deep": (2, 3.5, True)}],
        {1: "a key that is no string"},
        {"a set"},
        Model(who="ada"),
        Holder(1),
    ],
    ids=repr,
)
def test_values_come_back(value: Any) -> None:
    codec = Codec()
    packed = codec.pack(checkpoint("c1", value=value))
    loaded, _ = codec.unpack(FORMAT, packed.body, packed.names, packed.chunks)
    expected = [1, {"deep": [2, 3.5, True]}] if isinstance(value, list) else value
    assert loaded["channel_values"]["value"] == expected


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (object(), "object"),
        (threading.Lock(), "lock"),
        (lambda: None, "function"),
        ({"list": [1, {"deep": {"er": object()}}]}, "object"),
        (2**70, "int"),
        (Holder(object()), "Holder"),
        (Model(who="x", extra=object()), "Model"),
        (Refusing(), "Refusing"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_value_that_cannot_be_stored_is_named(value: Any, kind: str) -> None:
    codec = Codec()
    expected = rf"channel 'bad' holds a value of type '[\w.<>]*{kind}'"
    with pytest.raises(StateUnserializable, match=expected):
        codec.pack(checkpoint("c1", fine=1, bad=value))
    with pytest.raises(StateUnserializable, match=expected):
        codec.writes([("fine", 1), ("bad", value)])


def test_a_value_that_contains_itself_is_named() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(StateUnserializable, match="channel 'loop'"):
        Codec().pack(checkpoint("c1", loop=loop))


def test_the_limit_names_its_setting() -> None:
    codec = Codec(state_bytes_max=1000)
    codec.pack(checkpoint("c1", small="x" * 500))
    with pytest.raises(StateUnserializable, match="THREADMILL_STATE_BYTES_MAX"):
        codec.pack(checkpoint("c1", large="x" * 1000))
    with pytest.raises(StateUnserializable, match=r"channel 'large'.*1003 bytes"):
        codec.writes([("large", "x" * 1000)])


def test_a_later_format_is_refused() -> None:
    with pytest.raises(InvariantViolated, match="format 3 is of a later release"):
        Codec().unpack(3, Blob("msgpack", b"\x80"))


def test_pickle_is_not_read() -> None:
    with pytest.raises(NotImplementedError, match="pickle"):
        Codec().load_value(Blob("pickle", b"cos\nsystem\n"))


def test_marks_have_slots_of_their_own() -> None:
    sent = [("a", 1), (RESUME, 1), ("b", 2), (ERROR, 3), (INTERRUPT, 4), (RESUME, 5)]
    rows = {row.idx: row for row in Codec().writes(sent)}
    assert {idx: row.channel for idx, row in rows.items()} == {
        0: "a",
        -4: RESUME,
        2: "b",
        -1: ERROR,
        -3: INTERRUPT,
    }
    assert Codec().load_value(rows[-4].blob) == 5


def test_metadata_loses_what_jsonb_cannot_hold() -> None:
    sent = {"a\x00": ["b\x00c", {"d": "\x00"}], "e": "\\u0000", "f": "\ud800", "g": "é"}
    text = encode_json(sent, "metadata")
    assert text == '{"a":["bc",{"d":""}],"e":"\\\\u0000","f":"?","g":"é"}'


@pytest.mark.parametrize("value", [object(), float("nan"), float("inf"), {1, 2}])
def test_metadata_that_is_not_json_is_named(value: Any) -> None:
    with pytest.raises(StateUnserializable, match="metadata 'score' is not JSON"):
        encode_json({"step": 1, "score": value}, "metadata")


_TEXT = st.text(st.characters(), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        _TEXT,
        st.recursive(
            st.none() | st.booleans() | st.integers() | _TEXT,
            lambda inner: (
                st.lists(inner, max_size=2) | st.dictionaries(_TEXT, inner, max_size=2)
            ),
            max_leaves=6,
        ),
        max_size=3,
    )
)
def test_metadata_is_always_text_that_postgresql_takes(value: dict[str, Any]) -> None:
    text = encode_json(value, "metadata")
    text.encode("utf-8")
    assert "\x00" not in text
    assert "\\u0000" not in text.replace("\\\\", "")
