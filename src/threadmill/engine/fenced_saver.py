"""The saver of a state update: each write is one commit under the update's fence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
)

from threadmill.checkpoints.base import Checkpoints, Commit, Put, Writes
from threadmill.checkpoints.configs import address, config_of, metadata_of, untouched
from threadmill.domain.fence import Fence
from threadmill.engine.reading_saver import ReadingSaver
from threadmill.errors import InvariantViolated


class FencedSaver(ReadingSaver):
    """A LangGraph saver that writes only while its fence holds.

    Nobody else moves the thread's heads under the same fence, so none is compared.

    Args:
        store: where commits go.
        reads: a saver for everything that only reads.
        fence: the claimed update.
        graph_id: whose state it is.
    """

    def __init__(
        self,
        *,
        store: Checkpoints,
        reads: BaseCheckpointSaver[Any],
        fence: Fence,
        graph_id: str,
    ) -> None:
        super().__init__(reads)
        self._store = store
        self._fence = fence
        self._graph_id = graph_id
        self._committed = False

    @property
    def has_committed(self) -> bool:
        """Whether something of the update is stored."""
        return self._committed

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Commits a checkpoint and makes it the head of its namespace.

        Raises:
            LeaseLost: the fence does not hold any more.
            StateUnserializable: a value cannot be stored.
        """
        at = address(config)
        put = Put(
            ns=at.ns or "",
            checkpoint=checkpoint,
            metadata=metadata_of(config, metadata),
            parent_id=at.checkpoint_id,
            untouched=untouched(checkpoint, metadata, new_versions),
        )
        await self._commit(Commit(puts=(put,), graph_id=self._graph_id))
        return config_of(at.thread_id, put.ns, checkpoint["id"])

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Commits what the update makes a node write.

        Raises:
            LeaseLost: the fence does not hold any more.
            StateUnserializable: a value cannot be stored.
        """
        at = address(config)
        if at.checkpoint_id is None:
            msg = "writes of a state update name no checkpoint"
            raise InvariantViolated(msg)
        result = Writes(at.ns or "", at.checkpoint_id, task_id, task_path, writes)
        await self._commit(Commit(writes=(result,), graph_id=self._graph_id))

    async def _commit(self, commit: Commit) -> None:
        fence = self._fence
        await self._store.commit(fence.tenant, str(fence.thread_id), commit, fence)
        self._committed = True
