"""Runs on a thread: create, wait, stream, join, list, get, cancel, delete."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from threadmill.domain.run import TERMINAL, RunStatus
from threadmill.errors import InvalidRequest, NotFound
from threadmill.server.launch import Launch, launch
from threadmill.server.outcomes import run_path, streaming, waiting
from threadmill.server.requests import (
    PAGE_MAX,
    Offset,
    RunBody,
    documented,
    stream_modes,
)
from threadmill.server.services import Needs, RunId, Tenant, ThreadId
from threadmill.server.wire import Page, json_response, run_json
from threadmill.streams.base import cursor

router = APIRouter(prefix="/threads/{thread_id}/runs", tags=["runs"])

Modes = Annotated[list[str], Query(alias="stream_mode", default_factory=list)]
Action = Annotated[Literal["interrupt", "rollback"], Query()]


@router.post("", openapi_extra=documented(RunBody))
async def create(
    thread_id: ThreadId, request: Request, services: Needs, tenant: Tenant
) -> Response:
    """Queues a run and returns at once."""
    launched = await launch(
        services, tenant, request, Launch(thread_id, default_modes=("values",))
    )
    run = launched.run
    return json_response(run_json(run), headers={"Content-Location": run_path(run)})


@router.post("/stream", openapi_extra=documented(RunBody))
async def stream(
    thread_id: ThreadId, request: Request, services: Needs, tenant: Tenant
) -> Response:
    """Queues a run and streams its events until it has ended."""
    launched = await launch(
        services, tenant, request, Launch(thread_id, default_modes=("values",))
    )
    return streaming(
        services,
        tenant,
        launched.run,
        after=0,
        modes=None,
        waiter=launched.waiter,
        cancel_when_gone=launched.cancel_when_gone,
    )


@router.post("/wait", openapi_extra=documented(RunBody))
async def wait(
    thread_id: ThreadId, request: Request, services: Needs, tenant: Tenant
) -> Response:
    """Queues a run and answers with its outcome."""
    launched = await launch(services, tenant, request, Launch(thread_id))
    return waiting(
        services,
        tenant,
        launched.run,
        waiter=launched.waiter,
        cancel_when_gone=launched.cancel_when_gone,
    )


@router.get("")
async def list_runs(
    thread_id: ThreadId,
    services: Needs,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 10,
    offset: Annotated[Offset, Query()] = 0,
    status: Annotated[RunStatus | None, Query()] = None,
    select: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """The thread's runs, newest first."""
    found = await services.runs.list(
        tenant, thread_id, limit=limit, offset=offset, status=status
    )
    if not found:
        await services.threads.get(tenant, thread_id)
    page = Page(services.response_bytes_max, select)
    for run in found:
        page.add(run_json(run))
    return page.response()


@router.get("/{run_id}")
async def get(
    thread_id: ThreadId, run_id: RunId, services: Needs, tenant: Tenant
) -> Response:
    """One run."""
    return json_response(run_json(await services.runs.get(tenant, run_id, thread_id)))


@router.delete("/{run_id}", status_code=204)
async def delete(
    thread_id: ThreadId, run_id: RunId, services: Needs, tenant: Tenant
) -> Response:
    """Removes an ended run; its checkpoints stay with the thread."""
    await services.runs.delete(tenant, thread_id, run_id)
    return Response(status_code=204)


@router.get("/{run_id}/join")
async def join(
    thread_id: ThreadId,
    run_id: RunId,
    services: Needs,
    tenant: Tenant,
    *,
    cancel_on_disconnect: bool = False,
) -> Response:
    """Waits for the run and answers with its outcome."""
    waiter = services.watch.waiter(tenant, thread_id)
    run = await services.runs.get(tenant, run_id, thread_id)
    return waiting(
        services,
        tenant,
        run,
        waiter=waiter,
        cancel_when_gone=cancel_on_disconnect,
    )


@router.get("/{run_id}/stream")
async def join_stream(
    thread_id: ThreadId,
    run_id: RunId,
    request: Request,
    services: Needs,
    tenant: Tenant,
    modes: Modes,
    *,
    cancel_on_disconnect: bool = False,
) -> Response:
    """Streams the run's events: after `Last-Event-ID`, or from now on without one."""
    run = await services.runs.get(tenant, run_id, thread_id)
    last = request.headers.get("last-event-id")
    if last is None:
        after = await services.stream.end(tenant, thread_id)
    else:
        after = cursor(last)
    return streaming(
        services,
        tenant,
        run,
        after=after,
        modes=stream_modes(modes),
        waiter=None,
        cancel_when_gone=cancel_on_disconnect,
    )


@router.post("/{run_id}/cancel")
async def cancel(
    thread_id: ThreadId,
    run_id: RunId,
    services: Needs,
    tenant: Tenant,
    action: Action = "interrupt",
    *,
    wait: bool = False,
) -> Response:
    """Ends the run as interrupted; with `wait`, answers with its outcome."""
    run = await _cancelled(services, tenant, thread_id, run_id, action)
    if not wait:
        return Response(status_code=202)
    return waiting(services, tenant, run, waiter=None, cancel_when_gone=False)


async def _cancelled(
    services: Needs, tenant: str, thread_id: UUID, run_id: UUID, action: str
) -> Any:
    refuse_rollback(action)
    run = await services.runs.get(tenant, run_id, thread_id)
    if run.status in TERMINAL:
        msg = f"run {run_id} has ended already ({run.status})"
        raise NotFound(msg)
    return await services.cancel(tenant, thread_id, run_id)


def refuse_rollback(action: str) -> None:
    """Refuses what this version does not carry out.

    Raises:
        InvalidRequest: naming it.
    """
    if action == "rollback":
        msg = "action 'rollback' is not supported by this version; use 'interrupt'"
        raise InvalidRequest(msg)
