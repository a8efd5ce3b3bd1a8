"""The saver of one attempt: every write goes through the fence, in batches.

LangGraph hands over task results and checkpoints one by one. Here they queue up while
a commit is under way, and the next commit takes all that waits, together with the
events that describe it. A commit is one transaction that first locks the activation's
row by its token; once one has failed, nothing more is written, whatever the graph
still does.

The result of a superstep's only task waits for the checkpoint that follows at once
and shares its commit; every other way out of the superstep writes it first.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
)
from langgraph.runtime import RunControl

from threadmill.checkpoints.base import (
    ANY_HEAD,
    Checkpoints,
    Commit,
    Put,
    Stored,
    Writes,
)
from threadmill.domain.fence import Fence
from threadmill.engine.activation.tap import Owner, Tap
from threadmill.errors import LeaseLost
from threadmill.faults import Faults

RESUMING: Final = "__pregel_resuming"
START: Final = "__start__"

_Item = Put | Writes


class ActivationSaver(BaseCheckpointSaver[Any]):
    """A LangGraph saver bound to one claim.

    Args:
        store: where commits go.
        reads: a saver for everything that only reads.
        fence: the claim.
        head: the thread's head as loaded after the claim.
        reentry: whether this run has committed a checkpoint before.
        tap: the attempt's event recorder.
        control: LangGraph's own switch for leaving at the next superstep.
        hand_over: asked after each superstep with user nodes: leave now?
        progressed: whether the claim counts as a first attempt already.
        faults: what tests make happen around commits.
        on_events: told after each commit with events.
    """

    def __init__(
        self,
        *,
        store: Checkpoints,
        reads: BaseCheckpointSaver[Any],
        fence: Fence,
        head: Stored | None,
        reentry: bool,
        tap: Tap,
        control: RunControl,
        hand_over: Callable[[], bool],
        progressed: bool,
        on_events: Callable[[], None],
        faults: Faults,
    ) -> None:
        super().__init__(serde=reads.serde)
        self._store = store
        self._reads = reads
        self._fence = fence
        self._head = head
        self._reentry = reentry
        self._tap = tap
        self._control = control
        self._hand_over = hand_over
        self._expected = head.checkpoint["id"] if head else None
        self._thread = str(fence.thread_id)
        self._queue: list[_Item] = []
        self._lock = asyncio.Lock()
        self._entered = False
        self._progressed = progressed
        self._on_events = on_events
        self._faults = faults
        self.failure: BaseException | None = None
        self.failed = asyncio.Event()
        self.released = False
        self.step: int = head.metadata.get("step", -2) if head else -2

    # --- what LangGraph's loop calls -------------------------------------------

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The head as loaded with the claim; anything else is read afresh."""
        configurable = config["configurable"]
        ns = configurable.get("checkpoint_ns", "")
        checkpoint_id = configurable.get("checkpoint_id")
        if not ns and not checkpoint_id and not self._entered:
            self._entered = True
            return self._tuple(self._head) if self._head else None
        await self.flush()
        if not ns:
            return await self._reads.aget_tuple(config)
        stored = await self._store.get(
            self._fence.tenant, self._thread, ns, checkpoint_id
        )
        if stored is None:
            return None
        self._enter_subgraph(ns, stored, configurable)
        return self._tuple(stored)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,  # noqa: ARG002  # whole values are stored
    ) -> RunnableConfig:
        """Commits a checkpoint with all that waits; returns when it is durable."""
        put = self._put_of(config, checkpoint, metadata)
        release = False
        if not put.ns:
            release = self._after_root(metadata)
        await self._commit(put, release=release)
        if not put.ns:
            self._expected = checkpoint["id"]
            self.step = metadata["step"]
        self._tap.end_superstep(put.ns)
        return self._config(put.ns, checkpoint["id"])

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Commits a task's result, unless the checkpoint that follows may carry it."""
        item = self._writes_of(config, writes, task_id, task_path)
        regular = all(channel not in WRITES_IDX_MAP for channel, _ in writes)
        if regular and not item.ns and self._tap.single_task(item.ns, task_id):
            self._queue.append(item)
            return
        await self._commit(item)

    async def flush(self) -> None:
        """Commits everything that waits, events included as far as they may go."""
        await self._commit()

    def refuse(self, reason: BaseException) -> None:
        """From now on nothing is written any more."""
        if self.failure is None:
            self.failure = reason
            self.failed.set()

    # --- the writer --------------------------------------------------------------

    async def _commit(self, item: _Item | None = None, *, release: bool = False) -> None:
        if item is not None:
            self._queue.append(item)
        async with self._lock:
            if self.failure is not None:
                raise LeaseLost from self.failure
            if item is not None and not any(i is item for i in self._queue):
                return  # somebody else's commit took it along
            batch, self._queue = self._queue, []
            commit = self._commit_of(batch, release=release)
            if not (commit.writes or commit.puts or commit.events):
                return
            try:
                await self._faults.at("commit.before")
                await self._store.commit(
                    self._fence.tenant, self._thread, commit, self._fence
                )
            except BaseException as error:
                self.refuse(error)
                raise
            await self._faults.at("commit.after")
            self.released = self.released or release
            self._progressed = self._progressed or commit.progress
        if commit.events:
            self._on_events()

    def _commit_of(self, batch: Sequence[_Item], *, release: bool) -> Commit:
        puts = [item for item in batch if isinstance(item, Put)]
        writes = [item for item in batch if isinstance(item, Writes)]
        owners: set[Owner] = {("put", put.ns) for put in puts}
        owners |= {("task", w.task_id) for w in writes}
        return Commit(
            writes=writes,
            puts=puts,
            events=self._tap.take(owners),
            release=release,
            progress=not self._progressed and any(not put.ns for put in puts),
        )

    def _put_of(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata
    ) -> Put:
        configurable = config["configurable"]
        ns = configurable.get("checkpoint_ns", "")
        return Put(
            ns=ns,
            checkpoint=checkpoint,
            metadata=get_checkpoint_metadata(config, metadata),
            parent_id=configurable.get("checkpoint_id"),
            expected_head=ANY_HEAD if ns else self._expected,
        )

    @staticmethod
    def _writes_of(
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Writes:
        configurable = config["configurable"]
        return Writes(
            ns=configurable.get("checkpoint_ns", ""),
            checkpoint_id=configurable["checkpoint_id"],
            task_id=task_id,
            task_path=task_path,
            writes=writes,
        )

    def _after_root(self, metadata: CheckpointMetadata) -> bool:
        """Decides, before a root checkpoint is committed, whether to leave after it."""
        if metadata.get("source") != "loop":
            return False
        if set(self._tap.names("")) <= {START} or not self._hand_over():
            return False
        self._control.request_drain("hand over")
        return True

    # --- subgraphs -----------------------------------------------------------------

    def _enter_subgraph(
        self, ns: str, stored: Stored, configurable: dict[str, Any]
    ) -> None:
        """Makes a re-entered subgraph behave as if its run had never stopped.

        Entering with no input tells every subgraph to resume. One that keeps its
        history across supersteps (`checkpointer=True`) must not, unless its latest
        checkpoint was made under the present superstep: it would ignore its input.
        """
        if not self._reentry:
            return
        if stored.run_id == self._fence.run_id:
            self._tap.skip_first_values(ns)
        current = configurable.get("checkpoint_map", {})
        if stored.metadata.get("parents", {}) != current:
            configurable.pop(RESUMING, None)

    # --- reads -----------------------------------------------------------------------

    def _config(self, ns: str, checkpoint_id: str) -> RunnableConfig:
        return {
            "configurable": {
                "thread_id": self._thread,
                "checkpoint_ns": ns,
                "checkpoint_id": checkpoint_id,
            }
        }

    def _tuple(self, stored: Stored) -> CheckpointTuple:
        return CheckpointTuple(
            config=self._config(stored.ns, stored.checkpoint["id"]),
            checkpoint=stored.checkpoint,
            metadata=stored.metadata,
            parent_config=(
                self._config(stored.ns, stored.parent_id) if stored.parent_id else None
            ),
            pending_writes=list(stored.writes),
        )

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See the saver that reads."""
        await self.flush()
        return await self._reads.aget_delta_channel_history(
            config=config, channels=channels
        )

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See the saver that reads."""
        return self._reads.get_delta_channel_history(config=config, channels=channels)

    def with_allowlist(
        self,
        extra_allowlist: Collection[tuple[str, ...]],  # noqa: ARG002
    ) -> BaseCheckpointSaver[Any]:
        """Itself: what may be decoded is the store's decision, not one graph's."""
        return self

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The same versions as the saver that others read this thread with."""
        return self._reads.get_next_version(current, channel)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See the saver that reads."""
        await self.flush()
        async for found in self._reads.alist(
            config, filter=filter, before=before, limit=limit
        ):
            yield found

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """For subgraphs that a node calls synchronously."""
        found = self._reads.get_tuple(config)
        configurable = config["configurable"]
        if found is not None and self._reentry:
            current = configurable.get("checkpoint_map", {})
            if found.metadata.get("parents", {}) != current:
                configurable.pop(RESUMING, None)
        return found

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """See the saver that reads."""
        return self._reads.list(config, filter=filter, before=before, limit=limit)


