"""The one way of an attempt to the store: every write goes through the fence.

LangGraph hands over task results and checkpoints one by one. Here they queue up while
a commit is under way, and the next commit takes all that waits, together with the
events that describe it. A commit is one transaction that first locks the activation's
row by its token; once one has failed, nothing more is written, whatever the graph
still does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol
from uuid import UUID

from threadmill.checkpoints.base import (
    Checkpoints,
    Commit,
    Committed,
    EndOfTasks,
    Plan,
    Put,
    SyncCheckpoints,
    Writes,
)
from threadmill.domain.fence import Fence
from threadmill.engine.activation.tap import Owner, Tap
from threadmill.engine.uncancelled import uncancelled
from threadmill.errors import LeaseLost, StoreUnavailable
from threadmill.faults import Faults
from threadmill.stores.records import FreeSlot, Run

Item = Put | Writes


class Until(Enum):
    """What an item waits for: the next commit that has this in it."""

    ANYTHING = "anything"
    LEAVING = "the activation is handed back, or the run ends"
    CHECKPOINT = "the checkpoint that follows it; it goes with that or never"
    CHECKPOINT_OR_END = "the checkpoint that follows it, or the end of the run"


_RIDE: Final = frozenset({Until.CHECKPOINT, Until.CHECKPOINT_OR_END})


@dataclass(slots=True, eq=False)
class _Waiting:
    item: Item | None
    until: Until = Until.ANYTHING
    ends: UUID | None = None


class Ends(Protocol):
    """Who knows what it means that tasks end; see `Share`."""

    def end_of(self, activations: Sequence[UUID]) -> EndOfTasks:
        """What a commit says that ends these."""
        ...

    def on_ended(self, ended: EndOfTasks, committed: Committed) -> None:
        """They have ended."""
        ...


class Writer:
    """Commits what an attempt writes. Belongs to one event loop.

    Attributes:
        fence: what the attempt holds. It changes between commits, when tasks are
            claimed or end.
        idle: it holds nothing right now: events wait.
        ends: asked about commits that end tasks.

    Args:
        store: where commits go.
        blocking: the same for subgraphs that a node calls without awaiting.
        fence: the claim.
        tap: the attempt's event recorder.
        progressed: whether the claim counts as a first attempt already.
        run: whose state it is; its labels are what a worker must have for any of it.
        on_events: told after each commit with events.
        faults: what tests make happen around commits.
    """

    def __init__(
        self,
        *,
        store: Checkpoints,
        blocking: SyncCheckpoints,
        fence: Fence,
        tap: Tap,
        progressed: bool,
        run: Run,
        on_events: Callable[[], None],
        faults: Faults,
    ) -> None:
        self._store = store
        self._blocking = blocking
        self.fence = fence
        self.idle = False
        self.ends: Ends | None = None
        self._thread = str(fence.thread_id)
        self._tap = tap
        self._progressed = progressed
        self._run = run
        self._on_events = on_events
        self.faults = faults
        self._loop = asyncio.get_running_loop()
        self._lock = asyncio.Lock()
        self._queue: list[_Waiting] = []
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.released = False

    def hold(self, item: Item, until: Until = Until.ANYTHING) -> None:
        """Lets `item` wait.

        Args:
            item: a checkpoint or a task's result.
            until: for what, whatever is committed meanwhile.
        """
        self._queue.append(_Waiting(item, until))

    async def settle(self) -> None:
        """Returns when what a task builds on is durable; events alone may wait on.

        Raises:
            Error: see `commit`.
        """
        if self._queue or self._lock.locked() or self.failure is not None:
            await self.flush()

    async def hand_over(
        self, labels: Sequence[str], slot: FreeSlot | None = None
    ) -> Committed:
        """Commits everything that waits, and hands the activation back with it.

        Args:
            labels: what a worker must have to take it.
            slot: takes what is ready then.

        Raises:
            Error: see `commit`.
        """
        async with self._lock:
            asked = Commit(release=True, labels=labels, slot=slot)
            return await self._commit_all(asked)

    async def plan(self, plan: Plan) -> Committed:
        """Commits everything that waits, and a plan with it.

        Raises:
            Error: see `commit`.
        """
        async with self._lock:
            return await self._commit_all(Commit(plan=plan))

    async def end(self, activation_id: UUID) -> None:
        """Ends a task that leaves no result.

        Raises:
            Error: see `commit`.
        """
        self._queue.append(_Waiting(None, ends=activation_id))
        await self.flush()

    async def rest(self) -> Commit:
        """Takes what waits, for whoever ends the run to commit.

        Raises:
            LeaseLost: a commit has failed.
        """
        async with self._lock:
            if self.failure is not None:
                raise LeaseLost from self.failure
            return self._take(leaving=True, ending=True)

    async def commit(self, item: Item, *, ends: UUID | None = None) -> None:
        """Returns when `item` is durable, with all that waited before it.

        Args:
            item: a checkpoint or a task's result.
            ends: the activation of the task that is done with it.

        Raises:
            LeaseLost: the fence does not hold, or an earlier commit has failed.
            Error: whatever the store met; nothing is written any more.
        """
        waiting = _Waiting(item, ends=ends)
        self._queue.append(waiting)
        async with self._lock:
            # Somebody else's commit may have taken it along.
            if self.failure is not None or waiting in self._queue:
                await self._commit_all()

    async def flush(self) -> None:
        """Commits what waits, events included as far as they may go.

        What waits for the end, or for leaving, waits on. Once the activation is handed
        back nothing is left to do: what LangGraph tells then, it tells the next entry.

        Raises:
            Error: see `commit`.
        """
        async with self._lock:
            if not self.released:
                await self._commit_all()

    def commit_blocking(self, item: Item, fence: Fence) -> None:
        """Blocks the calling thread until `item` is durable; for subgraphs only.

        What they tell is loose and goes its own way.

        Args:
            item: a checkpoint or a task's result.
            fence: of the task that calls the subgraph; others of the entry may end
                meanwhile.

        Raises:
            Error: see `commit`.
        """
        if self.failure is not None:
            raise LeaseLost from self.failure
        writes, puts = _sorted([item])
        commit = Commit(writes=writes, puts=puts, graph_id=self._run.graph_id)
        self.faults.at_blocking("commit.before")
        try:
            self._blocking.commit(fence.tenant, self._thread, commit, fence)
        except BaseException as error:
            self.refuse(error)
            raise
        self.faults.at_blocking("commit.after")

    def refuse(self, reason: BaseException) -> None:
        """From now on nothing is written any more; callable from any thread."""
        if self.failure is None:
            if isinstance(reason, asyncio.CancelledError):
                reason = StoreUnavailable("a commit was cancelled: its outcome is open")
            self.failure = reason
            self._loop.call_soon_threadsafe(self.failed.set)

    async def _commit_all(self, asked: Commit | None = None) -> Committed:
        """Commits what waits, and what is `asked` besides."""
        if self.failure is not None:
            raise LeaseLost from self.failure
        if self.idle:
            return Committed()
        commit = self._take(leaving=asked is not None and asked.release)
        if asked is not None:
            commit = replace(
                commit,
                release=asked.release,
                slot=asked.slot,
                labels=asked.labels,
                plan=asked.plan,
            )
        if commit.is_empty:
            return Committed()
        # LangGraph commits from within a node's task, which may have a timeout of its
        # own or a sibling that fails: neither makes the outcome of a commit unknown.
        return await uncancelled(self._send(commit))

    async def _send(self, commit: Commit) -> Committed:
        try:
            await self._pass(commit, "before")
            committed = await self._store.commit(
                self.fence.tenant, self._thread, commit, self.fence
            )
        except BaseException as error:
            self.refuse(error)
            raise
        await self._pass(commit, "after")
        self.released = self.released or commit.release
        self._progressed = self._progressed or commit.progress
        if commit.ended is not None and self.ends is not None:
            self.ends.on_ended(commit.ended, committed)
        if commit.events:
            self._on_events()
        return committed

    async def _pass(self, commit: Commit, side: str) -> None:
        """Passes the named points of a commit."""
        await self.faults.at(f"commit.{side}")
        if commit.events:
            await self.faults.at(f"append.{side}")
        if commit.plan is not None:
            await self.faults.at(f"plan.{side}")
        if commit.ended is not None:
            await self.faults.at(f"join.{side}")

    def _take(self, *, leaving: bool = False, ending: bool = False) -> Commit:
        """A commit of what need not wait any longer."""
        met = {Until.ANYTHING}
        met |= {Until.LEAVING} if leaving else set()
        met |= {Until.CHECKPOINT_OR_END} if ending else set()
        taken: list[_Waiting] = []
        followed = False
        for waiting in reversed(self._queue):
            if waiting.until in met or (followed and waiting.until in _RIDE):
                followed = followed or _is_checkpoint(waiting.item)
                taken.insert(0, waiting)
        self._queue = [w for w in self._queue if w not in taken]
        writes, puts = _sorted([w.item for w in taken if w.item is not None])
        ended = [w.ends for w in taken if w.ends is not None]
        owners: set[Owner] = {("put", put.checkpoint["id"]) for put in puts}
        owners |= {("task", result.task_id) for result in writes}
        return Commit(
            writes=writes,
            puts=puts,
            events=self._tap.take(owners, past_mark=ending),
            labels=self._run.labels,
            progress=not self._progressed and any(not put.ns for put in puts),
            ended=self.ends.end_of(ended) if ended and self.ends is not None else None,
            graph_id=self._run.graph_id,
        )


def _is_checkpoint(item: Item | None) -> bool:
    """Whether it is one of the thread's own, not of a subgraph's."""
    return isinstance(item, Put) and not item.ns


def _sorted(batch: Sequence[Item]) -> tuple[list[Writes], list[Put]]:
    return (
        [item for item in batch if isinstance(item, Writes)],
        [item for item in batch if isinstance(item, Put)],
    )
