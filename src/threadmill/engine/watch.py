"""How servers wait for runs without polling.

A thread that moves is announced by a hint; whoever waits for it then looks. Hints
may be lost, so every waiter also looks by itself after a while: a dead notifier
delays an answer, it never withholds one.

A waiter must exist before the look whose outcome it may have to wait on; what moves
between the two is then not missed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from threadmill.domain.run import TERMINAL, RunStatus
from threadmill.engine.shared import Shared
from threadmill.errors import NotFound, Unavailable
from threadmill.streams.base import Look

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    from threadmill.checkpoints.base import RunState, RunStates
    from threadmill.stores.records import Run
    from threadmill.streams.base import Event, Stream

# Events may be large: what is read at once is held in memory.
_BATCH: Final = 100
# Sent whatever modes were asked for.
_ALWAYS: Final = frozenset({"metadata", "error", "feedback"})
_NOTHING: Final = Look(RunStatus.PENDING, ())
_DELETED: Final = Look(RunStatus.INTERRUPTED, ())


@dataclass(frozen=True, slots=True)
class WatchStatistics:
    """How many threads somebody waits for."""

    threads: int


class _Topic:
    """One thread somebody waits for; shared by its waiters, gone with the last."""

    __slots__ = ("__weakref__", "_moved", "moves")

    def __init__(self) -> None:
        self.moves = 0
        self._moved = asyncio.Event()

    def wake(self) -> None:
        self.moves += 1
        self._moved.set()
        self._moved = asyncio.Event()

    async def next_move(self) -> None:
        await self._moved.wait()


class Waiter:
    """Somebody who waits for a thread to move."""

    __slots__ = ("_poll_seconds", "_seen", "_topic")

    def __init__(self, topic: _Topic, poll_seconds: float) -> None:
        self._topic = topic
        self._seen = topic.moves
        self._poll_seconds = poll_seconds

    async def moved(self) -> None:
        """Returns when the thread has moved since the last call, or it is time to look.

        It returns at once if the thread moved meanwhile.
        """
        if self._seen == self._topic.moves:
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._topic.next_move()
            except TimeoutError:
                return
        self._seen = self._topic.moves


class Watch:
    """Who in this process waits for which thread; a `HintReceiver`.

    Belongs to one event loop.

    Args:
        poll_seconds: the longest time between two looks of a waiter.
    """

    def __init__(self, *, poll_seconds: float) -> None:
        self._poll_seconds = poll_seconds
        self._topics: WeakValueDictionary[tuple[str, UUID], _Topic] = (
            WeakValueDictionary()
        )

    def waiter(self, tenant: str, thread_id: UUID) -> Waiter:
        """A new waiter; it is forgotten when nobody refers to it any more."""
        topic = self._topics.get((tenant, thread_id))
        if topic is None:
            topic = self._topics[tenant, thread_id] = _Topic()
        return Waiter(topic, self._poll_seconds)

    def on_moved(self, tenant: str | None, thread_id: UUID | None) -> None:
        """Wakes who waits for the thread; everybody if it is not known which one."""
        if tenant is None or thread_id is None:
            for topic in list(self._topics.values()):
                topic.wake()
        elif (known := self._topics.get((tenant, thread_id))) is not None:
            known.wake()

    def on_ready(self, graph_id: str | None) -> None:
        """A server runs no activations."""

    def on_stop(self, activation_id: UUID, token: int) -> None:
        """A server runs no activations."""

    def statistics(self) -> WatchStatistics:
        """A frozen view for metrics and tests."""
        return WatchStatistics(threads=len(self._topics))


class WaitForRun:
    """Waits until a run has ended.

    Args:
        run_states: where runs are, and what they ended at.
        watch: tells when to look.
        patience_seconds: how long an unreachable database is put up with.
    """

    def __init__(
        self, run_states: RunStates, watch: Watch, *, patience_seconds: float = 60.0
    ) -> None:
        self._run_states = run_states
        self._watch = watch
        self._patience_seconds = patience_seconds

    async def __call__(
        self, tenant: str, run: Run, waiter: Waiter | None = None
    ) -> RunState:
        """The run as it ended, and its last checkpoint.

        Args:
            tenant: whose run it is.
            run: as last seen.
            waiter: made before `run` was seen; without one the first look is now.

        Raises:
            NotFound: the run was deleted meanwhile.
            Unavailable: the database stays away.

        Cancellation changes nothing about the run.
        """
        patience = Patience(self._patience_seconds)
        if waiter is None:
            waiter = self._watch.waiter(tenant, run.thread_id)
        elif run.status not in TERMINAL:
            await waiter.moved()
        while True:
            looked = None
            with patience:
                looked = await self._run_states.look(tenant, run.run_id, run.thread_id)
            if looked is not None and looked.run.status in TERMINAL:
                return looked
            await waiter.moved()


class StreamRun:
    """Follows the events of a run, for as many as ask.

    Args:
        stream: the event log.
        watch: tells when to look.
        patience_seconds: how long an unreachable database is put up with.
    """

    def __init__(
        self, stream: Stream, watch: Watch, *, patience_seconds: float = 60.0
    ) -> None:
        self._stream = stream
        self._looks = Shared(self._asked)
        self._watch = watch
        self._patience_seconds = patience_seconds

    async def _asked(self, place: tuple[str, UUID, UUID, int]) -> Look:
        tenant, thread_id, run_id, after = place
        return await self._stream.look(
            tenant, thread_id, run_id, after=after, limit=_BATCH
        )

    async def __call__(
        self,
        tenant: str,
        thread_id: UUID,
        run_id: UUID,
        *,
        after: int,
        modes: frozenset[str] | None = None,
        waiter: Waiter | None = None,
    ) -> AsyncIterator[Sequence[Event]]:
        """Yields events in batches, as they commit, until the run has ended.

        The last batch is yielded only after the run was seen ended, so that no event
        is missed and whoever then asks for the run's status reads a terminal one.

        Args:
            tenant: whose run it is.
            thread_id: its thread.
            run_id: the run.
            after: the number of the last event that is not wanted.
            modes: stream modes to pass on; None for all.
            waiter: made before the run was; without one the first look is now.

        Raises:
            NotFound: no such run. Once events were read, its deletion is its end.
            Unavailable: the database stays away.
        """
        patience = Patience(self._patience_seconds)
        # Whoever saw the run before knows how to read its absence: it was deleted.
        seen = waiter is not None
        if waiter is None:
            waiter = self._watch.waiter(tenant, thread_id)
        else:
            await waiter.moved()
        while True:
            look = _NOTHING
            with patience:
                look = await self._look(tenant, thread_id, run_id, after, seen=seen)
                seen = True
            if look.events:
                after = look.events[-1].seq
            if wanted := select(look.events, modes):
                yield wanted
            if len(look.events) == _BATCH:
                continue
            if look.status in TERMINAL:
                return
            await waiter.moved()

    async def _look(
        self, tenant: str, thread_id: UUID, run_id: UUID, after: int, *, seen: bool
    ) -> Look:
        try:
            return await self._looks((tenant, thread_id, run_id, after))
        except NotFound:
            if seen:
                return _DELETED
            raise


def select(events: Sequence[Event], modes: frozenset[str] | None) -> Sequence[Event]:
    """The events that somebody who asked for `modes` gets."""
    if modes is None:
        return events
    return [e for e in events if (mode := mode_of(e.event)) in modes or mode in _ALWAYS]


def mode_of(event: str) -> str:
    """The stream mode that an event's name belongs to."""
    name, _, _ = event.partition("|")
    if name == "messages":
        return "messages-tuple"
    return "messages" if name.startswith("messages/") else name


class Patience:
    """Swallows `Unavailable` for a while after the last success."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._away_since: float | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if error is None:
            self._away_since = None
        if not isinstance(error, Unavailable):
            return False
        now = monotonic()
        if self._away_since is None:
            self._away_since = now
        return now - self._away_since < self._seconds
