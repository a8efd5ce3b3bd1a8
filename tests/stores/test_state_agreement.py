"""The SQL moves runs and threads exactly as the domain's tables say."""

from __future__ import annotations

from itertools import product
from typing import Any, LiteralString
from uuid import UUID

import psycopg
import pytest

from tests.stores.run_store import TENANT, RunStore
from threadmill.domain.fence import Fence
from threadmill.domain.run import (
    ENDINGS,
    TERMINAL,
    RunEvent,
    RunStatus,
    ThreadStatus,
    thread_after,
    transition,
)
from threadmill.errors import Conflict, Error
from threadmill.stores.records import Claim

_FORCE = """
UPDATE threadmill.run
   SET status = %(status)s, finished_at = CASE WHEN %(ended)s THEN now() END
 WHERE run_id = %(run_id)s
"""
_DIE = """
INSERT INTO threadmill.dead_letter
  (tenant_id, run_id, thread_id, graph_id, cause, attempts)
SELECT tenant_id, run_id, thread_id, graph_id, '{}', 5 FROM threadmill.run
 WHERE run_id = %(run_id)s
"""
# What an ending leaves.
_FREE = """
WITH a AS (DELETE FROM threadmill.activation WHERE run_id = %(run_id)s)
UPDATE threadmill.thread SET holder = NULL, status = 'error'
 WHERE holder = %(run_id)s
"""


class Forced:
    """A run that was put into a status, with an activation that is claimed."""

    def __init__(self, store: RunStore, fence: Fence, claim: Claim, uri: str) -> None:
        self._store = store
        self._fence = fence
        self._claim = claim
        self._uri = uri

    @classmethod
    async def make(cls, store: RunStore, uri: str, status: RunStatus) -> Forced:
        thread_id = await store.thread()
        run = await store.accept(thread_id)
        (claim,) = await store.claim()
        force = {
            "status": status.value,
            "ended": status in TERMINAL,
            "run_id": run.run_id,
        }
        fence = Fence(TENANT, thread_id, claim.activation_id, claim.token, run.run_id)
        forced = cls(store, fence, claim, uri)
        await forced._execute(_FORCE, **force)
        return forced

    @property
    def thread_id(self) -> UUID:
        return self._fence.thread_id

    async def happen(self, event: RunEvent) -> Any:
        """Lets `event` happen, by the only way there is for it."""
        run_id = self._fence.run_id
        assert run_id is not None
        if event is RunEvent.CLAIM:
            return await self._store.dispatcher.begin(self._claim)
        if event is RunEvent.CANCEL:
            return await self._store.runs.cancel(TENANT, self.thread_id, run_id)
        if event is RunEvent.REDRIVE:
            await self._execute(_DIE, run_id=run_id)
            if await self.status() is RunStatus.ERROR:
                await self._execute(_FREE, run_id=run_id)
            return await self._store.dead_letters.redrive(TENANT, run_id, queue_max=9)
        return await self._store.finish(self._fence, event)

    async def status(self) -> RunStatus:
        run_id = self._fence.run_id
        assert run_id is not None
        return (await self._store.runs.get(TENANT, run_id)).status

    async def _execute(self, statement: LiteralString, **params: object) -> None:
        connecting = psycopg.AsyncConnection.connect(self._uri, autocommit=True)
        async with await connecting as connection:
            await connection.execute(statement, params)


@pytest.mark.parametrize(("status", "event"), list(product(RunStatus, RunEvent)))
async def test_every_event_in_every_status(
    store: RunStore, database_uri: str, status: RunStatus, event: RunEvent
) -> None:
    forced = await Forced.make(store, database_uri, status)
    try:
        expected = transition(status, event)
    except Conflict:
        with pytest.raises(Error):
            await forced.happen(event)
        assert await forced.status() is status
        assert len(await store.activations(forced.thread_id)) == 1
    else:
        await forced.happen(event)
        assert await forced.status() is expected
        left = [] if expected in TERMINAL else [forced]
        assert len(await store.activations(forced.thread_id)) == len(left)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("event", ENDINGS)
async def test_a_thread_after_every_ending(
    store: RunStore, database_uri: str, event: RunEvent, *, more: bool
) -> None:
    forced = await Forced.make(store, database_uri, RunStatus.RUNNING)
    following = await store.accept(forced.thread_id) if more else None
    await forced.happen(event)
    thread = await store.threads.get(TENANT, forced.thread_id)
    assert thread.status is thread_after(event, more=more)
    holder = await store.holder(forced.thread_id)
    assert holder == (following.run_id if following else None)


async def test_the_schema_knows_the_same_statuses(database_uri: str) -> None:
    """Every word of the domain may be stored, and no other."""
    connecting = psycopg.AsyncConnection.connect(database_uri, autocommit=True)
    async with await connecting as connection:
        for table, known in (("run", RunStatus), ("thread", ThreadStatus)):
            found = await connection.execute(
                "SELECT pg_get_constraintdef(oid) FROM pg_constraint"
                " WHERE conrelid = %s::regclass AND contype = 'c'"
                " AND conname = %s",
                (f"threadmill.{table}", f"{table}_status_check"),
            )
            row = await found.fetchone()
            assert row is not None
            words = {part for part in row[0].split("'")[1::2] if "::" not in part}
            assert words == {status.value for status in known}
