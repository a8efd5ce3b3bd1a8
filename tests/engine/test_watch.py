"""Waiting without polling: nothing is missed, and a lost hint only delays."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadmill.checkpoints.base import RunState
from threadmill.domain.run import RunStatus
from threadmill.engine.shared import Shared
from threadmill.engine.watch import StreamRun, WaitForRun, Watch, mode_of, select
from threadmill.errors import NotFound, StoreUnavailable
from threadmill.stores.records import Run
from threadmill.streams.base import Event, Look

THREAD, RUN = uuid4(), uuid4()
# Long enough that a test which depends on it fails by its own timeout.
NEVER = 3600.0


@dataclass
class Log:
    """An event log that a test writes; it counts how often it is looked at."""

    status: RunStatus = RunStatus.RUNNING
    events: list[Event] = field(default_factory=list)
    looks: int = 0
    away: int = 0
    gone: bool = False
    looked: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, name: str) -> None:
        seq = len(self.events) + 1
        self.events.append(Event(seq, 0, RUN, 1, name, "{}"))

    async def look(self, *_ids: object, after: int, limit: int) -> Look:
        self.looks += 1
        self.looked.set()
        if self.away:
            self.away -= 1
            raise StoreUnavailable
        if self.gone:
            raise NotFound
        return Look(self.status, [e for e in self.events if e.seq > after][:limit])


@dataclass
class Runs:
    """The same log for somebody who waits for the run only."""

    log: Log

    async def look(self, *_ids: object) -> RunState:
        look = await self.log.look(after=0, limit=1)
        return RunState(cast("Run", _Run(look.status)), None)


@dataclass(frozen=True)
class _Run:
    status: RunStatus
    run_id: UUID = RUN
    thread_id: UUID = THREAD


def following(log: Log, watch: Watch, **options: Any) -> asyncio.Task[list[str]]:
    async def collect() -> list[str]:
        follow = StreamRun(cast("Any", log), watch, patience_seconds=60)
        batches = follow("t", THREAD, RUN, after=0, **options)
        return [event.event async for batch in batches for event in batch]

    return asyncio.create_task(collect())


async def test_a_stream_ends_with_its_run() -> None:
    log, watch = Log(), Watch(poll_seconds=NEVER)
    log.add("metadata")
    task = following(log, watch)
    await log.looked.wait()
    log.add("values")
    watch.on_moved("t", THREAD)
    await asyncio.sleep(0)
    log.add("error")
    log.status = RunStatus.ERROR
    watch.on_moved("t", THREAD)
    assert await task == ["metadata", "values", "error"]


async def test_what_moves_before_the_first_look_is_not_missed() -> None:
    """A waiter made before the run was accepted: its hint may come at any time."""
    log, watch = Log(), Watch(poll_seconds=NEVER)
    waiter = watch.waiter("t", THREAD)
    log.status = RunStatus.SUCCESS
    watch.on_moved("t", THREAD)
    assert await following(log, watch, waiter=waiter) == []


async def test_who_waits_does_not_look() -> None:
    log, watch = Log(), Watch(poll_seconds=NEVER)
    task = following(log, watch)
    await log.looked.wait()
    watch.on_moved("t", uuid4())
    watch.on_moved("another tenant", THREAD)
    for _ in range(10):
        await asyncio.sleep(0)
    assert log.looks == 1
    log.status = RunStatus.SUCCESS
    watch.on_moved(None, None)
    assert await task == []


async def test_a_lost_hint_only_delays() -> None:
    log, watch = Log(), Watch(poll_seconds=0.01)
    task = following(log, watch)
    await log.looked.wait()
    log.status = RunStatus.SUCCESS
    assert await task == []


async def test_many_events_at_once() -> None:
    log, watch = Log(RunStatus.SUCCESS), Watch(poll_seconds=NEVER)
    for _ in range(1200):
        log.add("custom")
    assert len(await following(log, watch)) == 1200
    assert log.looks == 13


async def test_an_unreachable_database_is_put_up_with() -> None:
    log, watch = Log(RunStatus.SUCCESS, away=3), Watch(poll_seconds=0.001)
    log.add("values")
    assert await following(log, watch) == ["values"]


async def test_but_not_for_ever() -> None:
    log, watch = Log(RunStatus.SUCCESS, away=1000), Watch(poll_seconds=0.001)
    follow = StreamRun(cast("Any", log), watch, patience_seconds=0.02)
    with pytest.raises(StoreUnavailable):
        async for _ in follow("t", THREAD, RUN, after=0):
            pass
    wait = WaitForRun(cast("Any", Runs(log)), watch, patience_seconds=0.02)
    with pytest.raises(StoreUnavailable):
        await wait("t", cast("Run", _Run(RunStatus.PENDING)), watch.waiter("t", THREAD))


async def test_a_deleted_run_ends_its_stream() -> None:
    log, watch = Log(), Watch(poll_seconds=NEVER)
    log.add("metadata")
    task = following(log, watch)
    await log.looked.wait()
    log.gone = True
    watch.on_moved("t", THREAD)
    assert await task == ["metadata"]
    with pytest.raises(NotFound):
        await following(log, watch)


async def test_waiting_for_a_run() -> None:
    log, watch = Log(), Watch(poll_seconds=NEVER)
    wait = WaitForRun(cast("Any", Runs(log)), watch)
    task = asyncio.create_task(wait("t", cast("Run", _Run(RunStatus.PENDING))))
    await log.looked.wait()
    log.status = RunStatus.SUCCESS
    watch.on_moved("t", THREAD)
    assert (await task).run.status is RunStatus.SUCCESS
    ended = cast("Run", _Run(RunStatus.SUCCESS))
    seen = await wait("t", ended, watch.waiter("t", THREAD))
    assert seen.run.status is RunStatus.SUCCESS
    assert log.looks == 3


async def test_nobody_is_remembered_who_has_gone() -> None:
    watch = Watch(poll_seconds=NEVER)
    waiters = [watch.waiter("t", THREAD), watch.waiter("t", uuid4())]
    assert watch.statistics().threads == 2
    waiters.clear()
    gc.collect()
    assert watch.statistics().threads == 0


@pytest.mark.parametrize(
    ("event", "mode"),
    [
        ("values", "values"),
        ("updates|sub:1|subsub:2", "updates"),
        ("messages", "messages-tuple"),
        ("messages|sub:1", "messages-tuple"),
        ("messages/partial", "messages"),
        ("messages/metadata|sub:1", "messages"),
        ("metadata", "metadata"),
    ],
)
def test_modes_of_events(event: str, mode: str) -> None:
    assert mode_of(event) == mode


@given(st.lists(st.sampled_from(["values", "metadata", "error", "custom|a:1"])))
def test_selecting_keeps_the_order_and_what_everybody_needs(
    names: Sequence[str],
) -> None:
    events = [Event(n, 0, RUN, 1, name, "") for n, name in enumerate(names)]
    chosen = select(events, frozenset({"custom"}))
    assert [e.seq for e in chosen] == [e.seq for e in events if e.event != "values"]
    assert select(events, None) == events


async def test_who_is_woken_together_looks_once() -> None:
    """A thousand clients of one run cost the log what one costs."""
    log, watch = Log(), Watch(poll_seconds=NEVER)
    follow = StreamRun(cast("Any", log), watch)

    async def collect() -> list[str]:
        batches = follow("t", THREAD, RUN, after=0)
        return [event.event async for batch in batches for event in batch]

    clients = [asyncio.create_task(collect()) for _ in range(1000)]
    await log.looked.wait()
    for name in ("a", "b", "c"):
        log.add(name)
        log.looked.clear()
        watch.on_moved("t", THREAD)
        await log.looked.wait()
        # Until all of them wait again.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    log.status = RunStatus.SUCCESS
    watch.on_moved("t", THREAD)
    assert await asyncio.gather(*clients) == [["a", "b", "c"]] * 1000
    assert log.looks <= 2 * 5


async def test_nobody_gets_an_answer_from_before_he_asked() -> None:
    answers = iter(range(10))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def ask(_question: str) -> int:
        answer = next(answers)
        begun.set()
        await go_on.wait()
        return answer

    shared = Shared(ask)
    first = asyncio.create_task(shared("how many?"))
    await begun.wait()
    later = [asyncio.create_task(shared("how many?")) for _ in range(3)]
    other = asyncio.create_task(shared("and why?"))
    await asyncio.sleep(0)
    first.cancel()
    later[0].cancel()
    go_on.set()
    assert await later[1] == await later[2] == 1
    assert await other == 2


async def test_an_error_is_everybodys() -> None:
    async def ask(_question: str) -> int:
        raise StoreUnavailable

    shared = Shared(ask)
    told = await asyncio.gather(
        *(shared("how many?") for _ in range(3)), return_exceptions=True
    )
    assert [type(error) for error in told] == [StoreUnavailable] * 3
