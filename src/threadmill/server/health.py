"""Whether a process without an interface of its own is well, told over HTTP.

`GET /ok` asks the database and answers 200 or 500, as a server's does; `check_db=0`
leaves the database out. `GET /metrics` tells numbers in Prometheus's text format.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from threadmill.errors import Unavailable

if TYPE_CHECKING:
    from starlette.requests import Request

_PREFIX: Final = "threadmill_worker_"
# What counts up ends in `_total`, everything else goes up and down.
_TOTAL: Final = "_total"
_HELP: Final = MappingProxyType(
    {
        "slots": "Activations that this worker may run at once.",
        "slots_taken": "Slots that are taken, also by threads that have not returned.",
        "activations_running": "Activations that this worker is carrying out.",
        "activations_claimed_total": "Activations that this worker has claimed.",
        "draining": "1 while this worker takes no more work, else 0.",
        "pool_connections": "Database connections of the pool.",
        "pool_requests_waiting": "Transactions that wait for a connection.",
    }
)
_MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Numbers = Callable[[], Mapping[str, float]]


def health_app(ping: Callable[[], Awaitable[None]], numbers: Numbers) -> Starlette:
    """The application behind `--health-port`.

    Args:
        ping: returns when the database answers.
        numbers: what the process is doing, by the ends of metric names.
    """
    registry = CollectorRegistry()
    registry.register(_Numbers(numbers))

    async def ok(request: Request) -> Response:
        if request.query_params.get("check_db", "1").lower() not in {"0", "false"}:
            try:
                await ping()
            except Unavailable as error:
                return JSONResponse({"detail": str(error)}, status_code=500)
        return JSONResponse({"ok": True, **numbers()})

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(registry), media_type=_MEDIA_TYPE)

    return Starlette(routes=[Route("/ok", ok), Route("/metrics", metrics)])


class _Numbers(Collector):
    """Reads the numbers when they are asked for."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        for name, value in self._numbers().items():
            family = CounterMetricFamily if name.endswith(_TOTAL) else GaugeMetricFamily
            yield family(_PREFIX + name, _HELP[name], value=value)
