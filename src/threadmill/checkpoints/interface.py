"""LangGraph's saver interface over any of our checkpoint stores.

What the interface says stands here once; a subclass adds how its store is opened and
closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from langgraph.checkpoint.base import get_checkpoint_id

from threadmill.checkpoints import configs
from threadmill.checkpoints.base import Commit, Put, Writes
from threadmill.checkpoints.blocking import BlockingSaver, following
from threadmill.checkpoints.history import Ancestry, delta_history
from threadmill.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        DeltaChannelHistory,
    )

    from threadmill.checkpoints.base import Committed, Stored
    from threadmill.domain.fence import Fence


class Store(Ancestry, Protocol):
    """The part of `Checkpoints` that a saver needs, and a list's narrowing."""

    async def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> Committed:
        """See `Checkpoints.commit`."""
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
        checkpoint_id: str | None = None,
    ) -> AsyncGenerator[Stored, None]:
        """See `Checkpoints.list`; `checkpoint_id` narrows it to one checkpoint."""
        ...

    async def delete_thread(self, tenant: str, thread_id: str) -> None:
        """See `Checkpoints.delete_thread`."""
        ...


class WholeThreads(Protocol):
    """What is done to whole threads and runs; see `Upkeep`."""

    async def copy_thread(self, tenant: str, source: str, target: str) -> None:
        """Copies a thread as of one moment."""
        ...

    async def delete_for_runs(self, tenant: str, run_ids: Sequence[str]) -> None:
        """Removes the checkpoints and writes of some runs."""
        ...

    async def prune(
        self, tenant: str, thread_ids: Sequence[str], *, strategy: str = "keep_latest"
    ) -> None:
        """Removes history."""
        ...


class StoreSaver(BlockingSaver):
    """A checkpoint saver for one tenant, over `_checkpoints`, at `_home`."""

    tenant: str
    _checkpoints: Store
    _upkeep: WholeThreads

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that `config` names, or the head, with its pending writes."""
        at = configs.address(config)
        stored = await self._home.run(
            self._checkpoints.get(
                self.tenant, at.thread_id, at.ns or "", at.checkpoint_id
            )
        )
        return configs.tuple_of(stored) if stored else None

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's word
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints by the order of their commits, newest first.

        Args:
            config: thread, and namespace if not all of them; None lists all threads.
            filter: what the metadata must contain.
            before: only what was there before this checkpoint.
            limit: how many at most.

        Raises:
            NotFound: there is no checkpoint `before`.
        """
        at = configs.address(config) if config else None
        found = self._checkpoints.list(
            self.tenant,
            at.thread_id if at else None,
            ns=at.ns if at else None,
            checkpoint_id=at.checkpoint_id if at else None,
            before=get_checkpoint_id(before) if before else None,
            filter=filter,
            limit=limit,
        )
        try:
            while stored := await self._home.run(following(found)):
                yield configs.tuple_of(stored)
        finally:
            await self._home.run(found.aclose())

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Stores a checkpoint and makes it the head of its namespace.

        Raises:
            StateUnserializable: names the channel and the type.
        """
        at = configs.address(config)
        put = Put(
            ns=at.ns or "",
            checkpoint=checkpoint,
            metadata=configs.metadata_of(config, metadata),
            parent_id=at.checkpoint_id,
            untouched=configs.untouched(checkpoint, metadata, new_versions),
        )
        await self._commit(at.thread_id, Commit(puts=(put,)))
        return configs.config_of(at.thread_id, put.ns, checkpoint["id"])

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        """Stores a task's writes with the checkpoint they were made at.

        Raises:
            StateUnserializable: names the channel and the type.
        """
        at = configs.address(config)
        if at.checkpoint_id is None:
            msg = "put_writes needs the checkpoint_id that the writes belong to"
            raise InvalidRequest(msg)
        result = Writes(at.ns or "", at.checkpoint_id, task_id, task_path, writes)
        await self._commit(at.thread_id, Commit(writes=(result,)))

    async def _commit(self, thread_id: str, commit: Commit) -> None:
        await self._home.run(self._checkpoints.commit(self.tenant, thread_id, commit))

    async def adelete_thread(self, thread_id: str) -> None:
        """Removes every checkpoint and write of a thread."""
        key = configs.thread_key(thread_id)
        await self._home.run(self._checkpoints.delete_thread(self.tenant, key))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Removes the checkpoints and writes of some runs."""
        _require_several("run_ids", run_ids)
        await self._home.run(self._upkeep.delete_for_runs(self.tenant, run_ids))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copies every checkpoint and write, as of one moment, to an unused thread.

        Raises:
            AlreadyExists: the target has checkpoints.
        """
        source = configs.thread_key(source_thread_id)
        target = configs.thread_key(target_thread_id)
        await self._home.run(self._upkeep.copy_thread(self.tenant, source, target))

    async def aprune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest"
    ) -> None:
        """Removes history; what delta channels are rebuilt from stays.

        Args:
            thread_ids: which threads.
            strategy: `keep_latest` or `delete`.

        Raises:
            InvalidRequest: an unknown strategy.
            HeadMoved: a thread kept going on meanwhile.
        """
        _require_several("thread_ids", thread_ids)
        keys = [configs.thread_key(thread_id) for thread_id in thread_ids]
        await self._home.run(self._upkeep.prune(self.tenant, keys, strategy=strategy))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What the delta channels of a checkpoint are rebuilt from."""
        at = configs.address(config)
        return await self._home.run(
            delta_history(self._checkpoints, self.tenant, at, channels)
        )


def _require_several(name: str, ids: Sequence[str]) -> None:
    # A string is a sequence of strings too, and "12" would mean threads 1 and 2.
    if isinstance(ids, str):
        msg = f"{name} must be a list of ids, not one string"
        raise InvalidRequest(msg)
