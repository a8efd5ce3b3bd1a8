"""A simulated process, and what can befall it at each of its commits.

Everything that the engine makes durable goes through the process it runs in. At the
chosen commit that process dies, or its database fails. From a dead process nothing is
written any more, whatever its code still does; what was on its way may arrive.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NoReturn, TypeVar
from uuid import uuid4

from threadmill.checkpoints.base import (
    Checkpoints,
    Commit,
    Committed,
    RunState,
    RunStates,
    Stored,
    SyncCheckpoints,
)
from threadmill.domain.fence import Fence
from threadmill.errors import StoreUnavailable
from threadmill.stores.base import Dispatcher
from threadmill.stores.effects import (
    EffectCall,
    Effects,
    FoundEffect,
    Outcome,
    SyncEffects,
)
from threadmill.stores.records import Claim, Ending, Finished

T = TypeVar("T")

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
    """A simulated process. Belongs to one event loop; threads may commit, too.

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
        self._changed = threading.Condition()
        self._sending = 0

    async def commit(self, send: Awaitable[T], what: Commit | None = None) -> T:
        """Lets `send` commit, or the fault happen."""
        if self._is_gone():
            await self._nothing_more(send)
        fault = self._fault_now()
        if fault is not None and not fault.writes:
            await self._fail(fault, send)
        with self._changed:
            self._sending += 1
        sending = asyncio.ensure_future(self._sent(send, what, fault))
        result = await asyncio.shield(sending)
        if fault is not None:
            await self._fail(fault)
        if self._is_gone():
            await self._nothing_more()
        return result

    async def _sent(
        self, send: Awaitable[T], what: Commit | None, fault: Fault | None
    ) -> T:
        with self._arrives(what):
            result = await send
        if fault is not None and fault.kills:
            # Also when whoever asked for the commit does not wait for it any more.
            self.died.set()
        return result

    def commit_blocking(self, send: Callable[[], T], what: Commit | None = None) -> T:
        """The same for a thread that blocks."""
        if self._is_gone():
            raise StoreUnavailable("the process is gone")
        fault = self._fault_now()
        if fault is not None and not fault.writes:
            self._fail_blocking(fault)
        with self._changed:
            self._sending += 1
        with self._arrives(what):
            result = send()
        if fault is not None:
            self._fail_blocking(fault)
        return result

    def _fail_blocking(self, fault: Fault) -> NoReturn:
        if fault.kills:
            self._loop.call_soon_threadsafe(self.died.set)
        raise StoreUnavailable(f"{fault.kind} commit {fault.commit}")

    @contextmanager
    def _arrives(self, what: Commit | None) -> Iterator[None]:
        try:
            yield
            if what is not None and self._on_commit is not None:
                self._on_commit(what)
        finally:
            with self._changed:
                self._sending -= 1
                self._changed.notify_all()

    def _is_gone(self) -> bool:
        if self.died.is_set():
            return True
        return self.faulted and self._fault is not None and self._fault.kills

    def _fault_now(self) -> Fault | None:
        with self._changed:
            self.commits += 1
            fault = self._fault
            if fault is None or self.faulted or self.commits != fault.commit:
                return None
            self.faulted = True
            return fault

    async def _fail(self, fault: Fault, send: Awaitable[Any] | None = None) -> NoReturn:
        if fault.kills:
            self.died.set()
            await self._nothing_more(send)
        _drop(send)
        raise StoreUnavailable(f"{fault.kind} commit {fault.commit}")

    async def _nothing_more(self, send: Awaitable[Any] | None = None) -> NoReturn:
        # Nobody learns that this commit did not happen, until all is torn down.
        _drop(send)
        await self._falling.wait()
        raise asyncio.CancelledError

    async def run(self, work: Awaitable[None]) -> None:
        """Runs `work` until it ends or the process dies; then nothing of it is left.

        Cancelling this kills the process.
        """
        working = asyncio.ensure_future(work)
        dying = asyncio.ensure_future(self.died.wait())
        try:
            await asyncio.wait({working, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not self._is_gone():
                await working
        finally:
            if not working.done():
                self.died.set()
            await asyncio.to_thread(self._wait_for_arrivals)
            self._falling.set()
            dying.cancel()
            working.cancel()
            await asyncio.wait({working}, timeout=_FALL_SECONDS)

    def _wait_for_arrivals(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._sending == 0, _FALL_SECONDS)


def _drop(send: Awaitable[Any] | None) -> None:
    if asyncio.iscoroutine(send):
        send.close()


class CheckpointsOf:
    """The checkpoints as one process sees them."""

    def __init__(self, store: Checkpoints, process: Process) -> None:
        self._store = store
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> Committed:
        """See `Checkpoints.commit`."""
        return await self._process.commit(
            self._store.commit(tenant, thread_id, commit, fence), commit
        )

    async def get(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None = None
    ) -> Stored | None:
        """See `Checkpoints.get`."""
        return await self._store.get(tenant, thread_id, ns, checkpoint_id)


class BlockingOf:
    """The checkpoints for blocking threads as one process sees them."""

    def __init__(self, store: SyncCheckpoints, process: Process) -> None:
        self._store = store
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> None:
        """See `SyncCheckpoints.commit`."""
        self._process.commit_blocking(
            lambda: self._store.commit(tenant, thread_id, commit, fence), commit
        )


class DispatcherOf:
    """The dispatcher as one process sees it."""

    def __init__(self, dispatcher: Dispatcher, process: Process) -> None:
        self._dispatcher = dispatcher
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)

    async def release(self, fence: Fence, *, count_attempt: bool, **how: Any) -> None:
        """See `Dispatcher.release`."""
        await self._process.commit(
            self._dispatcher.release(fence, count_attempt=count_attempt, **how)
        )


class RunStatesOf:
    """Runs and their state as one process sees them."""

    def __init__(self, run_states: RunStates, process: Process) -> None:
        self._run_states = run_states
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run_states, name)

    async def begin(self, claim: Claim) -> RunState:
        """See `RunStates.begin`."""
        return await self._process.commit(self._run_states.begin(claim))

    async def finish(self, fence: Fence, ending: Ending, rest: Commit) -> Finished:
        """See `RunStates.finish`."""
        return await self._process.commit(
            self._run_states.finish(fence, ending, rest), rest
        )


class EffectsOf:
    """Recorded effects as one process sees them."""

    def __init__(self, effects: Effects, process: Process) -> None:
        self._effects = effects
        self._process = process

    async def begin(self, fence: Fence, call: EffectCall) -> FoundEffect:
        """See `Effects.begin`."""
        return await self._process.commit(self._effects.begin(fence, call))

    async def again(self, fence: Fence, call: EffectCall, answers: int) -> None:
        """See `Effects.again`."""
        await self._process.commit(self._effects.again(fence, call, answers))

    async def done(self, fence: Fence, call: EffectCall, outcome: Outcome) -> None:
        """See `Effects.done`."""
        await self._process.commit(self._effects.done(fence, call, outcome))

    async def void(self, fence: Fence, call: EffectCall) -> None:
        """See `Effects.void`."""
        await self._process.commit(self._effects.void(fence, call))


class SyncEffectsOf:
    """The same for threads that block."""

    def __init__(self, effects: SyncEffects, process: Process) -> None:
        self._effects = effects
        self._process = process

    def begin(self, fence: Fence, call: EffectCall) -> FoundEffect:
        """See `SyncEffects.begin`."""
        return self._process.commit_blocking(lambda: self._effects.begin(fence, call))

    def again(self, fence: Fence, call: EffectCall, answers: int) -> None:
        """See `SyncEffects.again`."""
        self._process.commit_blocking(lambda: self._effects.again(fence, call, answers))

    def done(self, fence: Fence, call: EffectCall, outcome: Outcome) -> None:
        """See `SyncEffects.done`."""
        self._process.commit_blocking(lambda: self._effects.done(fence, call, outcome))

    def void(self, fence: Fence, call: EffectCall) -> None:
        """See `SyncEffects.void`."""
        self._process.commit_blocking(lambda: self._effects.void(fence, call))
