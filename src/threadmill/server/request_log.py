"""One line in the log for every request that has ended.

A stream is one request and one line, at its end. Load balancers ask `/ok` all the time,
so it has no line. Queries and bodies are left out: they may hold secrets.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = structlog.get_logger(__name__)

_SILENT: Final = ("/ok", "/metrics")


class RequestLog:
    """A middleware that tells method, path, status and how long it took.

    Args:
        app: what answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on; the line is written whatever becomes of it."""
        if scope["type"] != "http" or scope["path"].endswith(_SILENT):
            await self._app(scope, receive, send)
            return
        began_at = monotonic()
        status: int | None = None

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            _log.info(
                "request",
                method=scope["method"],
                path=path_of(scope),
                status=status,
                ms=round((monotonic() - began_at) * 1000, 1),
            )


def path_of(scope: Scope) -> str:
    """A request's path as it came, percent-encoded: it cannot break out of its line."""
    raw: bytes = scope.get("raw_path", b"")
    return raw.decode("ascii", "replace")
