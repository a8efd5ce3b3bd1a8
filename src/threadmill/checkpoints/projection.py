"""What of a checkpoint is written beside it, so that a search finds it by an index.

A graph may declare paths in langgraph.json. Only its checkpoints of the root namespace
get rows, in the transaction that stores them; for any other graph nothing is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.domain.paths import scalar_at
from threadmill.drivers.postgres.sql import Queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from threadmill.checkpoints.base import Put
    from threadmill.drivers.postgres.database import Transaction

SQL = Queries(__package__, "history_search.sql")


def add_values(
    tx: Transaction, thread_id: str, put: Put, indexed: Mapping[str, Sequence[str]]
) -> None:
    """Adds what `put` holds at its graph's paths; comes after the put itself.

    Args:
        tx: which stores the checkpoint.
        thread_id: its thread.
        put: the checkpoint.
        indexed: the paths that each graph declares.
    """
    graph_id = put.metadata.get("graph_id")
    if put.ns or not isinstance(graph_id, str) or graph_id not in indexed:
        return
    values = put.checkpoint["channel_values"]
    found = {path: scalar_at(values, path) for path in indexed[graph_id]}
    there = {path: scalar for path, scalar in found.items() if scalar is not None}
    if not there:
        return
    tx.add(
        SQL.index_values,
        tenant=tx.tenant,
        thread=thread_id,
        checkpoint_id=put.checkpoint["id"],
        graph_id=graph_id,
        paths=list(there),
        values=[scalar.text for scalar in there.values()],
        numbers=[scalar.number for scalar in there.values()],
    )
