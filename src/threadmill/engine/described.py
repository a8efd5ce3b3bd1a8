"""Errors in words: as clients and operators read them, and as they are stored."""

from __future__ import annotations

from typing import Any, Final

from threadmill.errors import Error, GraphLoadFailed

_MESSAGE_MAX: Final = 10_000


def describe(error: BaseException) -> dict[str, Any]:
    """An error as clients see it: its type's name and its message.

    Never fails, and PostgreSQL can store it, whatever the graph's author has raised.
    """
    try:
        message = error.shown if isinstance(error, GraphLoadFailed) else str(error)
    except Exception:  # noqa: BLE001 - somebody else's `__str__`
        message = "the error's own text cannot be had"
    return {"error": type(error).__name__, "message": storable(message)}


def storable(message: str) -> str:
    """A message as PostgreSQL can store it, not longer than anybody reads."""
    if len(message) > _MESSAGE_MAX:
        message = f"{message[:_MESSAGE_MAX]}… ({len(message)} characters)"
    return message.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def named(error: Error) -> str:
    """What an attempt came to nothing by, for whoever asks later."""
    return storable(f"{type(error).__name__}: {error}")


def spent(attempts: int, cause: str | None = None) -> RuntimeError:
    """The error of a run whose workers kept dying.

    Args:
        attempts: how many were made in vain.
        cause: how the last one ended, if that is known.
    """
    tries = "1 attempt" if attempts == 1 else f"{attempts} attempts"
    gave_up = f"gave up after {tries} without progress (THREADMILL_ATTEMPTS_MAX)"
    if cause is not None:
        # First what differs from one run to the next: lists cut messages short.
        return RuntimeError(f"{cause}; {gave_up}")
    return RuntimeError(
        f"{gave_up}: each time the worker died, lost its lease, or met what its log "
        "tells"
    )
