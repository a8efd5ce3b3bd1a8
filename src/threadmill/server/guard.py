"""Two middlewares around everything: the limits of a body, and the last resort."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import structlog
from starlette.requests import ClientDisconnect

from threadmill.errors import PayloadTooLarge, RequestTooSlow
from threadmill.server.errors import answer, internal_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimits:
    """Refuses bodies that are too large or stop coming; announced ones unread.

    Args:
        app: what is guarded.
        bytes_max: how large a body may be.
        pause_seconds: how long the next part of one may take.
    """

    def __init__(self, app: ASGIApp, bytes_max: int, pause_seconds: float) -> None:
        self._app = app
        self._bytes_max = bytes_max
        self._pause_seconds = pause_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Counts what is received; bodies may come without an announced length."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = _content_length(scope)
        if announced is not None and announced > self._bytes_max:
            await answer(self._error())(scope, receive, send)
            return
        received, complete = 0, False

        async def counted() -> Message:
            nonlocal received, complete
            # What comes after the body is that the client goes: that may take hours.
            try:
                async with asyncio.timeout(None if complete else self._pause_seconds):
                    message = await receive()
            except TimeoutError:
                raise RequestTooSlow from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self._bytes_max:
                raise self._error()
            return message

        await self._app(scope, counted, send)

    def _error(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the request's body is larger than {self._bytes_max} bytes "
            "(THREADMILL_PAYLOAD_BYTES_MAX)"
        )


class LastResort:
    """Turns an unexpected exception into a 500 that tells nothing, and logs it.

    Args:
        app: what is guarded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A response that has begun is cut: its status cannot be taken back."""
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except ClientDisconnect:
            return  # it went while it sent its request; there is nobody to answer
        except Exception:
            if scope["type"] != "http":
                raise
            structlog.get_logger(__name__).exception(
                "request.failed", method=scope.get("method"), path=scope.get("path")
            )
            if not begun:
                await internal_error()(scope, receive, send)


def _content_length(scope: Any) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and re.fullmatch(b"[0-9]{1,18}", value):
            return int(value)
    return None
