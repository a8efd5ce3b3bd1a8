"""Use-case: heal what died, and do what is due. Every process runs it.

It is a periodic, idempotent look at the database: no leader, no list in memory that a
crash could lose, nothing done only at start. Whoever comes first does it; the others
find nothing.

A worker counts as dead only when its presence lock was seen free twice, a while apart.
A restart or a failover, which frees every lock at once, is told from that (`_judged`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog

from threadmill.brokers.base import UNKNOWN_WORK
from threadmill.domain.fence import Fence
from threadmill.domain.run import RunEvent
from threadmill.engine.described import describe, spent
from threadmill.engine.ready import hint_next
from threadmill.engine.wire_json import encode
from threadmill.errors import Error, LeaseLost, Unavailable
from threadmill.faults import Faults
from threadmill.stores.records import EXPIRIES, Ending, Lost, NewDeadLetter, Timer
from threadmill.streams.base import NewEvent

if TYPE_CHECKING:
    from threadmill.brokers.base import Hints
    from threadmill.checkpoints.chunk_store import Chore, ChunkChores
    from threadmill.engine.retain import Retain
    from threadmill.stores.base import Dispatcher, Members, Threads
    from threadmill.stores.records import OwnSession

_log = structlog.get_logger(__name__)

# In a row; then the chunk store is left alone until the next look.
_FAILED_CHORES_MAX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRules:
    """How often, and when somebody counts as gone.

    Args:
        sweep_seconds: between two looks at leases and timers.
        presence_seconds: between two looks at presence locks.
        free_seconds: how long a lock must be free before its member is dead.
        lease_seconds: a lease.
        settle_seconds: after the database has started, or our own session has broken,
            until everybody is back who has not renewed since.
        newcomer_seconds: the same after our own start; longer would be felt each time.
        backoff_seconds: unit of the doubling pause between attempts.
        shun_seconds: how much longer a worker leaves to others what it has lost.
        attempts_max: losses without progress after which a run fails.
        timer_hold_seconds: how long a taken timer is not taken by others.
        batch: rows per look.
        chores: on the chunk store, per look.
    """

    sweep_seconds: float = 1.0
    presence_seconds: float = 0.2
    free_seconds: float = 0.25
    lease_seconds: float = 10.0
    settle_seconds: float = 10.0
    newcomer_seconds: float = 3.0
    backoff_seconds: float = 0.25
    shun_seconds: float = 2.0
    attempts_max: int = 5
    timer_hold_seconds: float = 30.0
    batch: int = 200
    chores: int = 20


class Sweep:
    """The healing loop of one process.

    Args:
        dispatcher: re-opens activations and carries timers out.
        members: the fleet.
        threads: ends state updates whose caller is gone.
        hints: told after commits.
        rules: how often.
        session: this process's own; None while it has none.
        retain: prunes threads whose time is over; None leaves that to others.
        chunks: looks after the chunk store, if there is one.
        clock: monotonic seconds.
        chance: spreads the looks of many processes.
        faults: what tests make happen at named points.
    """

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        members: Members,
        threads: Threads,
        hints: Hints,
        rules: SweepRules,
        session: Callable[[], OwnSession | None],
        retain: Retain | None = None,
        chunks: ChunkChores | None = None,
        clock: Callable[[], float] = time.monotonic,
        chance: random.Random | None = None,
        faults: Faults | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._members = members
        self._threads = threads
        self._hints = hints
        self._rules = rules
        self._session = session
        self._retain = retain
        self._chunks = chunks
        self._clock = clock
        self._chance = chance or random.Random()  # noqa: S311 - no secret depends on it
        self._faults = faults or Faults()
        self._free_since: dict[UUID, float] = {}
        # Who was back, in the time of which session of ours.
        self._back: set[UUID] = set()
        self._back_in: OwnSession | None = None

    async def run(self) -> None:
        """Looks for ever, with jitter; ends by cancellation."""
        async with asyncio.TaskGroup() as group:
            if (retain := self._retain) is not None:
                # By itself: what it takes its time for must not keep what died waiting.
                group.create_task(self._every(retain.look_again_seconds, retain.look))
            if self._chunks is not None:
                # And so for a store that takes its time.
                seconds = self._rules.sweep_seconds
                group.create_task(self._every(seconds, self.look_after_chunks))
            group.create_task(self._every(self._rules.sweep_seconds, self.look))
            group.create_task(
                self._every(self._rules.lease_seconds, self.forget_silent)
            )
            group.create_task(
                self._every(self._rules.presence_seconds, self.look_for_absent)
            )

    async def _every(
        self, seconds: float, look: Callable[[], Awaitable[float | None]]
    ) -> None:
        """Looks again after so long, or sooner if the look says so."""
        while True:
            sooner = None
            try:
                sooner = await look()
            except Error as error:
                _log.warning("sweep.failed", cause=str(error))
            except Exception:  # noqa: BLE001 - a loop that ends would heal nothing more
                _log.exception("sweep.broken")
            pause = seconds * self._chance.uniform(0.7, 1.3)
            await asyncio.sleep(pause if sooner is None else min(pause, sooner))

    async def look(self) -> None:
        """Expired leases, and due timers."""
        await self._reopen([])
        while await self._carry_out_due() == self._rules.batch:
            pass

    async def forget_silent(self) -> None:
        """Members that have not renewed for six leases are no members any more."""
        await self._members.forget_silent(silent_seconds=6 * self._rules.lease_seconds)

    async def _carry_out_due(self) -> int:
        """Carries out one batch of timers; returns how many were due."""
        due = await self._dispatcher.due(
            hold_seconds=self._rules.timer_hold_seconds, limit=self._rules.batch
        )
        for timers in _together(due):
            try:
                await self._faults.at("timer.before")
                carried_out = await self._dispatcher.carry_out(timers)
                await self._faults.at("timer.after")
                for goes_on in carried_out:
                    hint_next(self._hints, goes_on)
            except Error as error:
                # They come up again; the others must not wait for them.
                kind = timers[0].kind
                _log.warning("sweep.timers_failed", kind=kind, cause=str(error))
        return len(due)

    async def look_after_chunks(self) -> None:
        """What is to be done on the chunk store; it ends when that does not answer."""
        assert self._chunks is not None  # noqa: S101 - looked at by `run`
        some_left = True
        while some_left:
            due = await self._chunks.due(
                hold_seconds=self._rules.timer_hold_seconds, limit=self._rules.chores
            )
            await self._carry_out_chores(due)
            some_left = len(due) == self._rules.chores

    async def _carry_out_chores(self, due: Sequence[Chore]) -> None:
        """One after the other; gives up where several in a row get no answer."""
        assert self._chunks is not None  # noqa: S101 - looked at by `run`
        failed = 0
        for chore in due:
            try:
                await self._chunks.carry_out(chore)
            except Error as error:
                failed += isinstance(error, Unavailable)
                if failed == _FAILED_CHORES_MAX:
                    raise
                _log.warning(
                    "sweep.chore_failed",
                    kind=chore.kind,
                    tenant=chore.tenant,
                    thread=chore.thread_id,
                    cause=str(error),
                )
            else:
                failed = 0

    async def look_for_absent(self) -> float | None:
        """Members whose session is gone: their activations are re-opened at once.

        Returns:
            After how many seconds one that seems to be gone may count as dead.
        """
        began = self._clock()
        before, self._free_since = self._free_since, {}
        free, now = await self._judged(), self._clock()
        self._free_since = {member: before.get(member, now) for member in free}
        dead = [
            member
            for member, since in self._free_since.items()
            if began - since >= self._rules.free_seconds
        ]
        # What was too much is found by the next look; what was locked, by its lease.
        if dead and not await self._reopen(dead):
            for member in dead:
                await self._members.leave(member)
                _log.warning("sweep.member_gone", worker=str(member))
        seeming = [since for m, since in self._free_since.items() if m not in dead]
        return self._rules.free_seconds - (now - min(seeming)) if seeming else None

    async def _judged(self) -> Sequence[UUID]:
        """Members whose lock is free, and would not be if they lived.

        Whatever breaks our session, a database that restarts or fails over, may have
        broken theirs, and they are on their way back. So a free lock tells of a death
        only of those that have renewed with it since, and of all once they had their
        time. To whoever has just come that time is short, and he believes each lock
        that he has seen held. It tells nothing in another database than that of our
        session: a failover that we have not noticed yet.
        """
        rules, session = self._rules, self._session()
        if session is None:
            return []
        # A lock that is held after a break may be that of a session of before it.
        broke = session.number > 1
        found = await self._members.presence(
            since=session.renewed_at if broke else None,
            settle_seconds=rules.settle_seconds,
        )
        if (self._session(), session.database_since) != (session, found.database_since):
            return []
        if session.worker_id in found.free:
            return []  # ours has gone with the others', and we are yet to notice
        if self._back_in != session:
            self._back_in, self._back = session, set()
        self._back = self._back.intersection(found.free).union(found.back)
        settle = rules.settle_seconds
        if not broke:
            settle = min(settle, rules.newcomer_seconds)
        if found.settled and self._clock() - session.since >= settle:
            return found.free
        return [member for member in found.free if member in self._back]

    async def _reopen(self, dead: Sequence[UUID]) -> int:
        await self._faults.at("sweep.before")
        reopened = await self._dispatcher.reopen(
            dead,
            backoff_seconds=self._rules.backoff_seconds,
            shun_seconds=self._rules.shun_seconds,
            limit=self._rules.batch,
        )
        if reopened:
            await self._faults.at("sweep.after")
        for lost in reopened:
            log = _log.bind(
                tenant=lost.tenant, thread=str(lost.thread_id), run=str(lost.run_id)
            )
            log.warning("sweep.reopened", attempt=lost.attempt)
            try:
                await self._heal(lost)
            except LeaseLost:
                continue  # somebody has claimed it already
            except Error as error:
                # Whoever claims it, or ends it, sees what is to be done.
                log.warning("sweep.not_healed", cause=str(error))
        return len(reopened)

    async def _heal(self, lost: Lost) -> None:
        fence = Fence(
            tenant=lost.tenant,
            thread_id=lost.thread_id,
            activation_id=lost.activation_id,
            token=lost.token,
            run_id=lost.run_id,
            attempt=lost.attempt,
        )
        if lost.kind == "update":
            hint_next(self._hints, await self._threads.end_update(fence, status=None))
        elif lost.attempt >= self._rules.attempts_max:
            error = describe(spent(lost.attempt, lost.cause))
            dead = NewDeadLetter(cause=error, attempts=lost.attempt, node=lost.node)
            await self._faults.at("finish.before")
            finished = await self._dispatcher.finish(
                fence,
                Ending(
                    RunEvent.FAIL,
                    error=error,
                    events=[NewEvent("error", encode(error))],
                    dead=dead,
                ),
            )
            await self._faults.at("finish.after")
            self._hints.moved(lost.tenant, lost.thread_id)
            for activation_id, token in finished.stopped:
                self._hints.stop(activation_id, token)
            hint_next(self._hints, finished.next)
        else:
            self._hints.ready(UNKNOWN_WORK)


def _together(due: Sequence[Timer]) -> Sequence[Sequence[Timer]]:
    """What is carried out as one: deletions by kind, anything else by itself.

    Whole threads, which take their time, come last: nothing else is held meanwhile.
    """
    alone = [[timer] for timer in due if timer.kind not in EXPIRIES]
    kinds = (
        [timer for timer in due if timer.kind == kind] for kind in sorted(EXPIRIES)
    )
    together = [*alone, *filter(None, kinds)]
    return sorted(together, key=lambda timers: timers[0].kind == "drop_thread")
