"""The battery itself: load and faults for some time, then peace, then the verdict.

Faults come one after the other, in rounds: each round has every kind once, in an order
of its own, and each fault waits until the fleet is complete again. What clients asked
for, and which nodes run at that moment, is chance; order and victims come from the
seed.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from rich.console import Console

from chaos.arena import AFTERMATH_SECONDS, Arena, Skipped
from chaos.aside import Aside
from chaos.brokers import BROKER_FAULTS
from chaos.chunks import CHUNK_FAULTS
from chaos.faults import FAULTS
from chaos.memory import KIND
from chaos.postgres import Postgres
from chaos.report import print_report
from chaos.services import SERVICES, SafeRedis
from threadmill.checkpoints.away import Away
from threadmill.checkpoints.codec import Codec
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.drivers.postgres.migrate import migrate
from threadmill.testing.history import (
    Finding,
    History,
    Invariant,
    Violation,
    judge,
    read_logs,
)
from threadmill.testing.history.channel import Channel
from threadmill.testing.history.facts import Execution, Run
from threadmill.testing.history.reading import settle, tenants_of, with_database

CLIENTS = 6
#: Every kind there is; those of a broker need one, and so do those of Redis.
ALL_FAULTS = {**FAULTS, **BROKER_FAULTS, **CHUNK_FAULTS}
SETTLE_SECONDS = 120.0
# Everybody's way to the database leads through the battery: when it stands still, that
# is a fault like any other. It happens where the machine has too much to do.
STALL = "battery stood still"
_STALL_SECONDS = 0.5
_TICK_SECONDS = 0.05
_PAUSE_SECONDS = (0.2, 1.2)
_FAULT_SECONDS_MAX = 180.0


async def run(
    folder: Path,
    *,
    seconds: float,
    seed: int,
    kinds: Sequence[str],
    first: Sequence[str] = (),
    console: Console,
    settle_seconds: float = SETTLE_SECONDS,
    clients: int = CLIENTS,
    broker: str | None = None,
    chunks_in_redis: bool = False,
) -> bool:
    """Runs the battery; returns whether every promise was kept.

    Args:
        folder: empty, and open for PostgreSQL's account; logs stay there.
        seconds: how long faults are injected.
        seed: of order and victims.
        kinds: which of `ALL_FAULTS`.
        first: those of them that come before the others.
        console: takes the report.
        settle_seconds: how long runs have to end once nothing harms them any more.
        clients: who send at once.
        broker: which one wakes workers; None: PostgreSQL.
        chunks_in_redis: Redis keeps what checkpoints hold.
    """
    postgres = Postgres(folder)
    await postgres.start()
    arena = Arena(folder, postgres, random.Random(seed))
    if KIND in kinds:
        arena.memory.open()
    if broker is not None:
        arena.broker = Aside(SERVICES[broker](folder / broker))
    if chunks_in_redis:
        redis = SafeRedis(folder / "chunks")
        arena.chunks = Aside(redis, "CHECKPOINT_URI")
    try:
        for aside in arena.asides:
            await asyncio.to_thread(aside.service.start)
        if arena.broker is not None:
            # For the battery's own connections.
            os.environ.update(arena.broker.service.env())
        await migrate(postgres.primary.uri)
        rounds = _rounds(arena.chooser, kinds, first)
        await _storm(arena, seconds, rounds, console, settle_seconds, clients)
        history = await _history(arena)
    finally:
        await arena.close()
        await postgres.close()
        for aside in arena.asides:
            await asyncio.to_thread(aside.service.stop)
    findings = [*judge(history)]
    findings = _with_poison(findings, history, arena)
    findings = _with_lost_results(findings, history)
    print_report(console, arena, history, findings)
    return not any(found.violations for found in findings)


async def _storm(
    arena: Arena,
    seconds: float,
    rounds: Iterator[Sequence[str]],
    console: Console,
    settle_seconds: float,
    clients: int,
) -> None:
    """Load and faults; returns when the clients are done and all runs have ended.

    Or when they had their time to: the verdict tells what has not ended.
    """
    keeper = asyncio.create_task(arena.keep())
    watch = asyncio.create_task(_watch_itself(arena))
    stop = asyncio.Event()
    try:
        await arena.staffed(wholly=True)
        load = asyncio.create_task(arena.clients.run(clients, stop))
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await _strike(arena, rounds, console)
        except TimeoutError:
            if not limit.expired():
                raise
        arena.mend_ways()
        stop.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(load, settle_seconds)
        # The last worker may have gone with the last fault.
        await arena.staffed()
        await _settled(arena, settle_seconds)
    finally:
        for task in (keeper, watch):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _watch_itself(arena: Arena) -> None:
    """Logs when this process's event loop has stood still, for ever."""
    while True:
        before = arena.log.now()
        await asyncio.sleep(_TICK_SECONDS)
        now = arena.log.now()
        if now - before > _TICK_SECONDS + _STALL_SECONDS:
            arena.injected[STALL] += 1
            arena.log.fault(STALL, at=before, until=now + AFTERMATH_SECONDS)


async def _strike(
    arena: Arena, rounds: Iterator[Sequence[str]], console: Console
) -> None:
    begun = arena.log.now()
    while kinds := [kind for kind in next(rounds) if kind not in arena.skipped]:
        await _play(arena, kinds, console, begun)


async def _play(
    arena: Arena, kinds: Sequence[str], console: Console, begun: float
) -> None:
    for kind in kinds:
        await arena.staffed()
        await asyncio.sleep(arena.chooser.uniform(*_PAUSE_SECONDS))
        console.print(f"  {arena.log.now() - begun:4.0f} s  {kind}", style="dim")
        arena.injected[kind] += 1
        # A fault that has begun is also taken back.
        striking = asyncio.create_task(_one(arena, kind))
        try:
            await asyncio.shield(striking)
        except asyncio.CancelledError:
            await striking
            raise


async def _one(arena: Arena, kind: str) -> None:
    try:
        async with asyncio.timeout(_FAULT_SECONDS_MAX):
            await ALL_FAULTS[kind](arena, kind)
    except TimeoutError as error:
        msg = f"{kind}: it should be over by now; somebody did not end, or start"
        raise AssertionError(msg) from error
    except Skipped as why:
        arena.skipped[kind] = str(why)
        del arena.injected[kind]


def _rounds(
    chooser: random.Random, kinds: Sequence[str], first: Sequence[str]
) -> Iterator[Sequence[str]]:
    """Every kind once, and once more, each time in another order."""
    others = [kind for kind in kinds if kind not in first]
    yield [
        *chooser.sample(first, len(first)),
        *chooser.sample(others, len(others)),
    ]
    while True:
        yield chooser.sample(kinds, len(kinds))


def _database(arena: Arena) -> Database:
    uri = arena.postgres.primary.uri
    return Database(uri, name="threadmill chaos", limits=Limits())


async def _settled(arena: Arena, seconds: float) -> None:
    """Waits for the end of all runs, also of those that no client waits for."""
    logged = read_logs(arena.logs)
    database = _database(arena)
    await database.open()
    try:
        await settle(database, tenants_of(logged), seconds=seconds)
    finally:
        await database.close()


async def _history(arena: Arena) -> History:
    database = _database(arena)
    await database.open()
    try:
        async with _chunks(arena) as away:
            return await with_database(
                read_logs(arena.logs),
                database,
                Channel(results="done"),
                codec=Codec(),
                away=away,
            )
    finally:
        await database.close()


@asynccontextmanager
async def _chunks(arena: Arena) -> AsyncIterator[Away | None]:
    """What checkpoints hold, by a way that nobody harms."""
    if arena.chunks is None:
        yield None
        return
    from threadmill.checkpoints.redis.chunk_store import RedisChunks
    from threadmill.drivers.redis.database import RedisDatabase

    store = RedisChunks(RedisDatabase(arena.chunks.service.uri()))
    await store.open()
    try:
        yield Away(store)
    finally:
        await store.close()


def _with_poison(
    findings: Sequence[Finding], history: History, arena: Arena
) -> list[Finding]:
    """I9 also says that what kills all its workers is given up, visibly.

    And nothing else is: a run that is given up is no message lost, but here nothing
    harms one so often.
    """
    poisoned = set(arena.clients.poisoned)
    apart = {m.thread for m in history.messages if m.id.endswith("-poison")}
    wrong = [
        Violation(Invariant.BALANCED, thread.id, what)
        for thread in history.threads
        for run in thread.runs
        if (what := _wrong_end(run, poisoned, alone=thread.id in apart))
    ]
    return [
        Finding(f.invariant, f.facts + len(poisoned), [*f.violations, *wrong])
        if f.invariant is Invariant.BALANCED
        else f
        for f in findings
    ]


def _wrong_end(run: Run, poisoned: AbstractSet[str], *, alone: bool) -> str | None:
    if run.id in poisoned and run.status != "error":
        return f"poisoned run {run.id} is {run.status}"
    if run.status == "error" and not alone:
        return f"run {run.id} was given up, and is not poisoned"
    return None


def _with_lost_results(findings: Sequence[Finding], history: History) -> list[Finding]:
    """I5 also says that what a node leaves behind is not lost.

    Each node of ours leaves a mark, and a node begins only when what it builds on is
    stored. So of a run that has ended with success, every mark is in the state; but
    for what began in a window of loss, and built on what is gone.
    """
    lost = []
    begun: defaultdict[str, list[Execution]] = defaultdict(list)
    for execution in history.executions:
        begun[execution.thread].append(execution)
    for thread in history.threads:
        applied = set(thread.results)
        ended = {run.id for run in thread.runs if run.status == "success"}
        lost += [
            Violation(
                Invariant.ONE_RESULT,
                thread.id,
                f"task {one.task} (node {one.node!r}) of run {one.run}, which ended "
                "with success, has left nothing in the state",
            )
            for one in begun[thread.id]
            if one.run in ended
            and one.task not in applied
            and not history.windows(one.at)
        ]
    return [
        Finding(f.invariant, f.facts, [*f.violations, *lost])
        if f.invariant is Invariant.ONE_RESULT
        else f
        for f in findings
    ]
