"""What the stores hand out and take: frozen records, one per row or request."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from threadmill.domain.multitask import MultitaskStrategy
    from threadmill.domain.retention import Ttl
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
    """A thread's row; its values live in its head checkpoint.

    `ttl` is its own rule of how long it is kept, if it has one.
    """

    thread_id: UUID
    status: ThreadStatus
    metadata: Json
    config: Json
    error: Json | None
    temporary: bool
    created_at: datetime
    updated_at: datetime
    state_updated_at: datetime
    ttl: Ttl | None = None


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
        labels: what a worker must have to take it.
        from_checkpoint: where it forks off, which must be there still.
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
    labels: Sequence[str] = ()
    from_checkpoint: str | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run's row.

    Args:
        running_seconds: since it first began, when it was begun again; by the
            database's clock.
        labels: what a worker must have to take anything of it.
        lost_by: why its last attempt came to nothing, when it was begun again.
    """

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
    running_seconds: float = 0.0
    labels: Sequence[str] = ()
    lost_by: str | None = None

    @property
    def begins(self) -> bool:
        """Whether it has only just begun, for the first time."""
        return self.attempt <= 1 and self.started_at == self.updated_at


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stored run; `new` is False when an idempotency key named an older one."""

    run: Run
    new: bool


@dataclass(frozen=True, slots=True)
class Next:
    """The run that a freed thread goes on with.

    Args:
        labels: what a worker must have to take it.
    """

    run_id: UUID
    graph_id: str
    tenant: str
    thread_id: UUID
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """What the end of a run leaves to be told.

    Args:
        next: the run that goes on, if any.
        stopped: (activation id, token) of what others were doing for the run.
    """

    next: Next | None = None
    stopped: Sequence[tuple[UUID, int]] = ()


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
class Superstep:
    """A superstep that is spread: of which run, and at which checkpoint."""

    run_id: UUID
    checkpoint_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSlot:
    """A slot that becomes free with a commit, and takes what is ready then.

    Args:
        worker_id: whose.
        graphs: what it has loaded.
        labels: what it has.
        tasks: whether it may take a task of a superstep.
        lease_seconds: how long it holds what it takes.
    """

    worker_id: UUID
    graphs: Sequence[str]
    labels: Sequence[str]
    tasks: bool
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Claim:
    """What the dispatcher returns: ids, the token, and which attempt this is.

    Args:
        kind: `step` plans a superstep, `join` goes on after one whose results are all
            there, `task` runs one task of one.
        task_id: LangGraph's id of the task, for `task`.
        task_path: its place in the superstep, see `place_of`.
        node: its node's name.
    """

    tenant: str
    activation_id: UUID
    thread_id: UUID
    run_id: UUID
    token: int
    attempt: int
    kind: str = "step"
    task_id: str | None = None
    task_path: str | None = None
    node: str | None = None

    @property
    def key(self) -> tuple[UUID, int]:
        """Identifies the claim among all claims ever made."""
        return (self.activation_id, self.token)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDeadLetter:
    """Why a run is given up; stored with its ending.

    Args:
        cause: {"error": type name, "message": text}.
        attempts: how many were made in vain.
        node: whose attempts they were, if that is known.
    """

    cause: Json
    attempts: int
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ends; its end checkpoint is the head at that moment.

    Args:
        event: success, pause (the graph waits for a human), failure, timeout.
        error: {"error": type name, "message": text} for failures.
        events: last events of the stream.
        dead: what makes the run a dead letter; None if it is none.
    """

    event: RunEvent
    error: Json | None = None
    events: Sequence[NewEvent] = ()
    dead: NewDeadLetter | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """An activation whose worker is gone.

    It is ready again; only an `update` waits for somebody to end it.

    Args:
        node: whose task it runs, for a `task`.
        cause: how it was lost, in words.
    """

    tenant: str
    activation_id: UUID
    thread_id: UUID
    run_id: UUID | None
    token: int
    attempt: int
    kind: str
    node: str | None = None
    cause: str | None = None


EXPIRIES: Final = frozenset({"drop_events", "drop_key"})
"""Kinds of timers that only delete rows, many at once."""


@dataclass(frozen=True, slots=True)
class Timer:
    """Something due; deleted by the transaction that carries it out.

    Args:
        held_until: when others may take it. By then it may have been carried out, and
            set anew for something else of the same name: that is due later.
    """

    tenant: str
    kind: str
    ref: str
    held_until: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what a finished run leaves behind is kept, in seconds."""

    events_seconds: float = 120.0
    temporary_seconds: float = 120.0


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


@dataclass(frozen=True, slots=True)
class OwnSession:
    """The session by which a process shows that it lives, while it stands.

    Args:
        worker_id: whose it is.
        number: of those that this process has had; 1 is the first, if it was had at
            once.
        since: monotonic time, in seconds.
        renewed_at: the database's time of its first renewal.
        database_since: when that database was started: another instant after a
            restart, and in another server after a failover.
    """

    worker_id: UUID
    number: int
    since: float
    renewed_at: datetime
    database_since: datetime


@dataclass(frozen=True, slots=True)
class Presence:
    """Who of the fleet shows that it lives.

    Args:
        back: members who hold their locks, and have renewed since.
        free: members whose locks nobody holds.
        database_since: when the database that was looked at was started.
        settled: whether that was long enough ago for everybody to be back.
    """

    back: Sequence[UUID]
    free: Sequence[UUID]
    database_since: datetime
    settled: bool


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
