"""The coordination core with one guarantee taken away each.

A simulator that has never found a bug proves nothing. Each of these is a mistake that
somebody could make in the store, in the worker or in the sweep; none of them is a
switch in the code under test.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from tests.simulation.simulation import Build, Store
from tests.simulation.store.accepting import MemoryRuns
from tests.simulation.store.tables import ActivationRow, Tables
from tests.simulation.store.working import (
    MemoryCheckpoints,
    MemoryDispatcher,
    MemoryRunStates,
    finish,
)
from threadmill.checkpoints.base import Commit, Committed, Put, RunState, Stored
from threadmill.domain.fence import Fence
from threadmill.engine.activation.stop import Stop
from threadmill.engine.sweep import Sweep
from threadmill.errors import LeaseLost
from threadmill.stores.records import (
    Accepted,
    Cancelled,
    Claim,
    Ending,
    Finished,
    Lost,
    NewRun,
    Timer,
)
from threadmill.worker.leases import Leases
from threadmill.worker.worker import Worker


class AnyToken(Tables):
    """The fence looks for the activation, not for its token."""

    def fenced(self, fence: Fence) -> ActivationRow:
        row = self.activations.get(fence.activation_id)
        if row is None:
            raise LeaseLost
        return row


class FirstRightOnly(Tables):
    """Of an attempt at several tasks only the first is looked at."""

    def fenced(self, fence: Fence) -> ActivationRow:
        return super().fenced(replace(fence, also=()))


class SuspectsTogether(Tables):
    """What may be what kills its workers is claimed together with others like it."""

    def holds_suspect(self, worker_id: UUID) -> bool:
        del worker_id
        return False


class OldToken(Tables):
    """A claim of what was re-opened goes on under the token that it had."""

    def draw_token(self) -> int:
        return self.tokens or super().draw_token()


class ForgottenQueue(Tables):
    """A run that ends frees its thread and does not look who waits."""

    def oldest_that_may_go(self, tenant: str, thread_id: UUID) -> None:
        del tenant, thread_id


class TwoHolders(Tables):
    """Whoever accepts a run starts it, whether the thread is free or not."""

    def add_timer(self, tenant: str, ref: str, due_at: float) -> None:
        del due_at
        self.activate(tenant, self.runs[tenant, UUID(ref)].new)


class ReleaseByAnybody(MemoryDispatcher):
    """Who gives a claim back need not be who holds it."""

    async def release(self, fence: Fence, **how: Any) -> None:
        row = self._tables.activations.get(fence.activation_id)
        if row is not None:
            fence = replace(fence, token=row.token)
        await super().release(fence, **how)


class UncountedLoss(MemoryDispatcher):
    """What is lost with a worker counts as no attempt."""

    async def reopen(self, dead: Sequence[UUID], **how: Any) -> Sequence[Lost]:
        lost = await super().reopen(dead, **how)
        for one in lost:
            self._tables.activations[one.activation_id].attempt = 0
        return [replace(one, attempt=0) for one in lost]


class TimerGoneWhenTaken(MemoryDispatcher):
    """A timer is deleted by whoever takes it, before it is carried out."""

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[Timer]:
        due = await super().due(hold_seconds=hold_seconds, limit=limit)
        for timer in due:
            del self._tables.timers[timer.tenant, timer.ref]
        return due


class ClaimTwice(MemoryDispatcher):
    """A claim does not mark what it takes: SKIP LOCKED was forgotten."""

    async def claim(self, *given: Any, **how: Any) -> Sequence[Claim]:
        claims = await super().claim(*given, **how)
        for claim in claims:
            if self._tables.chance.random() < 0.1:
                self._tables.activations[claim.activation_id].state = "ready"
        return claims


class CancelLeavesActivation(MemoryRuns):
    """A cancelled run's activation stays to be claimed."""

    async def cancel(self, tenant: str, thread_id: UUID, run_id: UUID) -> Cancelled:
        kept = dict(self._tables.activations)
        cancelled = await super().cancel(tenant, thread_id, run_id)
        self._tables.activations.update(kept)
        return cancelled


class NoIdempotency(MemoryRuns):
    """Who asks again under a key gets another run."""

    async def accept(self, tenant: str, new: NewRun) -> Accepted:
        self._tables.keys.clear()
        return await super().accept(tenant, new)


class EventsOutsideTheFence(MemoryCheckpoints):
    """What a commit tells is stored even if the commit is refused."""

    async def commit(
        self,
        tenant: str,
        thread_id: str,
        commit: Commit,
        fence: Fence | None = None,
    ) -> Committed:
        if fence is not None and fence.run_id is not None:
            self._tables.tell(fence, commit.events)
        return await super().commit(
            tenant, thread_id, replace(commit, events=()), fence
        )


class JoinTooEarly(MemoryCheckpoints):
    """Who ends a task joins the superstep when one other task is left."""

    async def commit(self, *given: Any) -> Committed:
        for superstep in self._tables.supersteps.values():
            if superstep.remaining == 2 and self._tables.chance.random() < 0.2:
                superstep.remaining = 1
        return await super().commit(*given)


class LostCount(MemoryCheckpoints):
    """Two that end tasks at once read one number of what remains, and both write it."""

    async def commit(
        self,
        tenant: str,
        thread_id: str,
        commit: Commit,
        fence: Fence | None = None,
    ) -> Committed:
        committed = await super().commit(tenant, thread_id, commit, fence)
        twice = committed.remaining and self._tables.chance.random() < 0.1
        if twice and fence is not None and fence.run_id is not None:
            self._tables.supersteps[tenant, fence.run_id].remaining += 1
        return committed


class TasksBeginAnew(MemoryCheckpoints):
    """What a step has lost is forgotten when it is spread."""

    async def commit(self, *given: Any) -> Committed:
        before = set(self._tables.activations)
        committed = await super().commit(*given)
        for row in self._tables.activations.values():
            if row.kind == "task" and row.activation_id not in before:
                row.attempt = int(row.state == "leased")
        return committed


class FinishOutsideTheFence(MemoryRunStates):
    """A run is ended by whoever has claimed it at some time."""

    async def finish(self, fence: Fence, ending: Ending, rest: Commit) -> Finished:
        row = self._tables.activations.get(fence.activation_id)
        held = fence if row is None else replace(fence, token=row.token)
        return finish(self._tables, held, ending, rest)


class AnyHead(Tables):
    """The head may be any when a checkpoint is put."""

    def check_heads(self, tenant: str, thread_id: str, puts: Sequence[Put]) -> None:
        del tenant, thread_id, puts


class RememberedState(MemoryRunStates):
    """A worker goes on from the state of a thread that it remembers.

    The comparison of the head finds that out; here it is gone as well (`AnyHead`).
    """

    def __init__(self, tables: Tables, dispatcher: MemoryDispatcher) -> None:
        super().__init__(tables, dispatcher)
        self._remembered: dict[tuple[UUID | None, UUID], Stored] = {}

    async def begin(self, claim: Claim) -> RunState:
        state = await super().begin(claim)
        worker = self._tables.activations[claim.activation_id].worker_id
        if state.at is None:
            return state
        key = (worker, claim.thread_id)
        at = self._remembered.setdefault(key, state.at)
        return RunState(state.run, at)


class KeepsStrangers(Worker):
    """The worker does not give back what is held in its name and it knows nothing of.

    A claim whose answer was lost is then renewed for ever.
    """

    def _renewed(self, asked_at: float, held: Sequence[Claim]) -> None:
        known = [c for c in held if self._leases.stop_of(c.key) is not None]
        super()._renewed(asked_at, known)


class _Hasty(Leases):
    """Holds what it claims since before the claim was sent."""

    def add(self, claims: Sequence[Claim], asked_at: float, stop: Stop) -> None:
        super().add(claims, asked_at, stop)
        for claim in claims:
            self._leases[claim.key].known_at = asked_at


class BlamesTheOvertaken(Worker):
    """A renewal that overtakes a claim is taken for the loss of it.

    Nothing goes wrong by that, but that the node runs twice.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        call_later = asyncio.get_running_loop().call_later
        self._leases = _Hasty(options["times"], call_later, options["clock"])


class NeverEndsUpdates(Sweep):
    """The sweep forgets that a state update, too, may have lost its caller."""

    async def _heal(self, lost: Lost) -> None:
        if lost.kind != "update":
            await super()._heal(lost)


def store_with(
    *,
    runs: type[MemoryRuns] = MemoryRuns,
    dispatcher: type[MemoryDispatcher] = MemoryDispatcher,
    checkpoints: type[MemoryCheckpoints] = MemoryCheckpoints,
    run_states: type[MemoryRunStates] = MemoryRunStates,
) -> Callable[[Tables], Store]:
    """A store in which one port is another."""

    def make(tables: Tables) -> Store:
        store = Store(tables)
        store.runs = runs(tables)
        store.dispatcher = dispatcher(tables)
        store.checkpoints = checkpoints(tables)
        store.run_states = run_states(tables, store.dispatcher)
        return store

    return make


MUTANTS: Final[Mapping[str, Build]] = MappingProxyType(
    {
        "any token": Build(tables=AnyToken),
        "first right only": Build(tables=FirstRightOnly),
        "join too early": Build(store=store_with(checkpoints=JoinTooEarly)),
        "lost count": Build(store=store_with(checkpoints=LostCount)),
        "tasks begin anew": Build(store=store_with(checkpoints=TasksBeginAnew)),
        "suspects together": Build(tables=SuspectsTogether),
        "old token": Build(tables=OldToken),
        "forgotten queue": Build(tables=ForgottenQueue),
        "two holders": Build(tables=TwoHolders),
        "release by anybody": Build(store=store_with(dispatcher=ReleaseByAnybody)),
        "uncounted loss": Build(store=store_with(dispatcher=UncountedLoss)),
        "timer gone when taken": Build(store=store_with(dispatcher=TimerGoneWhenTaken)),
        "claim twice": Build(store=store_with(dispatcher=ClaimTwice)),
        "cancel leaves the activation": Build(
            store=store_with(runs=CancelLeavesActivation)
        ),
        "no idempotency": Build(store=store_with(runs=NoIdempotency)),
        "events outside the fence": Build(
            store=store_with(checkpoints=EventsOutsideTheFence)
        ),
        "finish outside the fence": Build(
            store=store_with(run_states=FinishOutsideTheFence)
        ),
        "remembered state": Build(
            store=store_with(run_states=RememberedState), tables=AnyHead
        ),
        "keeps strangers": Build(worker=KeepsStrangers),
        "blames the overtaken": Build(worker=BlamesTheOvertaken),
        "never ends updates": Build(sweep=NeverEndsUpdates),
    }
)
