"""Port of the doctor: what is so about a database, without judging it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

APP_ROLE = "threadmill_app"
DISPATCHER_ROLE = "threadmill_dispatcher"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """The server and one session on it.

    Args:
        version: as PostgreSQL numbers it, 180004 for 18.4.
        identity: equal for two ways to one database of one running server.
        pooled: whether somebody stands between us and the server.
        shared: whether two connections of ours were one session of the server's, as
            behind a pooler in transaction mode.
        clock_ahead_seconds: how far the server's clock is before ours.
        clock_error_seconds: how wrong that may be: half the round trip.
        connections: how many this login may have open, of all processes together.
    """

    version: int
    version_text: str
    identity: tuple[datetime, int]
    standby: bool
    pooled: bool
    shared: bool
    fsync: bool
    full_page_writes: bool
    synchronous_commit: str
    connections: int
    clock_ahead_seconds: float
    clock_error_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFacts:
    """One of Threadmill's roles.

    Args:
        bypasses: it is a superuser or passes row-level security by.
        refusal: why the login may not become it; None if it may.
    """

    name: str
    exists: bool
    bypasses: bool = False
    refusal: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """One table with rows of tenants.

    Args:
        enabled: row-level security applies.
        forced: also to the table's owner.
        scoped: the application's policies all compare with the transaction's tenant.
    """

    name: str
    enabled: bool
    forced: bool
    scoped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaFacts:
    """Roles, tables, and what the application's role sees of them without a tenant.

    Args:
        leaking: tables that showed rows.
        unreadable: why they could not be read.
    """

    roles: Sequence[RoleFacts]
    tables: Sequence[TableFacts]
    leaking: Sequence[str] = ()
    unreadable: str | None = None


class Inspection(Protocol):
    """Looks at a database; it changes nothing."""

    async def server(self) -> ServerFacts:
        """The server.

        Raises:
            StoreUnavailable: it does not answer.
        """
        ...

    async def schema(self) -> SchemaFacts:
        """Roles and tables; there may be none yet.

        Raises:
            StoreUnavailable: the server does not answer.
        """
        ...
