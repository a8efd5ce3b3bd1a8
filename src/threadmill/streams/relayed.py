"""A log that is read from its copy as far as that goes, and from PostgreSQL otherwise.

The copy's events are never wrong, but it may be behind, or not there, and what it says
of an end may be old. So a run is looked at in PostgreSQL first, again whenever the copy
has had nothing new for a while, and once it is said to have ended; in between, its
readers cost PostgreSQL nothing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, Final

from threadmill.domain.run import RunStatus
from threadmill.streams.base import Look

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from threadmill.streams.base import Event, Stream
    from threadmill.streams.relay import Relay

# Runs that are followed at once in one process; a forgotten one costs a look.
_REMEMBERED_MAX: Final = 10_000


class RelayedStream:
    """The `Stream` port over a relay and the log itself.

    Args:
        stream: the log.
        relay: its copy.
        trust_seconds: how long a copy without news is believed.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        stream: Stream,
        relay: Relay,
        *,
        trust_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._relay = relay
        self._trust_seconds = trust_seconds
        self._clock = clock
        self._seen: OrderedDict[tuple[str, UUID, UUID], float] = OrderedDict()

    async def read(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        after: int,
        limit: int,
        run_id: UUID | None = None,
    ) -> Sequence[Event]:
        """See `Stream.read`; from the log itself."""
        return await self._stream.read(
            tenant, thread_id, after=after, limit=limit, run_id=run_id
        )

    async def end(self, tenant: str, thread_id: UUID) -> int:
        """See `Stream.end`; from the log itself."""
        return await self._stream.end(tenant, thread_id)

    async def look(
        self, tenant: str, thread_id: UUID, run_id: UUID, *, after: int, limit: int
    ) -> Look:
        """See `Stream.look`."""
        key = (tenant, thread_id, run_id)
        # Never, to begin with: a clock that only rises may begin anywhere.
        if self._clock() < self._seen.get(key, -inf) + self._trust_seconds:
            tail = await self._relay.tail(
                tenant, thread_id, run_id, after=after, limit=limit
            )
            # An end is a reason to look: events before it may be on their way still,
            # and it may be that of an earlier life of a run that was redriven.
            if tail.reaches and tail.status is None:
                mine = [event for event in tail.events if event.run_id == run_id]
                if mine:
                    self._remember(key)
                if mine or not tail.events:
                    return Look(RunStatus.RUNNING, mine)
        look = await self._stream.look(
            tenant, thread_id, run_id, after=after, limit=limit
        )
        self._remember(key)
        return look

    def _remember(self, key: tuple[str, UUID, UUID]) -> None:
        self._seen[key] = self._clock()
        self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED_MAX:
            self._seen.popitem(last=False)
