"""The saver of a state update: each write is one commit under the update's fence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from threadmill.checkpoints.base import Checkpoints, Commit, Fence, Put, Writes
from threadmill.checkpoints.configs import address, config_of, metadata_of
from threadmill.errors import InvariantViolated


class FencedSaver(BaseCheckpointSaver[Any]):
    """A LangGraph saver that writes only while its fence holds.

    Nobody else moves the thread's heads under the same fence, so none is compared.

    Args:
        store: where commits go.
        reads: a saver for everything that only reads.
        fence: the claimed update.
    """

    def __init__(
        self, *, store: Checkpoints, reads: BaseCheckpointSaver[Any], fence: Fence
    ) -> None:
        super().__init__(serde=reads.serde)
        self._store = store
        self._reads = reads
        self._fence = fence

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,  # noqa: ARG002  # whole values are stored
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
        )
        await self._commit(Commit(puts=(put,)))
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
        await self._commit(Commit(writes=(result,)))

    async def _commit(self, commit: Commit) -> None:
        fence = self._fence
        await self._store.commit(fence.tenant, str(fence.thread_id), commit, fence)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See the saver that reads."""
        return await self._reads.aget_tuple(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See the saver that reads."""
        async for found in self._reads.alist(
            config, filter=filter, before=before, limit=limit
        ):
            yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See the saver that reads."""
        return await self._reads.aget_delta_channel_history(
            config=config, channels=channels
        )

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The same versions as the saver that reads."""
        return self._reads.get_next_version(current, channel)
