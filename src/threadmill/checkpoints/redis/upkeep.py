"""Removing and copying whole parts of threads: runs, histories, threads.

Each thread is one script, so it is at one moment what it was and at the next what it
should be. On a thread that is at work, the head's compare makes either this or the next
commit fail, never mix. What no checkpoint needs any more goes in the same script.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from threadmill.checkpoints.configs import Address
from threadmill.checkpoints.history import needed_ancestors
from threadmill.checkpoints.redis.directory import SCRIPTS
from threadmill.checkpoints.redis.keys import thread_keys
from threadmill.checkpoints.redis.store import run_name
from threadmill.domain.retention import Strategy
from threadmill.errors import HeadMoved, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.checkpoints.redis.store import RedisCheckpoints
    from threadmill.drivers.redis.database import Text

# A thread that goes on while it is pruned is read again this often.
_PRUNE_TRIES = 5


class RedisUpkeep:
    """What LangGraph's savers offer for whole threads and runs.

    Args:
        checkpoints: the storage to look after.
    """

    def __init__(self, checkpoints: RedisCheckpoints) -> None:
        self._checkpoints = checkpoints
        self._database = checkpoints.database

    async def copy_thread(self, tenant: str, source: str, target: str) -> None:
        """Copies every checkpoint, write and head, as of one moment.

        The whole thread passes through this process: in a Cluster the two threads lie
        on different nodes. The copy is there at once or not at all.

        Raises:
            AlreadyExists: the target has checkpoints.
        """
        found = await self._database.call(SCRIPTS.export, thread_keys(tenant, source))
        parts = [_flat(part) for part in found]
        await self._checkpoints.directory.announce(tenant, target)
        args: list[Any] = [self._checkpoints.keeping.milliseconds, target]
        for part in parts:
            args += [len(part), *part]
        keys = thread_keys(tenant, target)
        await self._database.call(SCRIPTS.import_thread, keys, *args)

    async def delete_for_runs(self, tenant: str, run_ids: Sequence[str]) -> None:
        """Removes the checkpoints and writes of some runs, thread by thread.

        A head that loses its checkpoint goes back to the newest that is left. After a
        crash some threads may be done and others not; repeating it is safe.
        """
        runs = sorted({run_name(run) for run in run_ids if run})
        if not runs:
            return
        directory = self._checkpoints.directory
        if self._checkpoints.keeping.refreshes:
            # Reading keeps a thread longer than what tells of its runs.
            threads = [thread_id async for thread_id, _ in directory.threads(tenant)]
        else:
            threads = list(await directory.threads_of(tenant, runs))
        for thread_id in threads:
            await self._checkpoints.remove(
                SCRIPTS.delete_runs, tenant, thread_id, len(runs), *runs
            )

    async def prune(
        self, tenant: str, thread_ids: Sequence[str], *, strategy: str = "keep_latest"
    ) -> None:
        """Removes history, thread by thread; repeating it after a crash is safe.

        Args:
            tenant: whose threads.
            thread_ids: which threads.
            strategy: `keep_latest` leaves the head of each namespace and the ancestors
                from which its delta channels are rebuilt; `delete` leaves nothing.

        Raises:
            InvalidRequest: an unknown strategy.
            HeadMoved: the thread kept going on while it was pruned.
        """
        if strategy not in set(Strategy):
            msg = (
                f"prune strategy '{strategy}' is unknown; use 'keep_latest' or 'delete'"
            )
            raise InvalidRequest(msg)
        for thread_id in thread_ids:
            if strategy == "delete":
                await self._checkpoints.delete_thread(tenant, thread_id)
            else:
                await self._keep_latest(tenant, thread_id)

    async def _keep_latest(self, tenant: str, thread_id: str) -> None:
        for last_try in (*(False,) * (_PRUNE_TRIES - 1), True):
            try:
                await self._prune(tenant, thread_id)
            except HeadMoved:
                if last_try:
                    raise
            else:
                return

    async def _prune(self, tenant: str, thread_id: str) -> None:
        keys = thread_keys(tenant, thread_id)
        found = await self._database.call(SCRIPTS.heads, keys)
        heads: list[str] = []
        kept: list[str] = []
        for name, id_, metadata in found:
            ns, head = name.decode(), id_.decode()
            heads += [ns, head]
            kept += [ns, head]
            delta = json.loads(metadata).get("counters_since_delta_snapshot") or {}
            at = Address(thread_id, ns, head)
            if delta:
                ancestors = await needed_ancestors(
                    self._checkpoints, tenant, at, list(delta)
                )
                kept += [part for ancestor in ancestors for part in (ns, ancestor)]
        args: list[Text] = [thread_id, len(heads) // 2, *heads, len(kept) // 2, *kept]
        await self._checkpoints.remove(SCRIPTS.prune, tenant, thread_id, *args)


def _flat(part: Any) -> list[Any]:
    """Fields and values in turns, as either protocol of Redis gives them."""
    if isinstance(part, dict):
        return [item for pair in part.items() for item in pair]
    return list(part)
