"""Whether a process without an interface of its own is well, told over HTTP.

`GET /ok` asks the database and answers 200 or 500, as a server's does; `check_db=0`
leaves the database out. `GET /metrics` tells numbers in Prometheus's text format.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from threadmill.errors import Unavailable
from threadmill.server.errors import told
from threadmill.server.metrics import PROMETHEUS, Numbers, worker_metrics

if TYPE_CHECKING:
    from starlette.requests import Request


def health_app(ping: Callable[[], Awaitable[None]], numbers: Numbers) -> Starlette:
    """The application behind `--health-port`.

    Args:
        ping: returns when the database answers.
        numbers: what the process is doing, by the ends of metric names.
    """
    shown = worker_metrics(numbers)

    async def ok(request: Request) -> Response:
        if request.query_params.get("check_db", "1").lower() not in {"0", "false"}:
            try:
                await ping()
            except Unavailable as error:
                return JSONResponse({"detail": told(error)}, status_code=500)
        return JSONResponse({"ok": True, **numbers()})

    async def metrics(_request: Request) -> Response:
        return Response(shown(), media_type=PROMETHEUS)

    return Starlette(routes=[Route("/ok", ok), Route("/metrics", metrics)])
