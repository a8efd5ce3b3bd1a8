"""Presence and leases: who is alive, whatever happens to the session that says so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from structlog.testing import capture_logs

from tests.fixtures.ways import Way
from tests.stores.run_store import RunStore
from threadmill.domain.lease import LeaseTimes
from threadmill.drivers.postgres.database import Database
from threadmill.stores.postgres.fleet import PostgresFleet
from threadmill.stores.postgres.members import PostgresMembers
from threadmill.stores.postgres.renewal import RenewalThread
from threadmill.stores.records import Claim, Member

_PATIENCE_SECONDS = 30.0
_EVER = datetime(2000, 1, 1, tzinfo=UTC)
_OFTEN = LeaseTimes(lease_seconds=10, renew_seconds=0.1, margin_seconds=1)
_SELDOM = LeaseTimes(lease_seconds=3600, renew_seconds=1000, margin_seconds=1)


class Renewing:
    """A member with its renewal thread, over one database."""

    def __init__(self, database: Database) -> None:
        self.members = PostgresMembers(database, present=True)
        self.member = Member(uuid4(), "worker", "worker", "0")
        self.renewals: asyncio.Queue[int] = asyncio.Queue()
        self.drains = 0

    @contextmanager
    def thread(
        self, conninfo: str, lock_key: int | None, times: LeaseTimes, detour: str | None
    ) -> Iterator[RenewalThread]:
        loop = asyncio.get_running_loop()

        def renewed(_asked_at: float, held: list[Claim]) -> None:
            loop.call_soon_threadsafe(self.renewals.put_nowait, len(held))

        thread = RenewalThread(
            conninfo,
            self.member,
            lock_key,
            detour=detour,
            times=times,
            on_renewed=renewed,  # type: ignore[arg-type]  # a list is a Sequence
            on_drain=self._drain,
        )
        thread.start()
        try:
            yield thread
        finally:
            thread.stop()

    def _drain(self) -> None:
        self.drains += 1

    async def renewal(self) -> int:
        """Wait for a renewal; give the number of claims that were held."""
        return await asyncio.wait_for(self.renewals.get(), _PATIENCE_SECONDS)

    async def is_absent(self) -> bool:
        found = await self.members.presence(since=_EVER, settle_seconds=0)
        return self.member.worker_id in found.free


@pytest.fixture
def renewing(database: Database) -> Renewing:
    return Renewing(database)


def shown_key(uri: str, member: Member) -> int | None:
    """The lock that the others look at."""
    with psycopg.connect(uri, autocommit=True) as connection:
        row = connection.execute(
            "SELECT lock_key FROM threadmill.worker WHERE worker_id = %s",
            [member.worker_id],
        ).fetchone()
    assert row is not None
    key: int | None = row[0]
    return key


async def until(condition: Callable[[], bool], renewing: Renewing) -> None:
    """Wait for what some renewal brings about."""
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not condition():
            await renewing.renewal()


async def until_whole(thread: RenewalThread) -> None:
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while thread.own_session is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_nobody_is_absent_who_has_not_held_the_lock_yet(
    renewing: Renewing,
) -> None:
    assert await renewing.members.join(renewing.member) is not None
    assert not await renewing.is_absent()


async def test_a_member_whose_session_has_ended_is_absent(
    renewing: Renewing, database_uri: str
) -> None:
    key = await renewing.members.join(renewing.member)
    with renewing.thread(database_uri, key, _SELDOM, None):
        await renewing.renewal()
        assert not await renewing.is_absent()
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while not await renewing.is_absent():
            continue


async def test_a_broken_session_is_noticed_at_once(
    renewing: Renewing, database_uri: str
) -> None:
    """The next renewal is far away; the lock must not be free until then."""
    key = await renewing.members.join(renewing.member)
    with renewing.thread(database_uri, key, _SELDOM, None) as thread:
        await renewing.renewal()
        await until_whole(thread)
        first = thread.own_session
        assert first is not None
        assert first.number == 1
        with psycopg.connect(database_uri, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks"
                " WHERE locktype = 'advisory' AND classid = 29805 AND objid = %s",
                [key],
            )
        await renewing.renewal()
        await until(lambda: shown_key(database_uri, renewing.member) == key, renewing)
        assert not await renewing.is_absent()
        await until_whole(thread)
        second = thread.own_session
        assert second is not None
        assert second.number == 2
        assert second.since > first.since
        assert second.renewed_at > first.renewed_at
        assert second.database_since == first.database_since


@pytest.mark.parametrize("lease_seconds", [3, 10])
async def test_who_waits_for_a_row_keeps_its_session_and_its_lock(
    renewing: Renewing, database_uri: str, lease_seconds: float
) -> None:
    """It lives, and only its leases are not renewed."""
    key = await renewing.members.join(renewing.member)
    times = LeaseTimes(lease_seconds, renew_seconds=0.1, margin_seconds=1)
    with (
        capture_logs() as logs,
        renewing.thread(database_uri, key, times, None) as thread,
        psycopg.connect(database_uri) as connection,
    ):
        await until_whole(thread)
        before = thread.own_session
        connection.execute("SELECT FROM threadmill.worker FOR UPDATE")
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while not logs:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not await renewing.is_absent()
        connection.rollback()
        while len(logs) < 2:
            await renewing.renewal()
        assert thread.own_session == before
    assert [log["event"] for log in logs] == ["renewal.broken", "renewal.recovered"]


async def test_a_renewal_needs_no_style_of_dates(
    renewing: Renewing, database_uri: str
) -> None:
    """A role, or a database, may be set to any."""
    german = make_conninfo(database_uri, options="-c datestyle=German")
    key = await renewing.members.join(renewing.member)
    with renewing.thread(german, key, _OFTEN, None) as thread:
        await renewing.renewal()
        await until_whole(thread)


async def test_while_the_direct_way_is_cut_leases_are_renewed_and_nobody_is_absent(
    renewing: Renewing, store: RunStore, database_uri: str, way: Way
) -> None:
    """A worker whose leases are renewed is alive, whoever holds its lock."""
    key = await renewing.members.join(renewing.member)
    await store.accept(await store.thread())
    await store.claim(1, renewing.member.worker_id)
    with (
        capture_logs() as logs,
        renewing.thread(way.conninfo, key, _OFTEN, database_uri),
    ):
        await until(lambda: shown_key(database_uri, renewing.member) == key, renewing)
        way.cut()
        await until(lambda: shown_key(database_uri, renewing.member) is None, renewing)
        for _ in range(3):
            assert await renewing.renewal() == 1
            assert not await renewing.is_absent()
        way.mend()
        await until(lambda: shown_key(database_uri, renewing.member) == key, renewing)
    told = [log["event"] for log in logs if log["log_level"] != "debug"]
    assert told == ["renewal.broken", "renewal.recovered"]
    assert "closed the connection" in logs[0]["cause"]


async def test_a_direct_way_that_keeps_silent_is_given_up_in_time(
    renewing: Renewing, store: RunStore, database_uri: str, way: Way
) -> None:
    key = await renewing.members.join(renewing.member)
    await store.accept(await store.thread())
    await store.claim(1, renewing.member.worker_id)
    times = LeaseTimes(lease_seconds=3, renew_seconds=0.1, margin_seconds=0.3)
    with renewing.thread(way.conninfo, key, times, database_uri):
        await until(lambda: shown_key(database_uri, renewing.member) == key, renewing)
        way.hang()
        await until(lambda: shown_key(database_uri, renewing.member) is None, renewing)
        assert await renewing.renewal() == 1
        assert not await renewing.is_absent()


async def test_a_renewal_extends_what_is_held(
    renewing: Renewing, store: RunStore, database_uri: str
) -> None:
    await renewing.members.join(renewing.member)
    await store.accept(await store.thread())
    await store.claim(1, renewing.member.worker_id)
    await store.let_leases_expire()
    with renewing.thread(database_uri, None, _OFTEN, None):
        assert await renewing.renewal() == 1
    assert await store.dispatcher.reopen([], backoff_seconds=0, limit=10) == []


async def test_a_blocked_loop_costs_no_lease(
    renewing: Renewing, store: RunStore, database_uri: str
) -> None:
    """A node that does not await holds up everything of its process but renewals."""
    key = await renewing.members.join(renewing.member)
    await store.accept(await store.thread())
    with renewing.thread(database_uri, key, _OFTEN, None):
        await renewing.renewal()
        await store.claim(1, renewing.member.worker_id)
        seen: set[Any] = set()
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        # Nothing awaits from here on: the loop of this process stands still.
        with psycopg.connect(database_uri, autocommit=True) as connection:
            while len(seen) < 4 and time.monotonic() < give_up_at:
                leased = "SELECT lease_until FROM threadmill.activation"
                seen.add(connection.execute(leased).fetchone())
        assert len(seen) == 4, "the lease is not renewed"


async def test_a_member_learns_once_that_it_shall_drain(
    renewing: Renewing, database: Database, database_uri: str
) -> None:
    key = await renewing.members.join(renewing.member)
    with renewing.thread(database_uri, key, _OFTEN, None):
        await renewing.renewal()
        assert renewing.drains == 0
        await PostgresFleet(database).drain(renewing.member.worker_id)
        for _ in range(4):
            await renewing.renewal()
    assert renewing.drains == 1


async def test_a_member_that_was_silent_still_learns_that_it_shall_drain(
    renewing: Renewing, database: Database, database_uri: str
) -> None:
    """It was frozen before it heard of it, for longer than others are remembered."""
    other = Member(uuid4(), "other", "worker", "0")
    await renewing.members.join(other)
    key = await renewing.members.join(renewing.member)
    await PostgresFleet(database).drain(renewing.member.worker_id)
    await renewing.members.forget_silent(silent_seconds=0)
    left = [member.worker_id for member in await PostgresFleet(database).list()]
    with renewing.thread(database_uri, key, _OFTEN, None):
        for _ in range(2):
            await renewing.renewal()
    assert renewing.drains == 1
    assert other.worker_id not in left
