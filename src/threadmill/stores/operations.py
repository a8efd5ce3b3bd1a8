"""Ports for whoever runs a fleet: dead letters, explanations, the members there are.

Apart from `base`: nothing here is part of a run's ordinary life. Dead letters and
explanations are a tenant's; members are nobody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from threadmill.domain.facts import Facts
    from threadmill.stores.records import Json, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A run that was given up, until it is redriven or discarded.

    Args:
        node: whose attempts were spent, if that is known.
        cause: {"error": type name, "message": text}.
        attempts: how many were made in vain.
        checkpoint_id: the thread's head when the run ended, if this run put it there.
    """

    run_id: UUID
    thread_id: UUID
    graph_id: str
    node: str | None
    cause: Json
    attempts: int
    checkpoint_id: str | None
    died_at: datetime

    def as_json(self) -> Json:
        """The same as JSON values."""
        return {
            "run_id": str(self.run_id),
            "thread_id": str(self.thread_id),
            "graph_id": self.graph_id,
            "node": self.node,
            "cause": self.cause,
            "attempts": self.attempts,
            "checkpoint_id": self.checkpoint_id,
            "died_at": self.died_at.astimezone(UTC).isoformat(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Which dead letters are asked for; None does not filter."""

    graph_id: str | None = None
    thread_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Redriven:
    """A run that was put back; `starts` is False while it waits for its thread."""

    run: Run
    starts: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberState:
    """A process of the fleet as the database knows it now.

    Args:
        taken: slots that runs of any tenant hold.
        silent_seconds: since it was last seen, by the database's clock.
        draining: whether somebody has asked it to drain.
    """

    worker_id: UUID
    name: str
    role: str
    version: str
    graphs: Sequence[str]
    labels: Sequence[str]
    slots: int
    taken: int
    started_at: datetime
    seen_at: datetime
    silent_seconds: float
    draining: bool

    def as_json(self) -> Json:
        """The same as JSON values."""
        return {
            "worker_id": str(self.worker_id),
            "name": self.name,
            "role": self.role,
            "version": self.version,
            "graphs": list(self.graphs),
            "labels": list(self.labels),
            "slots": self.slots,
            "taken": self.taken,
            "started_at": self.started_at.astimezone(UTC).isoformat(),
            "seen_at": self.seen_at.astimezone(UTC).isoformat(),
            "silent_seconds": self.silent_seconds,
            "draining": self.draining,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Work that needs the same labels, of all tenants together.

    Args:
        labels: what a worker must have; none for work that any worker may take.
        runnable: activations that a free worker would take now.
        oldest_runnable_seconds: how long the first of them has waited; 0 if there is
            none. The figure to scale workers by.
        running: activations that workers hold.
        blocked: runs that wait behind their thread, and tasks that wait for another
            one of their superstep. No worker could take them.
        delayed: runs and retries whose time has not come.
        dead_letters: runs that were given up.
    """

    labels: Sequence[str]
    runnable: int = 0
    oldest_runnable_seconds: float = 0.0
    running: int = 0
    blocked: int = 0
    delayed: int = 0
    dead_letters: int = 0

    def as_json(self) -> Json:
        """The same as JSON values."""
        return {
            "labels": list(self.labels),
            "runnable": self.runnable,
            "oldest_runnable_seconds": self.oldest_runnable_seconds,
            "running": self.running,
            "blocked": self.blocked,
            "delayed": self.delayed,
            "dead_letters": self.dead_letters,
        }


class DeadLetters(Protocol):
    """Runs that were given up."""

    async def list(
        self, tenant: str, only: DeadLetterFilter, *, limit: int, offset: int = 0
    ) -> Sequence[DeadLetter]:
        """One page, newest first."""
        ...

    async def count(self, tenant: str, only: DeadLetterFilter) -> int:
        """How many all pages hold."""
        ...

    async def get(self, tenant: str, run_id: UUID) -> DeadLetter:
        """One dead letter.

        Raises:
            NotFound: the run is none.
        """
        ...

    async def redrive(self, tenant: str, run_id: UUID, *, queue_max: int) -> Redriven:
        """Puts the same run back, at the end of its thread's order.

        A run that had got somewhere goes on from there. That needs a free thread whose
        head has not moved since; else its input would be applied a second time.

        Args:
            tenant: whose run.
            run_id: the run.
            queue_max: runs that may wait on one thread.

        Raises:
            NotFound: no such dead letter. Conflict: the thread has gone on since.
            ThreadBusy: the run can only go on from where it stopped, and other runs
            come first. Overloaded: too many runs wait.
        """
        ...

    async def discard(self, tenant: str, run_id: UUID) -> None:
        """Forgets the dead letter; the run stays as it ended.

        Raises:
            NotFound: no such dead letter.
        """
        ...


class Explanations(Protocol):
    """What is so about a run, without judging it."""

    async def facts(self, tenant: str, run_id: UUID) -> Facts:
        """Everything that may keep the run from moving, at one moment.

        Raises:
            NotFound: no such run.
        """
        ...


class Fleet(Protocol):
    """The members that there are, for whoever watches over them."""

    async def list(self) -> Sequence[MemberState]:
        """All of them, workers first, by name."""
        ...

    async def drain(self, worker_id: UUID) -> MemberState:
        """Asks a member to drain; it learns of it when it next renews. Idempotent.

        Raises:
            NotFound: no such member.
        """
        ...


class Queues(Protocol):
    """How much work waits."""

    async def list(self) -> Sequence[Queue]:
        """One for each set of labels that work needs; always one without labels."""
        ...
