"""Threads: create, get, patch, delete, search, count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from langchain_core.utils.uuid import uuid7
from starlette.responses import Response

from threadmill.engine.states import Glance
from threadmill.errors import InvalidRequest
from threadmill.server.requests import (
    ThreadBody,
    ThreadCount,
    ThreadPatch,
    ThreadSearch,
    body,
    documented,
)
from threadmill.server.services import Needs, Tenant, ThreadId
from threadmill.server.wire import json_response, picked, thread_json
from threadmill.stores.records import Thread, ThreadFilter

router = APIRouter(prefix="/threads", tags=["threads"])

# A search counts so many beyond its page, so that nobody waits until a million are
# counted; `/threads/count` counts all.
TOTAL_BEYOND_MAX: Final = 1000

_SHOWN_STATE = frozenset({"values", "interrupts"})


@router.post("", openapi_extra=documented(ThreadBody))
async def create(
    new: Annotated[ThreadBody, Depends(body(ThreadBody))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """Makes a thread."""
    _refuse("ttl", new.ttl, "delete the thread when it is no longer needed")
    _refuse("supersteps", new.supersteps, "update the state of the new thread")
    thread = await services.threads.create(
        tenant,
        new.thread_id or uuid7(),
        metadata=new.metadata or {},
        if_exists=new.if_exists or "raise",
    )
    return await _shown(services, tenant, thread)


@router.get("/{thread_id}")
async def get(thread_id: ThreadId, services: Needs, tenant: Tenant) -> Response:
    """One thread."""
    return await _shown(services, tenant, await services.threads.get(tenant, thread_id))


@router.patch("/{thread_id}", openapi_extra=documented(ThreadPatch))
async def patch(
    thread_id: ThreadId,
    request: Request,
    change: Annotated[ThreadPatch, Depends(body(ThreadPatch))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """Merges metadata into the thread's, key by key."""
    _refuse("ttl", change.ttl, "delete the thread when it is no longer needed")
    thread = await services.threads.patch(
        tenant, thread_id, metadata=change.metadata or {}
    )
    if request.headers.get("prefer", "").replace(" ", "") == "return=minimal":
        return Response(status_code=204)
    return await _shown(services, tenant, thread)


@router.delete("/{thread_id}", status_code=204)
async def delete(thread_id: ThreadId, services: Needs, tenant: Tenant) -> Response:
    """Erases the thread with its runs, checkpoints and events."""
    await services.threads.delete(tenant, thread_id)
    # Streams of its runs end now here, and at their next look elsewhere.
    services.watch.on_moved(tenant, thread_id)
    return Response(status_code=204)


@router.post("/search", openapi_extra=documented(ThreadSearch))
async def search(
    asked: Annotated[ThreadSearch, Depends(body(ThreadSearch))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """One page of threads."""
    _refuse("extract", asked.extract, "read the values")
    only = _filter(asked)
    found = await services.threads.search(
        tenant,
        only,
        limit=asked.limit,
        offset=asked.offset,
        sort_by=asked.sort_by or "created_at",
        descending=asked.sort_order != "asc",
    )
    glances: Sequence[Glance] = [Glance()] * len(found)
    if not asked.select or _SHOWN_STATE & set(asked.select):
        glances = await services.states.glance(tenant, found)
    shown = picked(map(thread_json, found, glances), asked.select)
    total = asked.offset + len(found)
    if len(found) == asked.limit or (asked.offset and not found):
        most = total + TOTAL_BEYOND_MAX
        total = await services.threads.count(tenant, only, most=most)
    return json_response(shown, headers=pagination(asked.offset, len(found), total))


@router.post("/count", openapi_extra=documented(ThreadCount))
async def count(
    asked: Annotated[ThreadCount, Depends(body(ThreadCount))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """How many threads there are."""
    return json_response(await services.threads.count(tenant, _filter(asked)))


def pagination(offset: int, found: int, total: int) -> Mapping[str, str]:
    """The headers that tell how many there are, and where the next page begins."""
    headers = {"X-Pagination-Total": str(total)}
    if found and offset + found < total:
        headers["X-Pagination-Next"] = str(offset + found)
    return headers


async def _shown(services: Needs, tenant: str, thread: Thread) -> Response:
    (glance,) = await services.states.glance(tenant, [thread])
    return json_response(thread_json(thread, glance))


def _filter(asked: ThreadCount) -> ThreadFilter:
    _refuse("values", asked.values, "search by metadata")
    return ThreadFilter(ids=asked.ids, metadata=asked.metadata, status=asked.status)


def _refuse(name: str, value: Any, instead: str) -> None:
    if value:
        msg = f"{name} is not supported by this version; {instead}"
        raise InvalidRequest(msg)
