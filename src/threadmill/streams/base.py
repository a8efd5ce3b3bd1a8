"""Port of the event log.

Every thread has one log. Its events carry numbers without gaps; an event becomes
visible only after all that precede it. Whoever writes an event holds the fence of
the activation that caused it, so a stale worker's events never appear.

An event is stored as it is sent: its SSE name and its JSON text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from threadmill.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from threadmill.domain.run import RunStatus

# Numbers of at most 18 digits fit the database's.
_ID: Final = re.compile("[0-9]{1,18}-([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event not yet numbered.

    Args:
        event: its SSE name, e.g. ``values`` or ``updates|sub:task``.
        data: its JSON text.
    """

    event: str
    data: str


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a thread's log."""

    seq: int
    ms: int
    run_id: UUID
    attempt: int
    event: str
    data: str

    @property
    def id(self) -> str:
        """What clients see and send back as Last-Event-ID: ``<ms>-<seq>``."""
        return f"{self.ms}-{self.seq}"


def cursor(last_event_id: str) -> int:
    """The number after which to go on; -1, 0 and 0-0 mean the beginning.

    Raises:
        InvalidRequest: not an id that this server ever sent.
    """
    if last_event_id in {"", "-1", "0", "0-0"}:
        return 0
    found = _ID.fullmatch(last_event_id)
    if found is None:
        msg = f"Last-Event-ID '{last_event_id[:64]}' is not an id of this stream"
        raise InvalidRequest(msg)
    return int(found[1])


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a run shows.

    `status` is as of no later than `events` were read: once it is terminal, `events`
    and the looks that follow hold all that is left of the run.
    """

    status: RunStatus
    events: Sequence[Event]


class Stream(Protocol):
    """Reads the log. Appending rides in the writer's own transaction."""

    async def read(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        after: int,
        limit: int,
        run_id: UUID | None = None,
    ) -> Sequence[Event]:
        """Events with a number above `after`, in order, at most `limit`."""
        ...

    async def look(
        self, tenant: str, thread_id: UUID, run_id: UUID, *, after: int, limit: int
    ) -> Look:
        """A run's status and its events above `after`, in one round trip.

        Raises:
            NotFound: no such run on this thread.
        """
        ...

    async def end(self, tenant: str, thread_id: UUID) -> int:
        """The number of the last event that is visible now; 0 for an empty log."""
        ...
