"""The one table from Threadmill's errors to HTTP, and the answers made of it.

Every error is answered as `{"detail": text}`. A class that is not in the table is
answered like its nearest base. Bugs of ours tell the client nothing but that.
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
    """What clients may read of `error`; bugs of ours go to the log instead."""
    if isinstance(error, errors.InvariantViolated):
        log = structlog.get_logger(__name__)
        log.error("server.invariant_violated", exc_info=error)
        return _INTERNAL
    return error.shown if isinstance(error, errors.GraphLoadFailed) else str(error)


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
