"""Runs on a Redis that keeps their values, and is slow, full, lost, or unknown."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import redis
from langgraph.graph import START, StateGraph

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.small_graphs import Steps, compiled, row, step
from tests.engine.test_sweep import Healing
from threadmill.checkpoints.chunk_store import ArchiveLag, Chore
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.run_states import PostgresRunStates
from threadmill.domain.run import RunStatus
from threadmill.drivers.postgres.database import Database
from threadmill.drivers.postgres.sql import Query
from threadmill.engine.redrive import Redrive
from threadmill.engine.sweep import Sweep
from threadmill.stores.records import Retention
from threadmill.testing.engine import SilentHints, attempt_of

in_redis = pytest.mark.parametrize("engine_store", ["redis"], indirect=True)

LONG = "long " * 200
_SOON_SECONDS = 20
_POLL_SECONDS = 0.05


@pytest.fixture
def server(redis_uri: str) -> Any:
    with redis.Redis.from_url(redis_uri) as connection:
        yield connection


# ---------------------------------------------------------------------- the sweep


class Slow:
    """Chores on a Redis that takes connections and does not answer."""

    archives = True

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[Chore]:
        del hold_seconds, limit
        return [Chore(TENANT, str(uuid4()), "archive", datetime.now(UTC))]

    async def carry_out(self, chore: Chore) -> None:
        del chore
        self.asked.set()
        await asyncio.Event().wait()

    async def lag(self) -> ArchiveLag:
        return ArchiveLag(1, 0.0)


async def test_a_slow_redis_keeps_no_delayed_run_waiting(database: Database) -> None:
    healing = Healing(database)
    run = await healing.store.accept(await healing.store.thread(), after_seconds=0.05)
    chores = Slow()
    sweep = Sweep(
        dispatcher=healing.dispatcher,
        members=healing.members,
        threads=healing.store.threads,
        hints=healing.hints,
        rules=healing._rules,
        session=lambda: None,
        chunks=chores,
    )
    looking = asyncio.create_task(sweep.run())
    try:
        async with asyncio.timeout(_SOON_SECONDS):
            await chores.asked.wait()
            while await healing.store.holder(run.thread_id) is None:  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
            # And what lost its lease since.
            await healing.store.begin()
            await healing.store.let_leases_expire()
            while not await healing.store.claim(1):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)
    finally:
        looking.cancel()
        await asyncio.wait({looking})


# ------------------------------------------------------------------- what is lost


def _nested(ran: list[str]) -> Any:
    inner: Any = StateGraph(Steps)

    async def deep(state: Steps) -> Any:
        ran.append(f"deep {len(state.get('steps', []))}")
        return {"steps": [LONG]}

    inner.add_node("deep", deep)
    inner.add_edge(START, "deep")
    return compiled({"outer": inner.compile(checkpointer=True)})


@in_redis
async def test_a_run_whose_subgraph_lost_its_state_is_a_dead_letter(
    engine_store: EngineStore, server: Any
) -> None:
    """A failover to a replica that lagged loses some chunks, not all."""
    ran: list[str] = []
    graph_id, thread_id = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: _nested(ran)})
    given: dict[str, Any] = {"input": {"steps": []}}
    first = await driver.submit(graph_id, thread_id, given)
    assert (await driver.carry_out(first)).run.status is RunStatus.SUCCESS
    stored = [
        one async for one in engine_store.checkpoints.list(TENANT, str(thread_id))
    ]
    (ns,) = {one.ns for one in stored} - {""}
    await _lose_namespace(engine_store, server, thread_id, ns)
    second = await driver.submit(graph_id, thread_id, given)
    ended = await driver.carry_out(second)
    assert ended.run.status is RunStatus.ERROR
    assert ended.run.error is not None
    assert "StateLost" in str(ended.run.error)
    letter = await engine_store.dead_letters.get(TENANT, second.run_id)
    assert "StateLost" in str(letter.as_json())


async def _lose_namespace(
    store: EngineStore, server: Any, thread_id: UUID, ns: str
) -> None:
    """Takes the bodies of one namespace."""
    bodies = Query(
        "bodies",
        b"SELECT body FROM threadmill.checkpoint WHERE tenant_id = %(tenant)s"
        b" AND thread_id = %(thread)s AND ns = %(ns)s",
    )
    async with store.database.tenant_tx(TENANT, read_only=True) as tx:
        found = tx.add(bodies, tenant=TENANT, thread=str(thread_id), ns=ns)
    key = f"{{{TENANT}:{thread_id}}}:value"
    for each in found.rows:
        assert server.hdel(key, bytes(each["body"])) == 1


@in_redis
async def test_who_waits_for_a_run_that_failed_is_told_why(
    engine_store: EngineStore, server: Any
) -> None:
    graph_id, thread_id = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: row(a=step(LONG))})
    first = await driver.submit(graph_id, thread_id, {"input": {"steps": []}})
    await driver.carry_out(first)
    server.flushall()
    second = await driver.submit(graph_id, thread_id, {"input": {"steps": []}})
    assert (await driver.carry_out(second)).run.status is RunStatus.ERROR
    # `Answers` needs no state of a failed run: it answers {"__error__": ...}.
    looked = await engine_store.run_states.look(TENANT, second.run_id, thread_id)
    assert looked.run.status is RunStatus.ERROR


@in_redis
async def test_a_restored_redis_and_a_redrive_apply_the_message_once(
    engine_store: EngineStore, server: Any
) -> None:
    graph_id, thread_id = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: row(a=step(LONG))})
    first = await driver.submit(graph_id, thread_id, {"input": {"steps": ["one"]}})
    await driver.carry_out(first)
    key = f"{{{TENANT}:{thread_id}}}:value"
    saved = server.dump(key)
    server.delete(key)
    second = await driver.submit(graph_id, thread_id, {"input": {"steps": ["two"]}})
    assert (await driver.carry_out(second)).run.status is RunStatus.ERROR
    server.restore(key, 0, saved)
    redrive = Redrive(engine_store.dead_letters, SilentHints(), queue_max=10)
    await redrive(TENANT, second.run_id)
    again = await engine_store.runs.get(TENANT, second.run_id)
    assert (await driver.carry_out(again)).run.status is RunStatus.SUCCESS
    head = await engine_store.checkpoints.get(TENANT, str(thread_id), "")
    assert head is not None
    assert head.checkpoint["channel_values"]["steps"] == ["one", LONG, "two", LONG]


@in_redis
async def test_a_worker_without_the_uri_spoils_no_run(
    engine_store: EngineStore,
) -> None:
    """As while CHECKPOINT_URI is rolled out, process by process."""
    graph_id, thread_id = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: row(a=step(LONG))})
    first = await driver.submit(graph_id, thread_id, {"input": {"steps": []}})
    await driver.carry_out(first)
    knowing = engine_store.checkpoints, engine_store.run_states
    engine_store.checkpoints = PostgresCheckpoints(engine_store.database)
    engine_store.run_states = PostgresRunStates(engine_store.checkpoints, Retention())
    other = engine_store.driver({graph_id: row(a=step(LONG))})
    second = await other.submit(graph_id, thread_id, {"input": {"steps": []}})
    process = other.process()
    for _ in range(6):
        for claim in await other.claim(process):
            await other.work(process, attempt_of(claim))
    engine_store.checkpoints, engine_store.run_states = knowing
    found = await engine_store.runs.get(TENANT, second.run_id)
    assert found.status is not RunStatus.ERROR


@in_redis
async def test_a_full_redis_does_not_make_a_node_run_for_ever(
    engine_store: EngineStore, server: Any
) -> None:
    ran: list[str] = []

    async def node(state: Steps) -> Any:
        ran.append("once")
        return {"steps": [LONG]}

    graph_id, thread_id = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: row(a=node)})
    run = await driver.submit(graph_id, thread_id, {"input": {"steps": []}})

    real = engine_store.checkpoints.away.store.keep  # type: ignore[union-attr]
    kept = 0

    async def full(*about: Any, **named: Any) -> None:
        nonlocal kept
        kept += 1
        if kept == 2:
            server.config_set("maxmemory", "1")
        await real(*about, **named)

    engine_store.checkpoints.away.store.keep = full  # type: ignore[union-attr,method-assign]
    process = driver.process()
    try:
        for _ in range(12):
            for claim in await driver.claim(process):
                await driver.work(process, attempt_of(claim))
    finally:
        server.config_set("maxmemory", "0")
    found = await engine_store.runs.get(TENANT, run.run_id)
    assert (len(ran) <= 5, found.status) == (True, RunStatus.ERROR), len(ran)
