"""Middlewares around everything: whose pages may act, limits of bodies, last resort."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from threadmill.errors import Forbidden, PayloadTooLarge, RequestTooSlow
from threadmill.server.errors import answer, internal_error
from threadmill.server.request_log import path_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# How many times the longest pause a whole body may take.
_PAUSES: Final = 10
_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


class Origins:
    """Refuses what the pages of other origins want changed.

    CORS keeps a page from reading an answer. What a form could send it sends without
    asking first, so without this the request would have been carried out by then.

    Args:
        app: what is guarded.
        allowed: origins whose pages may act; `*` is all.
    """

    def __init__(self, app: ASGIApp, allowed: Collection[str]) -> None:
        self._app = app
        self._allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets through what only reads, and what no browser says the origin of."""
        if (
            scope["type"] == "http"
            and "*" not in self._allowed
            and scope["method"] not in _READING
        ):
            headers = Headers(scope=scope)
            host = headers.get("host", "").lower()
            for origin in headers.getlist("origin"):
                if origin not in self._allowed and not _is_at(origin, host):
                    await answer(_stranger(origin))(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _is_at(origin: str, host: str) -> bool:
    """Whether an origin is the server itself, whatever ends its TLS."""
    scheme, _, rest = origin.partition("://")
    return scheme in {"http", "https"} and rest.lower() == host


def _stranger(origin: str) -> Forbidden:
    shown = origin[:200]
    return Forbidden(f"pages of {shown!r} may not act here (CORS_ALLOW_ORIGINS)")


class BodyLimits:
    """Refuses bodies that are too large or stop coming; announced ones unread.

    Args:
        app: what is guarded.
        bytes_max: how large a body may be.
        pause_seconds: how long the next part of one may take; the whole has
            `_PAUSES` times that.
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
        now = asyncio.get_running_loop().time
        end = now() + _PAUSES * self._pause_seconds

        async def counted() -> Message:
            nonlocal received, complete
            # What comes after the body is that the client goes: that may take hours.
            seconds = None if complete else min(self._pause_seconds, end - now())
            try:
                async with asyncio.timeout(seconds):
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
                "request.failed", method=scope.get("method"), path=path_of(scope)
            )
            if not begun:
                await internal_error()(scope, receive, send)


def _content_length(scope: Any) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length" and re.fullmatch(b"[0-9]{1,18}", value):
            return int(value)
    return None
