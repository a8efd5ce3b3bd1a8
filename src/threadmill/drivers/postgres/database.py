"""The only way to the database: one transaction is one pipeline.

A transaction is written down first and sent as a whole when its block ends: the role
and the tenant (both local to the transaction), then the statements, in one round
trip. No client decision lies in between, so a frozen process holds no lock, and nobody
can forget the tenant: a transaction without one sees empty tables.

Without a BEGIN, PostgreSQL runs everything up to the pipeline's end as one transaction
("Pipelining", Frontend/Backend Protocol); two messages less than with one. Only a read
of several statements needs a BEGIN, to see one snapshot.

Conditions inside a transaction are SQL: `threadmill.require(...)` aborts it with
an error of Threadmill's tree.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from threadmill.drivers.postgres.connection import Connection, Row
from threadmill.drivers.postgres.sql import Queries
from threadmill.drivers.postgres.translate import translate
from threadmill.environment import is_misread
from threadmill.errors import BadSetting, InvariantViolated, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from threadmill.drivers.postgres.sql import Query

_SQL = Queries(__package__, "database.sql")
# A migration has changed what a prepared statement returns, or a pooler has lost it; or
# the server has become a standby.
_STALE = (
    pg.FeatureNotSupported,
    pg.InvalidSqlStatementName,
    pg.ReadOnlySqlTransaction,
)
# Statements are written to go by an index, and their plans are kept. A plan made while
# a table was empty would go on reading all of it when it has filled.
_PLANNING = {"enable_seqscan": "off", "jit": "off"}
# The first version that knows the setting.
_TRANSACTION_TIMEOUT = 170000
# What Linux takes.
_PROBES_MAX = 120
_CONNECTION_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError)
# Of SQLSTATE: connection exceptions, and a server that shuts down or is starting.
_ENDED = ("08", "57P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of connections and transactions; every wait on the database has one."""

    pool_min: int = 1
    pool_max: int = 10
    pool_timeout_seconds: float = 5.0
    connect_timeout_seconds: float = 5.0
    statement_timeout_seconds: float = 30.0
    lock_timeout_seconds: float = 5.0
    idle_in_transaction_seconds: float = 5.0
    tcp_user_timeout_seconds: float = 4.0
    lease_seconds: float = 10.0

    @property
    def transaction_timeout_seconds(self) -> float:
        """Of a whole transaction; a single slow statement is cancelled before."""
        return self.statement_timeout_seconds + self.idle_in_transaction_seconds


class Result:
    """What one statement returns, once its transaction has committed."""

    __slots__ = ("_rows", "query")

    def __init__(self, query: Query) -> None:
        self.query = query
        self._rows: list[Row] | None = None

    @property
    def rows(self) -> list[Row]:
        """All rows, as dictionaries.

        Raises:
            InvariantViolated: read before the transaction's block ended.
        """
        if self._rows is None:
            msg = f"result of {self.query.name} read inside its transaction"
            raise InvariantViolated(msg)
        return self._rows

    @property
    def one(self) -> Row | None:
        """The first row, or None."""
        return self.rows[0] if self.rows else None

    def fill(self, rows: list[Row]) -> None:
        """Called by the database, after the commit."""
        self._rows = rows


@dataclass(slots=True)
class Transaction:
    """Statements to be sent together; filled inside `Database.tenant_tx`."""

    tenant: str
    read_only: bool
    statements: list[tuple[Result, Mapping[str, object]]] = field(default_factory=list)

    def add(self, query: Query, **params: object) -> Result:
        """Appends a statement; its result can be read after the block."""
        result = Result(query)
        self.statements.append((result, params))
        return result


class Database:
    """A pool of connections and the two kinds of transactions.

    Args:
        uri: a libpq URI or conninfo; kept out of reprs and errors.
        name: shown as `application_name`.
        limits: bounds of every wait.
        prepare: whether statements may be prepared (not behind a transaction
            pooler that does not track them).
    """

    def __init__(
        self, uri: str, *, name: str, limits: Limits, prepare: bool = True
    ) -> None:
        self.limits = limits
        self._conninfo = connection_info(
            uri, name=name, limits=limits, session_settings=prepare
        )
        self._recheck: asyncio.Task[None] | None = None
        self._in_use = 0
        # Behind a transaction pooler a session's settings are somebody else's too.
        self._enter = _SQL.enter if prepare else _SQL.enter_pooled
        self._enter_timeouts = {} if prepare else _timeouts(limits)
        self._prepare = prepare
        self._pool: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            self._conninfo,
            connection_class=Connection,
            min_size=limits.pool_min,
            max_size=limits.pool_max,
            timeout=limits.pool_timeout_seconds,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "prepare_threshold": None,
            },
            open=False,
            name=name,
            configure=self._configure,
        )

    async def open(self) -> None:
        """Opens the pool and proves that the database answers.

        Raises:
            StoreUnavailable: no connection within the connect timeout.
        """
        try:
            await self._pool.open(
                wait=True, timeout=self.limits.connect_timeout_seconds
            )
        except Exception as error:
            await self._pool.close()
            raise translate(error) from error

    async def close(self) -> None:
        """Closes every connection; safe to call twice."""
        if self._recheck is not None:
            self._recheck.cancel()
        await self._pool.close(timeout=self.limits.connect_timeout_seconds)

    @asynccontextmanager
    async def tenant_tx(
        self, tenant: str, *, read_only: bool = False
    ) -> AsyncIterator[Transaction]:
        """A transaction of one tenant, sent when the block ends without error.

        Args:
            tenant: the tenant whose rows are visible; never empty.
            read_only: one consistent snapshot, no writes.

        Raises:
            Error: whatever the statements met, in Threadmill's terms. After
                StoreUnavailable a writing transaction may have committed.
        """
        if not tenant:
            msg = "a tenant's transaction needs a tenant"
            raise InvariantViolated(msg)
        tx = Transaction(tenant, read_only)
        yield tx
        await self._send(tx)

    @asynccontextmanager
    async def system_tx(self) -> AsyncIterator[Transaction]:
        """A transaction without a tenant: system tables and dispatcher functions."""
        tx = Transaction("", read_only=False)
        yield tx
        await self._send(tx)

    async def _send(self, tx: Transaction) -> None:
        if not tx.statements:
            return
        bound = (
            self.limits.transaction_timeout_seconds + self.limits.pool_timeout_seconds
        )
        before = _cancellations()
        try:
            async with asyncio.timeout(bound), self._pool.connection() as connection:
                _heed(before)
                self._in_use += 1
                try:
                    await self._pipeline(connection, tx)
                finally:
                    self._in_use -= 1
        except PoolTimeout as error:
            if self._in_use < self.limits.pool_max:
                raise translate(error) from error
            msg = (
                f"all {self._in_use} database connections of this process are in use "
                "(THREADMILL_POOL_MAX); a retry is safe"
            )
            raise StoreUnavailable(msg) from error
        except Exception as error:
            if _ended_connection(error):
                self._discard_broken()
            raise translate(error) from error

    async def _pipeline(self, connection: Connection, tx: Transaction) -> None:
        enter = (self._enter, {"tenant": tx.tenant, **self._enter_timeouts})
        statements = [enter, *((r.query, params) for r, params in tx.statements)]
        snapshot = tx.read_only and len(tx.statements) > 1
        if snapshot:
            statements = [(_SQL.begin_snapshot, {}), *statements, (_SQL.commit, {})]
        try:
            rows = await connection.send(statements)
        except psycopg.Error as error:
            await _recover(connection, error)
            raise
        own = rows[2:-1] if snapshot else rows[1:]
        for (result, _), found in zip(tx.statements, own, strict=True):
            result.fill(found)

    async def _configure(self, connection: Connection) -> None:
        connection.may_prepare = self._prepare
        if self._prepare and connection.info.server_version >= _TRANSACTION_TIMEOUT:
            # A process may be frozen while it sends: its locks must not stay with it.
            seconds = self.limits.transaction_timeout_seconds
            await connection.execute(
                b"SELECT set_config('transaction_timeout', %s, false)",
                [f"{seconds * 1000:.0f}"],
            )

    def _discard_broken(self) -> None:
        # One broken connection usually means that all idle ones are: look at them
        # now, so that the next requests do not fail one by one.
        if self._recheck is None or self._recheck.done():
            self._recheck = asyncio.create_task(self._check_pool())

    async def _check_pool(self) -> None:
        try:
            await self._pool.check()
        except (*_CONNECTION_ERRORS, TimeoutError):
            return

    def statistics(self) -> Mapping[str, int]:
        """The pool's counters, as psycopg names them."""
        return self._pool.get_stats()


def _cancellations() -> int:
    """How often this task was cancelled so far, whether it has noticed or not."""
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


def _heed(before: int) -> None:
    """Raises the cancellation that has come since and that nobody has told us of.

    The pool waits with `wait_for`, which in Python 3.11 swallows one that comes at the
    moment of handing over: a loop over transactions would never end.
    """
    if _cancellations() > before:
        raise asyncio.CancelledError


def _ended_connection(error: Exception) -> bool:
    """Whether it says of a connection that it is no more, or never was.

    What a server says of a statement that it has cancelled is an operational error too.
    """
    if not isinstance(error, _CONNECTION_ERRORS):
        return False
    state = getattr(error, "sqlstate", None)
    return state is None or state.startswith(_ENDED)


async def _recover(connection: Connection, error: psycopg.Error) -> None:
    """Leaves the connection fit for the next transaction, or closed."""
    if isinstance(error, _STALE):
        await connection.close()
    elif not connection.broken:
        await connection.rollback()


def _timeouts(limits: Limits) -> dict[str, str]:
    return {
        "statement_timeout": f"{limits.statement_timeout_seconds * 1000:.0f}",
        "lock_timeout": f"{limits.lock_timeout_seconds * 1000:.0f}",
        "idle_in_transaction_session_timeout": (
            f"{limits.idle_in_transaction_seconds * 1000:.0f}"
        ),
    }


def _keepalives(limits: Limits) -> dict[str, str]:
    """A server gives up the locks of a client that it cannot reach any more.

    Others take over when its lease ends, and must not wait longer than that for a
    commit that was cut in half.
    """
    seconds = min(max(2, round(limits.lease_seconds)), _PROBES_MAX)
    return {
        "tcp_keepalives_idle": f"{seconds // 2}",
        "tcp_keepalives_interval": "1",
        "tcp_keepalives_count": f"{seconds - seconds // 2}",
        "tcp_user_timeout": f"{seconds * 1000}",
    }


def connection_info(
    uri: str,
    *,
    name: str,
    limits: Limits,
    session_settings: bool = False,
    setting: str = "the URI of the database",
) -> str:
    """`uri` with the timeouts that keep a connection from hanging.

    Args:
        uri: a libpq URI or conninfo.
        name: shown as `application_name`.
        limits: the bounds.
        session_settings: whether the session's settings bound statements and guide
            their planning.
        setting: that holds the URI, for the error.

    Raises:
        BadSetting: the URI cannot be parsed (its text is not repeated).
    """
    if is_misread(uri):
        msg = f"{setting} can be misread; percent-encode its password"
        raise BadSetting(msg)
    session = {**_timeouts(limits), **_keepalives(limits), **_PLANNING}
    options = "".join(f" -c {k}={v}" for k, v in session.items())
    try:
        given = conninfo_to_dict(uri).get("options") or ""
        return make_conninfo(
            uri,
            options=f"{given}{options if session_settings else ''}".strip() or None,
            application_name=name,
            connect_timeout=max(2, round(limits.connect_timeout_seconds)),
            keepalives=1,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=round(limits.tcp_user_timeout_seconds * 1000),
        )
    except psycopg.ProgrammingError:
        msg = f"{setting} is not a PostgreSQL URI (postgresql://user@host/database)"
        raise BadSetting(msg) from None
