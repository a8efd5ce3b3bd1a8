"""A log that is read from its copy as far as that goes, and from PostgreSQL otherwise.

The copy is never wrong, but it may be behind, or not there. So a run is looked at in
PostgreSQL first, and again whenever the copy has had nothing new for a while; in
between, its readers cost PostgreSQL nothing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is known of a run that is followed.

    Args:
        at: when its log or its copy last had something to tell.
        end: the number of the thread's last event when the log was last looked at.
    """

    at: float
    end: int


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
        self._seen: OrderedDict[tuple[str, UUID, UUID], _Seen] = OrderedDict()

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
        seen = self._seen.get(key)
        if seen is not None and self._clock() < seen.at + self._trust_seconds:
            tail = await self._relay.tail(
                tenant, thread_id, run_id, after=after, limit=limit
            )
            mine = [event for event in tail.events if event.run_id == run_id]
            if tail.reaches and mine:
                self._remember(key, seen.end)
                # Not before the last event that there was when the run ended; and an
                # end that came before the log was looked at is another life's of a
                # run that was redriven.
                has_ended = seen.end < tail.last <= tail.events[-1].seq
                return Look((has_ended and tail.status) or RunStatus.RUNNING, mine)
            if tail.reaches and tail.status is None and not tail.events:
                return Look(RunStatus.RUNNING, ())
        look = await self._stream.look(
            tenant, thread_id, run_id, after=after, limit=limit
        )
        self._remember(key, look.end)
        return look

    def _remember(self, key: tuple[str, UUID, UUID], end: int) -> None:
        self._seen[key] = _Seen(self._clock(), end)
        self._seen.move_to_end(key)
        while len(self._seen) > _REMEMBERED_MAX:
            self._seen.popitem(last=False)
