"""A refused transaction leaves its connection fit for the next one."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from threadmill.domain.multitask import MultitaskStrategy
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.errors import NotFound
from threadmill.stores.postgres.runs import PostgresRuns
from threadmill.stores.postgres.threads import PostgresThreads
from threadmill.stores.records import NewRun, Retention


@pytest.mark.parametrize("prepare", [True, False])
async def test_statements_skipped_behind_an_error_are_not_taken_for_prepared(
    database_uri: str, *, prepare: bool
) -> None:
    """The third use prepares a statement; here it always stands behind an error."""
    database = Database(
        database_uri, name="test", limits=Limits(pool_max=1), prepare=prepare
    )
    await database.open()
    try:
        runs = PostgresRuns(database, Retention())
        thread_id = uuid4()
        await PostgresThreads(database).create(
            "default", thread_id, metadata={}, if_exists="raise"
        )
        for _ in range(8):
            with pytest.raises(NotFound):
                await runs.accept("default", _run(uuid4()))
        for _ in range(8):
            await runs.accept("default", _run(thread_id))
            with pytest.raises(NotFound):
                await runs.accept("default", _run(uuid4()))
    finally:
        await database.close()


def _run(thread_id: UUID) -> NewRun:
    return NewRun(
        run_id=uuid4(),
        thread_id=thread_id,
        assistant_id=uuid4(),
        graph_id="graph",
        kwargs={},
        strategy=MultitaskStrategy.ENQUEUE,
    )
