"""Removing and copying whole parts of threads: runs, histories, threads.

Nothing here is fenced: it is done to threads at rest. On a thread that is at work, the
head's compare makes either this or the activation's next commit fail, never mix.

Chunks that no checkpoint of the thread names any more go in the same transaction, which
holds the thread's chunks alone and draws new epochs: whoever relies on what went is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from threadmill.checkpoints.away import SQL as ELSEWHERE
from threadmill.checkpoints.configs import Address
from threadmill.checkpoints.history import needed_ancestors
from threadmill.checkpoints.shipment import SQL as CHUNKS
from threadmill.domain.retention import Strategy
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import ChunksDropped, HeadMoved, InvalidRequest, SetupError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.checkpoints.postgres import PostgresCheckpoints
    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Result, Transaction
    from threadmill.drivers.postgres.sql import Query

SQL = Queries(__package__, "upkeep.sql")

# A thread that goes on while it is pruned, or copied, is read again this often.
_TRIES = 5
# Chunks; each may be as large as the state.
_COPIED_AT_ONCE = 16
# Between a node and its task, in LangGraph's names of namespaces.
_TASK_SEPARATOR = ":"
# Checkpoints that one transaction deletes at most: it holds the thread for as long.
PRUNE_MAX = 2000


@dataclass(frozen=True, slots=True)
class Kept:
    """What `keep_latest` leaves of a thread, as its heads were when they were read.

    Args:
        heads: (namespace, checkpoint) of each head.
        checkpoints: those of these that stay, and the ancestors from which their
            channels are rebuilt.
    """

    heads: Sequence[tuple[str, str]]
    checkpoints: Sequence[tuple[str, str]]

    @property
    def params(self) -> dict[str, list[str]]:
        """The same for statements."""
        return {
            "namespaces": [ns for ns, _ in self.heads],
            "keep_namespaces": [ns for ns, _ in self.checkpoints],
            "keep_ids": [id_ for _, id_ in self.checkpoints],
        }


class Upkeep:
    """What LangGraph's savers offer for whole threads and runs.

    Args:
        checkpoints: the storage to look after.
    """

    def __init__(self, checkpoints: PostgresCheckpoints) -> None:
        self._checkpoints = checkpoints
        self._database = checkpoints.database

    async def copy_thread(self, tenant: str, source: str, target: str) -> None:
        """Copies every checkpoint, write and head, as of one moment.

        Raises:
            AlreadyExists: the target has checkpoints.
            SetupError: what the source holds lies in a store that is not known here.
            ChunksDropped: the source kept going on while it was copied.
        """
        for last_try in (*(False,) * (_TRIES - 1), True):
            try:
                await self._copy_thread(tenant, source, target)
            except ChunksDropped:
                if last_try:
                    raise
            else:
                return

    async def _copy_thread(self, tenant: str, source: str, target: str) -> None:
        """Chunks first: what is named then is there."""
        names = await self._copy_chunks(tenant, source, target)
        away = self._checkpoints.away
        async with self._database.tenant_tx(tenant) as tx:
            tx.add(CHUNKS.hold, tenant=tenant, thread=target)
            tx.add(ELSEWHERE.require_known, tenant=tenant, thread=source, names=names)
            tx.add(SQL.copy_thread, tenant=tenant, source=source, target=target)
            if names and away is not None and away.archives:
                tx.add(ELSEWHERE.archive_soon, tenant=tenant, thread=target)

    async def _copy_chunks(
        self, tenant: str, source: str, target: str
    ) -> Sequence[bytes]:
        """Copies what lies elsewhere; the names of it."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            used = tx.add(ELSEWHERE.used, tenant=tenant, thread=source)
        names = [bytes(row["name"]) for row in used.rows]
        away = self._checkpoints.away
        if names and away is None:
            msg = (
                f"what thread {source} holds lies in Redis; whoever copies it needs"
                " CHECKPOINT_URI"
            )
            raise SetupError(msg)
        for at in range(0, len(names), _COPIED_AT_ONCE):
            assert away is not None  # noqa: S101 - looked at above
            page = names[at : at + _COPIED_AT_ONCE]
            found = await away.store.find(tenant, source, page)
            await away.store.keep(tenant, target, found)
        return names

    async def delete_for_runs(self, tenant: str, run_ids: Sequence[str]) -> None:
        """Removes the checkpoints and writes of some runs, thread by thread.

        A head that loses its checkpoint goes back to the newest that is left. After a
        crash some threads may be done and others not; repeating it is safe.
        """
        ids = [id_ for id_ in map(_uuid, run_ids) if id_ is not None]
        names = [name for name in run_ids if _uuid(name) is None]
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(SQL.threads_of_runs, tenant=tenant, run_ids=ids, names=names)
        for row in found.rows:
            key = {"tenant": tenant, "thread": row["thread_id"]}
            async with self._database.tenant_tx(tenant) as tx:
                tx.add(CHUNKS.hold_alone, **key)
                tx.add(ELSEWHERE.drop_later, **key)
                tx.add(SQL.lock_heads, **key)
                tx.add(SQL.delete_runs, **key, run_ids=ids, names=names)
                tx.add(SQL.settle_heads, **key)
                tx.add(SQL.drop_empty_heads, **key)
                tx.add(SQL.cut_parents, **key)
                _drop_unused_chunks(tx, tenant, row["thread_id"])

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
        for last_try in (*(False,) * (_TRIES - 1), True):
            kept = await self.kept(tenant, thread_id)
            try:
                while await self._prune(tenant, thread_id, kept) == PRUNE_MAX:
                    pass
            except HeadMoved:
                if last_try:
                    raise
            else:
                return

    async def kept(
        self, tenant: str, thread_id: str, *, is_over: Query | None = None
    ) -> Kept:
        """What `keep_latest` would leave of the thread now.

        Args:
            tenant: whose thread.
            thread_id: which one.
            is_over: asks whether no task of it is left, so that nothing of a namespace
                that belongs to one is needed. Of the same moment as the heads: what
                begins afterwards moves one.
        """
        over: Result | None = None
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            heads = tx.add(SQL.heads, tenant=tenant, thread=thread_id)
            if is_over is not None:
                over = tx.add(is_over, tenant=tenant, thread_id=thread_id)
        tasks_left = over is None or over.one is None or not over.one["is_over"]
        return Kept(
            [(head["ns"], head["checkpoint_id"]) for head in heads.rows],
            [
                kept
                for head in heads.rows
                if tasks_left or _TASK_SEPARATOR not in head["ns"]
                for kept in await self._kept(tenant, thread_id, head)
            ],
        )

    async def _kept(
        self, tenant: str, thread_id: str, head: Row
    ) -> Sequence[tuple[str, str]]:
        ns, checkpoint_id = head["ns"], head["checkpoint_id"]
        kept = [(ns, checkpoint_id)]
        if head["delta_channels"]:
            ancestors = await needed_ancestors(
                self._checkpoints,
                tenant,
                Address(thread_id, ns, checkpoint_id),
                head["delta_channels"],
            )
            kept += [(ns, ancestor) for ancestor in ancestors]
        return kept

    async def _prune(self, tenant: str, thread_id: str, kept: Kept) -> int:
        async with self._database.tenant_tx(tenant) as tx:
            gone, _ = add_keep_latest(tx, thread_id, kept)
        n: int = gone.rows[0]["checkpoints"]
        return n


def add_keep_latest(
    tx: Transaction, thread_id: str, kept: Kept
) -> tuple[Result, Result]:
    """Adds the statements that leave only `kept`, or get `PRUNE_MAX` nearer to it.

    They refuse, as `HeadMoved`, if a head is not what it was.

    Returns:
        What says how many checkpoints and bytes go, and how many bytes of chunks.
    """
    key = {"tenant": tx.tenant, "thread": thread_id}
    tx.add(CHUNKS.hold_alone, **key)
    tx.add(ELSEWHERE.drop_later, **key)
    tx.add(
        SQL.expect_heads,
        **key,
        namespaces=[ns for ns, _ in kept.heads],
        ids=[id_ for _, id_ in kept.heads],
    )
    gone = tx.add(SQL.prune, **key, **kept.params, limit=PRUNE_MAX)
    tx.add(SQL.drop_empty_heads, **key)
    tx.add(SQL.cut_parents, **key)
    return gone, _drop_unused_chunks(tx, tx.tenant, thread_id)


def add_weigh(tx: Transaction, thread_id: str, kept: Kept) -> Result:
    """Adds the statement that says what leaving only `kept` would free."""
    return tx.add(SQL.weigh, tenant=tx.tenant, thread=thread_id, **kept.params)


def _drop_unused_chunks(tx: Transaction, tenant: str, thread_id: str) -> Result:
    """Comes last in a transaction that holds the thread's chunks alone."""
    dropped = tx.add(CHUNKS.drop_unused, tenant=tenant, thread=thread_id)
    tx.add(CHUNKS.raise_epochs, tenant=tenant, thread=thread_id)
    return dropped


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
