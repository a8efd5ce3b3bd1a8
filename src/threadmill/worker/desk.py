"""The worker's side of one attempt: see `Desk`."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadmill.checkpoints.base import Committed
    from threadmill.engine.activation.stop import Stop
    from threadmill.stores.records import Claim, FreeSlot, Superstep
    from threadmill.worker.leases import Key, Leases
    from threadmill.worker.slots import Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskRules:
    """How much of a worker one attempt may have.

    Args:
        labels: what the worker has.
        tasks_at_once: tasks of one superstep that an attempt takes at first.
        tasks_max: tasks of one superstep that it takes at all.
        slice_seconds: how long an attempt keeps its slot while others wait.
    """

    labels: Sequence[str] = ()
    tasks_at_once: int = 10
    tasks_max: int = 200
    slice_seconds: float = 5.0


class WorkerDesk:
    """The `Desk` of one attempt.

    Args:
        rules: how much it may have.
        leases: the worker's.
        lease_seconds: how long they hold.
        stop: the attempt's switch.
        slot: the attempt's.
        claim: claims tasks of a superstep.
        takes: the slot as a hand-over's commit may fill it; None if it may not.
        on_taken: told what it has taken, and when it was asked for.
        contended: whether others wait for this worker's slots.
        draining: whether the worker is going away.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        rules: DeskRules,
        *,
        leases: Leases,
        lease_seconds: float,
        stop: Stop,
        slot: Slot,
        claim: Callable[[Superstep, int], Awaitable[Sequence[Claim]]],
        takes: Callable[[], FreeSlot | None],
        on_taken: Callable[[Committed, float], None],
        contended: Callable[[], bool],
        draining: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.labels: Collection[str] = frozenset(rules.labels)
        self.tasks_at_once = rules.tasks_at_once
        self.tasks_max = rules.tasks_max
        self._slice_seconds = rules.slice_seconds
        self.lease_seconds = lease_seconds
        self._leases = leases
        self._stop = stop
        self._slot = slot
        self._claim = claim
        self._takes = takes
        self._on_taken = on_taken
        self._contended = contended
        self._draining = draining
        self._clock = clock
        self._started_at = clock()

    def leaves(self) -> bool:
        """See `Desk.leaves`."""
        if self._draining():
            return True
        long = self._clock() - self._started_at >= self._slice_seconds
        return long and self._contended()

    def has_room(self) -> bool:
        """See `Desk.has_room`."""
        return not self._slot.is_full

    async def hand_over(
        self, commit: Callable[[FreeSlot | None], Awaitable[Committed]]
    ) -> Committed:
        """See `Desk.hand_over`."""
        with self._leases.claiming() as asked_at:
            committed = await commit(self._takes())
            if committed.claimed is not None:
                self._on_taken(committed, asked_at)
        return committed

    async def claim(self, of: Superstep, n: int) -> Sequence[Claim]:
        """See `Desk.claim`."""
        with self._leases.claiming() as asked_at:
            claims = await self._claim(of, n)
            self._leases.add(claims, asked_at, self._stop)
        return claims

    def ending(self, keys: Collection[Key]) -> None:
        """See `Desk.ending`."""
        self._leases.ending(keys)

    def hold(self, claims: Sequence[Claim], instead_of: Collection[Key]) -> None:
        """See `Desk.hold`."""
        asked_at = self._leases.ending_since(instead_of)
        self._leases.add(claims, asked_at, self._stop)

    def let_go(self, keys: Collection[Key]) -> None:
        """See `Desk.let_go`."""
        self._leases.drop(keys)
