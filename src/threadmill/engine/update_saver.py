"""The saver of a state update: commits under the fence of its own activation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    get_checkpoint_metadata,
)

from threadmill.checkpoints.base import Checkpoints, Commit, Fence, Put, Writes
from threadmill.engine.reading_saver import ReadingSaver


class UpdateSaver(ReadingSaver):
    """What `graph.aupdate_state` writes through while it holds a thread.

    Args:
        store: where commits go.
        reads: a saver for everything that only reads.
        fence: the update's activation. It keeps every other writer out, so the head
            needs no comparison.
    """

    def __init__(
        self, *, store: Checkpoints, reads: BaseCheckpointSaver[Any], fence: Fence
    ) -> None:
        super().__init__(reads)
        self._store = store
        self._fence = fence
        self._thread = str(fence.thread_id)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,  # noqa: ARG002  # whole values are stored
    ) -> RunnableConfig:
        """Commits one checkpoint; raises LeaseLost when the update took too long."""
        configurable = config["configurable"]
        ns = configurable.get("checkpoint_ns", "")
        put = Put(
            ns=ns,
            checkpoint=checkpoint,
            metadata=get_checkpoint_metadata(config, metadata),
            parent_id=configurable.get("checkpoint_id"),
        )
        await self._commit(Commit(puts=[put]))
        return {
            "configurable": {
                "thread_id": self._thread,
                "checkpoint_ns": ns,
                "checkpoint_id": checkpoint["id"],
            }
        }

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Commits the writes that an update makes in a node's name."""
        configurable = config["configurable"]
        item = Writes(
            ns=configurable.get("checkpoint_ns", ""),
            checkpoint_id=configurable["checkpoint_id"],
            task_id=task_id,
            task_path=task_path,
            writes=writes,
        )
        await self._commit(Commit(writes=[item]))

    async def _commit(self, commit: Commit) -> None:
        await self._store.commit(
            self._fence.tenant, self._thread, commit, self._fence
        )
