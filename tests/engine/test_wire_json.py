"""Any value of a graph becomes JSON that every reader accepts."""

from __future__ import annotations

import enum
import json
import math
import re
from collections import deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.types import Interrupt
from pydantic import BaseModel

from threadmill.engine.wire_json import encode, encode_bytes

Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - users write it


class Model(BaseModel):
    at: datetime
    tags: set[str]


@dataclass
class Data:
    x: int
    inner: Any
    _hidden: int = 0


class Colour(enum.Enum):
    RED = "red"


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError


class BadModel:
    def model_dump(self) -> dict[str, Any]:
        raise RuntimeError

    def __repr__(self) -> str:
        return "bad model"


class Array:
    def tolist(self) -> list[int]:
        return [1, 2]


NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            Model(at=NOON, tags={"a"}),
            {"at": "2026-01-02T12:00:00+00:00", "tags": ["a"]},
        ),
        (Data(1, Data(2, {3})), {"x": 1, "inner": {"x": 2, "inner": [3]}}),
        (Data(1, {2: 2**70}), {"x": 1, "inner": {"2": 2**70}}),
        (Pair(1, (2, 3)), [1, [2, 3]]),
        (deque([1]), [1]),
        (b"ab", "YWI="),
        (Colour.RED, "red"),
        ({Colour.RED: 1, None: 2, True: 3, (1, 2): 4}, None),
        (timedelta(minutes=1), 60.0),
        (Decimal("1.50"), "1.50"),
        (Path("a/b"), "a/b"),
        (re.compile("a+"), "a+"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Array(), [1, 2]),
        ([math.nan, math.inf], [None, None]),
        ([math.nan, 2**70], [None, 2**70]),
        (ValueError("x"), "ValueError('x')"),
        (Unprintable(), "<Unprintable>"),
        (BadModel(), "bad model"),
        (int, "<class 'int'>"),
    ],
)
def test_values_of_the_field(value: object, expected: object) -> None:
    if expected is None:
        expected = {"red": 1, "null": 2, "true": 3, "(1, 2)": 4}
    assert expected == json.loads(encode(value))


def test_messages_keep_their_type_and_id() -> None:
    shown = json.loads(encode([HumanMessage("hi", id="1"), AIMessage("yo")]))
    assert [(m["type"], m["content"], m["id"]) for m in shown] == [
        ("human", "hi", "1"),
        ("ai", "yo", None),
    ]


def test_interrupts_show_value_and_id() -> None:
    shown = json.loads(encode(Interrupt(value={"ask": 1}, id="i")))
    assert shown["value"] == {"ask": 1}
    assert shown["id"] == "i"


def test_text_that_utf8_or_postgresql_refuses() -> None:
    assert encode("a\0b") == '"a\\u0000b"'
    assert json.loads(encode("x\ud800y")) == "x\ufffdy"
    assert json.loads(encode("\ud83d\ude00")) == "\U0001f600"


def test_a_cycle_ends() -> None:
    loop: list[Any] = []
    loop.extend([loop, loop])
    assert json.loads(encode({"a": loop})) == {"a": ["<list>", "<list>"]}


def test_deep_values_do_not_fail() -> None:
    deep: Any = 0
    for _ in range(5000):
        deep = [deep]
    json.loads(encode(deep))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text() | st.integers() | st.floats(), inner)
        | st.tuples(inner)
        | st.frozensets(st.integers() | st.text())
    ),
    max_leaves=10,
)


@given(JSON)
def test_any_nesting_is_valid_strict_json(value: object) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(encode_bytes(value), parse_constant=refuse)
