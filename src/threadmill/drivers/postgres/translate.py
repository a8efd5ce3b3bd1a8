"""Turns psycopg's errors into Threadmill's tree, at the driver's edge.

SQL raises Threadmill's own errors through `threadmill.require(ok, code, detail)`
(SQLSTATE TM001): the code names the class.
"""

from __future__ import annotations

import psycopg
from psycopg import errors as pg
from psycopg_pool import PoolClosed, PoolTimeout

from threadmill import errors

_REQUIRE = "TM001"

# Contention: the transaction was rolled back whole, so a retry is safe.
_CONTENTION = (
    pg.DeadlockDetected,
    pg.LockNotAvailable,
    pg.QueryCanceled,
    pg.SerializationFailure,
)
_SCHEMA = (pg.InvalidSchemaName, pg.UndefinedFunction, pg.UndefinedTable)
_TEXT = (pg.CharacterNotInRepertoire, pg.UntranslatableCharacter)


def translate(error: BaseException) -> errors.Error:
    """The error of Threadmill's tree that says what to do about `error`."""
    if isinstance(error, psycopg.Error) and error.sqlstate == _REQUIRE:
        return _required(error)
    if isinstance(error, _CONTENTION):
        message = f"the database is busy ({type(error).__name__}); a retry is safe"
        return errors.Unavailable(message)
    if isinstance(error, _SCHEMA):
        return errors.SchemaOutdated()
    if isinstance(error, _TEXT):
        message = "the text holds a NUL character, which PostgreSQL cannot store"
        return errors.InvalidRequest(message)
    if isinstance(error, pg.UniqueViolation):
        return errors.AlreadyExists(f"exists already ({error.diag.constraint_name})")
    if isinstance(error, pg.ForeignKeyViolation):
        return errors.NotFound(f"not found ({error.diag.constraint_name})")
    if isinstance(error, pg.InsufficientPrivilege):
        message = f"the database refused: {error.diag.message_primary}"
        return errors.Forbidden(message)
    if isinstance(
        error,
        psycopg.OperationalError | psycopg.InterfaceError | PoolTimeout | PoolClosed,
    ):
        return errors.StoreUnavailable()
    if isinstance(error, TimeoutError):
        return errors.StoreUnavailable("the database did not answer in time")
    return errors.InvariantViolated(f"unexpected database error: {error}")


def _required(error: psycopg.Error) -> errors.Error:
    code, detail = error.diag.message_primary, error.diag.message_detail
    for cls in subclasses(errors.Error):
        if cls.code == code:
            return cls(detail or None)
    return errors.InvariantViolated(f"unknown error code from the database: {code}")


def subclasses(cls: type[errors.Error]) -> list[type[errors.Error]]:
    """`cls` and every class below it."""
    return [cls, *(s for child in cls.__subclasses__() for s in subclasses(child))]
