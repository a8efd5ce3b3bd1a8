"""Rules of tenants and the walk along idle threads, in PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from threadmill.drivers.postgres.sql import Queries
from threadmill.stores.postgres.rows import ttl_of
from threadmill.stores.retention import Idle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from threadmill.domain.retention import Ttl
    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database
    from threadmill.stores.retention import Mark

RETENTION = Queries(__package__, "retention.sql")

# Before every thread. Infinity would do for PostgreSQL, and not for Python.
_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NOBODY: Final = UUID(int=0)


class PostgresRetention:
    """The `RetentionStore` port.

    Args:
        database: where the schema lives.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take_rounds(
        self, rules: str, *, hold_seconds: float, limit: int
    ) -> Sequence[str]:
        """See `RetentionStore.take_rounds`."""
        async with self._database.system_tx() as tx:
            taken = tx.add(
                RETENTION.take_rounds,
                rules=rules,
                hold_seconds=hold_seconds,
                limit=limit,
            )
        return [row["tenant_id"] for row in taken.rows]

    async def end_round(self, tenant: str, rules: str, *, again_seconds: float) -> None:
        """See `RetentionStore.end_round`."""
        async with self._database.tenant_tx(tenant) as tx:
            tx.add(
                RETENTION.end_round,
                tenant=tenant,
                rules=rules,
                again_seconds=again_seconds,
            )

    async def rule(self, tenant: str) -> Ttl | None:
        """See `RetentionStore.rule`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(RETENTION.rule, tenant=tenant)
        return None if found.one is None else ttl_of(found.one, "strategy")

    async def set_rule(self, tenant: str, ttl: Ttl | None) -> None:
        """See `RetentionStore.set_rule`."""
        async with self._database.tenant_tx(tenant) as tx:
            if ttl is None:
                tx.add(RETENTION.clear_rule, tenant=tenant)
            else:
                tx.add(
                    RETENTION.set_rule,
                    tenant=tenant,
                    strategy=ttl.strategy.value,
                    ttl_minutes=ttl.minutes,
                )

    async def idle(
        self,
        tenant: str,
        *,
        minutes: float,
        own: bool = False,
        after: Mark | None = None,
        limit: int,
    ) -> Sequence[Idle]:
        """See `RetentionStore.idle`."""
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                RETENTION.idle_own if own else RETENTION.idle,
                tenant=tenant,
                idle_seconds=minutes * 60,
                after_at=_START if after is None else after.updated_at,
                after_id=_NOBODY if after is None else after.thread_id,
                limit=limit,
            )
        return [_idle_of(row) for row in found.rows]


def _idle_of(row: Row) -> Idle:
    return Idle(
        thread_id=row["thread_id"],
        graph_id=row["graph_id"],
        updated_at=row["updated_at"],
        own=ttl_of(row),
        idle_minutes=row["idle_minutes"],
        interrupted=row["interrupted"],
        pruned=row["pruned"],
        busy=row["busy"],
    )
