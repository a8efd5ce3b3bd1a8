"""Recorded effects in PostgreSQL: one fenced transaction for each step of a record.

The statements are in `effects.sql`.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from threadmill.drivers.postgres.sql import Queries
from threadmill.stores.effects import EffectState, FoundEffect, Outcome
from threadmill.stores.postgres.dispatcher import DISPATCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping

    from threadmill.domain.fence import Fence
    from threadmill.drivers.postgres.connection import Row
    from threadmill.drivers.postgres.database import Database, Transaction
    from threadmill.stores.effects import EffectCall

SQL = Queries(__package__, "effects.sql")
T = TypeVar("T")


class PostgresEffects:
    """The `Effects` port.

    Args:
        database: where the schema lives.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, fence: Fence, call: EffectCall) -> FoundEffect:
        """See `Effects.begin`."""
        async with self._fenced(fence) as tx:
            if call.under:
                tx.add(
                    SQL.anchor,
                    tenant=fence.tenant,
                    thread_id=fence.thread_id,
                    ns=[ns for ns, _ in call.under],
                    checkpoint_id=[checkpoint for _, checkpoint in call.under],
                )
            found = tx.add(SQL.begin, **_names(fence, call), **_caller(fence))
        return _found(found.rows[0])

    async def again(self, fence: Fence, call: EffectCall, answers: int) -> None:
        """See `Effects.again`."""
        async with self._fenced(fence) as tx:
            tx.add(SQL.again, answers=answers, **_names(fence, call), **_caller(fence))

    async def done(self, fence: Fence, call: EffectCall, outcome: Outcome) -> None:
        """See `Effects.done`."""
        async with self._fenced(fence) as tx:
            tx.add(
                SQL.done,
                outcome_type=outcome.type,
                outcome=outcome.data,
                **_names(fence, call),
            )

    async def void(self, fence: Fence, call: EffectCall) -> None:
        """See `Effects.void`."""
        async with self._fenced(fence) as tx:
            tx.add(SQL.void, **_names(fence, call))

    @asynccontextmanager
    async def _fenced(self, fence: Fence) -> AsyncIterator[Transaction]:
        async with self._database.tenant_tx(fence.tenant) as tx:
            tx.add(
                DISPATCH.fence,
                tenant=fence.tenant,
                activation_id=fence.activation_id,
                thread_id=fence.thread_id,
                token=fence.token,
            )
            yield tx


class _Ask(Protocol):
    """Blocks until a database has answered."""

    def __call__(self, ask: Callable[[Database], Coroutine[Any, Any, T]]) -> T: ...


class PostgresSyncEffects:
    """The `SyncEffects` port; safe to call from any thread.

    Args:
        on_database: blocks until what it is given has its answer, on a loop that is
            never the caller's.
    """

    def __init__(self, on_database: _Ask) -> None:
        self._on_database = on_database

    def begin(self, fence: Fence, call: EffectCall) -> FoundEffect:
        """See `Effects.begin`."""
        return self._on_database(lambda db: PostgresEffects(db).begin(fence, call))

    def again(self, fence: Fence, call: EffectCall, answers: int) -> None:
        """See `Effects.again`."""
        self._on_database(lambda db: PostgresEffects(db).again(fence, call, answers))

    def done(self, fence: Fence, call: EffectCall, outcome: Outcome) -> None:
        """See `Effects.done`."""
        self._on_database(lambda db: PostgresEffects(db).done(fence, call, outcome))

    def void(self, fence: Fence, call: EffectCall) -> None:
        """See `Effects.void`."""
        self._on_database(lambda db: PostgresEffects(db).void(fence, call))


def _names(fence: Fence, call: EffectCall) -> Mapping[str, Any]:
    return {
        "tenant": fence.tenant,
        "thread_id": fence.thread_id,
        "task": call.task,
        "key": call.key,
        "call_id": call.call_id,
    }


def _caller(fence: Fence) -> Mapping[str, Any]:
    return {"run_id": fence.run_id, "token": fence.token}


def _found(row: Row) -> FoundEffect:
    kind = row["outcome_type"]
    return FoundEffect(
        is_mine=row["is_mine"],
        state=EffectState(row["state"]),
        answers=row["answers"],
        since=row["updated_at"],
        outcome=Outcome(kind, bytes(row["outcome"])) if kind is not None else None,
    )
