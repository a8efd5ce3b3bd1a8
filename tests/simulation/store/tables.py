"""The rows of the in-memory store, and the moves that several transactions share.

The simulator's store keeps the ports' promises in dictionaries: each transaction is one
call in which nobody else acts, so it is atomic, and it looks before it changes
anything, so a refusal changes nothing. Rules come from `threadmill.domain`, as the SQL
takes them from there. Tests marked `contract` hold it to what PostgreSQL does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from threadmill.checkpoints.base import ANY_HEAD
from threadmill.domain.lease import is_suspect
from threadmill.domain.run import RunEvent, RunStatus, ThreadStatus, sources, target
from threadmill.errors import Error, HeadMoved, LeaseLost
from threadmill.stores.records import NewRun, Next, Run, Superstep

if TYPE_CHECKING:
    from threadmill.checkpoints.base import Commit, PlannedTask, Put, Writes
    from threadmill.domain.fence import Fence
    from threadmill.streams.base import NewEvent

_EPOCH: Final = datetime(2001, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class ThreadRow:
    """threadmill.thread."""

    tenant: str
    thread_id: UUID
    created_at: float
    status: ThreadStatus = ThreadStatus.IDLE
    holder: UUID | None = None
    next_seq: int = 1
    metadata: dict[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None


@dataclass(slots=True)
class RunRow:
    """threadmill.run."""

    tenant: str
    new: NewRun
    seq: int
    not_before: float
    created_at: float
    updated_at: float
    status: RunStatus = RunStatus.PENDING
    attempt: int = 0
    start_checkpoint: str | None = None
    end_checkpoint: str | None = None
    start_step: int = -2
    error: Mapping[str, Any] | None = None
    started_at: float | None = None
    finished_at: float | None = None

    def record(self, now: float = 0.0, lost_by: str | None = None) -> Run:
        """What the ports hand out."""
        started = self.started_at
        return Run(
            run_id=self.new.run_id,
            thread_id=self.new.thread_id,
            assistant_id=self.new.assistant_id,
            graph_id=self.new.graph_id,
            seq=self.seq,
            status=self.status,
            multitask_strategy=self.new.strategy.value,
            metadata=self.new.metadata,
            kwargs=self.new.kwargs,
            attempt=self.attempt,
            start_checkpoint=self.start_checkpoint,
            end_checkpoint=self.end_checkpoint,
            start_step=self.start_step,
            error=None if self.error is None else dict(self.error),
            created_at=moment(self.created_at),
            updated_at=moment(self.updated_at),
            started_at=None if started is None else moment(started),
            finished_at=None if self.finished_at is None else moment(self.finished_at),
            running_seconds=0.0 if started is None else now - started,
            labels=self.new.labels,
            lost_by=lost_by,
        )


@dataclass(slots=True)
class ActivationRow:
    """threadmill.activation."""

    tenant: str
    activation_id: UUID
    thread_id: UUID
    run_id: UUID | None
    kind: str
    graph_id: str
    not_before: float
    state: str = "ready"
    token: int = 0
    worker_id: UUID | None = None
    lease_until: float = 0.0
    attempt: int = 0
    task: PlannedTask | None = None
    superstep: Superstep | None = None
    labels: Sequence[str] = ()
    avoid: UUID | None = None
    avoid_until: float = 0.0
    cause: str | None = None

    def open(self, not_before: float) -> None:
        """Ready again; the token stays until the next claim."""
        self.state, self.worker_id, self.not_before = "ready", None, not_before

    def shun(self, until: float) -> None:
        """Its worker leaves it to others for a while."""
        self.avoid, self.avoid_until = self.worker_id, until

    def lease(self, token: int, worker_id: UUID | None, lease_until: float) -> None:
        """Held from now on; an attempt begins."""
        self.state, self.token, self.worker_id = "leased", token, worker_id
        self.lease_until = lease_until
        self.attempt += 1


@dataclass(slots=True)
class SuperstepRow:
    """threadmill.superstep."""

    checkpoint_id: str
    remaining: int


@dataclass(slots=True)
class CheckpointRow:
    """threadmill.checkpoint."""

    put: Put
    ordinal: int
    run_id: UUID | None
    token: int | None


@dataclass(slots=True)
class EventRow:
    """threadmill.event."""

    run_id: UUID
    attempt: int
    event: str
    data: str


@dataclass(slots=True)
class MemberRow:
    """threadmill.worker."""

    worker_id: UUID
    seen_at: float
    lock_key: int | None = None


@dataclass(slots=True)
class TimerRow:
    """threadmill.timer of the kind `promote`."""

    tenant: str
    ref: str
    due_at: float


class Tables:
    """All rows. Keys lead with the tenant.

    Args:
        clock: the store's own; leases are counted by it.
        ids: draws what PostgreSQL draws with gen_random_uuid().
        chance: jitters pauses between attempts.
        locked: whether the row that is looked at is locked just now, so that a look
            with SKIP LOCKED passes it by.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        ids: Callable[[], UUID],
        chance: Random,
        locked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.clock = clock
        self.ids = ids
        self.chance = chance
        self.locked = locked
        self.tokens = 0
        self.threads: dict[tuple[str, UUID], ThreadRow] = {}
        self.runs: dict[tuple[str, UUID], RunRow] = {}
        self.of_thread: dict[tuple[str, UUID], list[RunRow]] = {}
        self.keys: dict[tuple[str, str], tuple[bytes, UUID]] = {}
        self.activations: dict[UUID, ActivationRow] = {}
        self.supersteps: dict[tuple[str, UUID], SuperstepRow] = {}
        self.heads: dict[tuple[str, str, str], CheckpointRow] = {}
        self.checkpoints: dict[tuple[str, str, str, str], CheckpointRow] = {}
        self.writes: dict[tuple[str, str, str, str], dict[str, Writes]] = {}
        self.events: dict[tuple[str, UUID], list[EventRow]] = {}
        self.timers: dict[tuple[str, str], TimerRow] = {}
        self.members: dict[UUID, MemberRow] = {}
        self.locks: set[int] = set()
        self.started_at = -1e9

    # --- the fence and what it protects ----------------------------------------------

    def fenced(self, fence: Fence) -> ActivationRow:
        """The activation that the fence names first.

        Raises:
            LeaseLost: one that it names is gone or carries another token.
        """
        for activation_id, token in fence.rights:
            row = self.activations.get(activation_id)
            if row is None or (row.tenant, row.thread_id, row.token) != (
                fence.tenant,
                fence.thread_id,
                token,
            ):
                raise LeaseLost
        return self.activations[fence.activation_id]

    def of_run(self, tenant: str, run_id: UUID) -> list[ActivationRow]:
        """All that there is to do for a run, in the order of ids."""
        rows = self.activations.values()
        found = [row for row in rows if (row.tenant, row.run_id) == (tenant, run_id)]
        return sorted(found, key=lambda row: row.activation_id)

    def drop(self, tenant: str, run_id: UUID) -> list[ActivationRow]:
        """Takes away all that there is to do for a run."""
        self.supersteps.pop((tenant, run_id), None)
        rows = self.of_run(tenant, run_id)
        for row in rows:
            del self.activations[row.activation_id]
        return rows

    def check_heads(self, tenant: str, thread_id: str, puts: Sequence[Put]) -> None:
        """Looks whether each put would find the head that it expects.

        Raises:
            HeadMoved: one would not.
        """
        moved: dict[str, str] = {}
        for put in puts:
            head = moved.get(put.ns)
            if head is None and (row := self.heads.get((tenant, thread_id, put.ns))):
                head = row.put.checkpoint["id"]
            if put.expected_head not in {ANY_HEAD, head}:
                raise HeadMoved
            moved[put.ns] = put.checkpoint["id"]

    def write(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None
    ) -> None:
        """Stores results, checkpoints and events, which have been looked at."""
        for result in commit.writes:
            at = (tenant, thread_id, result.ns, result.checkpoint_id)
            self.writes.setdefault(at, {})[result.task_id] = result
        for put in commit.puts:
            head = self.heads.get((tenant, thread_id, put.ns))
            row = CheckpointRow(
                put,
                1 if head is None else head.ordinal + 1,
                None if fence is None else fence.run_id,
                None if fence is None else fence.token,
            )
            self.heads[tenant, thread_id, put.ns] = row
            self.checkpoints[tenant, thread_id, put.ns, put.checkpoint["id"]] = row
        if commit.events and fence is not None:
            self.tell(fence, commit.events)

    def tell(self, fence: Fence, events: Sequence[NewEvent]) -> None:
        """Appends to the thread's log."""
        assert fence.run_id is not None
        log = self.events.setdefault((fence.tenant, fence.thread_id), [])
        log += [EventRow(fence.run_id, fence.attempt, e.event, e.data) for e in events]

    # --- ending a run, handing its thread on -----------------------------------------

    def may_end(
        self, tenant: str, run_id: UUID, event: RunEvent, *, refusal: type[Error]
    ) -> RunRow:
        """The run, if it can end by `event`."""
        run = self.runs.get((tenant, run_id))
        if run is None or run.status not in sources(event):
            raise refusal("the run does not exist or has ended already")
        return run

    def end(
        self, run: RunRow, event: RunEvent, error: Mapping[str, Any] | None = None
    ) -> None:
        """Ends a run that may end; the head is its end checkpoint, if it put it."""
        tenant, thread_id = run.tenant, run.new.thread_id
        head = self.heads.get((tenant, str(thread_id), ""))
        running = run.status is RunStatus.RUNNING
        if head is not None and (running or head.run_id == run.new.run_id):
            run.end_checkpoint = head.put.checkpoint["id"]
        run.status, run.error = target(event), error
        run.finished_at = run.updated_at = self.clock()
        if run.not_before > run.created_at:
            self.timers.pop((tenant, str(run.new.run_id)), None)

    def promote(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        holder: UUID | None,
        status: ThreadStatus | None,
        error: Mapping[str, Any] | None = None,
    ) -> Next | None:
        """Hands a thread on to its oldest run that may go; see runs.sql."""
        thread = self.threads.get((tenant, thread_id))
        if thread is None or thread.holder != holder:
            return None
        following = self.oldest_that_may_go(tenant, thread_id)
        if following is None:
            if holder is None:
                return None
            shown = thread.status
            idle = ThreadStatus.IDLE if shown is ThreadStatus.BUSY else shown
            thread.holder, thread.status, thread.error = None, status or idle, error
            return None
        new = following.new
        thread.holder, thread.status = new.run_id, ThreadStatus.BUSY
        thread.error = error
        self.activate(tenant, new)
        return Next(new.run_id, new.graph_id, tenant, thread_id, new.labels)

    def oldest_that_may_go(self, tenant: str, thread_id: UUID) -> RunRow | None:
        """The first of the thread's queue whose time has come."""
        now = self.clock()
        for run in self.of_thread.get((tenant, thread_id), ()):
            if run.status is RunStatus.PENDING and run.not_before <= now:
                return run
        return None

    def activate(self, tenant: str, new: NewRun) -> None:
        """Adds the activation of a run that holds its thread."""
        row = ActivationRow(
            tenant,
            self.ids(),
            new.thread_id,
            new.run_id,
            "step",
            new.graph_id,
            self.clock(),
            labels=new.labels,
        )
        self.activations[row.activation_id] = row

    def ready(
        self,
        worker_id: UUID,
        graphs: Sequence[str],
        labels: Sequence[str],
        of: Superstep | None,
        *,
        tasks: bool,
    ) -> Sequence[ActivationRow]:
        """What a worker may claim now, oldest first; see `Dispatcher.claim`."""
        now = self.clock()
        found = [
            row
            for row in self.activations.values()
            if row.state == "ready"
            and row.not_before <= now
            and row.graph_id in graphs
            and set(row.labels) <= set(labels)
            and (row.avoid != worker_id or row.avoid_until <= now)
            and (tasks or row.kind != "task")
            and (of is None or row.superstep == of)
            and not self.locked()
        ]
        return sorted(found, key=lambda row: row.not_before)

    def holds_suspect(self, worker_id: UUID) -> bool:
        """Whether the worker has claimed something that may be what kills workers."""
        return any(
            row.worker_id == worker_id
            and row.state == "leased"
            and is_suspect(row.attempt - 1)
            for row in self.activations.values()
        )

    def add_timer(self, tenant: str, ref: str, due_at: float) -> None:
        """A delayed run is to be promoted."""
        self.timers[tenant, ref] = TimerRow(tenant, ref, due_at)

    def draw_token(self) -> int:
        """The next of the one sequence."""
        self.tokens += 1
        return self.tokens


def moment(seconds: float) -> datetime:
    """The store's clock as the records show it."""
    return _EPOCH + timedelta(seconds=seconds)
