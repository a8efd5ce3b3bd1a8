"""What is deleted leaves its copy as well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from redis import Redis

from tests.stores.run_store import TENANT, RunStore
from threadmill.checkpoints.pruning import PostgresPruning
from threadmill.domain.retention import Strategy
from threadmill.drivers.postgres.database import Database
from threadmill.drivers.redis.database import RedisDatabase
from threadmill.streams.base import NewEvent
from threadmill.streams.redis.relay import RedisRelay

Deletes = Callable[[RunStore, UUID, UUID], Awaitable[object]]


@pytest.fixture
async def relay(redis_uri: str) -> AsyncIterator[RedisRelay]:
    made = RedisRelay(RedisDatabase(redis_uri), ttl_seconds=60)
    await made.open()
    yield made
    await made.close()


async def the_thread(store: RunStore, thread_id: UUID, _run_id: UUID) -> None:
    await store.threads.delete(TENANT, thread_id)


async def the_run(store: RunStore, thread_id: UUID, run_id: UUID) -> None:
    await store.runs.delete(TENANT, thread_id, run_id)


async def its_timer(store: RunStore, _thread_id: UUID, _run_id: UUID) -> None:
    assert "drop_thread" in await store.carry_out_due()


async def a_rule(store: RunStore, thread_id: UUID, _run_id: UUID) -> None:
    pruning = PostgresPruning(store.checkpoints)
    assert await pruning.prune(TENANT, thread_id, Strategy.DELETE)


@pytest.mark.parametrize("deletes", [the_thread, the_run, its_timer, a_rule])
async def test_what_is_deleted_leaves_no_copy(
    database: Database, relay: RedisRelay, redis_uri: str, deletes: Deletes
) -> None:
    store, thread_id = RunStore(database, relay), uuid4()
    temporary = deletes is its_timer
    run = await store.accept(
        thread_id,
        create_thread=True,
        temporary=temporary,
        kwargs={"temporary": temporary, "stream_mode": ["values"]},
    )
    fence, _ = await store.begin()
    await store.finish(fence, events=[NewEvent("last", "what a user has said")])
    with Redis.from_url(redis_uri) as seen:
        assert len(seen.keys(f"*{thread_id}*")) == 2
        await deletes(store, thread_id, run.run_id)
        assert seen.keys(f"*{thread_id}*") == []
