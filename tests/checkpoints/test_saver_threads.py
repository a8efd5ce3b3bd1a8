"""The saver on threads, on event loops, and on none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from tests.checkpoints import graphs
from threadmill.checkpoints.saver import PostgresSaver
from threadmill.drivers.postgres.database import Limits
from threadmill.errors import (
    InvalidRequest,
    SetupError,
    StoreUnavailable,
)

pytestmark = pytest.mark.langgraph


def thread(name: str | None = None) -> Any:
    return {"configurable": {"thread_id": name or str(uuid4())}}


@pytest.fixture
async def saver(database_uri: str) -> AsyncIterator[PostgresSaver]:
    async with PostgresSaver.from_conn_string(database_uri) as opened:
        yield opened


def said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_program_without_asyncio(fresh_database_uri: str) -> None:
    with PostgresSaver.from_conn_string(fresh_database_uri) as saver:
        saver.setup()
        saver.setup()
        graph = graphs.conversation().compile(checkpointer=saver)
        config = thread()
        graph.invoke({"messages": [said("Hello")], "user_id": "u"}, config)
        state = graph.get_state(config).values
        graph.invoke({"messages": [*state["messages"], said("Continue")]}, config)
        assert graph.get_state(config).values["turn_count"] == 2
        history = list(graph.get_state_history(config, limit=3))
        assert [s.metadata and s.metadata["step"] for s in history] == [8, 7, 6]
        name = config["configurable"]["thread_id"]
        assert saver.get_delta_channel_history(config=config, channels=["x"])
        saver.copy_thread(name, "copy")
        saver.prune([name])
        assert len(list(saver.list(config))) == 1
        for found in saver.list(thread("copy")):
            assert found.metadata["step"] == 8
            break
        saver.delete_for_runs([str(uuid4())])
        saver.delete_thread(name)
        assert saver.get_tuple(config) is None


async def test_async_calls_are_served_by_a_saver_opened_without_a_loop(
    database_uri: str,
) -> None:
    def opened() -> PostgresSaver:
        return PostgresSaver.from_conn_string(database_uri).__enter__()

    saver = await asyncio.to_thread(opened)
    try:
        graph = graphs.conversation().compile(checkpointer=saver)
        config = thread()
        await graph.ainvoke({"messages": [said("Hello")], "user_id": "u"}, config)
        assert len([t async for t in saver.alist(config)]) == 5
        assert len([s async for s in graph.aget_state_history(config)]) == 5
    finally:
        await asyncio.to_thread(saver.__exit__, None, None, None)


async def test_sync_calls_from_other_threads_are_served_by_the_loop(
    saver: PostgresSaver,
) -> None:
    graph = graphs.conversation().compile(checkpointer=saver)
    config = thread()
    sent = {"messages": [said("Hello")], "user_id": "u"}
    state = await asyncio.to_thread(graph.invoke, sent, config)
    assert state["turn_count"] == 1


async def test_a_sync_call_on_the_saver_s_own_loop_is_refused(
    saver: PostgresSaver,
) -> None:
    """It would wait for itself for ever."""
    for call in (
        lambda: saver.get_tuple(thread()),
        lambda: list(saver.list(thread())),
        lambda: saver.delete_thread("t"),
    ):
        with pytest.raises(InvalidRequest, match="use the async interface"):
            call()
    with pytest.raises(InvalidRequest, match="asetup"):
        saver.setup()


async def test_a_saver_that_is_not_open_says_how_to_open_it(database_uri: str) -> None:
    saver = PostgresSaver.from_conn_string(database_uri)
    with pytest.raises(SetupError, match="with PostgresSaver"):
        await saver.aget_tuple(thread())
    async with saver:
        assert await saver.aget_tuple(thread()) is None
    with pytest.raises(SetupError, match="with PostgresSaver"):
        await saver.aget_tuple(thread())


def test_an_unreachable_database_is_one_clear_error() -> None:
    uri = "postgresql://somebody:secret@127.0.0.1:1/none"
    limits = Limits(connect_timeout_seconds=0.1)
    saver = PostgresSaver.from_conn_string(uri, limits=limits)
    with pytest.raises(StoreUnavailable, match="DATABASE_URI") as failure, saver:
        pass
    assert "secret" not in str(failure.value)
    assert "secret" not in repr(saver)
