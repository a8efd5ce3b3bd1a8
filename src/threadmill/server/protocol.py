"""Uvicorn's HTTP protocol with bounds on what comes before anybody reads it.

Uvicorn over httptools keeps what a client sends until a head is complete, however long
and for however long. Here a head has so many bytes (RFC 6585, section 5), trailers too,
and so many seconds from its first byte on (RFC 9110, section 15.5.9); beyond either the
client is told, if no answer is on its way to it, and its connection ends. So does a
connection that is opened and not used. Bodies are bounded in `threadmill.server.guard`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

#: A head may be larger by what is read at once.
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
        # Of this head or these trailers; and since the parser last made anything of it.
        self._head_bytes = self._unparsed_bytes = 0
        self._in_head = self._has_begun = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has come, who may never say anything."""
        super().connection_made(transport)
        # A balancer that opens connections ahead is to be the one that closes them.
        idle_seconds = max(self._head_seconds, self.timeout_keep_alive)
        self._timer = self.loop.call_later(idle_seconds, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what the parser holds back.

        The rest of a body whose request was answered has as long as a head.
        """
        self._unparsed_bytes += len(data)
        if not self._has_begun and not self._answers():
            self._begin()
        super().data_received(data)
        if max(self._head_bytes, self._unparsed_bytes) > HEAD_BYTES_MAX:
            self._refuse("431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        """A part of the first line."""
        self._made_of(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or of what comes after a body in chunks."""
        self._made_of(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete: whoever answers now sets the pace."""
        self._stop_timer()
        self._in_head = self._has_begun = False
        self._head_bytes = self._unparsed_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._made_of(0)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """An answer has been given; a further head may have come in part by then."""
        super().on_response_complete()
        if self._in_head and not self._answers():
            self._begin()

    def _made_of(self, more: int) -> None:
        self._unparsed_bytes = 0
        self._head_bytes += more

    def _answers(self) -> bool:
        cycle = cast("Any", self.cycle)  # None until the first head is complete
        return cycle is not None and not cycle.response_complete

    def _begin(self) -> None:
        self._stop_timer()
        self._has_begun = True
        self._timer = self.loop.call_later(
            self._head_seconds, self._refuse, "408 Request Timeout"
        )

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: str) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        _log.warning("request.head_refused", status=status)
        if not self._answers():
            ending = "content-length: 0\r\nconnection: close\r\n\r\n"
            self.transport.write(f"HTTP/1.1 {status}\r\n{ending}".encode("ascii"))
        self.transport.close()
