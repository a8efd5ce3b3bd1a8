"""Runs without a thread of their own, and actions on several runs.

A stateless run gets a temporary thread, so that it survives a dead worker like any
other. The thread goes some time after the run has ended; until then the run can be
joined, which is why `Location` names its thread.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from threadmill.errors import InvalidRequest, NotFound
from threadmill.server.launch import Launch, launch, launch_batch
from threadmill.server.outcomes import streaming, waiting
from threadmill.server.requests import (
    CancelMany,
    RunBody,
    body,
    documented,
    json_of,
    refuse_nul,
)
from threadmill.server.runs import Action, refuse_rollback
from threadmill.server.services import Needs, Tenant
from threadmill.server.wire import json_response, run_json

router = APIRouter(prefix="/runs", tags=["stateless runs"])

_BATCH_MAX = 100


@router.post("", openapi_extra=documented(RunBody))
async def create(request: Request, services: Needs, tenant: Tenant) -> Response:
    """Queues a run and returns at once."""
    launched = await launch(
        services, tenant, request, Launch(default_modes=("values",))
    )
    run = launched.run
    return json_response(
        run_json(run), headers={"Content-Location": f"/runs/{run.run_id}"}
    )


@router.post("/stream", openapi_extra=documented(RunBody))
async def stream(request: Request, services: Needs, tenant: Tenant) -> Response:
    """Queues a run and streams its events until it has ended."""
    launched = await launch(
        services, tenant, request, Launch(default_modes=("values",))
    )
    return streaming(
        services,
        tenant,
        launched.run,
        after=0,
        modes=None,
        waiter=launched.waiter,
        cancel_when_gone=launched.cancel_when_gone,
        content_location=f"/runs/{launched.run.run_id}",
    )


@router.post("/wait", openapi_extra=documented(RunBody))
async def wait(request: Request, services: Needs, tenant: Tenant) -> Response:
    """Queues a run and answers with its outcome."""
    launched = await launch(services, tenant, request, Launch())
    return waiting(
        services,
        tenant,
        launched.run,
        waiter=launched.waiter,
        cancel_when_gone=launched.cancel_when_gone,
        content_location=f"/runs/{launched.run.run_id}",
    )


@router.post("/batch")
async def batch(request: Request, services: Needs, tenant: Tenant) -> Response:
    """Queues several runs, in order; none if one of them is refused.

    When the database goes away in the middle, those before it are queued.
    """
    bodies = await json_of(request)
    if not isinstance(bodies, list) or len(bodies) > _BATCH_MAX:
        msg = f"the body must be a list of at most {_BATCH_MAX} runs"
        raise InvalidRequest(msg)
    if "idempotency-key" in request.headers:
        msg = "Idempotency-Key names one run; create the runs of a batch one by one"
        raise InvalidRequest(msg)
    await refuse_nul(request)
    how = Launch(default_modes=("values",))
    runs = await launch_batch(services, tenant, bodies, request.headers, how)
    return json_response([run_json(run) for run in runs])


@router.post("/cancel", status_code=204, openapi_extra=documented(CancelMany))
async def cancel_many(
    services: Needs,
    tenant: Tenant,
    which: Annotated[CancelMany, Depends(body(CancelMany))],
    action: Action = "interrupt",
) -> Response:
    """Cancels several runs of one thread."""
    refuse_rollback(action)
    if which.status is not None:
        msg = (
            "cancelling by status is not supported by this version; send thread_id "
            "and run_ids"
        )
        raise InvalidRequest(msg)
    if which.thread_id is None or not which.run_ids:
        msg = "send thread_id and run_ids"
        raise InvalidRequest(msg)
    cancelled = 0
    for run_id in which.run_ids:
        try:
            await services.cancel(tenant, which.thread_id, run_id)
            cancelled += 1
        except NotFound:
            continue
    if not cancelled:
        msg = "none of the runs exists and is pending or running"
        raise NotFound(msg)
    return Response(status_code=204)
