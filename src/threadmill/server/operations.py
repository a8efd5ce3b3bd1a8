"""What whoever runs a fleet asks: dead letters, why a run waits, queues, members.

Threadmill's own routes, under `/threadmill`. Queues and members belong to no tenant.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from threadmill.engine.measure import SCAN_MAX, SHOWN_MAX
from threadmill.server.requests import PAGE_MAX, Offset
from threadmill.server.services import Needs, RunId, Tenant
from threadmill.server.threads import pagination
from threadmill.server.wire import json_response, run_json
from threadmill.stores.operations import DeadLetterFilter, Queue

router = APIRouter(prefix="/threadmill", tags=["operations"])

WorkerId = Annotated[UUID, Path()]


@router.get("/dead-letters")
async def list_dead_letters(
    services: Needs,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 10,
    offset: Annotated[Offset, Query()] = 0,
    graph_id: Annotated[str | None, Query()] = None,
    thread_id: Annotated[UUID | None, Query()] = None,
) -> Response:
    """One page of dead letters, newest first."""
    dead_letters = services.operations.dead_letters
    only = DeadLetterFilter(graph_id=graph_id, thread_id=thread_id)
    found = await dead_letters.list(tenant, only, limit=limit, offset=offset)
    total = await dead_letters.count(tenant, only)
    return json_response(
        [letter.as_json() for letter in found],
        headers=pagination(offset, len(found), total),
    )


@router.get("/dead-letters/{run_id}")
async def get_dead_letter(run_id: RunId, services: Needs, tenant: Tenant) -> Response:
    """One dead letter."""
    letter = await services.operations.dead_letters.get(tenant, run_id)
    return json_response(letter.as_json())


@router.post("/dead-letters/{run_id}/redrive")
async def redrive(run_id: RunId, services: Needs, tenant: Tenant) -> Response:
    """Puts the run back at the end of its thread's order."""
    return json_response(run_json(await services.operations.redrive(tenant, run_id)))


@router.delete("/dead-letters/{run_id}", status_code=204)
async def discard(run_id: RunId, services: Needs, tenant: Tenant) -> Response:
    """Forgets the dead letter; the run stays as it ended."""
    await services.operations.dead_letters.discard(tenant, run_id)
    return Response(status_code=204)


@router.get("/runs/{run_id}/why")
async def why(run_id: RunId, services: Needs, tenant: Tenant) -> Response:
    """Why the run is not moving."""
    found = await services.operations.explain(tenant, run_id)
    return json_response(found.as_json())


@router.get("/queues")
async def list_queues(
    services: Needs, labels: Annotated[str | None, Query()] = None
) -> Response:
    """How much work waits, by the labels that it needs; of all tenants together.

    With `labels` (comma-separated, empty for none) that queue alone, also when it is
    empty: an autoscaler finds its figure always in the same place.
    """
    found = await services.operations.queues.list()
    if labels is not None:
        wanted = tuple(sorted(filter(None, labels.split(","))))
        found = [q for q in found if q.labels == wanted] or [Queue(labels=wanted)]
    return json_response([queue.as_json() for queue in found])


@router.get("/storage")
async def storage(
    services: Needs,
    tenant: Tenant,
    *,
    graph_id: Annotated[str | None, Query()] = None,
    thread_id: Annotated[UUID | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=SHOWN_MAX)] = 10,
    scan: Annotated[int, Query(ge=1, le=SCAN_MAX)] = 200,
    cursor: Annotated[str | None, Query()] = None,
) -> Response:
    """Which threads take how much room, and which of their channels."""
    if thread_id is not None:
        return json_response((await services.measure.one(tenant, thread_id)).as_json())
    found = await services.measure(
        tenant, graph_id=graph_id, shown=limit, scan=scan, cursor=cursor
    )
    return json_response(found.as_json())


@router.get("/workers")
async def list_workers(services: Needs) -> Response:
    """The processes of the fleet."""
    found = await services.operations.fleet.list()
    return json_response([member.as_json() for member in found])


@router.post("/workers/{worker_id}/drain", status_code=202)
async def drain(worker_id: WorkerId, services: Needs) -> Response:
    """Asks a process to drain, as SIGTERM does; it learns of it within seconds."""
    member = await services.operations.fleet.drain(worker_id)
    return json_response(member.as_json(), status=202)
