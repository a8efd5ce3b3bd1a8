"""Assistants through the stock SDK."""

from __future__ import annotations

from uuid import uuid4

import pytest
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from tests.fixtures.fleet import Fleet, RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_graph_has_a_default_assistant(idle_server: RunningServer) -> None:
    client = idle_server.client
    found = await client.assistants.search(limit=100)
    assert {a["graph_id"] for a in found} == set(idle_server.core.graphs.ids)
    assert await client.assistants.count() == len(found)
    (one,) = await client.assistants.search(graph_id="conversation")
    assert one == await client.assistants.get(one["assistant_id"])
    assert one["assistant_id"] == "7ba7676e-f102-553b-ba06-bf5d578b3f0c"
    assert one["metadata"] == {"created_by": "system"}
    assert one["description"] == "answers each message"
    assert (one["name"], one["version"]) == ("conversation", 1)
    by_name = await client.assistants.search(name="CONV")
    assert [a["graph_id"] for a in by_name] == ["conversation"]


async def test_pages(idle_server: RunningServer) -> None:
    page = await idle_server.client.assistants.search(
        limit=2, sort_by="name", sort_order="asc", response_format="object"
    )
    names = [a["name"] for a in page["assistants"]]
    assert names == sorted(idle_server.core.graphs.ids)[:2]
    assert page["next"] == "2"


async def test_servers_of_one_fleet_agree(fleet: Fleet) -> None:
    first, second = await fleet.server(), await fleet.server()
    assert await first.client.assistants.search(
        limit=100
    ) == await second.client.assistants.search(limit=100)


async def test_unknown_assistants(idle_server: RunningServer) -> None:
    client = idle_server.client
    with pytest.raises(NotFoundError):
        await client.assistants.get(str(uuid4()))
    with pytest.raises(UnprocessableEntityError):
        await client.assistants.get("conversation")
    with pytest.raises(NotFoundError, match="known graphs"):
        await client.assistants.get_graph("nobody")


async def test_drawings_and_schemas(idle_server: RunningServer) -> None:
    client = idle_server.client
    drawn = await client.assistants.get_graph("conversation")
    assert {node["id"] for node in drawn["nodes"]} >= {"receive", "process", "save"}
    assert drawn["edges"]
    deep = await client.assistants.get_graph("nested", xray=True)
    assert any("deep" in str(node["id"]) for node in deep["nodes"])
    schemas = await client.assistants.get_schemas("conversation")
    assert schemas["graph_id"] == "conversation"
    assert "turn_count" in schemas["state_schema"]["properties"]
    (one,) = await client.assistants.search(graph_id="conversation")
    assert await client.assistants.get_schemas(one["assistant_id"]) == schemas
    contextual = await client.assistants.get_schemas("contextual")
    assert set(contextual["context_schema"]["properties"]) == {"model", "depth"}
    subgraphs = await client.assistants.get_subgraphs("nested")
    assert list(subgraphs) == ["inner"]
