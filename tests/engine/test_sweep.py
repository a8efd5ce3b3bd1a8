"""Healing: who died, what is due, and that one trouble does not hide another."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from structlog.testing import capture_logs

from tests.stores.run_store import GRAPH, TENANT, RunStore
from threadmill.domain.run import RunStatus
from threadmill.drivers.postgres.database import Database
from threadmill.engine.sweep import Sweep, SweepRules
from threadmill.errors import StoreUnavailable
from threadmill.stores.postgres.members import PostgresMembers
from threadmill.stores.postgres.renewal import RENEWAL
from threadmill.stores.records import Member, Next, OwnSession, Presence, Timer
from threadmill.testing.engine import SilentHints

EVER = datetime(2000, 1, 1, tzinfo=UTC)
_PATIENCE_SECONDS = 10


class Healing:
    """A sweep over one database, and what it hints."""

    def __init__(self, database: Database, **rules: Any) -> None:
        self._database = database
        self.store = RunStore(database)
        self.dispatcher: Any = self.store.dispatcher
        self.members: Any = PostgresMembers(database, present=True)
        self._fleet = self.members
        self.hints = SilentHints()
        self.now = 0.0
        self.session: OwnSession | None = None
        self._rules = SweepRules(
            **{
                "lease_seconds": 0.0,
                "settle_seconds": 0.0,
                "free_seconds": 0.0,
                "backoff_seconds": 0,
                **rules,
            }
        )

    def sweep(self) -> Sweep:
        return Sweep(
            dispatcher=self.dispatcher,
            members=self.members,
            threads=self.store.threads,
            hints=self.hints,
            rules=self._rules,
            session=lambda: self.session,
            clock=lambda: self.now,
        )

    async def join(self) -> UUID:
        """A worker that tells of its presence lock and does not hold it: dead."""
        member, _ = await self.show()
        self.session = await self.own(1, since=-math.inf)
        return member

    async def dead_at_work(self) -> UUID:
        """A dead worker that holds a run."""
        worker = await self.join()
        await self.store.accept(await self.store.thread())
        await self.store.claim(1, worker)
        return worker

    async def own(self, number: int, since: float) -> OwnSession:
        """A session of the sweeping process, in the database that there is."""
        found = await self._fleet.presence(since=EVER, settle_seconds=0)
        return OwnSession(uuid4(), number, since, EVER, found.database_since)

    async def free(self) -> Sequence[UUID]:
        """Members whose locks are free."""
        found = await self._fleet.presence(since=EVER, settle_seconds=0)
        return list(found.free)

    async def show(self) -> tuple[UUID, int]:
        """A worker, and the key of the lock that the others look at."""
        member = Member(uuid4(), "worker", "worker", "0")
        lock_key = await self.members.join(member)
        assert lock_key is not None
        async with self._database.system_tx() as tx:
            tx.add(
                RENEWAL.see,
                worker_id=member.worker_id,
                name=member.name,
                role=member.role,
                version=member.version,
                graphs=[],
                labels=[],
                slots=0,
                lock_key=lock_key,
            )
        return member.worker_id, lock_key


class Told:
    """Members whose presence is told as it is here, look by look."""

    def __init__(
        self, members: Any, shown: Sequence[Presence | Callable[[], Presence]]
    ) -> None:
        self._shown = iter(shown)
        self.leave = members.leave

    async def presence(self, **_: Any) -> Presence:
        told = next(self._shown)
        return told if isinstance(told, Presence) else told()


async def test_a_dead_members_work_is_reopened_before_it_is_forgotten(
    database: Database,
) -> None:
    healing = Healing(database, batch=2)
    worker = await healing.join()
    for _ in range(5):
        await healing.store.accept(await healing.store.thread())
    await healing.store.claim(5, worker)
    sweep = healing.sweep()
    await sweep.look_for_absent()
    assert len(await healing.store.claim(10)) == 2
    assert worker in await healing.free()
    for _ in range(3):
        await sweep.look_for_absent()
    assert len(await healing.store.claim(10)) == 3
    assert worker not in await healing.free()


async def test_a_member_is_dead_only_when_its_lock_stays_free(
    database: Database,
) -> None:
    healing = Healing(database, free_seconds=3600)
    await healing.dead_at_work()
    sweep = healing.sweep()
    pauses = []
    for healing.now in (0.0, 0.2, 1.0):
        pauses.append(await sweep.look_for_absent())
    assert await healing.store.claim(10) == []
    assert pauses == [3600, 3599.8, 3599]  # when it may be, and no later


async def test_nobody_is_dead_right_after_the_database_started(
    database: Database,
) -> None:
    healing = Healing(database, settle_seconds=10.0**6)
    await healing.dead_at_work()
    await healing.sweep().look_for_absent()
    assert await healing.store.claim(10) == []


@pytest.mark.parametrize(
    ("number", "seconds"), [(1, 2.9), (2, 9.9)], ids=["has just come", "broke"]
)
async def test_nobody_is_dead_right_after_our_own_session_began(
    database: Database, number: int, seconds: float
) -> None:
    """What has broken it, or what was before it, may have broken everybody's."""
    healing = Healing(database, settle_seconds=10.0)
    await healing.dead_at_work()
    found = await healing.members.presence(since=EVER, settle_seconds=0)
    healing.members = Told(healing.members, [replace(found, settled=True)] * 2)
    own = await healing.own(number, since=100.0 - seconds)
    sweep, healing.now = healing.sweep(), 100.0
    for healing.session in (None, own):
        await sweep.look_for_absent()
        assert await healing.store.claim(10) == []
    healing.now += 0.2
    await sweep.look_for_absent()
    assert len(await healing.store.claim(10)) == 1


@pytest.mark.parametrize(("number", "found_dead"), [(1, 1), (2, 0)])
async def test_who_was_seen_is_dead_when_its_lock_is_free(
    database: Database, database_uri: str, number: int, found_dead: int
) -> None:
    """Also right after the start of everything; after a break, it must have renewed."""
    healing = Healing(database, settle_seconds=10.0**6)
    known, key = await healing.show()
    unknown = await healing.join()
    for worker in (known, unknown):
        await healing.store.accept(await healing.store.thread())
        await healing.store.claim(1, worker)
    own = await healing.own(number, since=0.0)
    healing.session = replace(own, renewed_at=datetime.now(UTC) + timedelta(days=1))
    sweep = healing.sweep()
    with psycopg.connect(database_uri, autocommit=True) as session:
        session.execute("SELECT pg_advisory_lock(29805, %s)", [key])
        await sweep.look_for_absent()
        assert await healing.store.claim(10) == []
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while known not in await healing.free():
            pass  # the server ends the session a moment later
    await sweep.look_for_absent()
    assert len(await healing.store.claim(10)) == found_dead


@pytest.mark.parametrize("what", ["session", "renewal"])
async def test_who_has_not_renewed_since_a_break_is_not_dead_yet(
    database: Database, what: str
) -> None:
    """It was back in another session of ours, or holds a lock that it may lose."""
    healing = Healing(database, settle_seconds=10.0**6)
    worker = await healing.dead_at_work()
    found = await healing.members.presence(since=EVER, settle_seconds=0)
    back = [worker] if what == "session" else []
    shown = [replace(found, back=back, free=[]), found]
    healing.members = Told(
        healing.members, [replace(one, settled=False) for one in shown]
    )
    healing.session = await healing.own(2, since=0.0)
    sweep = healing.sweep()
    await sweep.look_for_absent()
    if what == "session":
        healing.session = await healing.own(3, since=1.0)
    await sweep.look_for_absent()
    assert await healing.store.claim(10) == []


async def test_who_holds_a_lock_is_back_when_he_has_renewed(
    database: Database, database_uri: str
) -> None:
    healing = Healing(database)
    worker, key = await healing.show()
    with psycopg.connect(database_uri, autocommit=True) as session:
        session.execute("SELECT pg_advisory_lock(29805, %s)", [key])
        seen = await healing.members.presence(since=EVER, settle_seconds=0)
        later = await healing.members.presence(
            since=datetime.now(UTC) + timedelta(days=1), settle_seconds=0
        )
    assert worker in seen.back
    assert worker not in {*later.back, *later.free}


async def test_another_database_than_our_sessions_tells_of_no_death(
    database: Database,
) -> None:
    """It has failed over, and our session has not noticed yet: all locks are free."""
    healing = Healing(database)
    await healing.dead_at_work()
    own = await healing.own(1, since=-math.inf)
    before = own.database_since - timedelta(seconds=1)
    healing.session = replace(own, database_since=before)
    sweep = healing.sweep()
    for _ in range(2):
        await sweep.look_for_absent()
    assert await healing.store.claim(10) == []


async def test_whose_own_lock_is_free_takes_nobody_for_dead(
    database: Database,
) -> None:
    """Whatever has ended his session has ended the others', too."""
    healing = Healing(database)
    await healing.dead_at_work()
    own = await healing.own(1, since=-math.inf)
    healing.session = replace(own, worker_id=await healing.join())
    await healing.sweep().look_for_absent()
    assert await healing.store.claim(10) == []


async def test_a_look_that_took_long_does_not_make_a_lock_free_for_so_long(
    database: Database,
) -> None:
    healing = Healing(database, free_seconds=0.25)
    await healing.dead_at_work()
    found = await healing.members.presence(since=EVER, settle_seconds=0)

    def slow() -> Presence:
        healing.now += 2.0
        return found

    healing.members = Told(healing.members, [slow, found, found])
    sweep = healing.sweep()
    for _ in range(2):
        await sweep.look_for_absent()
        assert await healing.store.claim(10) == []
    healing.now += 0.25
    await sweep.look_for_absent()
    assert len(await healing.store.claim(10)) == 1


async def test_a_run_that_killed_its_workers_ends_and_the_next_begins(
    database: Database,
) -> None:
    healing = Healing(database, attempts_max=2)
    thread_id = await healing.store.thread()
    await healing.store.accept(thread_id)
    following = await healing.store.accept(thread_id)
    for _ in range(2):
        await healing.store.begin()
        await healing.store.let_leases_expire()
        await healing.sweep().look()
    assert await healing.store.statuses(thread_id) == ["error", "pending"]
    assert await healing.store.holder(thread_id) == following.run_id
    assert healing.hints.told[-1] == f"ready {GRAPH}"
    (event,) = await healing.store.stream.read(TENANT, thread_id, after=0, limit=10)
    assert event.event == "error"
    assert "2 attempts" in event.data
    dead = await healing.store.dead_letters.get(TENANT, event.run_id)
    assert dead.attempts == 2
    assert dead.cause["error"] == "RuntimeError"
    assert "lost its lease: it hung, or was cut off; gave up" in dead.cause["message"]


async def test_a_dead_letter_names_the_node_that_killed_its_workers(
    database: Database,
) -> None:
    healing = Healing(database, attempts_max=0)
    run = await healing.store.accept(await healing.store.thread())
    await healing.store.begin()
    await healing.store.spread(run.run_id, await healing.join())
    await healing.sweep().look_for_absent()
    dead = await healing.store.dead_letters.get(TENANT, run.run_id)
    assert dead.node in {"a", "a2"}
    assert "ended while it ran" in dead.cause["message"]
    assert await healing.store.activations() == []


async def test_an_update_whose_server_died_lets_the_queue_go_on(
    database: Database,
) -> None:
    healing = Healing(database)
    thread_id, server = await healing.store.thread(), await healing.join()
    await healing.store.threads.begin_update(
        TENANT, thread_id, worker_id=server, lease_seconds=60, graph_id=GRAPH
    )
    run = await healing.store.accept(thread_id)
    await healing.sweep().look_for_absent()
    assert await healing.store.holder(thread_id) == run.run_id
    assert healing.hints.told == [f"ready {GRAPH}"]


class Troubled:
    """A dispatcher that cannot carry out some timers."""

    def __init__(self, dispatcher: Any, kinds: Sequence[str]) -> None:
        self._dispatcher = dispatcher
        self._kinds = kinds
        self.carried_out: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)

    async def carry_out(self, timers: Sequence[Timer]) -> Sequence[Next]:
        if timers[0].kind in self._kinds:
            raise StoreUnavailable("not this one")
        following: Sequence[Next] = await self._dispatcher.carry_out(timers)
        self.carried_out.append(timers[0].kind)
        return following


async def test_a_timer_that_fails_does_not_keep_others_waiting(
    database: Database,
) -> None:
    healing = Healing(database, timer_hold_seconds=0.0)
    thread_id = await healing.store.thread()
    delayed = await healing.store.accept(
        thread_id, after_seconds=0.001, idempotency_key="k", idempotency_ttl_seconds=0
    )
    healing.dispatcher = Troubled(healing.store.dispatcher, ["drop_key"])
    with capture_logs() as logs:
        await healing.sweep().look()
    assert [log["event"] for log in logs] == ["sweep.timers_failed"]
    assert await healing.store.holder(thread_id) == delayed.run_id
    healing.dispatcher = healing.store.dispatcher
    await healing.sweep().look()
    assert await healing.store.timers() == []


async def test_what_takes_its_time_comes_last(database: Database) -> None:
    """A thread that is erased may hold a lot; all the timers are held that long."""
    healing = Healing(database)
    await healing.store.accept(
        uuid4(),
        create_thread=True,
        temporary=True,
        kwargs={"temporary": True, "stream_mode": []},
        idempotency_key="k",
    )
    fence, _ = await healing.store.begin()
    await healing.store.finish(fence)
    await healing.store.make_timers_due()
    healing.dispatcher = Troubled(healing.store.dispatcher, [])
    await healing.sweep().look()
    assert healing.dispatcher.carried_out == ["drop_key", "drop_thread"]


async def test_several_processes_heal_together(database: Database) -> None:
    healing = Healing(database, attempts_max=1)
    for _ in range(10):
        await healing.store.accept(await healing.store.thread())
    for _ in range(10):
        await healing.store.begin()
    await healing.store.let_leases_expire()
    await asyncio.gather(*(healing.sweep().look() for _ in range(5)))
    assert await healing.store.activations() == []


async def test_it_goes_on_while_the_store_fails(database: Database) -> None:
    healing = Healing(database, sweep_seconds=0.001, presence_seconds=0.001)
    thread_id = await healing.store.thread()
    run = await healing.store.accept(thread_id, after_seconds=0.05)

    class Away:
        def __init__(self) -> None:
            self.calls = 0

        def __getattr__(self, name: str) -> Any:
            self.calls += 1
            if self.calls < 4:
                raise StoreUnavailable("away")
            return getattr(healing.store.dispatcher, name)

    healing.dispatcher = Away()
    sweeping = asyncio.create_task(healing.sweep().run())
    async with asyncio.timeout(10):
        await healing.hints.published.wait()
    sweeping.cancel()
    await asyncio.wait({sweeping})
    found = await healing.store.runs.get(TENANT, run.run_id)
    assert found.status is RunStatus.PENDING
    assert await healing.store.holder(thread_id) == run.run_id


async def test_who_lost_its_lease_leaves_the_work_to_others_for_a_while(
    database: Database,
) -> None:
    """A worker that froze is not the first to take again what the sweep re-opens."""
    healing = Healing(database)
    frozen = uuid4()
    run = await healing.store.accept(await healing.store.thread())
    await healing.store.begin(frozen)
    await healing.store.let_leases_expire()
    await healing.sweep().look()
    assert await healing.store.claim(1, frozen) == []
    assert [claim.run_id for claim in await healing.store.claim()] == [run.run_id]
