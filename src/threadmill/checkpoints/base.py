"""Port of checkpoint storage: one operation is one commit.

The engine hands over everything that must become true together: task results,
checkpoints, the events that describe them, and whether the activation is released.
The adapter makes it true at once, under the fence, or not at all.

Values are LangGraph's own (`Checkpoint` dictionaries, writes as (channel, value));
how they are laid out is the adapter's business and carries a format number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from uuid import UUID

    from langgraph.checkpoint.base import (
        Checkpoint,
        CheckpointMetadata,
        DeltaChannelHistory,
    )

    from threadmill.checkpoints.configs import Address
    from threadmill.domain.fence import Fence
    from threadmill.stores.records import Claim, Ending, Finished, FreeSlot, Run
    from threadmill.streams.base import NewEvent

# An unset value: "the head may be anything", as opposed to "there is none yet".
ANY_HEAD = ""


@dataclass(frozen=True, slots=True, eq=False)
class Put:
    """A checkpoint to store and to make the head of its namespace.

    Args:
        ns: checkpoint namespace; "" is the root.
        checkpoint: LangGraph's checkpoint, complete with channel values.
        metadata: LangGraph's metadata.
        parent_id: the checkpoint it was made from; None for a first one.
        expected_head: the head that must still be current, None when there must be
            none, ANY_HEAD to overwrite (subgraphs; use without a fence).
        untouched: channels that hold what they held at the parent, for certain.
    """

    ns: str
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    parent_id: str | None
    expected_head: str | None = ANY_HEAD
    untouched: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Writes:
    """Pending writes of one task at one checkpoint, as LangGraph passes them.

    Under a fence they are the task's complete result so far: they replace what an
    earlier attempt stored for the task. Without a fence they are merged as LangGraph's
    own savers do: the first value of a slot stays, marks (error, interrupt, resume)
    are overwritten.
    """

    ns: str
    checkpoint_id: str
    task_id: str
    task_path: str
    writes: Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task of a superstep that is spread over the workers.

    Args:
        task_id: LangGraph's id; every process derives the same.
        task_path: its place in the superstep.
        node: its node's name.
        labels: what a worker must have to run it.
        mine: leased to the planner at once.
        waits: not claimable before another task of the superstep has ended.
    """

    task_id: str
    task_path: str
    node: str
    labels: Sequence[str] = ()
    mine: bool = False
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Replaces a step's activation by one for each task of its superstep.

    Each task has what the step has lost without getting on.

    Args:
        checkpoint_id: which its tasks begin at.
        tasks: all of them.
        lease_seconds: how long the planner's own are leased.
    """

    checkpoint_id: str
    tasks: Sequence[PlannedTask]
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class EndOfTasks:
    """Tasks of a spread superstep are done.

    Whoever ends the last one adds the activation that goes on after the superstep.

    Args:
        activations: theirs.
        bounded: others wait for each of them to end.
        lease_seconds: whoever writes goes on after the superstep, if it ends the last
            one, and holds what follows so long; None leaves that to anybody.
        labels: what a worker must have to go on.
    """

    activations: Sequence[UUID]
    bounded: bool = False
    lease_seconds: float | None = None
    labels: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit has brought about, where its caller could not know.

    Args:
        planned: the activations of the plan's own tasks as (id, token), by place.
        remaining: tasks of the superstep that have not ended; None if none ended now.
        join: the (id, token) of the activation that goes on after the superstep, if
            this commit has ended the last task and taken it over.
        claimed: what the releaser's slot has taken.
        begun: its run and state, if that is what was released: nothing is left to
            begin.
    """

    planned: Mapping[str, tuple[UUID, int]] = field(default_factory=dict)
    remaining: int | None = None
    join: tuple[UUID, int] | None = None
    claimed: Claim | None = None
    begun: RunState | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """What becomes true together.

    Args:
        writes: task results; stored before the checkpoints they led to.
        puts: checkpoints, oldest first.
        events: appended to the thread's stream in this order.
        release: hand the activation back as ready, the token kept until the next
            claim. This attempt does not count; earlier ones do, unless there is
            progress.
        progress: the attempt made progress, so it counts as a first attempt again.
        slot: of the releaser: it takes whatever is ready next, in the queue's order.
        labels: what a worker needs to take the activation next, if it is released or
            has made progress.
        plan: the superstep's tasks become claimable one by one; the fence's
            activation is gone.
        ended: tasks that are done with this commit.
        graph_id: whose state it is, if that is known: it may have a place of its own.
    """

    writes: Sequence[Writes] = ()
    puts: Sequence[Put] = ()
    events: Sequence[NewEvent] = ()
    release: bool = False
    slot: FreeSlot | None = None
    labels: Sequence[str] = ()
    progress: bool = False
    plan: Plan | None = None
    ended: EndOfTasks | None = None
    graph_id: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing would become true by it."""
        return not (
            self.writes
            or self.puts
            or self.events
            or self.release
            or self.plan
            or self.ended
        )


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint as read back.

    Args:
        ordinal: its place in the order of commits of its namespace.
        writes: its pending writes as (task_id, channel, value), in saver order.
        write_runs: for each pending write, the run that stored it (same order).
    """

    thread_id: str
    ns: str
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    parent_id: str | None
    ordinal: int
    run_id: UUID | None
    writes: Sequence[tuple[str, str, Any]] = field(default_factory=tuple)
    write_runs: Sequence[UUID | None] = field(default_factory=tuple)


class Checkpoints(Protocol):
    """Stores and reads checkpoints of one deployment; tenant by tenant."""

    async def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> Committed:
        """Makes all of `commit` true, or nothing.

        Raises:
            LeaseLost: the fence's row is gone or carries another token.
            HeadMoved: the head is not the expected one.
            StateUnserializable: a value cannot be stored; names channel and type.
            Unavailable: nothing was written, or (connection lost) it is unknown.
            StoreReadOnly: nothing was written; the store of values takes no more.

        Under cancellation the outcome is unknown too; the fence and the head tell.
        """
        ...

    async def get(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None = None
    ) -> Stored | None:
        """One checkpoint with its pending writes; without an id, the head's.

        Raises:
            StateLost: it was there, and what it held is gone.
        """
        ...

    def list(
        self,
        tenant: str,
        thread_id: str | None,
        *,
        ns: str | None = None,
        before: str | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's word
        limit: int | None = None,
    ) -> AsyncIterator[Stored]:
        """Checkpoints newest first by commit order.

        Args:
            tenant: whose.
            thread_id: None lists every thread of the tenant.
            ns: None lists every namespace.
            before: only what was there before this checkpoint, which may belong to
                another namespace of the thread.
            filter: JSON that the metadata must contain.
            limit: how many at most.

        Raises:
            NotFound: there is no checkpoint `before`.
        """
        ...

    async def delete_thread(self, tenant: str, thread_id: str) -> None:
        """Removes every checkpoint, write and head of a thread."""
        ...


@dataclass(frozen=True, slots=True)
class RunState:
    """A run and the checkpoint that it stands at, if there is one."""

    run: Run
    at: Stored | None


class RunStates(Protocol):
    """What concerns a run and its state at once; one round trip where that can be."""

    async def begin(self, claim: Claim) -> RunState:
        """`Dispatcher.begin`, and the thread's head as the run finds it.

        Raises:
            LeaseLost: the claim is no longer ours (cancelled, re-claimed).
            StateLost: the run has begun, and what the head held is gone.
        """
        ...

    async def finish(self, fence: Fence, ending: Ending, rest: Commit) -> Finished:
        """Commits `rest` and does `Dispatcher.finish`, in one transaction.

        Raises:
            Error: see `Checkpoints.commit`; nothing was written, the run goes on.
        """
        ...

    async def look(self, tenant: str, run_id: UUID, thread_id: UUID) -> RunState:
        """A run, and once it has ended its own last checkpoint.

        Raises:
            NotFound: no such run on that thread.
        """
        ...


class SyncCheckpoints(Protocol):
    """The same storage for threads that block until they have their answer.

    A node may call a subgraph without awaiting it, even on the activation's own event
    loop. So nothing here needs a loop of the caller's; every wait is bounded.
    """

    def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> None:
        """See `Checkpoints.commit`."""
        ...

    def get(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None = None
    ) -> Stored | None:
        """See `Checkpoints.get`."""
        ...

    def list(
        self,
        tenant: str,
        thread_id: str,
        *,
        ns: str | None = None,
        before: str | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's word
        limit: int | None = None,
    ) -> Sequence[Stored]:
        """See `Checkpoints.list`; all at once."""
        ...

    def delta_history(
        self, tenant: str, at: Address, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the delta channels of a checkpoint are rebuilt from."""
        ...
