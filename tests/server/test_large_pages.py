"""Who lists is answered within a number of bytes, and little more is read for it."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph_sdk.errors import UnprocessableEntityError

from tests.fixtures.fleet import Fleet
from threadmill.checkpoints.codec import Codec

pytestmark = pytest.mark.asyncio(loop_scope="session")

_LONG = "word " * 2000


async def test_a_page_that_is_too_large_is_refused_and_says_what_to_do(
    fleet: Fleet,
) -> None:
    server = await fleet.server(response_bytes_max=30_000)
    client: Any = server.client
    threads = []
    for number in range(3):
        thread = await client.threads.create(
            metadata={"number": number}, graph_id="chat"
        )
        threads.append(thread["thread_id"])
        for _ in range(2):
            update = {"messages": [{"role": "user", "content": _LONG}]}
            await client.threads.update_state(threads[-1], update)
    with pytest.raises(UnprocessableEntityError) as refused:
        await client.threads.get_history(threads[0], limit=1000)
    assert "THREADMILL_RESPONSE_BYTES_MAX (30000)" in str(refused.value)
    assert "smaller 'limit'" in str(refused.value)
    with pytest.raises(UnprocessableEntityError, match="the first 2 of this page"):
        await client.threads.search(limit=3)
    # One by one, and without values, it goes.
    newest, *_ = await client.threads.get_history(threads[0], limit=1)
    assert [m["content"] for m in newest["values"]["messages"]] == [_LONG] * 2
    found = await client.threads.search(limit=3, select=["thread_id"])
    assert {one["thread_id"] for one in found} == set(threads)


async def test_no_more_is_read_than_fits(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few in advance, and not a thousand before the first is weighed."""
    server = await fleet.server(response_bytes_max=1)
    client: Any = server.client
    thread = await client.threads.create(graph_id="chat")
    for number in range(40):
        update = {"messages": [{"role": "user", "content": str(number)}]}
        await client.threads.update_state(thread["thread_id"], update)
    read, unpack = 0, Codec.unpack

    def counted(*args: Any) -> Any:
        nonlocal read
        read += 1
        return unpack(*args)

    monkeypatch.setattr(Codec, "unpack", counted)
    with pytest.raises(UnprocessableEntityError):
        await client.threads.get_history(thread["thread_id"], limit=1000)
    assert read == 16


async def test_a_history_is_told_whole_page_by_page(client: Any) -> None:
    thread = await client.threads.create(graph_id="chat")
    thread_id = thread["thread_id"]
    for number in range(40):
        update = {"messages": [{"role": "user", "content": str(number)}]}
        await client.threads.update_state(thread_id, update)
    found = await client.threads.get_history(thread_id, limit=1000)
    assert [len(state["values"]["messages"]) for state in found] == [*range(40, 0, -1)]
    some = await client.threads.get_history(thread_id, limit=33)
    assert some == found[:33]
    odd = await client.threads.get_history(
        thread_id, limit=1000, metadata={"step": found[5]["metadata"]["step"]}
    )
    assert odd == [found[5]]


async def test_a_single_item_is_never_too_large(fleet: Fleet) -> None:
    server = await fleet.server(response_bytes_max=1)
    client: Any = server.client
    thread = await client.threads.create()
    (found,) = await client.threads.search(limit=1)
    assert found["thread_id"] == thread["thread_id"]
