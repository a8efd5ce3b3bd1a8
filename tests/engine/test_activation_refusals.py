"""What cannot be stored, told or read ends its run clearly, and only that run."""

from __future__ import annotations

import threading
from typing import Any
from uuid import uuid4

import pytest
from langgraph.config import get_stream_writer

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.small_graphs import Steps, compiled, row, step
from threadmill.domain.run import RunStatus
from threadmill.drivers.postgres.sql import Query
from threadmill.engine.described import describe
from threadmill.errors import Unavailable

pytestmark = pytest.mark.langgraph

_SPOIL = Query(
    "spoil",
    b"UPDATE threadmill.checkpoint SET body = '\\xc1', body_type = 'msgpack'"
    b" WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s::text",
)


class Speechless(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("plain"), "plain"),
        (ValueError("nul \x00 byte"), "nul \ufffd byte"),
        (ValueError("half \ud800 pair"), "half ? pair"),
        (ValueError("x" * 50_000), "x" * 10_000 + "… (50000 characters)"),
        (Speechless(), "the error's own text cannot be had"),
    ],
)
async def test_any_error_is_told_at_once(
    engine_store: EngineStore, error: Exception, message: str
) -> None:
    assert describe(error)["message"] == message

    async def node(state: Steps) -> Any:
        raise error

    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: row(node=node)})
    run = await driver.submit(graph_id, uuid4(), {"input": {"steps": []}})
    ended = await driver.carry_out(run)
    assert ended.claims == 1
    assert ended.run.error == describe(error)


async def test_a_state_that_cannot_be_read_is_given_up(
    engine_store: EngineStore,
) -> None:
    graph_id, thread_id = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: row(a=step("a"))}, attempts_max=3)
    first = await driver.submit(graph_id, thread_id, {"input": {"steps": []}})
    await driver.carry_out(first)
    async with engine_store.database.tenant_tx(TENANT) as tx:
        tx.add(_SPOIL, tenant=TENANT, thread_id=str(thread_id))
    run = await driver.submit(graph_id, thread_id, {"input": {"steps": []}})
    for _ in range(3):
        process = driver.process()
        (claim,) = await driver.claim(process)
        with pytest.raises(ValueError, match="invalid type"):
            await engine_store.run_states.begin(claim)
        await driver.heal(process)
    ended = await driver.carry_out(run)
    assert ended.claims == 1
    assert ended.run.error is not None
    assert "gave up after 3 attempts" in ended.run.error["message"]


async def test_a_store_that_is_too_slow_for_a_commit_counts_as_an_attempt(
    engine_store: EngineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a state too large to store in time would be run for ever."""
    calls = 0

    async def node(state: Steps) -> Any:
        nonlocal calls
        calls += 1
        return {"steps": ["a"]}

    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: row(a=node, b=step("b"))}, attempts_max=2)
    run = await driver.submit(graph_id, uuid4(), {"input": {"steps": []}})
    commit, commits = engine_store.checkpoints.commit, 0

    async def slow_after_the_first(*args: Any) -> None:
        nonlocal commits
        commits += 1
        if commits > 1:
            raise Unavailable("the database is busy (QueryCanceled)")
        await commit(*args)

    monkeypatch.setattr(engine_store.checkpoints, "commit", slow_after_the_first)
    ended = await driver.carry_out(run)
    assert ended.run.status is RunStatus.ERROR
    assert ended.run.error is not None
    assert "gave up after 2 attempts" in ended.run.error["message"]
    assert calls == 2


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_subgraph_that_keeps_no_checkpoints(
    engine_store: EngineStore, *, blocking: bool
) -> None:
    inner = compiled({"x": step("x"), "y": step("y")}, checkpointer=False)

    async def awaiting(state: Steps) -> Any:
        return await inner.ainvoke({"steps": []})

    def calling(state: Steps) -> Any:
        return compiled(
            {"x": lambda _: {"steps": ["x"]}, "y": lambda _: {"steps": ["y"]}},
            checkpointer=False,
        ).invoke({"steps": []})

    graph_id = str(uuid4())
    outer = {"a": step("a"), "sub": calling if blocking else awaiting, "b": step("b")}
    driver = engine_store.driver({graph_id: row(**outer)})
    run = await driver.submit(graph_id, uuid4(), {"input": {"steps": []}})
    ended = await driver.carry_out(run)
    assert ended.run.status is RunStatus.SUCCESS, ended.run.error
    stored = await engine_store.checkpoints.get(TENANT, str(run.thread_id), "")
    assert stored is not None
    steps = stored.checkpoint["channel_values"]["steps"]
    assert steps == ["a", "x", "y", "b"]


async def test_a_result_that_cannot_be_stored_costs_no_more_than_itself(
    engine_store: EngineStore,
) -> None:
    """What was committed before it stays, and what was told is told."""

    async def node(state: Steps) -> Any:
        get_stream_writer()("about to fail")
        return {"value": threading.Lock()}

    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: row(a=step("a"), b=node)})
    run = await driver.submit(
        graph_id,
        uuid4(),
        {"input": {"steps": ["in"]}, "stream_mode": ["updates", "custom"]},
    )
    ended = await driver.carry_out(run)
    assert ended.run.error is not None
    assert ended.run.error["error"] == "StateUnserializable"
    stored = await engine_store.checkpoints.get(TENANT, str(run.thread_id), "")
    assert stored is not None
    assert stored.checkpoint["channel_values"]["steps"] == ["in", "a"]
    told = [event.event for event in await engine_store.events(run.thread_id)]
    assert told == ["metadata", "updates", "custom", "error"]
