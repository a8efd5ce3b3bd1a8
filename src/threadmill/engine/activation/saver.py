"""LangGraph's view of one claim: a saver that writes through the fence.

The root's checkpoint is the head as loaded with the claim, and only that head may be
followed: what somebody else put meanwhile makes the next commit fail. Subgraphs keep
their checkpoints here as well; entering one again after a loss needs some care, which
is taken when LangGraph asks for its checkpoint.

LangGraph calls from the activation's event loop, from threads (a node that calls
`subgraph.invoke`), and from loops of the node's own (`asyncio.run` in a thread). A
blocking call never needs the activation's loop, which may be what it blocks.

Two kinds of writes wait, to share a commit with what follows at once. The result of a
superstep's only task waits for the checkpoint after it. A checkpoint of the root waits
for the next task to start, before which it is committed, or for the end of the run: no
user code runs in between, so a crash there loses nothing that a commit would have kept.

What spreads the input over the channels goes with its checkpoint and never without it.
LangGraph shows a finished task's result as part of the state, and drops it when the run
was cancelled and another one begins: a message would be read, and be gone.

So do results at a checkpoint of the past that a run answers at: LangGraph runs its
tasks again at each entry, also those that have finished, until there is a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.constants import START
from langgraph.runtime import RunControl

from threadmill.checkpoints.base import (
    ANY_HEAD,
    Checkpoints,
    Put,
    Stored,
    SyncCheckpoints,
    Writes,
)
from threadmill.checkpoints.configs import (
    Address,
    address,
    config_of,
    metadata_of,
    tuple_of,
    untouched,
)
from threadmill.checkpoints.home import Home
from threadmill.domain.fence import Fence
from threadmill.engine.activation.identity import TASK_KEY
from threadmill.engine.activation.resume import is_result
from threadmill.engine.activation.share import Share
from threadmill.engine.activation.submitted import Parked
from threadmill.engine.activation.tap import Tap
from threadmill.engine.activation.writer import Until, Writer
from threadmill.engine.reading_saver import ReadingSaver
from threadmill.engine.values import finished_tasks
from threadmill.errors import (
    GraphFailed,
    InvariantViolated,
    SetupError,
    StateLost,
    Unavailable,
)

T = TypeVar("T")

RESUMING: Final = "__pregel_resuming"
# Longer than any commit may take; the store bounds each by itself.
_HOME_SECONDS: Final = 120.0


class ActivationSaver(ReadingSaver):
    """A LangGraph saver bound to one claim.

    Args:
        store: where subgraphs' checkpoints are read.
        blocking: the same for threads that block.
        reads: a saver for everything else that only reads.
        writer: where commits go.
        share: says whose a task's result is to write, and what ends with it.
        fence: the claim.
        head: the thread's head as loaded after the claim.
        tap: the attempt's event recorder.
        control: LangGraph's own switch for leaving at the next superstep.
        hand_over: asked after each superstep with user nodes: leave now?
    """

    def __init__(
        self,
        *,
        store: Checkpoints,
        blocking: SyncCheckpoints,
        reads: BaseCheckpointSaver[Any],
        writer: Writer,
        share: Share,
        fence: Fence,
        head: Stored | None,
        tap: Tap,
        control: RunControl,
        hand_over: Callable[[], bool],
    ) -> None:
        super().__init__(reads)
        self._store = store
        self._blocking = blocking
        self._writer = writer
        self._share = share
        self._fence = fence
        self._head = head
        self._tap = tap
        self._control = control
        self._hand_over = hand_over
        self._expected = head.checkpoint["id"] if head else None
        self._thread = str(fence.thread_id)
        self._entered = False
        # Whether LangGraph would run what has finished again, were it entered anew.
        self._runs_again = False
        self._home = Home(wait_seconds=_HOME_SECONDS)
        self._home.move_in(asyncio.get_running_loop())
        self.step: int = head.metadata.get("step", -2) if head else -2
        self.replay_before: str | None = None

    # --- what LangGraph's loop calls ----------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The head as loaded with the claim; anything else is read afresh."""
        at = self._address(config)
        if not at.ns and not at.checkpoint_id and not self._entered:
            self._entered = True
            return tuple_of(self._head) if self._head else None
        await self._at_home(self._writer.flush())
        if not at.ns:
            found = await self._at_home(super().aget_tuple(config))
            if found is None and at.checkpoint_id:
                # LangGraph would begin with an empty state.
                raise GraphFailed(f"checkpoint {at.checkpoint_id} is gone")
            if not self._entered:
                self._runs_again = at.checkpoint_id != self._expected
            return found
        self._tap.keep(at.ns)
        return await self._at_home(self._subgraph(at, config))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Commits a subgraph's checkpoint; the root's waits, see above."""
        put = self._put_of(config, checkpoint, metadata, new_versions)
        await self._writer.faults.at("put.before")
        if not put.ns and metadata.get("source") == "loop":
            await self._superstep_is_ours()
        leaves = not put.ns and self._leaves(metadata)
        ends = checkpoint["id"] if metadata.get("source") == "loop" else None
        self._tap.end_superstep(put.ns, ends)
        if put.ns:
            await self._at_home(self._writer.commit(put))
        else:
            if leaves or self._share.may_leave:
                self._tap.mark()
            self._writer.hold(put, Until.LEAVING if leaves else Until.ANYTHING)
            self._runs_again = False
            self._expected = self._share.head_id = checkpoint["id"]
            self.step = metadata["step"]
        await self._writer.faults.at("put.after")
        return config_of(self._thread, put.ns, checkpoint["id"])

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Commits a task's result, unless the checkpoint that follows may carry it."""
        item = self._writes_of(config, writes, task_id, task_path)
        await self._writer.faults.at("put_writes.before")
        await self._take_writes(item)
        await self._writer.faults.at("put_writes.after")

    async def _take_writes(self, item: Writes) -> None:
        task_id, writes = item.task_id, item.writes
        if not item.ns and self._share.is_elsewhere(task_id):
            return
        self._tap.writes_follow(item.ns, task_id)
        ends = None if item.ns else self._share.ends(task_id, writes)
        if not item.ns and ends is None and is_result(writes):
            if _spreads_input(item):
                self._writer.hold(item, Until.CHECKPOINT)
                return
            if self._runs_again:
                self._writer.hold(item, Until.CHECKPOINT_OR_END)
                return
            if self._tap.is_only_task(task_id):
                self._writer.hold(item)
                return
        await self._at_home(self._writer.commit(item, ends=ends))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See the saver that reads; a replayed subgraph is entered by this, too."""
        at = self._address(config)
        if at.ns:
            self._tap.keep(at.ns)
        await self._at_home(self._writer.flush())
        listed = super().alist(config, filter=filter, before=before, limit=limit)
        for found in await self._at_home(_all_of(listed)):
            yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See the saver that reads."""
        await self._at_home(self._writer.flush())
        reading = super().aget_delta_channel_history(config=config, channels=channels)
        return await self._at_home(reading)

    # --- the same for threads that block ------------------------------------------

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """A subgraph's checkpoint, for a node that calls it without awaiting."""
        at = self._address(config)
        tenant, ns = self._fence.tenant, at.ns or ""
        with self._watched():
            stored = self._blocking.get(tenant, self._thread, ns, at.checkpoint_id)
            if stored is not None and self._is_replaced(stored):
                listed = self._blocking.list(
                    tenant, self._thread, ns=ns, before=self.replay_before, limit=1
                )
                stored = next(iter(listed), None)
        return self._enter(stored, config) if stored is not None else None

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Commits a subgraph's checkpoint."""
        put = self._put_of(config, checkpoint, metadata, new_versions)
        if not put.ns:
            raise InvariantViolated("a thread's own checkpoints are put on its loop")
        self._writer.faults.at_blocking("put.before")
        self._writer.commit_blocking(put, self._right_of(config))
        self._writer.faults.at_blocking("put.after")
        return config_of(self._thread, put.ns, checkpoint["id"])

    def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Commits the result of a subgraph's task."""
        item = self._writes_of(config, writes, task_id, task_path)
        self._writer.faults.at_blocking("put_writes.before")
        self._writer.commit_blocking(item, self._right_of(config))
        self._writer.faults.at_blocking("put_writes.after")

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """A subgraph's checkpoints."""
        at = self._address(config)
        with self._watched():
            listed = self._blocking.list(
                self._fence.tenant,
                self._thread,
                ns=at.ns,
                before=address(before).checkpoint_id if before else None,
                filter=filter,
                limit=limit,
            )
        return map(tuple_of, listed)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What a subgraph's delta channels are rebuilt from."""
        with self._watched():
            return self._blocking.delta_history(
                self._fence.tenant, self._address(config), channels
            )

    async def _at_home(self, work: Coroutine[Any, Any, T]) -> T:
        """Does `work` on the activation's loop, whichever loop asks."""
        with self._watched():
            return await self._home.run(work)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """The store's failure ends the attempt; it is no failure of the node's."""
        try:
            yield
        except (Unavailable, StateLost, SetupError) as error:
            self._writer.refuse(error)
            raise

    # --- leaving ------------------------------------------------------------------

    async def _superstep_is_ours(self) -> None:
        """Waits for the end of a superstep that is spread.

        Raises:
            Parked: somebody else goes on after it.
        """
        if not await self._share.goes_on():
            raise Parked("the superstep ends elsewhere")
        self._share.end_superstep()

    def _leaves(self, metadata: CheckpointMetadata) -> bool:
        """Decides, before a root checkpoint is committed, whether to leave after it."""
        if metadata.get("source") != "loop" or not self._tap.has_tasks():
            return False
        if not self._hand_over():
            return False
        self._control.request_drain("hand over")
        return True

    # --- subgraphs ----------------------------------------------------------------

    async def _subgraph(
        self, at: Address, config: RunnableConfig
    ) -> CheckpointTuple | None:
        tenant, ns = self._fence.tenant, at.ns or ""
        stored = await self._store.get(tenant, self._thread, ns, at.checkpoint_id)
        if stored is not None and self._is_replaced(stored):
            listed = self._store.list(
                tenant, self._thread, ns=ns, before=self.replay_before, limit=1
            )
            stored = await anext(aiter(listed), None)
        return self._enter(stored, config) if stored is not None else None

    def _is_replaced(self, stored: Stored) -> bool:
        """Whether a run that forked off does not go on from this checkpoint.

        LangGraph takes care of it in the entry that forks off; later ones do it here.
        """
        return self.replay_before is not None and stored.run_id != self._fence.run_id

    def _enter(self, stored: Stored, config: RunnableConfig) -> CheckpointTuple:
        """Makes a re-entered subgraph behave as if its run had never stopped.

        Entering with no input tells every subgraph to resume. One that keeps its
        history across supersteps (`checkpointer=True`) must not, unless its latest
        checkpoint was made under the present superstep: it would ignore its input.
        """
        configurable = config["configurable"]
        reenters = self._head is not None and self._head.run_id == self._fence.run_id
        under = configurable.get("checkpoint_map", {})
        if reenters and stored.metadata.get("parents", {}) != under:
            configurable.pop(RESUMING, None)
        self._tap.enter(
            stored.ns,
            resumes=bool(configurable.get(RESUMING)),
            own=stored.run_id == self._fence.run_id,
            finished=finished_tasks(stored.writes),
        )
        return tuple_of(stored)

    # --- items --------------------------------------------------------------------

    def _put_of(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Put:
        at = self._address(config)
        return Put(
            ns=at.ns or "",
            checkpoint=checkpoint,
            metadata=metadata_of(config, metadata),
            parent_id=at.checkpoint_id,
            expected_head=ANY_HEAD if at.ns else self._expected,
            untouched=untouched(checkpoint, metadata, new_versions),
        )

    def _writes_of(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Writes:
        at = self._address(config)
        if at.checkpoint_id is None:
            raise InvariantViolated("a task's writes name no checkpoint")
        return Writes(at.ns or "", at.checkpoint_id, task_id, task_path, writes)

    def _right_of(self, config: RunnableConfig) -> Fence:
        """What a blocking node acts under: its own task's, whatever its siblings do."""
        own = config["configurable"].get(TASK_KEY)
        return self._share.fence_of(own[1] if own else "")

    def _address(self, config: RunnableConfig | None) -> Address:
        """What LangGraph asks for; only this thread is ours.

        Raises:
            GraphFailed: another thread's checkpoint.
        """
        at = address(config or {})
        if at.thread_id != self._thread:
            raise GraphFailed(
                f"a node of thread {self._thread} hands its own config to a graph of "
                f"thread '{at.thread_id}'; call that graph with "
                '{"configurable": {"thread_id": ...}} alone'
            )
        return at


def _spreads_input(result: Writes) -> bool:
    return result.task_path.endswith(f", {START}")


async def _all_of(items: AsyncIterator[CheckpointTuple]) -> Sequence[CheckpointTuple]:
    return [item async for item in items]
