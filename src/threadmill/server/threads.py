"""Threads: create, get, patch, delete, prune, search, count."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from langchain_core.utils.uuid import uuid7
from starlette.responses import Response

from threadmill.domain.retention import FOR_EVER, Strategy, asked_ttl, strategy_of
from threadmill.engine.states import Glance
from threadmill.errors import InvalidRequest
from threadmill.server.requests import (
    PruneBody,
    ThreadBody,
    ThreadCount,
    ThreadPatch,
    ThreadSearch,
    body,
    documented,
)
from threadmill.server.services import Needs, Tenant, ThreadId
from threadmill.server.wire import Page, json_response, thread_json, ttl_json
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
    _refuse("supersteps", new.supersteps, "update the state of the new thread")
    thread = await services.threads.create(
        tenant,
        new.thread_id or uuid7(),
        metadata=new.metadata or {},
        if_exists=new.if_exists or "raise",
        ttl=asked_ttl(new.ttl),
    )
    return await _shown(services, tenant, thread)


@router.get("/{thread_id}")
async def get(
    thread_id: ThreadId,
    services: Needs,
    tenant: Tenant,
    include: Annotated[str | None, Query()] = None,
) -> Response:
    """One thread; `include=ttl` says how long it is kept."""
    thread = await services.threads.get(tenant, thread_id)
    glance = await services.states.glance(tenant, thread)
    shown = thread_json(thread, glance)
    if "ttl" in (include or "").split(","):
        shown["ttl"] = ttl_json(thread, await services.retain.rule(tenant, thread))
    return json_response(shown)


@router.patch("/{thread_id}", openapi_extra=documented(ThreadPatch))
async def patch(
    thread_id: ThreadId,
    request: Request,
    change: Annotated[ThreadPatch, Depends(body(ThreadPatch))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """Merges metadata into the thread's, key by key; sets how long it is kept."""
    ttl = asked_ttl(change.ttl)
    if "ttl" in change.model_fields_set and ttl is None:
        ttl = FOR_EVER
    thread = await services.threads.patch(
        tenant, thread_id, metadata=change.metadata or {}, ttl=ttl
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


@router.post("/prune", openapi_extra=documented(PruneBody))
async def prune(
    asked: Annotated[PruneBody, Depends(body(PruneBody))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """Deletes threads, or their history; those with an open run are left alone."""
    strategy = strategy_of(asked.strategy)
    freed = await services.prune.these(
        tenant, asked.thread_ids, strategy, dry_run=asked.dry_run
    )
    if asked.dry_run:
        return json_response({"pruned_count": 0, **freed.as_json(dry_run=True)})
    if strategy is Strategy.DELETE:
        for thread_id in asked.thread_ids:
            services.watch.on_moved(tenant, thread_id)
    return json_response({"pruned_count": freed.threads})


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
    page = Page(services.response_bytes_max, asked.select)
    if not asked.select or _SHOWN_STATE & set(asked.select):
        rest = iter(found)
        async with aclosing(services.states.glances(tenant, found)) as glances:
            async for glance in glances:
                page.add(thread_json(next(rest), glance))
    else:
        for thread in found:
            page.add(thread_json(thread, Glance()))
    total = asked.offset + len(found)
    if len(found) == asked.limit or (asked.offset and not found):
        most = total + TOTAL_BEYOND_MAX
        total = await services.threads.count(tenant, only, most=most)
    return page.response(pagination(asked.offset, len(found), total))


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
    glance = await services.states.glance(tenant, thread)
    return json_response(thread_json(thread, glance))


def _filter(asked: ThreadCount) -> ThreadFilter:
    _refuse("values", asked.values, "search by metadata")
    return ThreadFilter(ids=asked.ids, metadata=asked.metadata, status=asked.status)


def _refuse(name: str, value: Any, instead: str) -> None:
    if value:
        msg = f"{name} is not supported by this version; {instead}"
        raise InvalidRequest(msg)
