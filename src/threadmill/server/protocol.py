"""Uvicorn's HTTP protocol with bounds on the head of a request.

Uvicorn over httptools keeps whatever a client sends until the head is complete, however
long and for however long. Here a head has so many bytes (RFC 6585, section 5) and so
many seconds (RFC 9110, section 15.5.9), from the connection or from its first byte on;
beyond either the client is told, and its connection ends. Bodies are bounded in
`threadmill.server.guard`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

#: Of one read more than this a head may be larger; nothing is kept of what follows.
HEAD_BYTES_MAX: Final = 64 * 1024

_log = structlog.get_logger(__name__)


class BoundedHeads(HttpToolsProtocol):
    """One connection.

    Args:
        config: uvicorn's.
        server_state: uvicorn's.
        app_state: uvicorn's.
        head_seconds: how long the head of a request may take.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        head_seconds: float,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_seconds = head_seconds
        self._head_bytes = 0
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head is awaited."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._head_is_here()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what belongs to a head that goes on."""
        if self._late is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._late is not None and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse("431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """A head begins; what was read with it is not counted."""
        super().on_message_begin()
        if self._late is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """It is complete: whoever answers now sets the pace."""
        self._head_is_here()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._late = self.loop.call_later(
            self._head_seconds, self._refuse, "408 Request Timeout"
        )

    def _head_is_here(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: str) -> None:
        self._head_is_here()
        if self.transport.is_closing():
            return
        _log.warning("request.head_refused", status=status)
        ending = "content-length: 0\r\nconnection: close\r\n\r\n"
        self.transport.write(f"HTTP/1.1 {status}\r\n{ending}".encode("ascii"))
        self.transport.close()
