"""The framing of server-sent events, checked with the SDK's own decoder."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st
from langgraph_sdk.sse import BytesLineDecoder, SSEDecoder

from threadmill.engine.wire_json import encode
from threadmill.server.sse import HEARTBEAT, frame, frames
from threadmill.streams.base import Event


def decoded(stream: bytes) -> list[tuple[str, Any, str | None]]:
    lines, events = BytesLineDecoder(), SSEDecoder()
    found = []
    for line in [*lines.decode(stream), *lines.flush()]:
        part = events.decode(bytes(line))
        if part is not None:
            found.append((part.event, part.data, part.id))
    return found


def test_a_frame() -> None:
    assert (
        frame("values", "{}", "7-1") == b"event: values\r\ndata: {}\r\nid: 7-1\r\n\r\n"
    )
    assert frame("values|a:b", "{}") == b"event: values|a:b\r\ndata: {}\r\n\r\n"


def test_a_line_break_in_a_name_does_not_end_the_frame() -> None:
    assert decoded(frame("values|a\r\nid: x", "1")) == [("values|a  id: x", 1, None)]


def test_heartbeats_are_nothing_to_clients() -> None:
    event = Event(3, 5, uuid4(), 1, "values", '{"a":1}')
    stream = HEARTBEAT + frames([event], ids=True) + HEARTBEAT
    assert decoded(stream) == [("values", {"a": 1}, "5-3")]


@given(st.dictionaries(st.text(), st.text() | st.none() | st.booleans(), min_size=1))
def test_any_data_arrives(data: dict[str, Any]) -> None:
    text = encode(data)
    assert "\n" not in text
    assert "\r" not in text
    ((_, arrived, _),) = decoded(frame("values", text))
    assert arrived == json.loads(text)
