"""The one table from Threadmill's errors to HTTP, and the answers made of it.

Every error is answered as `{"detail": text}`. A class that is not in the table is
answered like its nearest base. Bugs of ours tell the client nothing but that, and
mistakes of the set-up nothing but that there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import Any, Final

import structlog
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from threadmill import errors
from threadmill.server.wire import json_response

STATUS: Final[Mapping[type[errors.Error], int]] = MappingProxyType(
    {
        errors.Error: 500,
        errors.RequestError: 400,
        errors.InvalidRequest: 422,
        errors.PayloadTooLarge: 413,
        errors.RequestTooSlow: 408,
        errors.NotFound: 404,
        errors.Forbidden: 403,
        errors.Conflict: 409,
        errors.LimitExceeded: 429,
        errors.Unavailable: 503,
        errors.SetupError: 500,
        errors.GraphError: 500,
        errors.StateLost: 410,
        errors.LeaseLost: 409,
        errors.InvariantViolated: 500,
    }
)
_INTERNAL: Final = "internal error; the server's log has the cause"
_NOT_SET_UP: Final = "the set-up must be mended; the server's log says how"


def status_of(error: type[errors.Error]) -> int:
    """The HTTP status of an error class."""
    return next(STATUS[cls] for cls in error.__mro__ if cls in STATUS)


def answer(error: errors.Error) -> Response:
    """The response that tells a client of `error`."""
    headers = {}
    if isinstance(error, errors.LimitExceeded | errors.Unavailable):
        headers["Retry-After"] = str(ceil(error.retry_after_seconds))
    return detail(status_of(type(error)), told(error), headers)


def told(error: errors.Error) -> str:
    """What clients may read of `error`.

    Bugs of ours, what operators must mend, and where a store is go to the log instead.
    """
    log = structlog.get_logger(__name__)
    if isinstance(error, errors.InvariantViolated):
        log.error("server.invariant_violated", exc_info=error)
        return _INTERNAL
    if isinstance(error, errors.SetupError):
        log.error("server.setup_error", error=type(error).__name__, cause=str(error))
        return _NOT_SET_UP
    if isinstance(error, errors.Unavailable) and error.shown != str(error):
        log.warning("server.unavailable", error=type(error).__name__, cause=str(error))
    if isinstance(error, errors.GraphLoadFailed | errors.Unavailable):
        return error.shown
    return str(error)


def detail(
    status: int, text: str, headers: Mapping[str, str] | None = None
) -> Response:
    """An error response with a given text."""
    return json_response({"detail": text}, status=status, headers=headers)


def internal_error() -> Response:
    """The response for what should not have happened."""
    return detail(500, _INTERNAL)


def readable(problems: list[Any]) -> str:
    """Pydantic's list of problems as one line for a person."""
    return "; ".join(_problem(p) for p in problems)


def _problem(problem: Mapping[str, Any]) -> str:
    places = [str(place) for place in problem["loc"]]
    if places and places[0] in {"path", "query", "body", "header"}:
        places = places[1:]
    where = ".".join(places)
    message = problem["msg"]
    return f"{where}: {message}" if where else str(message)


async def on_error(_request: Request, error: Exception) -> Response:
    """Answers any error of Threadmill's tree."""
    if not isinstance(error, errors.Error):
        raise error
    return answer(error)


async def on_invalid(_request: Request, error: Exception) -> Response:
    """Answers a path, query or body that is not valid."""
    if not isinstance(error, RequestValidationError | ValidationError):
        raise error
    return detail(422, readable(list(error.errors())))


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Answers the framework's own refusals: no such route, wrong method."""
    if not isinstance(error, HTTPException):
        raise error
    return detail(error.status_code, str(error.detail), error.headers)
