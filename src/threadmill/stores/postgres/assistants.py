"""Assistants in PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from psycopg.types.json import Jsonb

from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import NotFound
from threadmill.stores.postgres.runs import jsonb
from threadmill.stores.records import Assistant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database
    from threadmill.stores.records import AssistantFilter, NewAssistant

ASSISTANTS = Queries(__package__, "assistants.sql")


class PostgresAssistants:
    """The `Assistants` port.

    Args:
        database: where the schema lives.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ensure(self, tenant: str, assistants: Sequence[NewAssistant]) -> None:
        """See `Assistants.ensure`."""
        rows = Jsonb([_new_row(a) for a in assistants], dumps=orjson.dumps)
        async with self._database.tenant_tx(tenant) as tx:
            tx.add(ASSISTANTS.ensure, tenant=tenant, assistants=rows)

    async def get(self, tenant: str, assistant_id: UUID) -> Assistant:
        """See `Assistants.get`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(ASSISTANTS.get, tenant=tenant, assistant_id=assistant_id)
        if found.one is None:
            msg = f"assistant {assistant_id} not found"
            raise NotFound(msg)
        return _assistant_of(found.one)

    async def search(
        self,
        tenant: str,
        only: AssistantFilter,
        *,
        limit: int = 10,
        offset: int = 0,
        sort_by: str = "created_at",
        descending: bool = True,
    ) -> Sequence[Assistant]:
        """See `Assistants.search`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                ASSISTANTS.search,
                limit=limit,
                offset=offset,
                sort_by=sort_by,
                descending=descending,
                **_filter(tenant, only),
            )
        return [_assistant_of(row) for row in found.rows]

    async def count(self, tenant: str, only: AssistantFilter) -> int:
        """See `Assistants.count`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            counted = tx.add(ASSISTANTS.count, **_filter(tenant, only))
        n: int = counted.rows[0]["n"]
        return n


def _filter(tenant: str, only: AssistantFilter) -> Mapping[str, object]:
    return {
        "tenant": tenant,
        "metadata": jsonb(only.metadata or None),
        "graph_id": only.graph_id,
        "name": only.name,
    }


def _new_row(new: NewAssistant) -> Mapping[str, Any]:
    return {
        "assistant_id": new.assistant_id,
        "graph_id": new.graph_id,
        "name": new.name,
        "description": new.description,
        "version": 1,
        "config": new.config,
        "context": new.context,
        "metadata": new.metadata,
    }


def _assistant_of(row: Row) -> Assistant:
    return Assistant(
        assistant_id=row["assistant_id"],
        graph_id=row["graph_id"],
        name=row["name"],
        description=row["description"],
        version=row["version"],
        config=row["config"],
        context=row["context"],
        metadata=row["metadata"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
