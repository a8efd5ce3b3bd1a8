"""Serves the application over HTTP until it is told to stop.

Signals are the process's own business: it calls `stop`. Stopping ends the open streams
and the waiting answers first, so that their clients turn to another server at once, and
then gives the short requests time to end.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

import uvicorn

from threadmill.errors import SetupError
from threadmill.server.protocol import BoundedHeads

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from threadmill.server.live import Drain

_BACKLOG: Final = 2048
# Longer than a load balancer keeps an idle connection (60 s is usual): the side that
# closes first must be the one that opens the next request.
_KEEP_ALIVE_SECONDS: Final = 65
_ADVICE: Final = MappingProxyType(
    {
        errno.EADDRINUSE: "stop what listens there, or choose another with {}",
        errno.EACCES: "choose one of 1024 or more with {}",
    }
)


class HttpServer:
    """An HTTP server: `run` starts it, `started` waits for that, `stop` ends it.

    The address is taken at once, so that a taken one is told before anything starts.

    Args:
        app: the application.
        host: the address to listen on.
        port: the port; 0 takes a free one.
        listener: a socket of `listen`, in place of host and port.
        drain: begun on `stop`: open responses end.
        grace_seconds: how long other requests may take then.
        request_seconds: how long the head of a request may take, and how long a client
            may take nothing of what it is sent.

    Raises:
        SetupError: the address cannot be listened on.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        listener: socket.socket | None = None,
        drain: Drain,
        grace_seconds: float,
        request_seconds: float,
    ) -> None:
        self._socket = listen(host, port) if listener is None else listener
        self._drain = drain
        _cut_who_stops_reading(self._socket, request_seconds)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            # Who the client is matters to nobody yet, so nobody may claim it.
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(grace_seconds)),
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            # Uvicorn makes one of these for each connection.
            http=cast("Any", partial(BoundedHeads, head_seconds=request_seconds)),
            ws="none",
        )
        self._server = _Server(config)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        port: int = self._socket.getsockname()[1]
        return port

    async def run(self) -> None:
        """Serves until `stop`; a stop before the start ends it at once."""
        await self._server.serve(sockets=[self._socket])

    async def started(self) -> None:
        """Returns when requests are answered."""
        await self._server.ready.wait()

    def stop(self) -> None:
        """Ends open responses, then the server; safe to call twice."""
        self._drain.begin()
        self._server.should_exit = True


class _Server(uvicorn.Server):
    """Uvicorn's server without its hold on signals."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


def listen(host: str, port: int, *, option: str = "--port") -> socket.socket:
    """Takes an address; clients that come early wait for the server.

    Args:
        host: a name or an address of this machine.
        port: the port; 0 takes a free one.
        option: how the command line sets the port, for the error.

    Raises:
        SetupError: somebody else has it, or it is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        number = error.errno or 0
        # The resolver's numbers are negative and no errors of the system's.
        reason = os.strerror(number).lower() if number > 0 else "no such host"
        advice = _ADVICE.get(number, "choose an address of this machine")
        msg = f"cannot listen on {host}:{port}: {reason}; {advice.format(option)}"
        raise SetupError(msg) from error
    # Connections inherit it. Without it an answer's second packet waits 40 ms for the
    # client's delayed acknowledgement; asyncio sets it only on sockets of its own.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _cut_who_stops_reading(listener: socket.socket, seconds: float) -> None:
    """Bounds how long what was sent may lie there unread or unacknowledged.

    The kernel does it, for whatever is sent: it alone knows what the client has taken,
    and a connection that was closed with an answer in it would wait on as well. Then
    the connection breaks, as if the client had gone. Connections inherit it.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux has it
    if option is not None:
        milliseconds = max(1, round(seconds * 1000))
        listener.setsockopt(socket.IPPROTO_TCP, option, milliseconds)


def url_of(listener: socket.socket, prefix: str = "") -> str:
    """Where clients on this machine find what listens on a socket.

    Args:
        listener: a socket of `listen`.
        prefix: the path under which the routes are.
    """
    host, port = listener.getsockname()[:2]
    # An address that stands for all of them is none that one connects to.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{prefix}"
