"""Migrations: many at once, never twice, never changed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from importlib.resources import files

import psycopg
import pytest

from threadmill.drivers.postgres.migrate import (
    migrate,
    migrations,
    pending,
    require_current,
)
from threadmill.errors import SchemaOutdated, SetupError, StoreUnavailable

_MIGRATE = """
import asyncio, os
from threadmill.drivers.postgres.migrate import migrate
print(len(asyncio.run(migrate(os.environ["DATABASE_URI"]))))
"""


def test_no_file_is_passed_over() -> None:
    folder = files("threadmill.drivers.postgres") / "migrations"
    assert {f"{m.id:04d}_{m.name}.pre.sql" for m in migrations()} == {
        file.name for file in folder.iterdir()
    }


async def test_a_missing_schema_is_refused_by_name(postgres_uri: str) -> None:
    assert [m.id for m in await pending(postgres_uri)] == [m.id for m in migrations()]
    with pytest.raises(SchemaOutdated, match="threadmill migrate"):
        await require_current(postgres_uri)


async def test_a_migrated_schema_is_current_and_left_alone(postgres_uri: str) -> None:
    applied = await migrate(postgres_uri)
    assert [m.id for m in applied] == [m.id for m in migrations()]
    await require_current(postgres_uri)
    assert list(await migrate(postgres_uri)) == []


async def test_several_at_once_apply_each_migration_once(postgres_uri: str) -> None:
    done = await asyncio.gather(*(migrate(postgres_uri) for _ in range(5)))
    applied = sorted(migration.id for applied in done for migration in applied)
    assert applied == [migration.id for migration in migrations()]
    await require_current(postgres_uri)


def test_several_processes_at_once_apply_each_migration_once(
    postgres_uri: str,
) -> None:
    environ = os.environ | {"DATABASE_URI": postgres_uri}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _MIGRATE],
            env=environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    counts = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(counts) == len(migrations())


async def test_a_changed_file_is_refused(postgres_uri: str) -> None:
    await migrate(postgres_uri)
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("UPDATE threadmill.migration SET checksum = 'other'")
    for look in (migrate, pending, require_current):
        with pytest.raises(SetupError, match="was changed after it had been applied"):
            await look(postgres_uri)


@pytest.mark.usefixtures("migrated_template")  # so that the roles exist
async def test_a_login_without_rights_is_told_which_it_needs(postgres_uri: str) -> None:
    with psycopg.connect(postgres_uri, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS threadmill_test_nobody")
        connection.execute("CREATE ROLE threadmill_test_nobody LOGIN")
    uri = postgres_uri + ("&" if "?" in postgres_uri else "?")
    nobody = uri + "options=-c%20role%3Dthreadmill_test_nobody"
    try:
        with pytest.raises(SetupError, match="GRANT threadmill_app, threadmill_disp"):
            await migrate(nobody)
        with psycopg.connect(postgres_uri, autocommit=True) as connection:
            connection.execute(
                "GRANT threadmill_app, threadmill_dispatcher TO threadmill_test_nobody"
            )
        with pytest.raises(SetupError, match="CREATE on the database"):
            await migrate(nobody)
    finally:
        with psycopg.connect(postgres_uri, autocommit=True) as connection:
            connection.execute("DROP ROLE threadmill_test_nobody")


async def test_an_unreachable_database_is_one_clear_error() -> None:
    with pytest.raises(StoreUnavailable, match="DATABASE_URI"):
        await migrate("postgresql://postgres@127.0.0.1:1/none")
