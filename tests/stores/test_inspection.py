"""What the doctor finds in a real database, also in ones that were tampered with."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.sql import SQL, Identifier, Literal

from threadmill.drivers.postgres.database import Limits
from threadmill.errors import StoreUnavailable
from threadmill.stores.inspection import RoleFacts, TableFacts
from threadmill.stores.postgres.inspection import PostgresInspection

_ROW = "INSERT INTO threadmill.head VALUES ('other', 'thread', '', 'checkpoint', 1)"


def inspection(uri: str, *, clock_behind_seconds: float = 0) -> PostgresInspection:
    return PostgresInspection(
        uri, limits=Limits(), clock=lambda: time.time() - clock_behind_seconds
    )


def change(uri: str, *statements: str) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def table(uri: str, name: str) -> TableFacts:
    facts = await inspection(uri).schema()
    return next(table for table in facts.tables if table.name == name)


@pytest.fixture
def outsider(fresh_database_uri: str) -> Iterator[str]:
    """The URI of a login that nobody has granted anything."""
    name, password = f"outsider_{secrets.token_hex(4)}", secrets.token_hex(16)
    create = SQL("CREATE ROLE {} LOGIN PASSWORD {}")
    with psycopg.connect(fresh_database_uri, autocommit=True) as connection:
        connection.execute(create.format(Identifier(name), Literal(password)))
    parts = urlsplit(fresh_database_uri)
    host = parts.netloc.rpartition("@")[2]
    yield parts._replace(netloc=f"{name}:{password}@{host}").geturl()
    with psycopg.connect(fresh_database_uri, autocommit=True) as connection:
        connection.execute(SQL("DROP OWNED BY {}").format(Identifier(name)))
        connection.execute(SQL("DROP ROLE {}").format(Identifier(name)))


async def test_a_migrated_database_keeps_every_table_apart(
    fresh_database_uri: str,
) -> None:
    change(fresh_database_uri, _ROW)
    facts = await inspection(fresh_database_uri).schema()
    assert [role.name for role in facts.roles] == [
        "threadmill_app",
        "threadmill_dispatcher",
    ]
    assert all(r.exists and not r.bypasses and r.refusal is None for r in facts.roles)
    assert len(facts.tables) > 5
    weak = [t for t in facts.tables if not (t.enabled and t.forced and t.scoped)]
    assert weak == []
    assert (facts.leaking, facts.unreadable) == ((), None)


async def test_an_empty_database_has_no_tables(postgres_uri: str) -> None:
    facts = await inspection(postgres_uri).schema()
    assert (facts.tables, facts.leaking) == ([], ())


async def test_the_server_is_described(fresh_database_uri: str) -> None:
    facts = await inspection(fresh_database_uri).server()
    assert facts.version // 10_000 >= 15
    assert facts.connections > 0
    assert (facts.standby, facts.pooled, facts.shared) == (False, False, False)
    assert facts.identity == (await inspection(fresh_database_uri).server()).identity


async def test_another_database_of_the_same_server_is_another_one(
    fresh_database_uri: str, postgres_uri: str
) -> None:
    one, other = inspection(fresh_database_uri), inspection(postgres_uri)
    assert (await one.server()).identity != (await other.server()).identity


async def test_a_skew_of_the_clock_is_measured(fresh_database_uri: str) -> None:
    behind = inspection(fresh_database_uri, clock_behind_seconds=3600)
    facts = await behind.server()
    assert abs(facts.clock_ahead_seconds - 3600) <= facts.clock_error_seconds + 0.5


async def test_a_limit_of_the_login_counts(
    fresh_database_uri: str, outsider: str
) -> None:
    name = urlsplit(outsider).username
    change(fresh_database_uri, f"ALTER ROLE {name} CONNECTION LIMIT 3")
    assert (await inspection(outsider).server()).connections == 3


async def test_a_login_that_is_no_member_may_not_become_the_application(
    outsider: str,
) -> None:
    facts = await inspection(outsider).schema()
    assert all(role.refusal for role in facts.roles)
    assert facts.unreadable is not None


async def test_a_member_may(fresh_database_uri: str, outsider: str) -> None:
    change(fresh_database_uri, f"GRANT threadmill_app TO {urlsplit(outsider).username}")
    facts = await inspection(outsider).schema()
    application: RoleFacts = facts.roles[0]
    assert application.refusal is None
    assert (facts.leaking, facts.unreadable) == ((), None)


async def test_a_table_without_row_level_security_is_seen_and_leaks(
    fresh_database_uri: str,
) -> None:
    off = "ALTER TABLE threadmill.head DISABLE ROW LEVEL SECURITY"
    change(fresh_database_uri, _ROW, off)
    assert not (await table(fresh_database_uri, "head")).enabled
    assert (await inspection(fresh_database_uri).schema()).leaking == ["head"]


async def test_a_table_that_spares_its_owner_is_seen(fresh_database_uri: str) -> None:
    change(fresh_database_uri, "ALTER TABLE threadmill.run NO FORCE ROW LEVEL SECURITY")
    facts = await table(fresh_database_uri, "run")
    assert facts.enabled
    assert not facts.forced


async def test_a_policy_that_lets_everything_through_is_seen(
    fresh_database_uri: str,
) -> None:
    change(
        fresh_database_uri,
        _ROW,
        "CREATE POLICY open ON threadmill.head TO threadmill_app USING (true)",
    )
    assert not (await table(fresh_database_uri, "head")).scoped
    assert (await inspection(fresh_database_uri).schema()).leaking == ["head"]


async def test_a_table_that_the_application_may_not_read_is_told(
    fresh_database_uri: str,
) -> None:
    change(fresh_database_uri, "REVOKE SELECT ON threadmill.event FROM threadmill_app")
    facts = await inspection(fresh_database_uri).schema()
    assert "event" in (facts.unreadable or "")


async def test_a_server_that_is_away_is_unavailable() -> None:
    with pytest.raises(StoreUnavailable):
        await inspection("postgresql://nobody@127.0.0.1:1/none").server()
