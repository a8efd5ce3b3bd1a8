"""How checkpoints and results of tasks become statements of a transaction.

The statements, and the reasons for their order, are in `postgres.sql`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from threadmill.checkpoints.base import ANY_HEAD
from threadmill.checkpoints.codec import encode_json
from threadmill.drivers.postgres.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from threadmill.checkpoints.base import Put, Writes
    from threadmill.checkpoints.codec import WriteRow
    from threadmill.checkpoints.packing import Packed
    from threadmill.domain.fence import Fence
    from threadmill.drivers.postgres.database import Result, Transaction

SQL = Queries(__package__, "postgres.sql")


def add_writes(
    tx: Transaction,
    thread_id: str,
    writes: Writes,
    rows: Sequence[WriteRow],
    fence: Fence | None,
) -> None:
    """Adds what a task has written; under a fence it is all of it."""
    if fence is None and not rows:
        return
    tx.add(
        SQL.merge_writes if fence is None else SQL.replace_writes,
        tenant=tx.tenant,
        thread=thread_id,
        ns=writes.ns,
        checkpoint_id=writes.checkpoint_id,
        task_id=writes.task_id,
        task_path=writes.task_path,
        run_id=fence.run_id if fence else None,
        token=fence.token if fence else None,
        idx=[row.idx for row in rows],
        channel=[row.channel for row in rows],
        type=[row.blob.type for row in rows],
        value=[row.blob.data for row in rows],
    )


def add_put(
    tx: Transaction,
    thread_id: str,
    put: Put,
    packed: Packed,
    fence: Fence | None,
) -> Result:
    """Adds a checkpoint and the move of its head; its row has the epoch."""
    if put.expected_head is None:
        query = SQL.put_first
    else:
        query = SQL.put_any if put.expected_head == ANY_HEAD else SQL.put_next
    return tx.add(
        query,
        tenant=tx.tenant,
        thread=thread_id,
        ns=put.ns,
        checkpoint_id=put.checkpoint["id"],
        parent_id=put.parent_id,
        expected=put.expected_head,
        run_id=fence.run_id if fence else _run_of(put.metadata),
        activation_id=fence.activation_id if fence else None,
        token=fence.token if fence else None,
        format=packed.format,
        body_type=packed.body.type,
        body=packed.body.data,
        chunks=list(packed.names),
        metadata=encode_json(put.metadata, "metadata"),
    )


def _run_of(metadata: Mapping[str, Any]) -> UUID | None:
    """The run that plain LangGraph names in its metadata, if it is an id of ours."""
    try:
        return UUID(str(metadata["run_id"]))
    except (KeyError, ValueError):
        return None
