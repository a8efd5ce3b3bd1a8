"""The database that the settings name: addresses, limits, and its schema.

Apart from `composition`, which imports LangGraph with everything that stands on it:
looking at the database must not take seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.drivers.postgres.database import Limits
from threadmill.drivers.postgres.migrate import migrate, pending, require_current
from threadmill.drivers.postgres.reach import (
    PATIENCE_SECONDS,
    OnRetry,
    lead_to_one_database,
    reach,
)
from threadmill.errors import BadSetting

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from threadmill.drivers.postgres.migrate import Migration
    from threadmill.settings import Settings


def database_uri(settings: Settings) -> str:
    """The server that was configured.

    Raises:
        BadSetting: none was.
    """
    if settings.database_uri is None:
        msg = (
            "DATABASE_URI is not set: give the PostgreSQL server to use, for example "
            "postgresql://user@host:5432/name (`threadmill dev` brings its own)"
        )
        raise BadSetting(msg)
    return settings.database_uri.get_secret_value()


def direct_uri(settings: Settings) -> str | None:
    """Where sessions are ours alone: presence and LISTEN need that.

    None behind a transaction pooler without DATABASE_URI_DIRECT: leases and polling
    remain.
    """
    if settings.database_uri_direct is not None:
        return settings.database_uri_direct.get_secret_value()
    return database_uri(settings) if settings.prepared_statements else None


def limits_of(settings: Settings) -> Limits:
    """The database's bounds."""
    return Limits(
        pool_min=settings.pool_min,
        pool_max=settings.pool_max,
        pool_timeout_seconds=settings.pool_timeout_seconds,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        statement_timeout_seconds=settings.statement_timeout_seconds,
        lock_timeout_seconds=settings.lock_timeout_seconds,
        idle_in_transaction_seconds=settings.idle_in_transaction_seconds,
        tcp_user_timeout_seconds=settings.tcp_user_timeout_seconds,
        lease_seconds=settings.lease_seconds,
    )


async def reach_database(
    settings: Settings,
    on_retry: OnRetry,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """Waits, for a bounded while, until the database lets this process in.

    Raises:
        BadSetting: no database is configured.
        StoreUnavailable: it does not answer; the message says where it was looked for.
    """
    await reach(
        database_uri(settings),
        limits=limits_of(settings),
        on_retry=on_retry,
        patience_seconds=patience_seconds,
    )


async def reach_direct(
    settings: Settings,
    on_retry: OnRetry,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
) -> None:
    """The same for DATABASE_URI_DIRECT, if it is set.

    Raises:
        StoreUnavailable: it does not answer; the message names the setting.
    """
    if settings.database_uri_direct is not None:
        await reach(
            settings.database_uri_direct.get_secret_value(),
            limits=limits_of(settings),
            on_retry=on_retry,
            setting="DATABASE_URI_DIRECT",
            patience_seconds=patience_seconds,
        )


async def require_one_database(settings: Settings) -> None:
    """Refuses a DATABASE_URI_DIRECT that leads elsewhere; both were reached.

    The others would not see the presence of a process there, and take it for dead.

    Raises:
        BadSetting: it leads to another database than DATABASE_URI.
        StoreUnavailable: one of them does not answer any more.
    """
    if settings.database_uri_direct is None:
        return
    direct, limits = (
        settings.database_uri_direct.get_secret_value(),
        limits_of(settings),
    )
    if not await lead_to_one_database(database_uri(settings), direct, limits=limits):
        raise BadSetting(
            "DATABASE_URI_DIRECT leads to another database than DATABASE_URI; let both"
            " lead to the same database"
        )


async def require_schema(settings: Settings) -> None:
    """Refuses to go on with a missing or older schema.

    Raises:
        BadSetting: no database is configured.
        SchemaOutdated: `threadmill migrate` must be run first.
        SetupError: the login may not read it; the message names the GRANT.
    """
    await require_current(database_uri(settings), limits=limits_of(settings))


async def pending_migrations(settings: Settings) -> Sequence[str]:
    """The names of the migrations that the database still lacks.

    Raises:
        BadSetting: no database is configured.
        StoreUnavailable: the database does not answer.
        SetupError: its migrations are not those of this release.
    """
    return _names(await pending(database_uri(settings), limits=limits_of(settings)))


async def migrate_database(settings: Settings) -> Sequence[str]:
    """Brings the schema up to date and names what was applied; safe at the same time.

    Raises:
        BadSetting: no database is configured.
        SetupError: PostgreSQL is too old, or the login may not.
        StoreUnavailable: the database does not answer.
    """
    return _names(await migrate(database_uri(settings), limits=limits_of(settings)))


def _names(found: Iterable[Migration]) -> list[str]:
    return [f"{migration.id:04d}_{migration.name}" for migration in found]
