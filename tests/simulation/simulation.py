"""Plays one schedule to its end, and says what was wrong with it.

::

    outcome = simulate(plan_of(4711))
    assert not outcome.violations

The code under test is the real one: `Worker`, `Sweep`, `Cancel`, `Activate`, and of an
entry how it writes, stops and leaves. Played are time, the store, the hints and the
graph. Faults end after a while; then everything that was accepted must come to its
end. One seed gives one trace, byte for byte, on any machine.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from random import Random
from typing import Any, Final, NoReturn, cast
from uuid import UUID

import structlog

from tests.simulation.bus import Bus
from tests.simulation.loop import World
from tests.simulation.plan import (
    ATTEMPTS_MAX,
    FAULTS_SECONDS,
    LEASE_SECONDS,
    Fault,
    Message,
    Plan,
    Update,
)
from tests.simulation.process import Process, Surroundings
from tests.simulation.script import GPU, GRAPH, catalogue
from tests.simulation.store.accepting import MemoryRuns, MemoryThreads
from tests.simulation.store.tables import Tables
from tests.simulation.store.working import (
    MemoryCheckpoints,
    MemoryDispatcher,
    MemoryMembers,
    MemoryRunStates,
    MemoryStream,
)
from tests.simulation.wire import Wire
from tests.simulation.witness import Witness
from threadmill.brokers.base import Hint
from threadmill.checkpoints.base import ANY_HEAD, Commit, Put
from threadmill.domain.run import TERMINAL, RunStatus
from threadmill.engine.cancel import Cancel
from threadmill.engine.sweep import Sweep
from threadmill.errors import Error, RequestError, Unavailable
from threadmill.stores.records import NewRun
from threadmill.worker.worker import Worker

TENANT: Final = "default"
# The longest that a schedule may take, after its faults have ended.
_PATIENCE_SECONDS: Final = 60.0
_ASKS_MAX: Final = 4


class Store:
    """The in-memory store: all ports over one set of tables."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.runs = MemoryRuns(tables)
        self.threads = MemoryThreads(tables)
        self.dispatcher = MemoryDispatcher(tables)
        self.checkpoints = MemoryCheckpoints(tables)
        self.run_states = MemoryRunStates(tables, self.dispatcher)
        self.stream = MemoryStream(tables)
        self.members = MemoryMembers(tables)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """What is put together; mutants put something else in."""

    tables: type[Tables] = Tables
    store: Callable[[Tables], Store] = Store
    worker: type[Worker] = Worker
    sweep: type[Sweep] = Sweep


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a schedule ended.

    Args:
        violations: what must never be so and was; empty if all is well.
        trace: what happened, a line each.
        counts: how often what happened.
        seconds: of the world.
    """

    seed: int
    violations: Sequence[str]
    trace: Callable[[], Sequence[str]]
    counts: Mapping[str, int]
    seconds: float

    def report(self) -> str:
        """What a failing test shows."""
        command = f"python -m tests.simulation --verbose --seed {self.seed}"
        return "\n".join(
            [
                f"seed {self.seed} violates what must always hold:",
                *(f"  {violation}" for violation in self.violations),
                f"replay it: .venv/bin/{command}",
            ]
        )


def simulate(plan: Plan, build: Build | None = None) -> Outcome:
    """Plays one schedule."""
    simulation = Simulation(plan, build or Build())
    with _listening(simulation.witness):
        return simulation.play()


@dataclass(slots=True)
class _Books:
    """What clients know."""

    asked: int = 0
    answered: dict[UUID, Message] = field(default_factory=dict)


class Simulation:
    """One schedule in one world."""

    def __init__(self, plan: Plan, build: Build) -> None:
        self._plan = plan
        self._chance = chance = Random(f"play {plan.seed}")
        self._drawn = 0
        self._world = world = World()
        self.witness = Witness(ATTEMPTS_MAX, lambda: world.now, quiet=plan.quiet)
        tables = build.tables(
            clock=lambda: world.now,
            ids=self._draw_id,
            chance=chance,
            locked=lambda: chance.random() < plan.locked_chance * self.witness.faulty,
        )
        self._store = build.store(tables)
        self._wire = Wire(world, chance, plan.wire, self.witness.saw)
        self._bus = Bus(world, chance, plan.bus)
        self._around = Surroundings(
            world=world,
            chance=chance,
            wire=self._wire,
            bus=self._bus,
            store=self._store,
            graphs=_graphs(),
            witness=self.witness,
            rules=plan.rules,
            worker=build.worker,
            sweep=build.sweep,
        )
        self._client = world.thread("client")
        self._busy_clients = 0
        self._books = _Books()
        self._threads = [self._draw_id() for _ in range(plan.threads)]
        self._places = [self._start(n) for n in range(plan.processes)]
        self._all = list(self._places)
        self._waits = 0

    def play(self) -> Outcome:
        """Lets it all happen."""
        for message in self._plan.messages:
            self._client_does(message.at, partial(self._ask, message))
        for update in self._plan.updates:
            self._client_does(update.at, partial(self._update, update))
        for fault in self._plan.faults:
            self._waits += 1
            self._world.at(fault.at, self._befall, fault)
        self._world.at(FAULTS_SECONDS, self._calm_down)
        if not self._world.run(
            over=self._is_over, until=FAULTS_SECONDS + _PATIENCE_SECONDS
        ):
            self.witness.violations.append(self._what_is_left())
        self.witness.violations.extend(self._world.failures)
        self._look_at_the_end()
        outcome = Outcome(
            self._plan.seed,
            tuple(self.witness.violations),
            self.witness.lines,
            dict(self.witness.counts),
            self._world.now,
        )
        self.witness.over = True
        self._world.close()
        return outcome

    # --- the fleet -------------------------------------------------------------------

    def _draw_id(self) -> UUID:
        self._drawn += 1
        return UUID(int=self._drawn)

    def _start(self, place: int) -> Process:
        worker_id = self._draw_id()
        name = f"p{place}.{worker_id.int}"
        labels = [GPU] if place == 0 else []
        return Process(self._around, name, worker_id, labels)

    def _befall(self, fault: Fault) -> None:
        process = self._places[fault.process]
        match fault.kind:
            case "kill":
                process.kill()
            case "drain":
                process.drain()
            case "freeze":
                process.freeze(fault.seconds)
            case "block":
                process.block(fault.seconds)
            case "session":
                self.witness.note(process.name, "loses its session")
                process.break_session()
            case _:
                self._store_fails(fault)
        self._world.after(fault.seconds, self._is_past)

    def _is_past(self) -> None:
        self._waits -= 1

    def _store_fails(self, fault: Fault) -> None:
        self.witness.note("store", fault.kind, f" for {fault.seconds:.3f} s")
        self._wire.cut(fault.seconds)
        if fault.kind == "restart":
            tables = self._store.tables
            tables.locks.clear()
            tables.started_at = self._world.now + fault.seconds
            for process in self._places:
                if process.alive:
                    process.break_session()

    def _calm_down(self) -> None:
        self.witness.note("world", "calms down")
        self.witness.faulty = False
        self._wire.mend()
        self._supervise()

    def _supervise(self) -> None:
        """Starts again what has ended, as whoever runs a fleet does."""
        for place, process in enumerate(self._places):
            if not process.alive:
                self._places[place] = self._start(place)
                self._all.append(self._places[place])
        self._world.after(0.5, self._supervise)

    # --- clients ---------------------------------------------------------------------

    def _client_does(self, at: float, what: Callable[[], Any]) -> None:
        self._busy_clients += 1
        self._world.at(
            at,
            self._client.call_soon,
            lambda: self._client.create_task(self._counted(what)),
        )

    async def _counted(self, what: Callable[[], Any]) -> None:
        try:
            await what()
        finally:
            self._busy_clients -= 1

    async def _ask(self, message: Message) -> None:
        """Asks for a run, again under the same key while there is no answer."""
        runs = self._wire.to(self._store.runs, self._client)
        self._books.asked += 1
        new = NewRun(
            run_id=UUID(int=0),
            thread_id=self._threads[message.thread],
            assistant_id=UUID(int=0),
            graph_id=GRAPH,
            kwargs=message.kwargs,
            strategy=message.strategy,
            after_seconds=message.after_seconds,
            create_thread=True,
            idempotency_key=f"key {self._books.asked}",
        )
        for _ in range(_ASKS_MAX):
            new = replace(new, run_id=self._draw_id())
            try:
                accepted = await runs.accept(TENANT, new)
            except Unavailable:
                continue
            except RequestError:
                return
            new = replace(new, run_id=accepted.run.run_id)
            self._books.answered[new.run_id] = message
            self._bus.ready(Hint(GRAPH))
            if message.cancel_after is not None:
                await asyncio.sleep(message.cancel_after)
                await self._cancel(new)
            return

    async def _cancel(self, run: NewRun) -> None:
        runs = cast("Any", self._wire.to(self._store.runs, self._client))
        with suppress(Error):
            await Cancel(runs, self._bus)(TENANT, run.thread_id, run.run_id)

    async def _update(self, update: Update) -> None:
        """Updates a thread's state as a server does, and perhaps dies over it."""
        threads = self._wire.to(self._store.threads, self._client)
        thread_id = self._threads[update.thread]
        with suppress(Error):
            fence = await threads.begin_update(
                TENANT,
                thread_id,
                worker_id=UUID(int=0),
                lease_seconds=LEASE_SECONDS,
                graph_id=GRAPH,
            )
            if update.dies:
                return
            await self._put(f"u{fence.token}", fence)
            goes_on = await threads.end_update(fence, status=None)
            if goes_on is not None:
                self._bus.ready(Hint(goes_on.graph_id))

    async def _put(self, name: str, fence: Any) -> None:
        checkpoints = self._wire.to(self._store.checkpoints, self._client)
        head = await checkpoints.get(TENANT, str(fence.thread_id), "")
        applied = () if head is None else head.checkpoint["channel_values"]["applied"]
        made = {"id": name, "channel_values": {"applied": (*applied, (name, 0, ()))}}
        parent = None if head is None else head.checkpoint["id"]
        put = Put(
            "",
            cast("Any", made),
            cast("Any", {"step": 0, "source": "update"}),
            parent,
            ANY_HEAD,
        )
        await checkpoints.commit(
            TENANT, str(fence.thread_id), Commit(puts=(put,)), fence
        )

    # --- the end ---------------------------------------------------------------------

    def _is_over(self) -> bool:
        if self._busy_clients or self._waits:
            return False
        tables = self._store.tables
        return (
            not tables.activations
            and not tables.supersteps
            and not self._wire.writing
            and not tables.timers
            and all(run.status in TERMINAL for run in tables.runs.values())
            and all(process.idle for process in self._all)
        )

    def _what_is_left(self) -> str:
        tables = self._store.tables
        runs = [
            f"run {run.new.run_id.int} is {run.status.value}"
            for run in tables.runs.values()
            if run.status not in TERMINAL
        ]
        rows = [f"left: {row}" for row in tables.activations.values()]
        busy = [f"{p.name} is busy" for p in self._all if not p.idle]
        return "it does not end: " + "; ".join([*runs, *rows, *busy])

    def _look_at_the_end(self) -> None:
        wrong = self.witness.violations.append
        tables, ended = self._store.tables, self.witness.ended
        for run_id in self._books.answered:
            if (TENANT, run_id) not in tables.runs:
                wrong(f"run {run_id} was accepted and is gone")
        asked = Counter(run.new.idempotency_key for run in tables.runs.values())
        for key, runs in asked.items():
            if runs > 1:
                wrong(f"what was asked for once under '{key}' became {runs} runs")
        for run in tables.runs.values():
            if run.status in TERMINAL and run.new.run_id not in ended:
                wrong(f"run {run.new.run_id} has ended, and nobody has ended it")
        for thread in tables.threads.values():
            if thread.holder is not None and not tables.activations:
                wrong(f"thread {thread.thread_id} is held by nobody")
            self._look_at_thread(thread.thread_id)

    def _look_at_thread(self, thread_id: UUID) -> None:
        """The state holds every run that succeeded, whole, once and in order."""
        wrong = self.witness.violations.append
        applied = self.witness.applied.get(thread_id, ())
        told = [e.data for e in self._store.tables.events.get((TENANT, thread_id), ())]
        order: list[int] = []
        spared = self._plan.poisoned
        for run in self._store.tables.of_thread.get((TENANT, thread_id), ()):
            run_id, supersteps = run.new.run_id, run.new.kwargs["supersteps"]
            given = {step: found for by, step, found in applied if by == run_id}
            steps = list(given)
            whole = list(range(-1, len(supersteps)))
            if steps != whole[: len(steps)]:
                wrong(f"run {run_id} has applied {steps}")
            poison = run.new.kwargs["poison"]
            if spared and run.status is RunStatus.ERROR and poison is None:
                wrong(f"run {run_id} is given up for what another one has done")
            if run.status is RunStatus.SUCCESS and steps != whole:
                wrong(f"run {run_id} has succeeded and applied {steps} only")
            for step in steps[1:]:
                tasks = [f"{run_id}/{step}/{n}" for n in range(len(supersteps[step]))]
                if list(given[step]) != tasks:
                    wrong(f"superstep {step} of {run_id} has applied {given[step]}")
            events = [data for data in told if data.startswith(f"{run_id}/")]
            if events != [f"{run_id}/{step}" for step in steps if step >= 0]:
                wrong(f"run {run_id} has applied {steps} and told {events}")
            if steps and not run.new.after_seconds:
                order.append([by for by, _, _ in applied].index(run_id))
        if order != sorted(order):
            wrong(f"runs of thread {thread_id} are applied out of their order")


@cache
def _graphs() -> Any:
    return catalogue()


@contextmanager
def rarely_collecting() -> Iterator[None]:
    """For many schedules in a row: Python looks for garbage where there is some.

    Each schedule leaves cycles behind. What LangGraph has loaded is never looked at,
    and what is new is looked at while it is in the processor's cache: with a threshold
    of 100,000 instead, a quarter of the time goes into it.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(5_000, 500, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextmanager
def _listening(witness: Witness) -> Iterator[None]:
    """What the code logs goes to the witness and nowhere else."""

    def hear(_logger: object, _method: str, entry: Any) -> NoReturn:
        witness.logged(entry["event"])
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[hear], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)
