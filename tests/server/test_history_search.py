"""Searching histories over HTTP, of runs that really ran."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.fixtures.fleet import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

PATH = "/threadmill/history/search"
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "user_id": "u"}


async def search(server: RunningServer, **asked: Any) -> Any:
    answer = await server.http.post(PATH, json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_thread_by_what_its_state_held(server: RunningServer) -> None:
    client = server.client
    thread_id = (await client.threads.create(metadata={"customer": "4711"}))[
        "thread_id"
    ]
    await client.runs.wait(thread_id, "conversation", input=HELLO)
    await client.threads.update_state(thread_id, {"user_id": "other"})
    history = await client.threads.get_history(thread_id, limit=100)
    everything = await search(server, thread_ids=[thread_id], limit=100)
    assert [item["checkpoint_id"] for item in everything["items"]] == [
        state["checkpoint_id"] for state in history
    ]
    assert {item["graph_id"] for item in everything["items"]} == {"conversation"}
    assert (everything["more"], everything["cursor"]) == (False, None)
    became = await search(
        server,
        metadata={"customer": "4711"},
        value={"path": "user_id", "equals": "other", "changed": True},
    )
    assert became["by_index"] is False
    (item,) = became["items"]
    assert (item["source"], item["value"]) == ("update", "other")
    assert item["checkpoint_id"] == history[0]["checkpoint_id"]
    assert item["parent_checkpoint_id"] == history[1]["checkpoint_id"]
    # The path is declared: with its graph, the same is found by an index.
    indexed = await search(
        server,
        graph_id="conversation",
        thread_ids=[thread_id],
        value={"path": "user_id", "equals": "other", "changed": True},
    )
    assert (indexed["by_index"], indexed["items"]) == (True, became["items"])
    page = await search(server, thread_ids=[thread_id], limit=1)
    assert page["more"] is True
    rest = await search(server, thread_ids=[thread_id], limit=1, cursor=page["cursor"])
    assert rest["items"] == everything["items"][1:2]


async def test_nodes_that_led_to_a_checkpoint(server: RunningServer) -> None:
    client = server.client
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "conversation", input=HELLO)
    found = await search(server, thread_ids=[thread_id], source="loop", limit=100)
    nodes = [node for item in found["items"] for node in item["nodes"]]
    assert nodes
    of_node = await search(server, thread_ids=[thread_id], node=nodes[0])
    assert all(nodes[0] in item["nodes"] for item in of_node["items"])
    assert of_node["items"]


@pytest.mark.parametrize(
    "asked",
    [
        {"grahp_id": "conversation"},
        {"limit": 0},
        {"limit": 201},
        {"scan": 20_001},
        {"metadata": {"a": {"b": 1}}},
        {"since": "2026-01-01T00:00:00"},
        {"value": {"path": "a..b"}},
        {"value": {"path": "a", "equals": []}},
        {"value": {"path": "a", "equals": 1, "above": 0}},
        {"value": {"path": "a", "like": "x"}},
        {"cursor": "x"},
        {"source": "x"},
        {"thread_ids": ["x"]},
    ],
)
async def test_what_cannot_be_meant_is_refused(
    idle_server: RunningServer, asked: dict[str, Any]
) -> None:
    answer = await idle_server.http.post(PATH, json=asked)
    assert answer.status_code == 422, answer.text


async def test_nothing_is_found_where_there_is_nothing(
    idle_server: RunningServer,
) -> None:
    found = await search(idle_server, run_id=str(uuid4()))
    assert (found["items"], found["scanned"]) == ([], 0)


async def test_nodes_that_were_sent_to(server: RunningServer) -> None:
    client = server.client
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "fanout", input={"items": ["a", "b"]})
    found = await search(server, thread_ids=[thread_id], node="work")
    (item,) = found["items"]
    assert item["nodes"] == ["work"]
    head = (await client.threads.get_state(thread_id))["checkpoint"]["checkpoint_id"]
    assert item["checkpoint_id"] == head
    none = await search(server, thread_ids=[thread_id], node="play")
    assert none["items"] == []
