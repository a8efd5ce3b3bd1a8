"""Port of a relay: a copy of the tails of event logs, for many who read.

PostgreSQL numbers events and has them; that is where they become true. A relay is told
after each commit, before anybody is woken. It may lose everything at any time: who
finds nothing there reads PostgreSQL.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from threadmill.domain.fence import Fence
    from threadmill.domain.run import RunStatus
    from threadmill.drivers.postgres.database import Result
    from threadmill.streams.base import Event, NewEvent


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What a commit has added to a log.

    Args:
        first: the number of its first event.
        ms: the time of all of them.
        status: of the run, if it has ended.
        last: the number of the log's last event then.
    """

    tenant: str
    thread_id: UUID
    run_id: UUID | None
    attempt: int = 1
    first: int = 0
    ms: int = 0
    events: Sequence[NewEvent] = ()
    status: RunStatus | None = None
    last: int = 0


def appended_by(
    fence: Fence,
    events: Sequence[NewEvent],
    numbered: Result | None,
    *,
    status: RunStatus | None = None,
    end: Result | None = None,
) -> Appended:
    """What a transaction has added that has committed.

    Args:
        fence: of who wrote.
        events: what was appended.
        numbered: the result of `add_events`, if there were any.
        status: of the run, if it has ended.
        end: the result of `STREAM.stream_end` in that case, read after all else.
    """
    row = numbered.one if numbered is not None else None
    return Appended(
        tenant=fence.tenant,
        thread_id=fence.thread_id,
        run_id=fence.run_id,
        attempt=fence.attempt,
        first=row["first"] if row is not None else 0,
        ms=row["last_ms"] if row is not None else 0,
        events=events if row is not None else (),
        status=status,
        last=end.one["seq"] if end is not None and end.one is not None else 0,
    )


@dataclass(frozen=True, slots=True)
class Tail:
    """What a relay has of a log.

    Args:
        events: those that follow the number that was asked for, without a gap; of all
            runs.
        reaches: whether it has the log from that number on.
        status: of the run that was asked for, if it is said to have ended.
    """

    events: Sequence[Event] = field(default_factory=tuple)
    reaches: bool = False
    status: RunStatus | None = None


class Relay(Protocol):
    """Copies logs. None of its methods raises, and each ends soon."""

    async def tell(self, appended: Appended) -> None:
        """A commit has added this."""
        ...

    async def tail(
        self, tenant: str, thread_id: UUID, run_id: UUID, *, after: int, limit: int
    ) -> Tail:
        """What follows a number, as far as it is known here."""
        ...

    async def forget(self, tenant: str, thread_id: UUID) -> None:
        """A commit has deleted events of this thread, or all of it.

        What cannot be told, or is told of the thread later, goes after its time.
        """
        ...


class NoRelay:
    """Where PostgreSQL alone is read."""

    async def tell(self, appended: Appended) -> None:
        """See `Relay.tell`."""

    async def tail(
        self, tenant: str, thread_id: UUID, run_id: UUID, *, after: int, limit: int
    ) -> Tail:
        """See `Relay.tail`."""
        del tenant, thread_id, run_id, after, limit
        return Tail()

    async def forget(self, tenant: str, thread_id: UUID) -> None:
        """See `Relay.forget`."""
