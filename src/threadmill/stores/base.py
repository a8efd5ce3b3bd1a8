"""Ports of the durable truth: threads, runs, activations, workers, timers.

Each method is one transaction and one step of a run's life as the engine tells it.
All take the tenant first; the dispatcher's (claim, renew, reopen, due) look across
tenants and return ids only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from threadmill.domain.fence import Fence
    from threadmill.domain.multitask import MultitaskStrategy
    from threadmill.domain.run import RunEvent, RunStatus, ThreadStatus
    from threadmill.streams.base import NewEvent

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAssistant:
    """An assistant to be stored as version 1."""

    assistant_id: UUID
    graph_id: str
    name: str
    description: str | None = None
    config: Json = field(default_factory=dict)
    context: Json = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assistant:
    """A versioned configuration of a graph; each graph has a default one."""

    assistant_id: UUID
    graph_id: str
    name: str
    description: str | None
    version: int
    config: Json
    context: Json
    metadata: Json
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread's row; its values live in its head checkpoint."""

    thread_id: UUID
    status: ThreadStatus
    metadata: Json
    config: Json
    error: Json | None
    temporary: bool
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """An accepted request, ready to be stored.

    Args:
        kwargs: LangGraph's wire form (input, command, config, context, stream_mode,
            interrupt_before, interrupt_after, checkpoint, durability, ...).
        after_seconds: start no earlier than this much after acceptance.
        create_thread: make the thread if it does not exist.
        temporary: the thread is the run's own and goes with it.
        thread_metadata: merged into the thread's metadata.
        idempotency_key, body_hash: the same key and hash give the same run; the
            same key with another hash is refused.
        queue_max: runs that may wait on one thread.
    """

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    kwargs: Json
    metadata: Json = field(default_factory=dict)
    strategy: MultitaskStrategy
    after_seconds: float = 0.0
    create_thread: bool = False
    temporary: bool = False
    thread_metadata: Json = field(default_factory=dict)
    idempotency_key: str | None = None
    body_hash: bytes = b""
    idempotency_ttl_seconds: float = 86_400.0
    queue_max: int = 1000


@dataclass(frozen=True, slots=True)
class Run:
    """A run's row."""

    run_id: UUID
    thread_id: UUID
    assistant_id: UUID
    graph_id: str
    seq: int
    status: RunStatus
    multitask_strategy: str
    metadata: Json
    kwargs: Json
    attempt: int
    start_checkpoint: str | None
    end_checkpoint: str | None
    start_step: int
    error: Json | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stored run; `new` is False when an idempotency key named an older one."""

    run: Run
    new: bool


@dataclass(frozen=True, slots=True)
class Next:
    """The run that a freed thread goes on with."""

    run_id: UUID
    graph_id: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A run ended from outside.

    Args:
        activations: (activation id, token) of entries that must stop.
        next: the run that goes on, if any.
    """

    run: Run
    activations: Sequence[tuple[UUID, int]]
    next: Next | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What the dispatcher returns: ids, the token, and which attempt this is."""

    tenant: str
    activation_id: UUID
    thread_id: UUID
    run_id: UUID
    token: int
    attempt: int

    @property
    def key(self) -> tuple[UUID, int]:
        """Identifies the claim among all claims ever made."""
        return (self.activation_id, self.token)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends; its end checkpoint is the head at that moment.

    Args:
        event: success, pause (the graph waits for a human), failure, timeout.
        error: {"error": type name, "message": text} for failures.
        events: last events of the stream.
    """

    event: RunEvent
    error: Json | None = None
    events: Sequence[NewEvent] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """An activation whose worker is gone.

    A `step` is ready again; an `update` waits for somebody to end it.
    """

    tenant: str
    activation_id: UUID
    thread_id: UUID
    run_id: UUID | None
    token: int
    attempt: int
    kind: str


@dataclass(frozen=True, slots=True)
class Timer:
    """Something due; deleted by the transaction that carries it out."""

    tenant: str
    kind: str
    ref: str


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what a finished run leaves behind is kept, in seconds."""

    events_seconds: float = 120.0
    temporary_seconds: float = 120.0


class Runs(Protocol):
    """The accepting side."""

    async def accept(self, tenant: str, new: NewRun) -> Accepted:
        """Stores a run in its thread's order, durably, and starts it if it may.

        Raises:
            NotFound: no such thread. ThreadBusy: `reject` and a run is active.
            Overloaded: too many runs wait. Conflict: the key's body differs.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadFilter:
    """Which threads a search is for; None does not filter.

    Args:
        metadata: contained in the thread's own.
    """

    ids: Sequence[UUID] | None = None
    metadata: Json | None = None
    status: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssistantFilter:
    """Which assistants a search is for; None does not filter.

    Args:
        metadata: contained in the assistant's own.
        name: a part of the name, in any case.
    """

    metadata: Json | None = None
    graph_id: str | None = None
    name: str | None = None


class Threads(Protocol):
    """Threads as clients manage them. The threads of stateless runs are not found."""

    async def create(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        metadata: Json,
        if_exists: str,
    ) -> Thread:
        """Makes a thread; `if_exists` is raise or do_nothing (the one there is).

        Raises:
            AlreadyExists: the id is taken.
        """
        ...

    async def get(self, tenant: str, thread_id: UUID) -> Thread:
        """One thread, also a stateless run's.

        Raises:
            NotFound: no such thread.
        """
        ...

    async def patch(self, tenant: str, thread_id: UUID, *, metadata: Json) -> Thread:
        """Merges `metadata` into the thread's, key by key.

        Raises:
            NotFound: no such thread.
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

    async def count(self, tenant: str, only: ThreadFilter) -> int:
        """How many threads a search over all pages finds."""
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
        self, worker_id: UUID, graphs: Sequence[str], n: int, lease_seconds: float
    ) -> Sequence[Claim]:
        """Takes up to `n` ready activations of these graphs."""
        ...

    async def begin(self, claim: Claim) -> Run:
        """Marks the run as running and counts the attempt.

        Raises:
            LeaseLost: the claim is no longer ours (cancelled, re-claimed).
        """
        ...

    async def release(
        self, fence: Fence, *, count_attempt: bool, delay_seconds: float = 0.0
    ) -> None:
        """Hands the activation back as ready; does nothing if it is not ours.

        Args:
            fence: the claim that is given up.
            count_attempt: False for a drain or a database that was down.
            delay_seconds: claimable no earlier than after this.
        """
        ...

    async def finish(self, fence: Fence, ending: Ending) -> Next | None:
        """Ends the run and hands its thread to the next one, in one transaction.

        Raises:
            LeaseLost: the fence does not hold.
        """
        ...

    async def reopen(
        self, dead: Sequence[UUID], *, backoff_seconds: float, limit: int
    ) -> Sequence[Lost]:
        """Makes activations of dead workers and with expired leases ready again."""
        ...

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[Timer]:
        """Takes what is due; who dies with it loses it after `hold_seconds`."""
        ...

    async def carry_out(self, timer: Timer) -> Next | None:
        """Does what a timer is for, and deletes it; idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the fleet as it announces itself."""

    worker_id: UUID
    name: str
    role: str
    version: str
    graphs: Sequence[str] = ()
    labels: Sequence[str] = ()
    slots: int = 0


class Members(Protocol):
    """The fleet: who is there, and whose session is gone."""

    async def join(self, member: Member) -> int | None:
        """Announces a process; returns its presence lock's key, if it may hold one."""
        ...

    async def leave(self, worker_id: UUID) -> None:
        """Takes a process off the list; idempotent."""
        ...

    async def absent(self, *, settle_seconds: float) -> Sequence[UUID]:
        """Members whose presence lock is free now.

        Empty until `settle_seconds` after the database started: a restart frees
        every lock, and nobody has died.
        """
        ...

    async def forget_silent(self, *, silent_seconds: float) -> None:
        """Removes members that have not been seen for so long."""
        ...
