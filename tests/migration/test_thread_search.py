"""Threads that were there before searches had an index of their own are found by it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import psycopg
import pytest

from threadmill.drivers.postgres import migrate as module
from threadmill.drivers.postgres.migrate import migrate, migrations

BEFORE = 4
_OWNER = "threadmill_test_owner"
_GRANTS = f"""
DROP ROLE IF EXISTS {_OWNER};
CREATE ROLE {_OWNER} LOGIN CREATEROLE;
GRANT threadmill_app, threadmill_dispatcher TO {_OWNER} WITH ADMIN OPTION;
"""


@pytest.fixture
def owner_uri(postgres_uri: str, migrated_template: str) -> Iterator[str]:
    """A login that is no superuser, so that security holds for it as for others."""
    del migrated_template  # the roles exist
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute(_GRANTS.encode())
        name = connection.info.dbname
        connection.execute(f'GRANT CREATE ON DATABASE "{name}" TO {_OWNER}'.encode())
    uri = postgres_uri + ("&" if "?" in postgres_uri else "?")
    yield uri + "options=" + quote(f"-c role={_OWNER}")
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {_OWNER} CASCADE".encode())
        connection.execute(f"DROP ROLE {_OWNER}".encode())


async def test_old_threads_get_their_facets(
    owner_uri: str, postgres_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [migration for migration in migrations() if migration.id <= BEFORE]
    with monkeypatch.context() as then:
        then.setattr(module, "migrations", lambda: old)
        await migrate(owner_uri)
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("""
            INSERT INTO threadmill.thread (tenant_id, thread_id, metadata, temporary)
            VALUES ('one', md5('a')::uuid, '{"user": 1.0, "deep": {"x": 1}}', false),
                   ('two', md5('a')::uuid, '{"user": 1}', false),
                   ('two', md5('b')::uuid, '{"user": 2}', true)
        """)
    await migrate(owner_uri)
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        facets = connection.execute(
            "SELECT tenant_id, thread_id = md5('a')::uuid, key, value "
            "FROM threadmill.facet ORDER BY 1"
        ).fetchall()
        forced = connection.execute(
            "SELECT bool_and(relforcerowsecurity) FROM pg_class "
            "WHERE oid IN ('threadmill.thread'::regclass, 'threadmill.facet'::regclass)"
        ).fetchone()
    assert facets == [("one", True, "user", "1"), ("two", True, "user", "1")]
    assert forced == (True,)
