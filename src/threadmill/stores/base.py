"""Ports of the durable truth: threads, runs, activations, workers, timers.

Each method is one transaction and one step of a run's life as the engine tells it. What
belongs to a tenant is asked for with the tenant first, or by a claim or fence that
names it. `Dispatcher` looks across tenants, and `Members` belong to none.

Besides what each method lists, all of them raise

- `Unavailable`: the database was busy, and nothing has happened; a retry is safe.
- `StoreUnavailable`, of these: no answer. The outcome is open: the transaction is there
  whole, or not at all. `StoreReadOnly`: the disk is full, and nothing has happened.
- `InvalidRequest`: a value that cannot be stored; nothing has happened.
- `SchemaOutdated`, `Forbidden`: the store is not set up for it; nothing has happened.
- `InvariantViolated`: our bug.

Cancelled, a method leaves the outcome open in the same way. What is said after a commit
(to a relay) may then be missing; it may always be. `Dispatcher.carry_out` takes a
transaction for each thing that it does: of these, some may be done and others not, and
the timers of what is not done come up again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from threadmill.domain.fence import Fence
    from threadmill.domain.retention import Ttl
    from threadmill.domain.run import ThreadStatus
    from threadmill.stores.records import (
        Accepted,
        Assistant,
        AssistantFilter,
        Cancelled,
        Claim,
        Ending,
        Finished,
        Json,
        Lost,
        Member,
        NewAssistant,
        NewRun,
        Next,
        Presence,
        Run,
        Superstep,
        Thread,
        ThreadFilter,
        Timer,
    )

#: Of a thread's metadata: each key is a row of an index, written with the thread.
METADATA_KEYS_MAX: Final = 1000
METADATA_BYTES_MAX: Final = 256 * 1024


class Runs(Protocol):
    """The accepting side."""

    async def accept(self, tenant: str, new: NewRun) -> Accepted:
        """Stores a run in its thread's order, durably, and starts it if it may.

        Raises:
            NotFound: no such thread. ThreadBusy: `reject` and a run is active.
            Overloaded: too many runs wait. Conflict: the key's body differs.
            InvalidRequest: the checkpoint to fork from is not there any more.
        """
        ...

    async def get(
        self, tenant: str, run_id: UUID, thread_id: UUID | None = None
    ) -> Run:
        """One run; with a thread, only if it is that thread's.

        Raises:
            NotFound: no such run.
        """
        ...

    async def list(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        limit: int,
        offset: int,
        status: str | None = None,
    ) -> Sequence[Run]:
        """Newest first."""
        ...

    async def cancel(self, tenant: str, thread_id: UUID, run_id: UUID) -> Cancelled:
        """Ends a pending or running run as interrupted; its checkpoints stay.

        Raises:
            NotFound: no such run, or it has ended already.
        """
        ...

    async def delete(self, tenant: str, thread_id: UUID, run_id: UUID) -> None:
        """Removes an ended run.

        Raises:
            NotFound: no such run. Conflict: it has not ended.
        """
        ...


class Threads(Protocol):
    """Threads as clients manage them. The threads of stateless runs are not found."""

    async def create(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        metadata: Json,
        if_exists: str,
        ttl: Ttl | None = None,
    ) -> Thread:
        """Makes a thread; `if_exists` is raise or do_nothing (the one there is).

        `ttl` is the thread's own rule of how long it is kept.

        Raises:
            AlreadyExists: the id is taken.
            Conflict: a thread of that id is being deleted, again and again.
        """
        ...

    async def get(self, tenant: str, thread_id: UUID) -> Thread:
        """One thread, also a stateless run's.

        Raises:
            NotFound: no such thread.
        """
        ...

    async def patch(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        metadata: Json,
        ttl: Ttl | None = None,
    ) -> Thread:
        """Merges `metadata` into the thread's, key by key.

        `ttl` becomes its own rule; one without minutes takes that away, None leaves it.

        Raises:
            NotFound: no such thread.
            InvalidRequest: it would grow beyond `METADATA_KEYS_MAX` or
                `METADATA_BYTES_MAX`.
        """
        ...

    async def delete(self, tenant: str, thread_id: UUID) -> None:
        """Erases a thread with its runs, checkpoints and events.

        A run in the middle of it stops at its next commit.

        Raises:
            NotFound: no such thread.
        """
        ...

    async def search(
        self,
        tenant: str,
        only: ThreadFilter,
        *,
        limit: int = 10,
        offset: int = 0,
        sort_by: str = "created_at",
        descending: bool = True,
    ) -> Sequence[Thread]:
        """One page; sorts by thread_id, status or one of the three times."""
        ...

    async def count(
        self, tenant: str, only: ThreadFilter, *, most: int | None = None
    ) -> int:
        """How many threads a search over all pages finds; `most` bounds the look."""
        ...

    async def begin_update(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        worker_id: UUID,
        lease_seconds: float,
        graph_id: str,
    ) -> Fence:
        """Takes the free thread for a state update of the caller's own.

        Raises:
            NotFound: no such thread. ThreadBusy: a run is active or queued.
        """
        ...

    async def end_update(
        self, fence: Fence, *, status: ThreadStatus | None
    ) -> Next | None:
        """Hands the thread to the next run that waits; idempotent.

        A thread without a next run then shows `status`; None: what it showed before.
        """
        ...

    async def ping(self) -> None:
        """Proves that the store answers.

        Raises:
            Unavailable: it does not.
        """
        ...


class Assistants(Protocol):
    """Assistants as clients manage them."""

    async def ensure(self, tenant: str, assistants: Sequence[NewAssistant]) -> None:
        """Stores the assistants whose ids are not there yet."""
        ...

    async def get(self, tenant: str, assistant_id: UUID) -> Assistant:
        """One assistant.

        Raises:
            NotFound: no such assistant.
        """
        ...

    async def search(
        self,
        tenant: str,
        only: AssistantFilter,
        *,
        limit: int = 10,
        offset: int = 0,
        sort_by: str = "created_at",
        descending: bool = True,
    ) -> Sequence[Assistant]:
        """One page; sorts by assistant_id, graph_id, name, created or updated_at."""
        ...

    async def count(self, tenant: str, only: AssistantFilter) -> int:
        """How many assistants a search over all pages finds."""
        ...


class Dispatcher(Protocol):
    """The working side's view across tenants."""

    async def claim(
        self,
        worker_id: UUID,
        graphs: Sequence[str],
        n: int,
        lease_seconds: float,
        *,
        labels: Sequence[str] = (),
        of: Superstep | None = None,
        tasks: bool = True,
    ) -> Sequence[Claim]:
        """Takes up to `n` ready activations of these graphs.

        Args:
            worker_id: who takes them.
            graphs: ids of the graphs that it has loaded.
            n: how many at most.
            lease_seconds: how long the claims hold.
            labels: the worker's; what needs another one is left.
            tasks: whether tasks of supersteps are wanted, too.
            of: only tasks of this superstep, not of what the run has got to since.
        """
        ...

    async def begin(self, claim: Claim) -> Run:
        """Marks the run as running and counts the attempt.

        A task's run is running already, and an attempt is counted only after a loss of
        the task itself, which `lost_by` tells of.

        Raises:
            LeaseLost: the claim is no longer ours (cancelled, re-claimed).
        """
        ...

    async def release(
        self,
        fence: Fence,
        *,
        count_attempt: bool,
        delay_seconds: float = 0.0,
        cause: str | None = None,
        shun_seconds: float = 0.0,
    ) -> None:
        """Hands the activations back as ready; does nothing to what is not ours.

        Args:
            fence: the claims that are given up.
            count_attempt: False for a drain or a database that was down.
            delay_seconds: claimable no earlier than after this.
            cause: what went wrong; then others are preferred for `shun_seconds`.
            shun_seconds: see `cause`.
        """
        ...

    async def finish(self, fence: Fence, ending: Ending) -> Finished:
        """Ends the run and hands its thread to the next one, in one transaction.

        Raises:
            LeaseLost: the fence does not hold.
        """
        ...

    async def reopen(
        self,
        dead: Sequence[UUID],
        *,
        backoff_seconds: float,
        limit: int,
        shun_seconds: float = 0.0,
    ) -> Sequence[Lost]:
        """Makes activations of dead workers and with expired leases ready again.

        Args:
            dead: workers that are gone.
            backoff_seconds: unit of the doubling pause; the first loss has none.
            limit: how many at most.
            shun_seconds: how much longer the worker that lost one leaves it to others.
        """
        ...

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[Timer]:
        """Takes what is due; who dies with it loses it after `hold_seconds`."""
        ...

    async def carry_out(self, timers: Sequence[Timer]) -> Sequence[Next]:
        """Does what timers are for, and deletes them; idempotent.

        What a timer is for may have to wait; then it stays, and comes up again.
        """
        ...


class Members(Protocol):
    """The fleet: who is there, and whose session is gone."""

    async def join(self, member: Member) -> int | None:
        """Announces a process; returns its presence lock's key, if it may hold one."""
        ...

    async def leave(self, worker_id: UUID) -> None:
        """Takes a process off the list; idempotent."""
        ...

    async def presence(
        self, *, since: datetime | None, settle_seconds: float
    ) -> Presence:
        """Who holds the lock that shows that he lives, and who does not.

        Args:
            since: of the database's time: who holds his lock, and has renewed after
                it, is back; None: who holds it.
            settle_seconds: how long everybody may take to be back when the database has
                been started: that frees every lock, and nobody has died.
        """
        ...

    async def forget_silent(self, *, silent_seconds: float) -> None:
        """Removes members that have not been seen for so long.

        One that was asked to drain, and may come back, stays for a day.
        """
        ...
