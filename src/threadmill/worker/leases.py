"""What a worker holds, and until when it may act on it.

A lease is renewed by a thread of its own, which reports what the database still knows
as this worker's. What it does not know any more is lost; what it knows and nobody here
works on is given back, or renewing would keep it for ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from threadmill.engine.activation.stop import Stop, StopReason

if TYPE_CHECKING:
    import asyncio

    from threadmill.domain.lease import LeaseTimes
    from threadmill.stores.records import Claim

Key = tuple[UUID, int]
CallLater = Callable[[float, Callable[[], None]], "asyncio.TimerHandle"]


@dataclass(slots=True)
class _Lease:
    is_task: bool
    known_at: float
    deadline_at: float
    stop: Stop


@dataclass(frozen=True, slots=True)
class _Stranger:
    """What the database knows as this worker's, and nobody here."""

    since: float
    renewed_at: float


class Leases:
    """The leases of one worker, by activation and token. Belongs to its event loop.

    What cannot be renewed is given up at its deadline, before the database gives it to
    somebody else.

    Args:
        times: of leases.
        call_later: the event loop's.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        times: LeaseTimes,
        call_later: CallLater,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._times = times
        self._call_later = call_later
        self._clock = clock
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf
        self._leases: dict[Key, _Lease] = {}
        self._ending: dict[Key, float] = {}
        self._strange: dict[Key, _Stranger] = {}
        self._claiming: list[float] = []
        self._claimed_at = 0.0

    @contextmanager
    def claiming(self) -> Iterator[float]:
        """While a claim is under way, what is held is not known; gives its start."""
        began_at = self._clock()
        self._claiming.append(began_at)
        try:
            yield began_at
        finally:
            self._claiming.remove(began_at)
            self._claimed_at = self._clock()

    def add(self, claims: Sequence[Claim], asked_at: float, stop: Stop) -> None:
        """Holds what was claimed.

        Args:
            claims: from one request or commit.
            asked_at: monotonic time just before it was sent.
            stop: the switch of the attempt that works on them.
        """
        now = self._clock()
        for claim in claims:
            # A blocked loop takes the reports of renewals before the claim's answer.
            renewed = self._strange.pop(claim.key, None)
            held_from = max(asked_at, renewed.renewed_at if renewed else asked_at)
            deadline_at = self._times.deadline(held_from)
            self._leases[claim.key] = _Lease(
                claim.kind == "task", now, deadline_at, stop
            )
            if deadline_at < self._alarm_at:
                self._set_alarm(deadline_at)

    def ending(self, keys: Collection[Key]) -> None:
        """A commit is about to end these, and perhaps leases others instead."""
        self._ending |= dict.fromkeys(keys, self._clock())

    def ending_since(self, keys: Collection[Key]) -> float:
        """Monotonic time just before the commit that ends them was asked for."""
        return min(self._ending[key] for key in keys)

    def drop(self, keys: Collection[Key]) -> None:
        """Holds these no longer."""
        for key in keys:
            self._leases.pop(key, None)
            if self._ending.pop(key, None) is not None:
                self._claimed_at = self._clock()

    def drop_all(self, stop: Stop) -> None:
        """The attempt has ended."""
        self.drop(self.held_by(stop))

    def held_by(self, stop: Stop) -> Sequence[Key]:
        """What an attempt holds, by its switch."""
        return [key for key, lease in self._leases.items() if lease.stop is stop]

    @property
    def tasks(self) -> int:
        """How many tasks of spread supersteps are held."""
        return sum(lease.is_task for lease in self._leases.values())

    def stop_of(self, key: Key) -> Stop | None:
        """The switch of the attempt that holds it."""
        lease = self._leases.get(key)
        return lease.stop if lease is not None else None

    def renewed(self, asked_at: float, held: Sequence[Claim]) -> Sequence[Claim]:
        """Takes the renewal's report; returns what nobody here works on.

        Args:
            asked_at: monotonic time just before the renewal was sent.
            held: what the database knew as this worker's.
        """
        keys = {claim.key for claim in held}
        for key, lease in list(self._leases.items()):
            if key in keys:
                # One that was asked for before the claim was says less than that.
                deadline_at = self._times.deadline(asked_at)
                lease.deadline_at = max(lease.deadline_at, deadline_at)
            # What was claimed while the renewal was under way may have come after it.
            elif lease.known_at < asked_at and key not in self._ending:
                lease.stop.request(StopReason.LEASE_LOST)
        unknown = keys - self._leases.keys()
        if self._claiming or self._ending or self._claimed_at >= asked_at:
            given_up = {key for key in unknown if self._is_nobodys(key, asked_at)}
        else:
            given_up = unknown
        now = self._clock()
        before, left = self._strange, unknown - given_up
        self._strange = {
            key: _Stranger(before[key].since if key in before else now, asked_at)
            for key in left
        }
        return [claim for claim in held if claim.key in given_up]

    def _is_nobodys(self, key: Key, asked_at: float) -> bool:
        """Whether no answer that is on its way can bring it.

        A loop that was blocked takes several reports at once, and only then reads the
        answers that lie there: a report counts if it was asked for after the first one
        was taken, and no request of before that is open any more.
        """
        stranger = self._strange.get(key)
        if stranger is None or asked_at <= stranger.since:
            return False
        return all(
            at > stranger.since for at in (*self._claiming, *self._ending.values())
        )

    def _set_alarm(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = self._call_later(max(0.0, at - self._clock()), self._ring)

    def _ring(self) -> None:
        """Has it judged one turn later, as of now.

        Event loops carry out what is due before what was called from other threads: by
        then, a loop that was blocked has taken the reports of renewals.
        """
        self._alarm = self._call_later(0.0, partial(self._give_up, self._clock()))

    def _give_up(self, now: float) -> None:
        """Stops what could not be renewed; sets the alarm for what may be next."""
        later = []
        for lease in self._leases.values():
            if now < lease.deadline_at:
                later.append(lease.deadline_at)
            else:
                lease.stop.request(StopReason.LEASE_LOST)
        self._alarm, self._alarm_at = None, math.inf
        if later:
            self._set_alarm(min(later))
