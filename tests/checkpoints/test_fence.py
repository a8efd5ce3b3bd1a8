"""The fence against writers that freeze, and against each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.fixtures.claims import Claims
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.supersteps import SQL
from threadmill.domain.fence import Fence
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.errors import HeadMoved, InvariantViolated, LeaseLost
from threadmill.streams.base import NewEvent
from threadmill.testing.checkpoints import put, writes


@pytest.fixture
def checkpoints(database: Database) -> PostgresCheckpoints:
    return PostgresCheckpoints(database)


@pytest.fixture
def claims(database_uri: str) -> Claims:
    return Claims(database_uri)


@asynccontextmanager
async def _frozen_writer(
    uri: str, fence: Fence
) -> AsyncIterator[psycopg.AsyncConnection]:
    """A transaction that holds the fence's row and does not go on."""
    async with await psycopg.AsyncConnection.connect(uri) as connection:
        await connection.execute("SET LOCAL ROLE threadmill_app")
        await connection.execute(
            "SELECT set_config('threadmill.tenant', %s, true)", (fence.tenant,)
        )
        await connection.execute(
            SQL.fence.text,
            {
                "tenant": fence.tenant,
                "thread_id": fence.thread_id,
                "activation_id": fence.activation_id,
                "token": fence.token,
            },
        )
        yield connection


async def _until_somebody_waits(uri: str) -> None:
    """Returns once a session waits for a lock in this database."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as watcher:
        while True:
            cursor = await watcher.execute(query)
            if (await cursor.fetchone() or (0,))[0]:
                return


async def _commit(checkpoints: PostgresCheckpoints, fence: Fence, **parts: Any) -> None:
    await checkpoints.commit(fence.tenant, str(fence.thread_id), Commit(**parts), fence)


async def test_a_take_over_waits_for_a_writer_and_shuts_it_out_afterwards(
    checkpoints: PostgresCheckpoints, claims: Claims
) -> None:
    """What is under way may still end; nothing begins under the old token."""
    old = await claims.claim()
    async with _frozen_writer(claims.uri, old) as writer:
        take_over = asyncio.create_task(claims.take_over(old))
        await _until_somebody_waits(claims.uri)
        assert not take_over.done()
        await writer.commit()
    new = await take_over
    with pytest.raises(LeaseLost, match=str(old.activation_id)):
        await _commit(checkpoints, old, puts=(put("c1"),))
    await _commit(checkpoints, new, puts=(put("c1"),))


async def test_a_writer_waits_for_a_take_over_and_fails(
    checkpoints: PostgresCheckpoints, claims: Claims
) -> None:
    """Its statement began before the take-over's commit and sees it all the same."""
    old = await claims.claim()
    async with await psycopg.AsyncConnection.connect(claims.uri) as connection:
        await connection.execute(
            "UPDATE threadmill.activation SET token = nextval('threadmill.token_seq')"
            " WHERE activation_id = %s",
            (old.activation_id,),
        )
        late = asyncio.create_task(
            _commit(checkpoints, old, puts=(put("c1"),), events=(NewEvent("a", "1"),))
        )
        await _until_somebody_waits(claims.uri)
        await connection.commit()
    with pytest.raises(LeaseLost):
        await late
    assert await checkpoints.get(old.tenant, str(old.thread_id), "") is None


@pytest.mark.parametrize("parts", [{"release": True}, {"progress": True}])
async def test_release_and_progress_wait_for_a_take_over_and_fail(
    checkpoints: PostgresCheckpoints, claims: Claims, parts: dict[str, bool]
) -> None:
    old = await claims.claim()
    async with await psycopg.AsyncConnection.connect(claims.uri) as connection:
        await connection.execute(
            "UPDATE threadmill.activation SET token = nextval('threadmill.token_seq'),"
            " attempt = 7 WHERE activation_id = %s",
            (old.activation_id,),
        )
        late = asyncio.create_task(_commit(checkpoints, old, **parts))
        await _until_somebody_waits(claims.uri)
        await connection.commit()
        with pytest.raises(LeaseLost):
            await late
        cursor = await connection.execute(
            "SELECT state, attempt FROM threadmill.activation WHERE activation_id = %s",
            (old.activation_id,),
        )
        assert await cursor.fetchone() == ("leased", 7)


async def test_a_renewal_meanwhile_does_not_harm(
    checkpoints: PostgresCheckpoints, claims: Claims
) -> None:
    """Renewals change the row, not the token."""
    fence = await claims.take_over(await claims.claim())
    assert fence.attempt == 2
    async with await psycopg.AsyncConnection.connect(claims.uri) as connection:
        await connection.execute(
            "UPDATE threadmill.activation SET lease_until = now()"
            " WHERE activation_id = %s",
            (fence.activation_id,),
        )
        waiting = asyncio.create_task(
            _commit(checkpoints, fence, puts=(put("c1"),), progress=True)
        )
        await _until_somebody_waits(claims.uri)
        await connection.commit()
        await waiting
        cursor = await connection.execute(
            "SELECT state, attempt FROM threadmill.activation WHERE activation_id = %s",
            (fence.activation_id,),
        )
        assert await cursor.fetchone() == ("leased", 1)


async def test_the_dispatcher_passes_over_a_row_that_is_being_written(
    checkpoints: PostgresCheckpoints, claims: Claims
) -> None:
    """Claim and reopen skip locked rows, so a frozen writer delays its thread only."""
    frozen, other = await claims.claim(), await claims.claim()
    for fence in (frozen, other):
        await _commit(checkpoints, fence, release=True)
    async with (
        _frozen_writer(claims.uri, frozen),
        await psycopg.AsyncConnection.connect(claims.uri, autocommit=True) as worker,
    ):
        cursor = await worker.execute(
            "SELECT activation_id"
            " FROM threadmill.claim(gen_random_uuid(), ARRAY['graph'], 9, '10 s')"
        )
        assert await cursor.fetchall() == [(other.activation_id,)]


async def test_one_of_two_writers_that_expect_the_same_head_wins(
    checkpoints: PostgresCheckpoints, claims: Claims
) -> None:
    fence = await claims.claim()
    await _commit(checkpoints, fence, puts=(put("c1", expected=None),))
    results = await asyncio.gather(
        *(
            _commit(checkpoints, fence, puts=(put(f"d{n}", "c1", expected="c1"),))
            for n in range(5)
        ),
        return_exceptions=True,
    )
    refused = [result for result in results if result is not None]
    assert [type(error) for error in refused] == [HeadMoved] * 4
    thread = str(fence.thread_id)
    found = [s async for s in checkpoints.list(fence.tenant, thread)]
    assert len(found) == 2


async def test_one_of_two_writers_that_expect_no_head_wins(
    checkpoints: PostgresCheckpoints, claims: Claims
) -> None:
    fence = await claims.claim()
    results = await asyncio.gather(
        *(
            _commit(checkpoints, fence, puts=(put(f"d{n}", expected=None),))
            for n in range(5)
        ),
        return_exceptions=True,
    )
    refused = [result for result in results if result is not None]
    assert [type(error) for error in refused] == [HeadMoved] * 4


async def test_unfenced_writers_of_one_thread_lose_no_checkpoint(
    checkpoints: PostgresCheckpoints,
) -> None:
    """Also when several put the very same checkpoint at once."""
    thread = str(uuid4())
    names = [f"c{n % 10}" for n in range(30)]
    await asyncio.gather(
        *(
            checkpoints.commit("default", thread, Commit(puts=(put(name),)))
            for name in names
        )
    )
    found = [s async for s in checkpoints.list("default", thread)]
    assert {s.checkpoint["id"] for s in found} == set(names)
    assert len({s.ordinal for s in found}) == 10


async def test_a_database_error_in_the_middle_leaves_nothing(
    checkpoints: PostgresCheckpoints, claims: Claims
) -> None:
    """The events come last: their failure undoes writes and checkpoint."""
    fence = await claims.claim()
    with pytest.raises(InvariantViolated):
        await _commit(
            checkpoints,
            Fence(
                fence.tenant, fence.thread_id, fence.activation_id, fence.token, None
            ),
            writes=(writes("c1", "t1", ("a", 1)),),
            puts=(put("c1"),),
            events=(NewEvent("values", "{}"),),
        )
    assert await checkpoints.get(fence.tenant, str(fence.thread_id), "") is None
    async with await psycopg.AsyncConnection.connect(claims.uri) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM threadmill.checkpoint_write WHERE thread_id = %s",
            [str(fence.thread_id)],
        )
        assert await cursor.fetchone() == (0,)


@pytest.fixture
async def narrow(database_uri: str) -> AsyncIterator[PostgresCheckpoints]:
    """Storage with a single connection: what spoils it is noticed."""
    limits = Limits(pool_min=1, pool_max=1)
    database = Database(database_uri, name="threadmill test", limits=limits)
    await database.open()
    yield PostgresCheckpoints(database)
    await database.close()


def _everything(n: int) -> dict[str, Any]:
    return {
        "writes": (writes("c0", f"t{n}", ("a", n)),),
        "puts": (put(f"c{n}"),),
        "events": (NewEvent("values", "{}"),),
    }


async def test_refused_commits_leave_a_usable_connection(
    narrow: PostgresCheckpoints, claims: Claims
) -> None:
    """Statements behind the refused one are not taken for prepared."""
    stale = await claims.claim()
    fence = await claims.take_over(stale)
    for n in range(12):
        with pytest.raises(LeaseLost):
            await _commit(narrow, stale, **_everything(n))
        if n > 5:
            await _commit(narrow, fence, **_everything(n))


async def test_cancelled_commits_leave_a_usable_connection(
    narrow: PostgresCheckpoints, claims: Claims
) -> None:
    """Cancelled while it waits for the fence, a commit has written nothing."""
    fence = await claims.claim()
    for n in range(8):
        async with _frozen_writer(claims.uri, fence):
            waiting = asyncio.create_task(_commit(narrow, fence, **_everything(n)))
            await _until_somebody_waits(claims.uri)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        thread = str(fence.thread_id)
        assert await narrow.get(fence.tenant, thread, "", f"c{n}") is None
        if n > 4:
            await _commit(narrow, fence, **_everything(n))


async def test_a_fence_covers_its_own_thread_and_tenant(
    checkpoints: PostgresCheckpoints, claims: Claims
) -> None:
    fence = await claims.claim()
    with pytest.raises(InvariantViolated, match="does not cover"):
        await checkpoints.commit("default", str(uuid4()), Commit(), fence)
    with pytest.raises(InvariantViolated, match="does not cover"):
        await checkpoints.commit("other", str(fence.thread_id), Commit(), fence)
    for part in ({"release": True}, {"progress": True}, {"events": ("event",)}):
        with pytest.raises(InvariantViolated, match="need a fence"):
            await checkpoints.commit("default", "t", Commit(**part))
