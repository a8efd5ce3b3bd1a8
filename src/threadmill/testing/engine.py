"""Drives the engine inside one process, and kills it wherever you say.

A test that wants to know what a crash leaves behind needs no processes: a simulated
process counts its commits, and at the chosen one it dies, or its database fails. What
happens then is what would happen to a real one: nothing of it is written any more,
and another process claims the activation.

::

    driver = EngineDriver(..., graphs={"agent": graph})
    run = await driver.submit("agent", thread_id, {"input": {...}})
    ended = await driver.carry_out(run, Fault(FaultKind.KILL_BEFORE, commit=3))
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final
from uuid import UUID, uuid4

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel

from threadmill.brokers.base import Hint
from threadmill.checkpoints.base import (
    Checkpoints,
    Commit,
    Committed,
    RunStates,
    SyncCheckpoints,
)
from threadmill.config import GraphPolicy, GraphSpec
from threadmill.domain.multitask import MultitaskStrategy
from threadmill.domain.run import TERMINAL
from threadmill.engine.activate import Activate, ActivateRules
from threadmill.engine.activation.entry import EntryLimits
from threadmill.engine.attempt import Attempt, by_run
from threadmill.engine.effects import EffectPorts
from threadmill.engine.graphs import GraphCatalogue, LoadedGraph
from threadmill.stores.base import Dispatcher, Runs
from threadmill.stores.records import Claim, FreeSlot, NewRun, Run, Superstep
from threadmill.streams.base import Stream
from threadmill.testing.process import (
    BlockingOf,
    CheckpointsOf,
    DispatcherOf,
    EffectsOf,
    Fault,
    Process,
    RunStatesOf,
    SyncEffectsOf,
)

# More claims of one run than any test needs: a run that does not end is a bug.
_CLAIMS_MAX: Final = 400
_LEASE_SECONDS: Final = 300.0
# How often a process that could take another task does not.
_LEFT_TO_OTHERS: Final = 0.4


@dataclass(slots=True)
class SilentHints:
    """Hints that reach nobody: the driver looks by itself. A test may wait for them.

    Args:
        told: what was published, in order.
        published: set whenever something is.
    """

    told: list[str] = field(default_factory=list)
    published: asyncio.Event = field(default_factory=asyncio.Event)

    def ready(self, hint: Hint, n: int = 1) -> None:
        """See `Hints.ready`."""
        del n
        self._tell(f"ready {hint.graph_id}")

    def moved(self, tenant: str, thread_id: UUID) -> None:
        """See `Hints.moved`."""
        self._tell(f"moved {tenant} {thread_id}")

    def stop(self, activation_id: UUID, token: int) -> None:
        """See `Hints.stop`."""
        self._tell(f"stop {activation_id} {token}")

    def _tell(self, hint: str) -> None:
        self.told.append(hint)
        self.published.set()


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a run.

    Args:
        run: its row, terminal.
        claims: how often it was claimed.
        commits: of the first process.
        faulted: whether the fault happened; False when the run ended before.
    """

    run: Run
    claims: int
    commits: int
    faulted: bool


class EngineDriver:
    """Accepts runs and carries them out, one process at a time.

    Args:
        runs: the accepting side.
        dispatcher: the working side.
        run_states: where runs begin and end.
        checkpoints: where state is committed.
        saver: makes a saver of a tenant, for reading.
        stream: the event log.
        blocking: the checkpoints for nodes that block.
        effects: where nodes record what they do outside.
        graphs: compiled graphs by id.
        rules: when activations are left; by default the database's failures are
            retried at once.
        limits: bounds of an entry.
        policies: what langgraph.json would say about the graphs' runs, by id.
        tenant: whose runs these are.
        on_commit: told of every commit of checkpoints that became durable.
        labels: of every process.
    """

    def __init__(
        self,
        *,
        runs: Runs,
        dispatcher: Dispatcher,
        run_states: RunStates,
        checkpoints: Checkpoints,
        saver: Callable[[str], BaseCheckpointSaver[Any]],
        graphs: Mapping[str, Pregel[Any, Any, Any, Any]],
        stream: Stream,
        blocking: SyncCheckpoints,
        effects: EffectPorts,
        rules: ActivateRules | None = None,
        limits: EntryLimits | None = None,
        policies: Mapping[str, GraphPolicy] | None = None,
        tenant: str = "default",
        on_commit: Callable[[Commit], None] | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        self._runs = runs
        self._dispatcher = dispatcher
        self._run_states = run_states
        self._checkpoints = checkpoints
        self._saver = saver
        self._stream = stream
        self._blocking = blocking
        self._effects = effects
        self._graphs = GraphCatalogue(
            [
                LoadedGraph(_spec(id_, (policies or {}).get(id_)), graph)
                for id_, graph in graphs.items()
            ]
        )
        self._rules = rules or ActivateRules(retry_seconds=0.0, shun_seconds=0.0)
        self._limits = limits or EntryLimits()
        self._tenant = tenant
        self._on_commit = on_commit
        self._labels = labels
        self.hints = SilentHints()

    async def submit(
        self,
        graph_id: str,
        thread_id: UUID,
        kwargs: Mapping[str, Any],
        strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE,
    ) -> Run:
        """Accepts a run; the thread is made if it is not there."""
        accepted = await self._runs.accept(
            self._tenant,
            NewRun(
                run_id=uuid4(),
                thread_id=thread_id,
                assistant_id=self._graphs.get(graph_id).assistant_id,
                graph_id=graph_id,
                kwargs=dict(kwargs),
                strategy=strategy,
                create_thread=True,
            ),
        )
        return accepted.run

    def process(self, fault: Fault | None = None) -> Process:
        """A new process with nothing in memory."""
        return Process(fault, self._on_commit)

    async def claim(
        self, process: Process, n: int = 1, of: Superstep | None = None
    ) -> Sequence[Claim]:
        """Whatever is ready for that process, or tasks of a superstep."""
        return await self._dispatcher.claim(
            process.worker_id,
            self._graphs.ids,
            n,
            _LEASE_SECONDS,
            labels=self._labels,
            of=of,
        )

    async def work(self, process: Process, attempt: Attempt) -> None:
        """Carries one claim out, until it ends or the process dies."""
        activate = Activate(
            graphs=self._graphs,
            dispatcher=DispatcherOf(self._dispatcher, process),
            run_states=RunStatesOf(self._run_states, process),
            checkpoints=CheckpointsOf(self._checkpoints, process),
            saver=self._saver,
            stream=self._stream,
            blocking=BlockingOf(self._blocking, process),
            effects=replace(
                self._effects,
                effects=EffectsOf(self._effects.effects, process),
                blocking=SyncEffectsOf(self._effects.blocking, process),
            ),
            hints=self.hints,
            rules=self._rules,
            limits=self._limits,
        )
        await process.run(activate.carry_out(attempt))

    async def heal(self, process: Process) -> None:
        """Re-opens what a dead process has left."""
        await self._dispatcher.reopen(
            [process.worker_id], backoff_seconds=0.0, limit=100
        )

    async def carry_out_spread(self, run: Run, chance: Random, *faults: Fault) -> Ended:
        """The same by several processes at once, each with any part of a superstep.

        Args:
            run: an accepted run.
            chance: says who takes what, and how much of it.
            faults: befall a process each, and leave a third one alone; what is told
                of faults and commits afterwards is the first one's.

        Raises:
            AssertionError: nothing is ready, or there is no end to it.
        """
        one, other = (*faults, None, None)[:2]
        first = self.process(one)
        processes = [first, self.process(other), self.process()]
        claims = 0
        for _ in range(_CLAIMS_MAX):
            chance.shuffle(processes)
            works = []
            for process in processes:
                claimed = await self.claim(process, chance.randint(1, 3))
                claims += len(claimed)
                for together in by_run(claimed):
                    desk = self._desk(process, chance)
                    works.append(self.work(process, attempt_of(*together, desk=desk)))
            if not works:
                msg = f"run {run.run_id} has not ended, and nothing is ready"
                raise AssertionError(msg)
            await asyncio.gather(*works)
            for place, process in enumerate(processes):
                # Also a process that lives may have been leased more than it has heard.
                await self.heal(process)
                if process.died.is_set():
                    processes[place] = self.process()
            run = await self._runs.get(self._tenant, run.run_id)
            if run.status in TERMINAL:
                return Ended(run, claims, first.commits, first.faulted)
        msg = f"run {run.run_id} does not end"
        raise AssertionError(msg)

    def _desk(self, process: Process, chance: Random) -> TestDesk:
        async def some(of: Superstep, n: int) -> Sequence[Claim]:
            if process.died.is_set() or chance.random() < _LEFT_TO_OTHERS:
                return ()
            return await self.claim(process, min(n, chance.randint(1, 3)), of)

        return TestDesk(
            labels=self._labels, tasks_at_once=chance.randint(1, 3), claims=some
        )

    async def carry_out(self, run: Run, fault: Fault | None = None) -> Ended:
        """Works on what is ready until `run` has ended.

        Args:
            run: an accepted run; others of these graphs are carried out as well.
            fault: befalls the first process; whoever follows it has none.

        Raises:
            AssertionError: nothing is ready, or there is no end to it.
        """
        first = process = self.process(fault)
        for claims in range(1, _CLAIMS_MAX):
            claimed = await self.claim(process)
            if not claimed:
                msg = f"run {run.run_id} has not ended, and nothing is ready"
                raise AssertionError(msg)
            for claim in claimed:
                desk = TestDesk(labels=self._labels)
                await self.work(process, attempt_of(claim, desk=desk))
            if process.died.is_set():
                await self.heal(process)
                process = self.process()
            run = await self._runs.get(self._tenant, run.run_id)
            if run.status in TERMINAL:
                return Ended(run, claims, first.commits, first.faulted)
        msg = f"run {run.run_id} does not end"
        raise AssertionError(msg)


@dataclass(slots=True, kw_only=True)
class TestDesk:
    """The `Desk` of an attempt that nobody presses to leave.

    Args:
        labels: what its worker has.
        tasks_at_once: tasks of one superstep that the attempt takes at first.
        tasks_max: tasks of one superstep that it takes at all.
        lease_seconds: how long a commit leases what it claims.
        claims: claims more tasks of a superstep; without it there are none.
        leaving: whether the worker is going away.
    """

    __test__ = False

    labels: Collection[str] = ()
    tasks_at_once: int = 1000
    tasks_max: int = 1000
    lease_seconds: float = _LEASE_SECONDS
    claims: Callable[[Superstep, int], Awaitable[Sequence[Claim]]] | None = None
    leaving: Callable[[], bool] = lambda: False

    def leaves(self) -> bool:
        """See `Desk.leaves`."""
        return self.leaving()

    def has_room(self) -> bool:
        """See `Desk.has_room`."""
        return True

    async def hand_over(
        self, commit: Callable[[FreeSlot | None], Awaitable[Committed]]
    ) -> Committed:
        """See `Desk.hand_over`; whoever drives the test takes what is ready."""
        return await commit(None)

    async def claim(self, of: Superstep, n: int) -> Sequence[Claim]:
        """See `Desk.claim`."""
        return await self.claims(of, n) if self.claims is not None else ()

    def ending(self, keys: Collection[tuple[UUID, int]]) -> None:
        """See `Desk.ending`."""

    def hold(
        self, claims: Sequence[Claim], instead_of: Collection[tuple[UUID, int]]
    ) -> None:
        """See `Desk.hold`."""

    def let_go(self, keys: Collection[tuple[UUID, int]]) -> None:
        """See `Desk.let_go`."""


def _spec(graph_id: str, policy: GraphPolicy | None) -> GraphSpec:
    return GraphSpec(
        id=graph_id,
        target=graph_id,
        attribute=graph_id,
        policy=policy or GraphPolicy(),
    )


def attempt_of(*claims: Claim, desk: TestDesk | None = None) -> Attempt:
    """An attempt that nobody presses to leave."""
    return Attempt(claims, desk or TestDesk())
