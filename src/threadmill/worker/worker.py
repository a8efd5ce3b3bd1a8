"""Claims activations while slots are free, and carries them out.

Hints say when to look; without any, it looks every few seconds. A claim is worked on
until its run ends, it is handed over, or the lease is lost: then the attempt is told to
stop, and whatever it still writes is refused by the database.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from threadmill.domain.draining import STOP_SECONDS, work_seconds
from threadmill.engine.activation.stop import Stop, StopReason
from threadmill.engine.attempt import Attempt, by_run, fence_of
from threadmill.errors import Error
from threadmill.stores.records import FreeSlot
from threadmill.worker.desk import DeskRules, WorkerDesk
from threadmill.worker.leases import Leases
from threadmill.worker.slots import Slot, Slots, SlotThreads

if TYPE_CHECKING:
    from threadmill.brokers.base import Hint
    from threadmill.checkpoints.base import Committed, RunState
    from threadmill.domain.fence import Fence
    from threadmill.domain.lease import LeaseTimes
    from threadmill.engine.activate import Activate
    from threadmill.engine.graphs import GraphCatalogue
    from threadmill.faults import Faults
    from threadmill.stores.base import Dispatcher
    from threadmill.stores.records import Claim, Superstep

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRules:
    """How a worker behaves.

    Args:
        slots: activations at once.
        poll_seconds: the longest between two looks without a hint.
        retry_seconds: pause after the store did not answer.
        grace_seconds: how long a drain takes; see `work_seconds`.
        desk: how much of the worker one attempt may have.
    """

    slots: int = 10
    poll_seconds: float = 2.0
    retry_seconds: float = 0.5
    grace_seconds: float = 180.0
    desk: DeskRules = field(default_factory=DeskRules)


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What a worker is doing."""

    slots: int
    taken: int
    running: int
    claimed: int
    draining: bool


class Looked(Enum):
    """What became of a look that somebody waits for."""

    ASKED = "asked"  # the database was asked, whatever it had
    FULL = "full"  # no slot was free any more
    FAILED = "failed"  # the database did not answer
    LEAVING = "leaving"  # the worker drains


class Worker:
    """One worker of a process; a `HintReceiver`. Belongs to one event loop.

    Args:
        worker_id: as announced to the fleet.
        graphs: only runs of graphs that loaded here are claimed.
        dispatcher: where claims come from.
        activate: carries a claim out.
        times: of leases.
        rules: slots and pauses.
        faults: what tests make happen at named points.
        clock: monotonic seconds.
        chance: spreads the looks of many workers.
    """

    def __init__(
        self,
        *,
        worker_id: UUID,
        graphs: GraphCatalogue,
        dispatcher: Dispatcher,
        activate: Activate,
        times: LeaseTimes,
        rules: WorkerRules,
        faults: Faults,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
    ) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._worker_id = worker_id
        self._graphs = graphs
        self._dispatcher = dispatcher
        self._activate = activate
        self._times = times
        self._rules = rules
        self._faults = faults
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 - no secret depends on it
        self._wake = asyncio.Event()
        self._freed = asyncio.Event()
        self._waiters: list[asyncio.Future[Looked]] = []
        self._slots = Slots(rules.slots, on_free=self._on_free)
        self._leases = Leases(times, loop.call_later, clock)
        self._attempts: dict[Attempt, asyncio.Task[None]] = {}
        self._following: dict[Attempt, Attempt] = {}
        self._contended = False
        self._left_tasks = False
        self._claimed = 0
        self._giving_back: set[asyncio.Task[None]] = set()
        self._draining = asyncio.Event()
        loop.set_default_executor(SlotThreads(rules.slots, loop))

    async def run(self) -> None:
        """Works until `drain`; returns when every activation is through or handed back.

        Cancellation leaves activations leased; they are re-opened by others.
        """
        try:
            while not self._draining.is_set():
                self._wake.clear()
                if not await self._claim_some():
                    await self._wait()
            await self._hand_back()
        finally:
            self._tell(self._waiters, Looked.LEAVING)

    def drain(self) -> None:
        """Stops claiming; attempts leave at their next superstep."""
        self._draining.set()
        self._wake.set()
        self._tell(self._waiters, Looked.LEAVING)

    def statistics(self) -> WorkerStatistics:
        """What the worker is doing now."""
        return WorkerStatistics(
            slots=self._slots.total,
            taken=self._slots.taken,
            running=len(self._attempts),
            claimed=self._claimed,
            draining=self._draining.is_set(),
        )

    # --- claiming ------------------------------------------------------------------

    async def _claim_some(self) -> bool:
        """Claims for the free slots; True if it may be worth looking again at once."""
        free = self._slots.free
        waiters, self._waiters = self._waiters, []
        if free <= 0 or not self._graphs.ids:
            self._tell(waiters, Looked.FULL)
            return False
        # Tasks of one superstep share a slot, and still a worker that has taken as many
        # as it has slots leaves the rest to the others.
        room = self._rules.slots - self._leases.tasks
        wanted = min(free, room) if room > 0 else free
        try:
            with self._leases.claiming() as asked_at:
                claims = await self._claim(wanted, tasks=room > 0)
                for together in by_run(claims):
                    self._start(together, asked_at)
                self._tell(waiters, Looked.ASKED)
        except Error as error:
            _log.warning("worker.claim_failed", cause=str(error))
            self._tell(waiters, Looked.FAILED)
            await asyncio.sleep(self._rules.retry_seconds)
            return True
        self._left_tasks = room <= 0
        self._contended = len(claims) == wanted
        return self._contended and self._slots.free > 0

    async def _claim(
        self, n: int, of: Superstep | None = None, *, tasks: bool = True
    ) -> Sequence[Claim]:
        await self._faults.at("claim.before")
        claims = await self._dispatcher.claim(
            self._worker_id,
            self._graphs.ids,
            n,
            self._times.lease_seconds,
            labels=self._rules.desk.labels,
            of=of,
            tasks=tasks,
        )
        if claims:
            await self._faults.at("claim.after")
        return claims

    def _on_free(self) -> None:
        self._freed.set()
        # Nobody waits for the slot unless the last look filled them all.
        if self._contended or self._left_tasks or self._draining.is_set():
            self._wake.set()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(
                self._rules.poll_seconds * self._chance.uniform(0.5, 1.0)
            ):
                await self._wake.wait()
        except TimeoutError:
            return

    def _start(self, claims: Sequence[Claim], asked_at: float) -> None:
        slot = self._slots.take()
        attempt = self._attempt(claims, slot, asked_at)
        self._attempts[attempt] = self._loop.create_task(
            self._carry_out(attempt, slot), name=f"run-{attempt.claim.run_id}"
        )

    def _attempt(
        self,
        claims: Sequence[Claim],
        slot: Slot,
        asked_at: float,
        begun: RunState | None = None,
    ) -> Attempt:
        stop = Stop()
        desk = WorkerDesk(
            self._rules.desk,
            leases=self._leases,
            lease_seconds=self._times.lease_seconds,
            stop=stop,
            slot=slot,
            claim=lambda of, n: self._claim(n, of),
            takes=self._free_slot,
            on_taken=lambda taken, at: self._goes_on(attempt, slot, taken, at),
            contended=lambda: self._contended,
            draining=self._draining.is_set,
            clock=self._clock,
        )
        self._leases.add(claims, asked_at, stop)
        self._claimed += len(claims)
        attempt = Attempt(claims, desk, stop, begun)
        return attempt

    def _free_slot(self) -> FreeSlot | None:
        """A slot whose attempt hands over, as long as there is anything to take."""
        if self._draining.is_set():
            return None
        return FreeSlot(
            worker_id=self._worker_id,
            graphs=self._graphs.ids,
            labels=self._rules.desk.labels,
            tasks=self._leases.tasks < self._rules.slots,
            lease_seconds=self._times.lease_seconds,
        )

    def _goes_on(
        self, attempt: Attempt, slot: Slot, taken: Committed, asked_at: float
    ) -> None:
        """The commit with which an attempt has handed over has filled its slot."""
        assert taken.claimed is not None  # noqa: S101  # said the caller
        following = self._attempt([taken.claimed], slot, asked_at, taken.begun)
        self._following[attempt] = following

    async def _carry_out(self, attempt: Attempt, slot: Slot) -> None:
        """Carries an attempt out, and what its hand-over has taken, one by one."""
        task, going = self._attempts[attempt], attempt
        slot.enter()
        try:
            while True:
                await self._activate.carry_out(going)
                following = self._following.pop(going, None)
                self._ended(going)
                if following is None:
                    return
                self._attempts[following] = task
                going = following
        finally:
            self._ended(going)
            following = self._following.pop(going, None)
            if following is not None:
                # Nobody works on it: the next renewal hands it back.
                self._ended(following)
            slot.let_go()

    def _ended(self, attempt: Attempt) -> None:
        self._attempts.pop(attempt, None)
        self._leases.drop_all(attempt.stop)

    # --- leases ----------------------------------------------------------------------

    def renewed(self, asked_at: float, held: Sequence[Claim]) -> None:
        """The renewal thread's report; called from that thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._renewed, asked_at, held)

    def _renewed(self, asked_at: float, held: Sequence[Claim]) -> None:
        # The answer to a claim, or a hand-back, was lost with its connection.
        for claim in self._leases.renewed(asked_at, held):
            task = self._loop.create_task(self._give_back(fence_of(claim)))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)

    async def _give_back(
        self,
        fence: Fence,
        *,
        cause: str | None = None,
        delay_seconds: float = 0.0,
    ) -> None:
        try:
            await self._dispatcher.release(
                fence,
                count_attempt=cause is not None,
                delay_seconds=delay_seconds,
                cause=cause,
            )
        except Error as error:
            _log.warning("worker.give_back_failed", cause=str(error))
        else:
            self._wake.set()

    # --- draining ------------------------------------------------------------------

    async def _hand_back(self) -> None:
        """Lets attempts leave by themselves, then hands back what is left.

        Also what nodes keep that do not stop when they are told to: whoever goes on
        need not wait until their leases end.
        """
        await self._wait_for_attempts(work_seconds(self._rules.grace_seconds))
        for attempt in list(self._attempts):
            attempt.stop.request(StopReason.DRAIN)
        await self._wait_for_attempts(STOP_SECONDS)
        for attempt in list(self._attempts):
            if held := self._leases.held_by(attempt.stop):
                (activation_id, token), *also = held
                fence = fence_of(attempt.claim)
                await self._give_back(
                    replace(
                        fence,
                        activation_id=activation_id,
                        token=token,
                        also=tuple(also),
                    )
                )

    async def _wait_for_attempts(self, seconds: float) -> None:
        if self._attempts:
            await asyncio.wait(self._attempts.values(), timeout=seconds)

    # --- hints -----------------------------------------------------------------------

    async def room(self) -> int:
        """Waits until the worker could take something; returns its free slots."""
        while self._draining.is_set() or not self._graphs.ids or self._slots.free <= 0:
            self._freed.clear()
            await self._freed.wait()
        return self._slots.free

    async def look(self) -> Looked:
        """Looks for work once more, beginning after this call; returns when it has."""
        if self._draining.is_set():
            return Looked.LEAVING
        waiter: asyncio.Future[Looked] = self._loop.create_future()
        self._waiters.append(waiter)
        self.on_ready(None)
        return await waiter

    def is_for_me(self, hint: Hint) -> bool:
        """Whether this worker could take what the hint is about."""
        return hint.graph_id in self._graphs.ids and set(hint.labels) <= set(
            self._rules.desk.labels
        )

    @staticmethod
    def _tell(waiters: Sequence[asyncio.Future[Looked]], looked: Looked) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(looked)

    def on_ready(self, graph_id: str | None) -> None:  # noqa: ARG002
        """See `HintReceiver.on_ready`."""
        self._contended = self._contended or self._slots.free == 0
        self._wake.set()

    def on_moved(self, tenant: str | None, thread_id: UUID | None) -> None:
        """See `HintReceiver.on_moved`; threads do not concern a worker."""

    def on_stop(self, activation_id: UUID, token: int) -> None:
        """See `HintReceiver.on_stop`."""
        stop = self._leases.stop_of((activation_id, token))
        if stop is not None:
            stop.request(StopReason.CANCELLED)
