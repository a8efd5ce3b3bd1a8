"""A LangGraph saver that reads through another one: the base of ours that write.

LangGraph asks a saver for many kinds of reads; a saver that changes only how writes
are committed inherits them all from here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    CheckpointTuple,
    DeltaChannelHistory,
)


class ReadingSaver(BaseCheckpointSaver[Any]):
    """Delegates every read to `reads`; writing is the subclass's business."""

    def __init__(self, reads: BaseCheckpointSaver[Any]) -> None:
        super().__init__(serde=reads.serde)
        self._reads = reads

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `BaseCheckpointSaver.aget_tuple`."""
        return await self._reads.aget_tuple(config)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See `BaseCheckpointSaver.alist`."""
        async for found in self._reads.alist(
            config, filter=filter, before=before, limit=limit
        ):
            yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See `BaseCheckpointSaver.aget_delta_channel_history`."""
        return await self._reads.aget_delta_channel_history(
            config=config, channels=channels
        )

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `BaseCheckpointSaver.get_tuple`."""
        return self._reads.get_tuple(config)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002  # LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """See `BaseCheckpointSaver.list`."""
        return self._reads.list(config, filter=filter, before=before, limit=limit)

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See `BaseCheckpointSaver.get_delta_channel_history`."""
        return self._reads.get_delta_channel_history(config=config, channels=channels)

    def get_next_version(self, current: Any, channel: None) -> Any:
        """The same versions as the saver that others read this thread with."""
        return self._reads.get_next_version(current, channel)

    def with_allowlist(
        self,
        extra_allowlist: Collection[tuple[str, ...]],  # noqa: ARG002
    ) -> BaseCheckpointSaver[Any]:
        """Itself: what may be decoded is the store's decision, not one graph's."""
        return self
