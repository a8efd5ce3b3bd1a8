"""A thread's state: read it, read its history, change it."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from threadmill.engine.states import Position
from threadmill.server.requests import (
    PAGE_MAX,
    HistoryBody,
    StateAt,
    StateUpdate,
    body,
    documented,
    position,
)
from threadmill.server.services import Needs, Tenant, ThreadId
from threadmill.server.wire import Page, json_response, state_json, updated_json

router = APIRouter(prefix="/threads/{thread_id}", tags=["state"])


@router.get("/state")
async def get(
    thread_id: ThreadId, services: Needs, tenant: Tenant, *, subgraphs: bool = False
) -> Response:
    """The state at the thread's head."""
    state = await services.states.get(
        tenant, thread_id, Position(), subgraphs=subgraphs
    )
    return json_response(state_json(state))


@router.get("/state/{checkpoint_id}")
async def get_at(
    thread_id: ThreadId,
    checkpoint_id: str,
    services: Needs,
    tenant: Tenant,
    *,
    subgraphs: bool = False,
) -> Response:
    """The state at a checkpoint of the root graph."""
    at = Position(checkpoint_id=checkpoint_id)
    state = await services.states.get(tenant, thread_id, at, subgraphs=subgraphs)
    return json_response(state_json(state))


@router.post("/state/checkpoint", openapi_extra=documented(StateAt))
async def get_checkpoint(
    thread_id: ThreadId,
    asked: Annotated[StateAt, Depends(body(StateAt))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """The state at any checkpoint, also of a subgraph."""
    state = await services.states.get(
        tenant,
        thread_id,
        asked.checkpoint.position(),
        subgraphs=bool(asked.subgraphs),
    )
    return json_response(state_json(state))


@router.post("/state", openapi_extra=documented(StateUpdate))
async def update(
    thread_id: ThreadId,
    change: Annotated[StateUpdate, Depends(body(StateUpdate))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """Changes the state as if a node had returned the values."""
    at = position(change.checkpoint, change.checkpoint_id)
    written = await services.states.update(
        tenant, thread_id, at, change.values, as_node=change.as_node
    )
    return json_response(updated_json(written))


@router.get("/history")
async def get_history(
    thread_id: ThreadId,
    services: Needs,
    tenant: Tenant,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 1,
    before: Annotated[str | None, Query()] = None,
) -> Response:
    """Past states of the root graph, newest first."""
    asked = HistoryBody(limit=limit, before=before)
    return await _history(thread_id, asked, services, tenant)


@router.post("/history", openapi_extra=documented(HistoryBody))
async def post_history(
    thread_id: ThreadId,
    asked: Annotated[HistoryBody, Depends(body(HistoryBody))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """Past states, newest first."""
    return await _history(thread_id, asked, services, tenant)


async def _history(
    thread_id: ThreadId, asked: HistoryBody, services: Needs, tenant: str
) -> Response:
    page = Page(services.response_bytes_max)
    found = services.states.history(
        tenant,
        thread_id,
        position(asked.checkpoint, None),
        limit=asked.limit,
        before=asked.older_than(),
        metadata=asked.metadata,
    )
    async with aclosing(found) as states:
        async for state in states:
            page.add(state_json(state))
    return page.response()
