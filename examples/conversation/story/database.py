"""The story's own PostgreSQL, and what can be read in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row

# For as long after the database's start a free presence lock says nothing: a restart
# frees them all, and nobody has died. It is one lease.
_SETTLED = """
SELECT greatest(0, extract(epoch FROM pg_postmaster_start_time() - now())
                   + %s)::float AS seconds
"""
_SUMMARY = """
SELECT (SELECT count(*) FROM threadmill.thread) AS threads,
       (SELECT count(*) FROM threadmill.run) AS runs,
       (SELECT count(*) FROM threadmill.run WHERE status <> 'success') AS not_success,
       (SELECT count(*) FROM threadmill.activation) AS activations,
       (SELECT count(*) FROM threadmill.checkpoint) AS checkpoints,
       (SELECT coalesce(sum(octet_length(body)), 0) FROM threadmill.checkpoint)::bigint
         + (SELECT coalesce(sum(octet_length(data)), 0) FROM threadmill.chunk)::bigint
         AS state_bytes,
       (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c
         WHERE c.relnamespace = 'threadmill'::regnamespace AND c.relkind = 'r')::bigint
         AS table_bytes,
       (SELECT count(*) FROM threadmill.checkpoint c
         WHERE c.ns = '' AND c.parent_id IS NULL) AS beginnings,
       (SELECT count(*) FROM (SELECT FROM threadmill.checkpoint
                               WHERE parent_id IS NOT NULL
                               GROUP BY tenant_id, thread_id, ns, parent_id
                              HAVING count(*) > 1) f) AS forks
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """What the database holds after the story.

    Args:
        not_success: runs that ended otherwise, or have not ended.
        activations: work that is still waiting or under way.
        state_bytes: of all checkpoints together.
        table_bytes: of all tables with their indexes.
        beginnings: checkpoints without a parent; one per thread.
        forks: checkpoints with two children; where a turn was lost or applied twice.
    """

    threads: int
    runs: int
    not_success: int
    activations: int
    checkpoints: int
    state_bytes: int
    table_bytes: int
    beginnings: int
    forks: int


class Database:
    """Reads the story's database as its superuser, past the walls between tenants."""

    def __init__(self, uri: str) -> None:
        self._uri = uri

    async def seconds_to_settle(self, lease_seconds: float) -> float:
        """How long until a worker whose lock is free counts as dead."""
        row = await self._row(_SETTLED, lease_seconds)
        return float(row["seconds"])

    async def summary(self) -> Summary:
        """What is in it."""
        return Summary(**await self._row(_SUMMARY))

    async def version(self) -> str:
        """PostgreSQL's version."""
        row = await self._row("SHOW server_version")
        return str(row["server_version"]).split()[0]

    async def _row(self, query: str, *values: object) -> dict[str, Any]:
        async with self._connection() as connection:
            cursor = await connection.execute(query.encode(), values)
            (row,) = await cursor.fetchall()
        return row

    @asynccontextmanager
    async def _connection(
        self,
    ) -> AsyncIterator[psycopg.AsyncConnection[dict[str, Any]]]:
        async with await psycopg.AsyncConnection.connect(
            self._uri, row_factory=dict_row, autocommit=True
        ) as connection:
            yield connection
