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
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NoReturn, TypeVar
from uuid import UUID, uuid4

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.pregel import Pregel

from threadmill.checkpoints.base import Checkpoints, Commit, Stored, SyncCheckpoints
from threadmill.config import GraphSpec
from threadmill.domain.fence import Fence
from threadmill.domain.multitask import MultitaskStrategy
from threadmill.domain.run import TERMINAL
from threadmill.engine.activate import Activate, ActivateRules, Attempt
from threadmill.engine.activation.entry import EntryLimits
from threadmill.engine.graphs import GraphCatalogue, LoadedGraph
from threadmill.errors import StoreUnavailable
from threadmill.stores.base import Claim, Dispatcher, Ending, NewRun, Next, Run, Runs
from threadmill.streams.base import Stream

T = TypeVar("T")

# More claims of one run than any test needs: a run that does not end is a bug.
_CLAIMS_MAX: Final = 400
_LEASE_SECONDS: Final = 300.0
# How long the ruins of a killed process may take to fall.
_FALL_SECONDS: Final = 5.0


class FaultKind(StrEnum):
    """What happens at a commit."""

    KILL_BEFORE = "killed before"
    KILL_AFTER = "killed after"
    REFUSE = "database away before"
    LOSE_ANSWER = "answer lost after"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault at the n-th commit of a process, counted from 1."""

    kind: FaultKind
    commit: int

    @property
    def kills(self) -> bool:
        """Whether the process is gone afterwards."""
        return self.kind in {FaultKind.KILL_BEFORE, FaultKind.KILL_AFTER}

    @property
    def writes(self) -> bool:
        """Whether the commit becomes durable."""
        return self.kind in {FaultKind.KILL_AFTER, FaultKind.LOSE_ANSWER}


class Process:
    """A simulated process: every commit of the engine goes through `commit`.

    Args:
        fault: what befalls it, if anything.
        on_commit: told what has become durable, before anybody else learns of it.
    """

    def __init__(
        self,
        fault: Fault | None = None,
        on_commit: Callable[[Commit], None] | None = None,
    ) -> None:
        self.worker_id = uuid4()
        self.commits = 0
        self.faulted = False
        self.died = asyncio.Event()
        self._falling = asyncio.Event()
        self._fault = fault
        self._on_commit = on_commit
        self._loop = asyncio.get_running_loop()
        self._counting = threading.Lock()
        self._under_way: set[asyncio.Future[Any]] = set()

    async def commit(self, send: Awaitable[T], what: Commit | None = None) -> T:
        """Lets `send` commit, or the fault happen."""
        if self.died.is_set():
            await self._nothing_more(send)
        fault = self._fault_now()
        if fault is not None and not fault.writes:
            await self._fail(fault, send)
        sending = asyncio.ensure_future(send)
        self._under_way.add(sending)
        sending.add_done_callback(self._under_way.discard)
        result = await asyncio.shield(sending)
        if what is not None and self._on_commit is not None:
            self._on_commit(what)
        if fault is not None:
            await self._fail(fault, None)
        if self.died.is_set():
            await self._nothing_more(None)
        return result

    def commit_blocking(self, send: Callable[[], None], what: Commit) -> None:
        """The same for a thread that blocks."""
        fault = self._fault_now()
        if fault is None or fault.writes:
            send()
            if self._on_commit is not None:
                self._on_commit(what)
        if fault is not None:
            if fault.kills:
                self._loop.call_soon_threadsafe(self.died.set)
            raise StoreUnavailable(f"{fault.kind} commit {fault.commit}")

    def _fault_now(self) -> Fault | None:
        if self.faulted and self._fault is not None and self._fault.kills:
            raise StoreUnavailable("the process is gone")
        with self._counting:
            self.commits += 1
            fault = self._fault
            if fault is None or self.faulted or self.commits != fault.commit:
                return None
            self.faulted = True
            return fault

    async def _fail(self, fault: Fault, send: Awaitable[Any] | None) -> NoReturn:
        if fault.kills:
            self.died.set()
            await self._nothing_more(send)
        _drop(send)
        raise StoreUnavailable(f"{fault.kind} commit {fault.commit}")

    async def _nothing_more(self, send: Awaitable[Any] | None) -> NoReturn:
        # Nobody learns that this commit did not happen, until all is torn down.
        _drop(send)
        await self._falling.wait()
        raise asyncio.CancelledError

    async def run(self, work: Awaitable[None]) -> None:
        """Runs `work` until it ends or the process dies; then nothing of it is left."""
        working = asyncio.ensure_future(work)
        dying = asyncio.ensure_future(self.died.wait())
        try:
            await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
            if self._under_way:
                await asyncio.wait(set(self._under_way))
            if not self.died.is_set():
                await working
        finally:
            self._falling.set()
            dying.cancel()
            working.cancel()
            await asyncio.wait({working}, timeout=_FALL_SECONDS)


def _drop(send: Awaitable[Any] | None) -> None:
    if asyncio.iscoroutine(send):
        send.close()


class _CheckpointsOf:
    """The checkpoints as one process sees them."""

    def __init__(self, store: Checkpoints, process: Process) -> None:
        self._store = store
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> None:
        await self._process.commit(
            self._store.commit(tenant, thread_id, commit, fence), commit
        )

    async def get(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None = None
    ) -> Stored | None:
        return await self._store.get(tenant, thread_id, ns, checkpoint_id)


class _BlockingOf:
    """The checkpoints for blocking threads as one process sees them."""

    def __init__(self, store: SyncCheckpoints, process: Process) -> None:
        self._store = store
        self._process = process

    @classmethod
    def one(cls, store: SyncCheckpoints | None, process: Process) -> Any:
        return None if store is None else cls(store, process)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> None:
        self._process.commit_blocking(
            lambda: self._store.commit(tenant, thread_id, commit, fence), commit
        )


class _DispatcherOf:
    """The dispatcher as one process sees it."""

    def __init__(self, dispatcher: Dispatcher, process: Process) -> None:
        self._dispatcher = dispatcher
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)

    async def begin(self, claim: Claim) -> Run:
        return await self._process.commit(self._dispatcher.begin(claim))

    async def release(
        self, fence: Fence, *, count_attempt: bool, delay_seconds: float = 0.0
    ) -> None:
        await self._process.commit(
            self._dispatcher.release(
                fence, count_attempt=count_attempt, delay_seconds=delay_seconds
            )
        )

    async def finish(self, fence: Fence, ending: Ending) -> Next | None:
        return await self._process.commit(self._dispatcher.finish(fence, ending))


@dataclass(slots=True)
class SilentHints:
    """Hints that nobody needs: the driver looks by itself. They are only counted."""

    told: list[str] = field(default_factory=list)

    def ready(self, graph_id: str) -> None:
        """See `Hints.ready`."""
        self.told.append(f"ready {graph_id}")

    def moved(self, tenant: str, thread_id: UUID) -> None:
        """See `Hints.moved`."""
        self.told.append(f"moved {tenant} {thread_id}")

    def stop(self, activation_id: UUID, token: int) -> None:
        """See `Hints.stop`."""
        self.told.append(f"stop {activation_id} {token}")


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
        checkpoints: where state is committed.
        saver: makes a saver of a tenant, for reading.
        stream: the event log.
        blocking: the checkpoints for nodes that block.
        graphs: compiled graphs by id.
        rules: when activations are left; by default the database's failures are
            retried at once.
        limits: bounds of an entry.
        tenant: whose runs these are.
        on_commit: told of every commit of checkpoints that became durable.
    """

    def __init__(
        self,
        *,
        runs: Runs,
        dispatcher: Dispatcher,
        checkpoints: Checkpoints,
        saver: Callable[[str], BaseCheckpointSaver[Any]],
        graphs: Mapping[str, Pregel[Any, Any, Any, Any]],
        stream: Stream | None = None,
        blocking: SyncCheckpoints | None = None,
        rules: ActivateRules | None = None,
        limits: EntryLimits | None = None,
        tenant: str = "default",
        on_commit: Callable[[Commit], None] | None = None,
    ) -> None:
        self._runs = runs
        self._dispatcher = dispatcher
        self._checkpoints = checkpoints
        self._saver = saver
        self._stream = stream
        self._blocking = blocking
        self._graphs = GraphCatalogue(
            [
                LoadedGraph(GraphSpec(id=id_, target=id_, attribute=id_), graph)
                for id_, graph in graphs.items()
            ]
        )
        self._rules = rules or ActivateRules(retry_seconds=0.0)
        self._limits = limits or EntryLimits()
        self._tenant = tenant
        self._on_commit = on_commit
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

    async def claim(self, process: Process) -> Sequence[Claim]:
        """Whatever is ready for one slot of that process."""
        return await self._dispatcher.claim(
            process.worker_id, self._graphs.ids, 1, _LEASE_SECONDS
        )

    async def work(self, process: Process, attempt: Attempt) -> None:
        """Carries one claim out, until it ends or the process dies."""
        activate = Activate(
            graphs=self._graphs,
            dispatcher=_DispatcherOf(self._dispatcher, process),
            checkpoints=_CheckpointsOf(self._checkpoints, process),
            saver=self._saver,
            stream=self._stream,
            blocking=_BlockingOf.one(self._blocking, process),
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
                await self.work(process, attempt_of(claim))
            if process.died.is_set():
                await self.heal(process)
                process = self.process()
            run = await self._runs.get(self._tenant, run.run_id)
            if run.status in TERMINAL:
                return Ended(run, claims, first.commits, first.faulted)
        msg = f"run {run.run_id} does not end"
        raise AssertionError(msg)


def attempt_of(claim: Claim) -> Attempt:
    """An attempt that nobody presses to leave."""
    return Attempt(claim, contended=lambda: False, draining=lambda: False)
