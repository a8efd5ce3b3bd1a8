"""Healing: who died, what is due, and that one trouble does not hide another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

from structlog.testing import capture_logs

from tests.stores.run_store import GRAPH, TENANT, RunStore
from threadmill.domain.run import RunStatus
from threadmill.drivers.postgres.database import Database
from threadmill.engine.sweep import Sweep, SweepRules
from threadmill.errors import StoreUnavailable
from threadmill.stores.postgres.members import PostgresMembers
from threadmill.stores.postgres.renewal import RENEWAL
from threadmill.stores.records import Member, Next, Timer
from threadmill.testing.engine import SilentHints


class Healing:
    """A sweep over one database, and what it hints."""

    def __init__(self, database: Database, **rules: Any) -> None:
        self._database = database
        self.store = RunStore(database)
        self.dispatcher: Any = self.store.dispatcher
        self.members = PostgresMembers(database, present=True)
        self.hints = SilentHints()
        self.undisturbed = True
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
            undisturbed=lambda _: self.undisturbed,
        )

    async def join(self) -> UUID:
        """A worker that tells of its presence lock and does not hold it: dead."""
        member = Member(uuid4(), "worker", "worker", "0")
        lock_key = await self.members.join(member)
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
        return member.worker_id


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
    assert worker in await healing.members.absent(settle_seconds=0)
    for _ in range(3):
        await sweep.look_for_absent()
    assert len(await healing.store.claim(10)) == 3
    assert worker not in await healing.members.absent(settle_seconds=0)


async def test_a_member_is_dead_only_when_its_lock_stays_free(
    database: Database,
) -> None:
    healing = Healing(database, free_seconds=3600)
    worker = await healing.join()
    await healing.store.accept(await healing.store.thread())
    await healing.store.claim(1, worker)
    sweep = healing.sweep()
    pauses = [await sweep.look_for_absent() or 0.0 for _ in range(3)]
    assert await healing.store.claim(10) == []
    assert pauses[0] == 3600
    assert pauses == sorted(pauses, reverse=True)  # when it may be, and no later


async def test_nobody_is_dead_right_after_the_database_started(
    database: Database,
) -> None:
    healing = Healing(database, settle_seconds=10.0**6)
    worker = await healing.join()
    await healing.store.accept(await healing.store.thread())
    await healing.store.claim(1, worker)
    await healing.sweep().look_for_absent()
    assert await healing.store.claim(10) == []


async def test_nobody_is_dead_right_after_our_own_session_broke(
    database: Database,
) -> None:
    """What has broken it may have broken everybody's."""
    healing = Healing(database)
    worker = await healing.join()
    await healing.store.accept(await healing.store.thread())
    await healing.store.claim(1, worker)
    healing.undisturbed = False
    sweep = healing.sweep()
    await sweep.look_for_absent()
    assert await healing.store.claim(10) == []
    healing.undisturbed = True
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
