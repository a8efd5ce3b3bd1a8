"""Turns psycopg's errors into Threadmill's tree, at the driver's edge.

SQL raises Threadmill's own errors through `threadmill.require(ok, code, detail)`
(SQLSTATE TM001): the code names the class.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import psycopg
from psycopg import errors as pg
from psycopg_pool import PoolClosed, PoolTimeout

from threadmill import errors

_REQUIRE = "TM001"

# Where PostgreSQL finds that a row is not allowed by row-level security; the code is
# that of a missing right, and the text is in the server's language.
_ROW_CHECK = "ExecWithCheckOptions"

_Translation = Callable[[psycopg.Error], errors.Error]


def _contention(error: psycopg.Error) -> errors.Error:
    # The transaction was rolled back whole, so a retry is safe.
    name = type(error).__name__
    return errors.Unavailable(f"the database is busy ({name}); a retry is safe")


def _cancelled(_error: psycopg.Error) -> errors.Error:
    # Rolled back as well; but what was too slow may be so each time.
    return errors.Unavailable(
        "the database has cancelled a statement: it took longer than "
        "THREADMILL_STATEMENT_TIMEOUT_SECONDS, or somebody has ended it"
    )


def _nul(_error: psycopg.Error) -> errors.Error:
    message = "the text holds a NUL character, which PostgreSQL cannot store"
    return errors.InvalidRequest(message)


def _unfit(error: psycopg.Error) -> errors.Error:
    # Psycopg refuses it before it is sent; what the server says of data is our bug.
    if error.sqlstate is None:
        return errors.InvalidRequest(f"a value cannot be stored: {error}")
    return _unexpected(error)


def _out_of_range(_error: psycopg.Error) -> errors.Error:
    return errors.InvalidRequest("a number is too large for the database")


def _taken(error: psycopg.Error) -> errors.Error:
    return errors.AlreadyExists(f"exists already ({error.diag.constraint_name})")


def _absent(error: psycopg.Error) -> errors.Error:
    return errors.NotFound(f"not found ({error.diag.constraint_name})")


def _unexpected(error: BaseException) -> errors.Error:
    what: object = error
    if isinstance(error, psycopg.Error) and error.sqlstate is not None:
        # Its details may hold a row, which is what users have said.
        diag = error.diag
        place = diag.constraint_name or diag.table_name
        what = (
            f"{diag.message_primary} ({error.sqlstate}{f', {place}' if place else ''})"
        )
    return errors.InvariantViolated(f"unexpected database error: {what}")


def _refused(error: psycopg.Error) -> errors.Error:
    if error.diag.source_function == _ROW_CHECK:
        return _unexpected(error)  # a row of another tenant's: only we could write it
    return errors.SetupError(
        f"the database refuses the login a right ({error.diag.message_primary}); "
        "`threadmill doctor` names the GRANT"
    )


# The first entry whose classes fit decides; the general ones come last.
_TABLE: Final[Sequence[tuple[tuple[type[psycopg.Error], ...], _Translation]]] = (
    (
        (
            pg.DeadlockDetected,
            pg.LockNotAvailable,
            pg.SerializationFailure,
        ),
        _contention,
    ),
    # The latter two end the connection as well, which is all that a pool's tells.
    (
        (
            pg.QueryCanceled,
            pg.IdleInTransactionSessionTimeout,
            pg.TransactionTimeout,
        ),
        _cancelled,
    ),
    (
        (pg.FeatureNotSupported, pg.InvalidSqlStatementName),
        lambda _: errors.Unavailable("the schema has changed; a retry is safe"),
    ),
    (
        (pg.InvalidSchemaName, pg.UndefinedFunction, pg.UndefinedTable),
        lambda _: errors.SchemaOutdated(),
    ),
    ((pg.CharacterNotInRepertoire, pg.UntranslatableCharacter), _nul),
    ((pg.NumericValueOutOfRange,), _out_of_range),
    ((psycopg.DataError,), _unfit),
    ((pg.UniqueViolation,), _taken),
    (
        (pg.DiskFull,),
        lambda _: errors.StoreReadOnly("the database's disk is full"),
    ),
    (
        (pg.ReadOnlySqlTransaction,),
        lambda _: errors.StoreUnavailable(
            "the database takes no writes: it is a standby, or was told so"
        ),
    ),
    ((pg.ForeignKeyViolation,), _absent),
    ((pg.InsufficientPrivilege,), _refused),
    (
        (psycopg.OperationalError, psycopg.InterfaceError),
        lambda _: errors.StoreUnavailable(),
    ),
)


def translate(error: BaseException) -> errors.Error:
    """The error of Threadmill's tree that says what to do about `error`."""
    if isinstance(error, PoolTimeout | PoolClosed):
        return errors.StoreUnavailable()
    if isinstance(error, TimeoutError):
        return errors.StoreUnavailable("the database did not answer in time")
    if isinstance(error, psycopg.Error):
        if error.sqlstate == _REQUIRE:
            return _required(error)
        for classes, translation in _TABLE:
            if isinstance(error, classes):
                return translation(error)
    return _unexpected(error)


def _required(error: psycopg.Error) -> errors.Error:
    code, detail = error.diag.message_primary, error.diag.message_detail
    for cls in subclasses(errors.Error):
        if cls.code == code:
            return cls(detail or None)
    return errors.InvariantViolated(f"unknown error code from the database: {code}")


def subclasses(cls: type[errors.Error]) -> list[type[errors.Error]]:
    """`cls` and every class below it."""
    return [cls, *(s for child in cls.__subclasses__() for s in subclasses(child))]
