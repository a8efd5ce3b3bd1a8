"""Which checkpoint a request means: said in many ways, refused if it is not there."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from tests.fixtures.fleet import RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "user_id": "u"}
RUN = {"assistant_id": "conversation", "input": HELLO}


async def _conversation(client: Any) -> tuple[str, list[Any]]:
    """A thread with one turn, and its history."""
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "conversation", input=HELLO)
    return thread_id, await client.threads.get_history(thread_id, limit=50)


async def _turns(client: Any, thread_id: str) -> int:
    state = await client.threads.get_state(thread_id)
    return int(state["values"]["turn_count"])


async def _refused(http: httpx.AsyncClient, path: str, body: Any) -> str:
    response = await http.post(path, json=body)
    assert response.status_code == 422, response.text
    return str(response.json()["detail"])


# --- history ------------------------------------------------------------------------


async def test_history_goes_on_before_a_config(server: RunningServer) -> None:
    """LangGraph's client for JavaScript says where a page ends by a config."""
    thread_id, history = await _conversation(server.client)
    path = f"/threads/{thread_id}/history"
    checkpoint = history[1]["checkpoint"]
    bare = {"checkpoint_id": checkpoint["checkpoint_id"]}
    for before in (
        {"configurable": checkpoint},
        {"configurable": bare},
        checkpoint,
        bare,
        checkpoint["checkpoint_id"],
    ):
        page = await server.http.post(path, json={"limit": 50, "before": before})
        assert page.json() == history[2:]


@pytest.mark.parametrize(
    "before", [{}, {"configurable": {}}, {"checkpoint_ns": ""}, {"configurable": 1}, ""]
)
async def test_history_before_nothing_is_refused(
    server: RunningServer, before: object
) -> None:
    """Answered with the first page, a client would ask for it for ever."""
    thread_id, _ = await _conversation(server.client)
    path = f"/threads/{thread_id}/history"
    assert "before" in await _refused(server.http, path, {"before": before})


# --- what is not there --------------------------------------------------------------


async def test_a_state_that_is_not_there_is_not_found(client: Any) -> None:
    thread_id, _ = await _conversation(client)
    _, others = await _conversation(client)
    empty = (await client.threads.create())["thread_id"]
    checkpoint_id = others[0]["checkpoint_id"]
    for thread in (thread_id, empty):
        for asked in (
            {"checkpoint_id": "nope"},
            {"checkpoint_id": checkpoint_id},
            {"checkpoint": {"checkpoint_id": checkpoint_id}},
        ):
            with pytest.raises(NotFoundError, match="has no checkpoint"):
                await client.threads.get_state(thread, **asked)


async def test_an_update_of_what_is_not_there_changes_nothing(client: Any) -> None:
    thread_id, history = await _conversation(client)
    _, others = await _conversation(client)
    for checkpoint_id in ("nope", others[0]["checkpoint_id"]):
        with pytest.raises(NotFoundError, match="has no checkpoint"):
            await client.threads.update_state(
                thread_id, {"turn_count": 9}, checkpoint_id=checkpoint_id
            )
    assert await client.threads.get_history(thread_id, limit=50) == history
    await client.runs.wait(thread_id, "conversation", input=HELLO)
    assert await _turns(client, thread_id) == 2


async def test_a_run_from_what_is_not_there_is_refused(client: Any) -> None:
    """Run from there, it would begin at an empty state and make that the thread's."""
    thread_id, history = await _conversation(client)
    _, others = await _conversation(client)
    theirs = others[0]["checkpoint_id"]
    for asked in (
        {"checkpoint_id": str(uuid4())},
        {"checkpoint_id": theirs},
        {"checkpoint": others[0]["checkpoint"]},
        {"config": {"configurable": {"checkpoint_id": theirs}}},
    ):
        with pytest.raises(UnprocessableEntityError, match="has no checkpoint"):
            await client.runs.create(thread_id, "conversation", input=HELLO, **asked)
    assert len(await client.runs.list(thread_id)) == 1
    assert await client.threads.get_history(thread_id, limit=50) == history


async def test_a_run_forks_from_what_its_config_names(client: Any) -> None:
    thread_id, history = await _conversation(client)
    await client.runs.wait(thread_id, "conversation", input=HELLO)
    config = {"configurable": history[0]["checkpoint"]}
    answer = await client.runs.wait(
        thread_id, "conversation", input=HELLO, config=config
    )
    assert answer["turn_count"] == 2


# --- what is said wrongly -----------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"checkpoint_id": 5}, "checkpoint_id"),
        ({"checkpoint_id": ["a"]}, "checkpoint_id"),
        ({"checkpoint_ns": 5}, "checkpoint_ns"),
        ({"checkpoint_ns": "sub:1"}, "checkpoint_ns 'sub:1'"),
        ({"checkpoint_map": [1]}, "checkpoint_map"),
        ({"checkpoint_map": "x"}, "checkpoint_map"),
        ({"checkpoint_map": {"": 7}}, "checkpoint_map"),
        ({"checkpoint_map": {"": "nope"}}, "checkpoint_map"),
        ({"checkpoint_map": {"sub:1": "nope"}}, "checkpoint_map"),
    ],
)
async def test_a_run_at_a_wrong_position_is_refused(
    server: RunningServer, wrong: dict[str, object], said: str
) -> None:
    thread_id, history = await _conversation(server.client)
    checkpoint = {"checkpoint_id": history[0]["checkpoint_id"], **wrong}
    path = f"/threads/{thread_id}/runs"
    for body in (
        {"checkpoint": checkpoint},
        {"config": {"configurable": checkpoint}},
    ):
        assert said in await _refused(server.http, path, {**RUN, **body})
    assert await server.client.threads.get_history(thread_id, limit=50) == history


async def test_a_nodes_own_config_names_no_checkpoint(client: Any) -> None:
    """Nodes hand their config on to other servers' runs, as it is."""
    thread_id, _ = await _conversation(client)
    config = {"configurable": {"checkpoint_ns": "node:1", "checkpoint_map": {"": "c"}}}
    answer = await client.runs.wait(
        thread_id, "conversation", input=HELLO, config=config
    )
    assert answer["turn_count"] == 2


@pytest.mark.parametrize("checkpoint_map", [[1], "x", {"": 7}, {"": {"z": 1}}])
async def test_a_state_at_a_wrong_position_is_refused(
    server: RunningServer, checkpoint_map: object
) -> None:
    thread_id, history = await _conversation(server.client)
    checkpoint = {**history[0]["checkpoint"], "checkpoint_map": checkpoint_map}
    for path, body in (
        ("state", {"values": {"turn_count": 9}}),
        ("state/checkpoint", {}),
        ("history", {}),
    ):
        asked = {**body, "checkpoint": checkpoint}
        said = await _refused(server.http, f"/threads/{thread_id}/{path}", asked)
        assert "checkpoint_map" in said
    assert await server.client.threads.get_history(thread_id, limit=50) == history


async def test_an_update_that_is_stored_is_not_refused(server: RunningServer) -> None:
    """422 would say that the request is to be changed and sent again."""
    thread_id, history = await _conversation(server.client)
    uri = server.core.settings.database_uri
    assert uri is not None
    async with await psycopg.AsyncConnection.connect(uri.get_secret_value()) as c:
        # A release that took any map has left what LangGraph cannot read.
        await c.execute(
            "UPDATE threadmill.checkpoint SET metadata = metadata || %s"
            " WHERE thread_id = %s AND checkpoint_id = %s",
            ('{"parents": [1]}', thread_id, history[0]["checkpoint_id"]),
        )
    response = await server.http.post(
        f"/threads/{thread_id}/state", json={"values": {"turn_count": 9}}
    )
    assert response.status_code == 500
    shown = await server.client.threads.get(thread_id)
    assert shown["values"]["turn_count"] == 9
