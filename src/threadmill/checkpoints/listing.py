"""Checkpoints newest first, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from threadmill.checkpoints.codec import encode_json
from threadmill.checkpoints.rows import stored_of
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from threadmill.checkpoints.base import Stored
    from threadmill.checkpoints.postgres import PostgresCheckpoints
    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database

SQL = Queries(__package__, "postgres.sql")

# Checkpoints per round trip of a list or a walk; each may be as large as the state.
PAGE = 32

_NO_BOUND = 2**63 - 1


async def listed(
    store: PostgresCheckpoints,
    tenant: str,
    thread_id: str | None,
    *,
    ns: str | None,
    before: str | None,
    matching: Mapping[str, Any] | None,
    limit: int | None,
    checkpoint_id: str | None,
) -> AsyncGenerator[Stored, None]:
    """See `Checkpoints.list`, whose filter is `matching` here.

    Reads `PAGE` checkpoints at a time, and each of their chunks once. What is put
    meanwhile is not listed.
    """
    params: dict[str, object] = {
        "tenant": tenant,
        "thread": thread_id,
        "filter": encode_json(matching, "filter") if matching else None,
        "checkpoint_id": checkpoint_id,
    }
    bound = (
        await _place(store.database, tenant, thread_id, ns, before) if before else None
    )
    if thread_id is None or ns is None:
        query = SQL.list_all
        params |= _bound_by_time(bound)
    else:
        query = SQL.list_namespace
        params |= {"ns": ns} | _bound_in_namespace(ns, bound)
    left = _NO_BOUND if limit is None else limit
    while left > 0:
        size = min(PAGE, left)
        async with store.database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(query, **params, limit=size)
        page = [row for row in found.rows if row["ordinal"] is not None]
        for seen in stored_of(store.codec, await store.bring(tenant, found.rows)):
            yield seen.stored
        if len(page) < size:
            return
        left -= size
        params |= _bound_by_time(page[-1])


async def _place(
    database: Database,
    tenant: str,
    thread_id: str | None,
    ns: str | None,
    checkpoint_id: str,
) -> Row:
    async with database.tenant_tx(tenant, read_only=True) as tx:
        found = tx.add(
            SQL.place,
            tenant=tenant,
            thread=thread_id,
            ns=ns,
            checkpoint_id=checkpoint_id,
        )
    if found.one is None:
        msg = f"there is no checkpoint {checkpoint_id} to list what was before it"
        raise NotFound(msg)
    return found.one


def _bound_in_namespace(ns: str, bound: Row | None) -> dict[str, object]:
    inner = bound if bound and bound["ns"] == ns else None
    outer = None if inner else bound
    return {
        "below": inner["ordinal"] if inner else _NO_BOUND,
        "outer_ns": outer["ns"] if outer else None,
        "outer_ordinal": outer["ordinal"] if outer else None,
        "outer_at": outer["created_at"] if outer else None,
    }


def _bound_by_time(bound: Row | None) -> dict[str, object]:
    """Where a list begins or goes on; within a namespace only the ordinal counts."""
    return {
        "below_at": bound["created_at"] if bound else None,
        "below": bound["ordinal"] if bound else None,
        "below_thread": bound["thread_id"] if bound else None,
        "below_ns": bound["ns"] if bound else None,
    }
