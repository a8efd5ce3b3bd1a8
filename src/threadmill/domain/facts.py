"""What is so about one run, its thread and the fleet, at one moment.

Facts only: `why` judges them. Instants are the database's; so is `now`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from threadmill.domain.run import RunStatus, ThreadStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """The run itself.

    Args:
        waits: it ended at a question of the graph's, which nobody has answered.
    """

    run_id: UUID
    thread_id: UUID
    graph_id: str
    status: RunStatus
    not_before: datetime
    finished_at: datetime | None = None
    error: Mapping[str, Any] | None = None
    waits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadFacts:
    """The thread of the run.

    Args:
        holder: the run or state update that may act on it now.
        updating_until: when the lease of the update that holds it ends, if one does.
        ahead: queued runs that go before this one; the holder is not queued.
    """

    status: ThreadStatus
    holder: UUID | None = None
    updating_until: datetime | None = None
    ahead: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadFacts:
    """The run's dead letter."""

    cause: Mapping[str, Any]
    attempts: int
    died_at: datetime
    checkpoint_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFacts:
    """One activation of the run.

    Args:
        node: whose task it is, for a task.
        worker_id: who holds it; None while it is ready.
        ready_at: no earlier may it be claimed; None while others of its superstep must
            end first.
        claimed_at: since when, if it is held.
        lease_until: when the lease ends, if it is held.
        attempt: attempts since it last got on, the present one included.
        cause: how the last one was lost, if one was.
        avoid: who shall not take it before `avoid_until`.
    """

    activation_id: UUID
    kind: str
    graph_id: str
    labels: frozenset[str]
    ready_at: datetime | None
    attempt: int
    node: str | None = None
    worker_id: UUID | None = None
    claimed_at: datetime | None = None
    lease_until: datetime | None = None
    cause: str | None = None
    avoid: UUID | None = None
    avoid_until: datetime | None = None

    @property
    def is_held(self) -> bool:
        """Whether somebody has it."""
        return self.worker_id is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperstepFacts:
    """The tasks of a superstep that is spread over the workers."""

    width: int
    remaining: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """A process that may claim, dead ones that nobody has noticed yet included."""

    worker_id: UUID
    name: str
    graphs: frozenset[str]
    labels: frozenset[str]
    slots: int
    taken: int
    seen_at: datetime
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that may keep a run from moving.

    Args:
        now: when this was so.
        work: the run's activations; one, or one for each task.
        superstep: None unless there are tasks.
    """

    now: datetime
    run: RunFacts
    thread: ThreadFacts
    dead: DeadFacts | None = None
    work: Sequence[WorkFacts] = ()
    superstep: SuperstepFacts | None = None
    workers: Sequence[WorkerFacts] = ()
