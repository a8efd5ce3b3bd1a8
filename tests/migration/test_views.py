"""The views for people who ask with SQL: what their page says of them is true."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from psycopg import errors
from psycopg.sql import SQL, Identifier

from tests.stores.run_store import TENANT, RunStore
from threadmill.checkpoints.base import Commit
from threadmill.domain.run import RunEvent
from threadmill.drivers.postgres.database import Database
from threadmill.testing.checkpoints import put, writes

PAGE = (Path(__file__).parents[2] / "docs/reference/history.md").read_text("utf-8")
_ROW = re.compile(r"^\| `threadmill\.(\w+)` \| [^|]+ \| `([^`]+)` \|$", re.MULTILINE)
_SESSION = re.search(
    r"^BEGIN READ ONLY;\n.*?^COMMIT;\n", PAGE, re.DOTALL | re.MULTILINE
)

# Column and type of each, as the page lists them.
TOLD = {
    view: [tuple(column.split(" ", 1)) for column in columns.split(", ")]
    for view, columns in _ROW.findall(PAGE)
}

_VIEWS = """
SELECT relname FROM pg_class
 WHERE relnamespace = 'threadmill'::regnamespace AND relkind IN ('v', 'm')
"""
_COLUMNS = """
SELECT attname, atttypid FROM pg_attribute
 WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_TABLES = ("thread", "checkpoint", "checkpoint_write", "run", "history_value")
_OF_ANOTHER = """
INSERT INTO threadmill.{0}
SELECT (jsonb_populate_record(t, '{{"tenant_id": "somebody"}}')).* FROM threadmill.{0} t
"""


@pytest.fixture
def connection(database_uri: str) -> Iterator[psycopg.Connection]:
    """A superuser's, which row-level security does not bind."""
    with psycopg.connect(database_uri, autocommit=True) as opened:
        yield opened


@pytest_asyncio.fixture
async def run_id(database: Database, connection: psycopg.Connection) -> str:
    """A run that failed, with a checkpoint and a write; and its copy of "somebody"."""
    store = RunStore(database)
    thread_id = await store.thread()
    await store.accept(thread_id)
    fence, run = await store.begin()
    metadata = {"source": "loop", "step": 3, "graph_id": "shop"}
    commit = Commit(
        puts=(put("c1", metadata=metadata, total=1),),
        writes=(writes("c1", "t1", ("total", 2)),),
    )
    await store.checkpoints.commit(TENANT, str(thread_id), commit, fence)
    await store.finish(fence, RunEvent.FAIL, error={"error": "E", "message": "no"})
    connection.execute(
        "INSERT INTO threadmill.history_value (tenant_id, thread_id, path,"
        " checkpoint_id, graph_id, value, number, changed, created_at)"
        " VALUES (%s, %s, 'total', 'c1', 'shop', '1', 1, true, now())",
        [TENANT, thread_id],
    )
    connection.execute("SET session_replication_role = replica")  # no foreign keys
    for table in _TABLES:
        connection.execute(SQL(_OF_ANOTHER).format(Identifier(table)))
    connection.execute("SET session_replication_role = origin")
    return str(run.run_id)


def _tenants(connection: psycopg.Connection, view: str) -> list[str]:
    query = SQL("SELECT tenant_id FROM threadmill.{}").format(Identifier(view))
    return sorted(tenant for (tenant,) in connection.execute(query))


def test_the_page_lists_every_view_with_its_columns_and_types(
    connection: psycopg.Connection,
) -> None:
    views = {view for (view,) in connection.execute(_VIEWS)}
    assert views == set(TOLD) - {"history_value"}
    for view, told in TOLD.items():
        there = connection.execute(_COLUMNS, [f"threadmill.{view}"]).fetchall()
        oids = [
            (name, connection.execute("SELECT %s::regtype::oid", [kind]).fetchone())
            for name, kind in told
        ]
        assert [(name, (oid,)) for name, oid in there] == oids, view


@pytest.mark.parametrize("view", sorted(TOLD))
@pytest.mark.usefixtures("run_id")
def test_a_view_shows_one_tenant_and_without_one_nothing(
    connection: psycopg.Connection, view: str
) -> None:
    assert _tenants(connection, view) == [TENANT, "somebody"]
    connection.execute("SET ROLE threadmill_app")
    assert _tenants(connection, view) == []
    for tenant in (TENANT, "somebody"):
        connection.execute(
            "SELECT set_config('threadmill.tenant', %s, false)", [tenant]
        )
        assert _tenants(connection, view) == [tenant]
    connection.execute("SET threadmill.tenant = 'nobody'")
    assert _tenants(connection, view) == []


def test_what_the_views_tell(connection: psycopg.Connection, run_id: str) -> None:
    connection.execute("SET ROLE threadmill_app")
    connection.execute("SELECT set_config('threadmill.tenant', %s, false)", [TENANT])
    seen = connection.execute(
        "SELECT r.run_id::text, r.status, r.error, c.source, c.step, c.graph_id,"
        "       c.run_id = r.run_id, c.body_bytes > 0, t.task_id, t.channel,"
        "       t.value_bytes > 0, t.run_id = r.run_id"
        "  FROM threadmill.history_runs r"
        "  JOIN threadmill.history_checkpoints c ON c.thread_id = r.thread_id::text"
        "  JOIN threadmill.history_tasks t"
        "    ON (t.thread_id, t.checkpoint_id) = (c.thread_id, c.checkpoint_id)"
    ).fetchall()
    told = (run_id, "error", "E", "loop", 3, "shop", True, True, "t1", "total")
    assert seen == [(*told, True, True)]
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute("UPDATE threadmill.history_runs SET status = 'success'")


@pytest.mark.usefixtures("run_id")
def test_the_session_of_the_page(connection: psycopg.Connection) -> None:
    assert _SESSION is not None
    results = connection.execute(_SESSION[0].encode())
    found = []
    while results.nextset():
        if results.description:
            found += results.fetchall()
    assert found == [("loop", 1)]
