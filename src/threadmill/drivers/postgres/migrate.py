"""Creates and upgrades the schema from plain SQL files, forward only.

A file is `NNNN_name.pre.sql`: it runs before the release that it comes with, and the
code of the release before still works on its result. Each runs once, in its own
transaction, under one advisory lock, so several processes may migrate at once. A file
that was changed after it had been applied is an error.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING

import psycopg

from threadmill.domain.supported import POSTGRES_MIN
from threadmill.drivers.postgres.database import Limits, connection_info
from threadmill.drivers.postgres.translate import translate
from threadmill.errors import SchemaOutdated, SetupError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

_FILE = re.compile(r"^(?P<id>\d{4})_(?P<name>[a-z0-9_]+)\.pre\.sql$")
# Any constant will do, as long as every release uses the same one.
_LOCK = 7_236_140_905_118_274
_LOCK_SECONDS = 60
# Whoever waits for a table's lock holds up all that come after it, renewals of leases
# among them: so it waits for a moment only, and again after a pause.
_TABLE_LOCK_SECONDS = 2
_PAUSE_SECONDS = 1
_APPLIED = b"SELECT id, checksum FROM threadmill.migration ORDER BY id"
# The catalogues are open to everybody; a look at the table itself needs rights.
_EXISTS = b"""
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'threadmill' AND c.relname = 'migration')
"""
_BECOME = b"SELECT set_config('role', 'threadmill_app', true)"
_RECORD = b"INSERT INTO threadmill.migration (id, name, checksum) VALUES (%s, %s, %s)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file; `id` orders them."""

    id: int
    name: str
    sql: bytes = field(repr=False)

    @property
    def checksum(self) -> str:
        """Recorded when applied, compared ever after."""
        return hashlib.sha256(self.sql).hexdigest()


def migrations() -> list[Migration]:
    """Every migration of this release, in order."""
    files = resources.files(__package__).joinpath("migrations").iterdir()
    found = [
        Migration(int(match["id"]), match["name"], file.read_bytes())
        for file in files
        if (match := _FILE.match(file.name))
    ]
    return sorted(found, key=lambda m: m.id)


async def migrate(uri: str, *, limits: Limits | None = None) -> Sequence[Migration]:
    """Applies what is missing and returns it; an up-to-date schema is left alone.

    Args:
        uri: of a login that may create roles and schemas.
        limits: connection timeouts; statements have none, a migration may be long.

    Raises:
        StoreUnavailable: no connection.
        SetupError: PostgreSQL is too old, rights are missing, or an applied file
            has changed.

    A crash leaves each file applied whole or not at all.
    """
    info = connection_info(uri, name="threadmill migrate", limits=limits or Limits())
    try:
        async with await psycopg.AsyncConnection.connect(
            info, autocommit=True
        ) as connection:
            _require_version(connection)
            done = await _applied(connection)
            missing = [m for m in migrations() if not _is_applied(m, done)]
            return [m for m in missing if await _apply_in_the_end(connection, m)]
    except psycopg.errors.LockNotAvailable as error:
        msg = (
            f"locks that the migration needs were not free for {_LOCK_SECONDS} s; wait "
            "for the other `threadmill migrate`, or for a long transaction, and retry"
        )
        raise StoreUnavailable(msg) from error
    except psycopg.errors.InsufficientPrivilege as error:
        remedy = error.diag.message_hint or (
            "run `threadmill migrate` with a DATABASE_URI of a role with CREATEROLE "
            "and CREATE on the database"
        )
        reason = error.diag.message_primary
        raise SetupError(f"the login may not migrate ({reason}); {remedy}") from error
    except psycopg.OperationalError as error:
        raise translate(error) from error


async def pending(uri: str, *, limits: Limits | None = None) -> Sequence[Migration]:
    """The migrations that the database still lacks.

    Raises:
        StoreUnavailable: no connection.
        SetupError: an applied file has changed, or the login may not become
            `threadmill_app`.
    """
    info = connection_info(uri, name="threadmill", limits=limits or Limits())
    try:
        async with await psycopg.AsyncConnection.connect(
            info, autocommit=True
        ) as connection:
            _require_version(connection)
            done = await _applied(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        msg = (
            f"the login may not become threadmill_app ({error.diag.message_primary}); "
            "run GRANT threadmill_app TO the login of DATABASE_URI"
        )
        raise SetupError(msg) from error
    except psycopg.OperationalError as error:
        raise translate(error) from error
    return [m for m in migrations() if not _is_applied(m, done)]


async def require_current(uri: str, *, limits: Limits | None = None) -> None:
    """Refuses to go on with a missing or older schema.

    Raises:
        SchemaOutdated: naming `threadmill migrate`.
    """
    if missing := await pending(uri, limits=limits):
        msg = (
            f"the database schema lacks {len(missing)} migration(s), first "
            f"{missing[0].id:04d}_{missing[0].name}; run `threadmill migrate`"
        )
        raise SchemaOutdated(msg)


def _require_version(connection: psycopg.AsyncConnection) -> None:
    if connection.info.server_version < POSTGRES_MIN * 10_000:
        msg = f"PostgreSQL {POSTGRES_MIN} or newer is needed"
        raise SetupError(msg)


async def _applied(connection: psycopg.AsyncConnection) -> dict[int, str]:
    """The checksums of what was applied, by id; read as every transaction reads."""
    exists = await (await connection.execute(_EXISTS)).fetchone()
    if not exists or not exists[0]:
        return {}
    async with connection.transaction():
        await connection.execute(_BECOME)
        return dict(await (await connection.execute(_APPLIED)).fetchall())


def _is_applied(migration: Migration, done: dict[int, str]) -> bool:
    checksum = done.get(migration.id)
    if checksum is not None and checksum != migration.checksum:
        msg = (
            f"migration {migration.id:04d}_{migration.name} was changed after it had "
            "been applied; install the release that matches this database"
        )
        raise SetupError(msg)
    return checksum is not None


async def _apply_in_the_end(
    connection: psycopg.AsyncConnection, migration: Migration
) -> bool:
    give_up_at = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return await _apply(connection, migration)
        except psycopg.errors.LockNotAvailable:
            if time.monotonic() >= give_up_at:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)


async def _apply(connection: psycopg.AsyncConnection, migration: Migration) -> bool:
    """Applies a file unless somebody else has meanwhile."""
    async with connection.transaction():
        await connection.execute(
            "SELECT set_config('lock_timeout', %s, true)", [f"{_LOCK_SECONDS}s"]
        )
        # Of the transaction: a pooler would keep one of the session.
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        exists = await (await connection.execute(_EXISTS)).fetchone()
        if exists and exists[0]:
            done: dict[int, str] = dict(
                await (await connection.execute(_APPLIED)).fetchall()
            )
            if _is_applied(migration, done):
                return False
        await connection.execute(
            "SELECT set_config('lock_timeout', %s, true)", [f"{_TABLE_LOCK_SECONDS}s"]
        )
        await connection.execute(migration.sql)
        await connection.execute(
            _RECORD, (migration.id, migration.name, migration.checksum)
        )
    return True
