"""Assistants: every graph has a default one. Get, search, count, drawings, schemas."""

from __future__ import annotations

import re
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from langgraph.pregel import Pregel
from starlette.responses import Response

from threadmill.engine.graph_factories import GraphUse
from threadmill.engine.graph_schemas import GraphSchemas, derive_schemas
from threadmill.engine.graphs import LoadedGraph
from threadmill.errors import InvalidRequest
from threadmill.server.requests import (
    AssistantCount,
    AssistantSearch,
    body,
    documented,
)
from threadmill.server.services import Needs, Services, Tenant
from threadmill.server.threads import pagination
from threadmill.server.wire import Page, assistant_json, json_response
from threadmill.stores.records import AssistantFilter

router = APIRouter(prefix="/assistants", tags=["assistants"])

_DRAWN = GraphUse(access="assistants.read")


@router.post("/search", openapi_extra=documented(AssistantSearch))
async def search(
    asked: Annotated[AssistantSearch, Depends(body(AssistantSearch))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """One page of assistants."""
    only = _filter(asked)
    found = await services.assistants.search(
        tenant,
        only,
        limit=asked.limit,
        offset=asked.offset,
        sort_by=asked.sort_by or "created_at",
        descending=asked.sort_order != "asc",
    )
    total = asked.offset + len(found)
    if len(found) == asked.limit or (asked.offset and not found):
        total = await services.assistants.count(tenant, only)
    page = Page(services.response_bytes_max, asked.select)
    for assistant in found:
        page.add(assistant_json(assistant))
    return page.response(pagination(asked.offset, len(found), total))


@router.post("/count", openapi_extra=documented(AssistantCount))
async def count(
    asked: Annotated[AssistantCount, Depends(body(AssistantCount))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """How many assistants there are."""
    return json_response(await services.assistants.count(tenant, _filter(asked)))


@router.get("/{assistant_id}")
async def get(assistant_id: UUID, services: Needs, tenant: Tenant) -> Response:
    """One assistant, by its id."""
    return json_response(
        assistant_json(await services.assistants.get(tenant, assistant_id))
    )


@router.get("/{assistant_id}/graph")
async def drawing(
    assistant_id: str,
    services: Needs,
    tenant: Tenant,
    xray: Annotated[str, Query()] = "false",
) -> Response:
    """The graph's nodes and edges, by the assistant's id or the graph's."""
    loaded = await _graph_of(services, tenant, assistant_id)
    async with loaded.open(_DRAWN) as graph:
        drawn = await graph.aget_graph(xray=_xray(xray))
        return json_response(drawn.to_json())


@router.get("/{assistant_id}/schemas")
async def schemas(assistant_id: str, services: Needs, tenant: Tenant) -> Response:
    """The JSON schemas of the graph."""
    loaded = await _graph_of(services, tenant, assistant_id)
    found = _schemas_json(await loaded.schemas())
    return json_response({"graph_id": loaded.id, **found})


@router.get("/{assistant_id}/subgraphs")
async def subgraphs(
    assistant_id: str, services: Needs, tenant: Tenant, *, recurse: bool = False
) -> Response:
    """The schemas of the graph's subgraphs, by namespace."""
    return await _subgraphs(services, tenant, assistant_id, None, recurse=recurse)


@router.get("/{assistant_id}/subgraphs/{namespace}")
async def subgraph(
    assistant_id: str,
    namespace: str,
    services: Needs,
    tenant: Tenant,
    *,
    recurse: bool = False,
) -> Response:
    """The same for one namespace."""
    return await _subgraphs(services, tenant, assistant_id, namespace, recurse=recurse)


async def _subgraphs(
    services: Services,
    tenant: str,
    assistant_id: str,
    namespace: str | None,
    *,
    recurse: bool,
) -> Response:
    loaded = await _graph_of(services, tenant, assistant_id)
    async with loaded.open(_DRAWN) as graph:
        found = {
            ns: _schemas_json(derive_schemas(inner))
            async for ns, inner in graph.aget_subgraphs(
                namespace=namespace, recurse=recurse
            )
            if isinstance(inner, Pregel)
        }
    return json_response(found)


async def _graph_of(services: Services, tenant: str, name: str) -> LoadedGraph:
    """The graph of an assistant, by the assistant's id or the graph's."""
    try:
        assistant_id = UUID(name)
    except ValueError:
        return services.graphs.get(name)
    if graph := services.graphs.by_assistant(assistant_id):
        return graph
    found = await services.assistants.get(tenant, assistant_id)
    return services.graphs.get(found.graph_id)


def _schemas_json(found: GraphSchemas) -> dict[str, Any]:
    return {
        "input_schema": found.input,
        "output_schema": found.output,
        "state_schema": found.state,
        "config_schema": found.config,
        "context_schema": found.context,
    }


def _filter(asked: AssistantCount) -> AssistantFilter:
    return AssistantFilter(
        metadata=asked.metadata, graph_id=asked.graph_id, name=asked.name
    )


def _xray(text: str) -> bool | int:
    """How deep subgraphs are drawn: all the way, not at all, or a number of levels."""
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if re.fullmatch("[0-9]{1,3}", text):
        return int(text)
    msg = "xray must be true, false or a number of levels"
    raise InvalidRequest(msg)
