"""What is stored stays readable, and messages get small."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from threadmill.checkpoints.compression import DICTIONARY, Blob, expanded, squeezed


def test_the_dictionary_is_the_one_that_stored_values_need() -> None:
    """If this fails, what has been stored cannot be read any more: add another one."""
    assert sha256(DICTIONARY).hexdigest() == (
        "35d7aea9e9b9787d4863c33a6473205aa3a1a31edc4e6f6acde33b6b2ca9afe3"
    )


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("What is it?", id="3b8a1a62-9f0f-4a39-9a3a-0d5b6f6f7f10"),
        AIMessage("It is this.", id="3b8a1a62-9f0f-4a39-9a3a-0d5b6f6f7f11"),
        ToolMessage("found", tool_call_id="call_1", id="a tool's"),
    ],
    ids=["human", "ai", "tool"],
)
def test_a_short_message_takes_less_than_half(message: AnyMessage) -> None:
    blob = Blob(*JsonPlusSerializer().dumps_typed([message]))
    small = squeezed(blob)
    assert len(small.data) * 2 < len(blob.data)
    assert small.type == "msgpack+zstd1"
    assert expanded(small) == blob


@pytest.mark.parametrize("data", [b"", b"short", bytes(range(256))])
def test_what_gains_nothing_stays_as_it_is(data: bytes) -> None:
    assert squeezed(Blob("bytes", data)) == Blob("bytes", data)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_everything_comes_back(data: bytes, times: int) -> None:
    blob = Blob("bytes", data * times)
    assert expanded(squeezed(blob)) == blob
