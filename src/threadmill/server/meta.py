"""What the server says about itself: `/ok` for load balancers, `/info` for clients.

And `/metrics`, for whoever watches, and decides how many workers there are.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from threadmill import __version__
from threadmill.errors import Unavailable
from threadmill.server.errors import detail, told
from threadmill.server.metrics import (
    PROMETHEUS,
    archive_metrics,
    queue_metrics,
    retention_metrics,
)
from threadmill.server.services import Needs
from threadmill.server.wire import json_response

Format = Literal["prometheus", "json"]

router = APIRouter(tags=["server"])


@router.head("/ok", include_in_schema=False)
@router.get("/ok")
@router.get("/", include_in_schema=False)
async def ok(services: Needs, check_db: Annotated[str, Query()] = "1") -> Response:
    """Whether this server can serve; `check_db=0` leaves the database out."""
    checked = check_db.lower() not in {"0", "false"}
    if checked:
        try:
            await services.threads.ping()
        except Unavailable as error:
            return detail(500, told(error))
    return json_response(
        {"ok": True, "services": {"database": "ok"} if checked else {}}
    )


@router.get("/metrics")
async def metrics(
    services: Needs,
    format: Annotated[Format, Query()] = "prometheus",  # noqa: A002
) -> Response:
    """What waits and runs in the whole fleet, in Prometheus's format or as JSON."""
    queues = await services.operations.queues.list()
    if format == "json":
        return json_response({"queues": [queue.as_json() for queue in queues]})
    text = queue_metrics(queues) + retention_metrics(services.retain.freed)
    if services.chunks is not None and services.chunks.archives:
        text += archive_metrics(await services.chunks.lag())
    return Response(text, media_type=PROMETHEUS)


@router.get("/info")
async def info() -> Response:
    """Versions, and which optional parts of the interface are there."""
    return json_response(
        {
            "version": __version__,
            "langgraph_py_version": version("langgraph"),
            "flags": {
                "assistants": True,
                "crons": False,
                "langsmith": False,
                "langsmith_tracing_replicas": False,
            },
            "host": {"kind": "self-hosted"},
        }
    )
