"""Responses that stay open: silent connections are kept alive, gone clients noticed.

Three things end such a response besides its own end. The client goes: then whoever
asked to be told is told. The process drains, or the body fails: then the connection is
cut, and the client finds its run again through another server. An orderly end would say
that this was all; clients then ask whether the run has ended, and if it has, what they
were not told is lost to them.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog
from starlette.responses import Response

from threadmill.errors import Error

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from starlette.types import Receive, Scope, Send


class Drain:
    """Whether this process is going away; its open responses then end."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()

    def begin(self) -> None:
        """From now on open responses end; safe to call twice."""
        self._begun.set()

    async def begun(self) -> None:
        """Returns when the process is going away."""
        await self._begun.wait()


class LiveResponse(Response):
    """A response whose body comes in pieces over a long time.

    Args:
        body: the pieces; each is sent at once.
        beat: sent whenever nothing else was for `beat_seconds`.
        beat_seconds: how long silence may last.
        drain: ends the response when the process goes away.
        on_gone: called when the client went away before the end.
        media_type: of the body.
        headers: of the response.
    """

    def __init__(
        self,
        body: AsyncGenerator[bytes, None],
        *,
        beat: bytes,
        beat_seconds: float,
        drain: Drain,
        media_type: str,
        headers: Mapping[str, str],
        on_gone: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(
            headers={
                "cache-control": "no-store",
                "x-accel-buffering": "no",
                **headers,
            },
            media_type=media_type,
        )
        del self.headers["content-length"]
        self._pieces = body
        self._beat_bytes = beat
        self._beat_seconds = beat_seconds
        self._drain = drain
        self._on_gone = on_gone
        self._sent_at = monotonic()

    async def __call__(
        self,
        scope: Scope,  # noqa: ARG002  # the protocol's signature
        receive: Receive,
        send: Send,
    ) -> None:
        """Sends the body until it ends, the client goes or the process drains."""
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        async with asyncio.TaskGroup() as group:
            body = group.create_task(self._send_body(send))
            client = group.create_task(_gone(receive))
            others = (
                group.create_task(self._drain.begun()),
                group.create_task(self._beat(send)),
            )
            await asyncio.wait(
                {body, client, others[0]}, return_when=asyncio.FIRST_COMPLETED
            )
            for task in (body, client, *others):
                task.cancel()
        if not body.cancelled() and body.result():
            await _complete(send)
        elif not client.cancelled():
            await self._tell_gone()

    async def _send_body(self, send: Send) -> bool:
        """Whether the body came to its end."""
        try:
            async with aclosing(self._pieces) as pieces:
                async for piece in pieces:
                    await _piece(send, piece)
                    self._sent_at = monotonic()
        except Error as error:
            structlog.get_logger(__name__).warning(
                "response.cut", error=type(error).__name__, cause=str(error)
            )
            return False
        except OSError:
            return False
        return True

    async def _beat(self, send: Send) -> None:
        while True:
            rest = self._sent_at + self._beat_seconds - monotonic()
            if rest > 0:
                await asyncio.sleep(rest)
                continue
            self._sent_at = monotonic()
            await _piece(send, self._beat_bytes)

    async def _tell_gone(self) -> None:
        if self._on_gone is None:
            return
        try:
            await self._on_gone()
        except Error as error:
            structlog.get_logger(__name__).warning(
                "client.gone_unhandled", error=type(error).__name__, cause=str(error)
            )


async def _piece(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _complete(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
