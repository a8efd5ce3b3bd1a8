"""Threads and their states through the stock SDK."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk.errors import (
    ConflictError,
    NotFoundError,
    UnprocessableEntityError,
)

from tests.fixtures.fleet import Fleet, RunningServer
from threadmill.server import threads

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "user_id": "u"}


async def test_create_and_get(idle_server: RunningServer) -> None:
    client, thread_id = idle_server.client, str(uuid4())
    created = await client.threads.create(
        thread_id=thread_id, metadata={"a": 1}, graph_id="conversation"
    )
    assert created == await client.threads.get(thread_id)
    assert set(created) == {
        "thread_id",
        "created_at",
        "updated_at",
        "state_updated_at",
        "metadata",
        "status",
        "config",
        "values",
        "interrupts",
        "error",
    }
    assert created["metadata"] == {"a": 1, "graph_id": "conversation"}
    assert (created["status"], created["values"]) == ("idle", None)
    with pytest.raises(ConflictError, match=thread_id):
        await client.threads.create(thread_id=thread_id)
    same = await client.threads.create(thread_id=thread_id, if_exists="do_nothing")
    assert same == created


async def test_values_of_a_thread_are_its_state(client: Any) -> None:
    thread = await client.threads.create()
    answer = await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    shown = await client.threads.get(thread["thread_id"])
    assert (shown["status"], shown["values"]) == ("idle", answer)
    (found,) = await client.threads.search(ids=[thread["thread_id"]])
    assert found["values"] == answer


async def test_update_metadata(idle_server: RunningServer) -> None:
    client = idle_server.client
    thread = await client.threads.create(metadata={"a": 1, "b": {"x": 1}})
    changed = await client.threads.update(
        thread["thread_id"], metadata={"b": {"y": 2}, "c": 3}
    )
    assert changed["metadata"] == {"a": 1, "b": {"y": 2}, "c": 3}
    nothing = await client.threads.update(
        thread["thread_id"], metadata={"a": 2}, return_minimal=True
    )
    assert nothing is None
    with pytest.raises(NotFoundError):
        await client.threads.update(str(uuid4()), metadata={})


async def test_search_and_count(fleet: Fleet) -> None:
    server = await fleet.server()
    client = server.client
    made = [
        (await client.threads.create(metadata={"n": n, "odd": n % 2}))["thread_id"]
        for n in range(5)
    ]
    newest = [t["thread_id"] for t in await client.threads.search()]
    assert newest == made[::-1]
    odd = await client.threads.search(metadata={"odd": 1}, sort_order="asc")
    assert [t["thread_id"] for t in odd] == [made[1], made[3]]
    second_page = await client.threads.search(limit=2, offset=2)
    assert [t["thread_id"] for t in second_page] == [made[2], made[1]]
    await client.threads.update(made[0], metadata={"touched": True})
    by_update = await client.threads.search(sort_by="updated_at", limit=1)
    assert by_update[0]["thread_id"] == made[0]
    by_id = await client.threads.search(sort_by="thread_id", sort_order="asc")
    assert [t["thread_id"] for t in by_id] == sorted(made)
    picked = await client.threads.search(select=["thread_id", "status"], limit=1)
    assert picked == [{"thread_id": made[4], "status": "idle"}]
    assert await client.threads.count(metadata={"odd": 1}) == 2
    assert await client.threads.count(status="busy") == 0
    with pytest.raises(UnprocessableEntityError, match="values"):
        await client.threads.search(values={"a": 1})
    page = await server.http.post("/threads/search", json={"limit": 2})
    assert page.headers["x-pagination-total"] == "5"
    assert page.headers["x-pagination-next"] == "2"


async def test_a_search_counts_a_bounded_number_beyond_its_page(
    idle_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = idle_server.client
    monkeypatch.setattr(threads, "TOTAL_BEYOND_MAX", 2)
    # Other tests have threads on this server, too.
    before = await client.threads.count()
    for _ in range(6):
        await client.threads.create()
    page = await idle_server.http.post("/threads/search", json={"limit": 2})
    assert page.headers["x-pagination-total"] == "4"
    assert page.headers["x-pagination-next"] == "2"
    assert await client.threads.count() == before + 6


async def test_delete(client: Any) -> None:
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    await client.threads.delete(thread["thread_id"])
    with pytest.raises(NotFoundError):
        await client.threads.get(thread["thread_id"])
    with pytest.raises(NotFoundError):
        await client.threads.delete(thread["thread_id"])
    await client.threads.create(thread_id=thread["thread_id"])
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"] == {}


async def test_what_this_version_leaves_out_is_named(
    idle_server: RunningServer,
) -> None:
    client = idle_server.client
    with pytest.raises(UnprocessableEntityError, match="supersteps"):
        await client.threads.create(
            supersteps=[{"updates": [{"values": {}, "as_node": "a"}]}]
        )


async def test_a_thread_without_state(idle_server: RunningServer) -> None:
    client = idle_server.client
    for metadata in ({}, {"graph_id": "conversation"}):
        thread = await client.threads.create(metadata=metadata)
        state = await client.threads.get_state(thread["thread_id"])
        assert (state["values"], state["next"], state["tasks"]) == ({}, [], [])
        assert await client.threads.get_history(thread["thread_id"]) == []
    with pytest.raises(NotFoundError):
        await client.threads.get_state(str(uuid4()))


async def test_state_and_history(client: Any) -> None:
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"]["turn_count"] == 1
    assert state["next"] == []
    assert state["metadata"]["step"] == 3
    (run,) = await client.runs.list(thread["thread_id"])
    assert state["metadata"]["run_id"] == run["run_id"]
    assert state["metadata"]["graph_id"] == "conversation"
    assert state["checkpoint"]["thread_id"] == thread["thread_id"]
    assert state["checkpoint"]["checkpoint_id"] == state["checkpoint_id"]
    history = await client.threads.get_history(thread["thread_id"], limit=20)
    assert history[0] == state
    assert [s["next"] for s in history] == [
        [],
        ["save"],
        ["process"],
        ["receive"],
        ["__start__"],
    ]
    steps = [s["metadata"]["step"] for s in history]
    assert steps == [3, 2, 1, 0, -1]
    for newer, older in pairwise(history):
        assert newer["parent_checkpoint"] == older["checkpoint"]
    older = await client.threads.get_history(
        thread["thread_id"], before=history[1]["checkpoint"], limit=1
    )
    assert older == [history[2]]
    by_id = await client.threads.get_history(
        thread["thread_id"], before=history[1]["checkpoint_id"], limit=1
    )
    assert by_id == older
    loops = await client.threads.get_history(
        thread["thread_id"], metadata={"source": "input"}
    )
    assert loops == [history[4]]
    past = await client.threads.get_state(
        thread["thread_id"], checkpoint=history[2]["checkpoint"]
    )
    assert past["next"] == ["process"]
    same = await client.threads.get_state(
        thread["thread_id"], checkpoint_id=history[2]["checkpoint_id"]
    )
    assert same == past


async def test_update_state(client: Any) -> None:
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    written = await client.threads.update_state(thread["thread_id"], {"turn_count": 41})
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"]["turn_count"] == 41
    assert written["checkpoint"] == state["checkpoint"]
    assert written["checkpoint_id"] == state["checkpoint_id"]
    assert written["configurable"]["thread_id"] == thread["thread_id"]
    assert state["metadata"]["source"] == "update"
    answer = await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    assert answer["turn_count"] == 42


async def test_update_state_as_a_node(client: Any) -> None:
    """Answering in the place of a node lets the graph go on behind it."""
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "approval", input={"request": "pay"})
    await client.threads.update_state(
        thread["thread_id"], {"decision": "by hand"}, as_node="ask"
    )
    shown = await client.threads.get(thread["thread_id"])
    assert (shown["status"], shown["interrupts"]) == ("interrupted", {})
    answer = await client.runs.wait(thread["thread_id"], "approval")
    assert answer == {"request": "pay", "decision": "by hand", "done": True}
    shown = await client.threads.get(thread["thread_id"])
    assert shown["status"] == "idle"


async def test_update_an_older_state_forks(client: Any) -> None:
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    history = await client.threads.get_history(thread["thread_id"], limit=20)
    await client.threads.update_state(
        thread["thread_id"],
        {"user_id": "somebody else"},
        checkpoint=history[3]["checkpoint"],
    )
    state = await client.threads.get_state(thread["thread_id"])
    assert state["next"] == ["receive"]
    answer = await client.runs.wait(thread["thread_id"], "conversation")
    assert (answer["user_id"], answer["turn_count"]) == ("somebody else", 1)


async def test_update_state_is_refused_while_a_run_is_active(
    server: RunningServer, tmp_path: Path
) -> None:
    client, gate = server.client, tmp_path / "gate"
    thread = await client.threads.create()
    run = await client.runs.create(
        thread["thread_id"], "slow", input={"gate": str(gate)}
    )
    with pytest.raises(ConflictError, match="active or queued run"):
        await client.threads.update_state(thread["thread_id"], {"steps": ["mine"]})
    gate.touch()
    answer = await client.runs.join(thread["thread_id"], run["run_id"])
    assert answer["steps"] == ["begin", "wait", "finish"]
    await client.threads.update_state(thread["thread_id"], {"steps": ["mine"]})
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"]["steps"] == ["begin", "wait", "finish", "mine"]


async def test_updates_and_runs_at_once_keep_one_path(
    client: Any,
) -> None:
    """Whoever comes second waits or is refused; nothing is lost."""
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "nested", input={"path": []})
    before = await client.threads.get_state(thread["thread_id"])

    async def update(name: str) -> bool:
        try:
            await client.threads.update_state(thread["thread_id"], {"path": [name]})
        except ConflictError:
            return False
        return True

    runs = [
        client.runs.wait(thread["thread_id"], "nested", input={"path": [f"r{n}"]})
        for n in range(5)
    ]
    updates = [update(f"u{n}") for n in range(5)]
    results = await asyncio.gather(*runs, *updates)
    after = await client.threads.get_state(thread["thread_id"])
    path = after["values"]["path"]
    applied = [f"u{n}" for n in range(5) if results[5 + n]]
    for name in [*applied, *(f"r{n}" for n in range(5))]:
        assert name in path
    assert len(before["values"]["path"]) < len(path)
    history = await client.threads.get_history(thread["thread_id"], limit=200)
    parents = [s["parent_checkpoint"] for s in history[:-1]]
    assert parents == [s["checkpoint"] for s in history[1:]]


async def test_updates_that_make_no_sense(client: Any) -> None:
    thread = await client.threads.create()
    with pytest.raises(UnprocessableEntityError, match="graph"):
        await client.threads.update_state(thread["thread_id"], {"turn_count": 1})
    await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    with pytest.raises(UnprocessableEntityError, match="nobody"):
        await client.threads.update_state(
            thread["thread_id"], {"turn_count": 1}, as_node="nobody"
        )
    shown = await client.threads.get(thread["thread_id"])
    assert shown["status"] == "idle"
    answer = await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    assert answer["turn_count"] == 2


async def test_states_of_subgraphs(client: Any) -> None:
    thread = await client.threads.create()
    await client.runs.wait(thread["thread_id"], "nested", input={"path": ["ask"]})
    flat = await client.threads.get_state(thread["thread_id"])
    assert flat["next"] == ["inner"]
    (task,) = flat["tasks"]
    assert task["state"] is None
    ns = task["checkpoint"]["checkpoint_ns"]
    assert ns.startswith("inner:")
    inner = await client.threads.get_state(
        thread["thread_id"], checkpoint=task["checkpoint"]
    )
    assert inner["next"] == ["deep"]
    deep = await client.threads.get_state(thread["thread_id"], subgraphs=True)
    assert deep["tasks"][0]["state"]["next"] == ["deep"]
    assert [i["value"] for i in deep["interrupts"]] == ["go on?"]
    done = await client.runs.wait(
        thread["thread_id"], "nested", command={"resume": "yes"}
    )
    assert done["path"][-1] == "deep"


async def test_remote_graph(server: RunningServer) -> None:
    """LangGraph's own client of a graph on a server."""
    remote = RemoteGraph("conversation", url=server.url, client=server.client)
    thread = await server.client.threads.create()
    config: Any = {"configurable": {"thread_id": thread["thread_id"]}}
    answer = await remote.ainvoke(HELLO, config)
    assert answer["turn_count"] == 1
    state = await remote.aget_state(config)
    assert state.values == answer
    history = [s async for s in remote.aget_state_history(config)]
    assert len(history) == 5
    written = await remote.aupdate_state(config, {"turn_count": 7})
    assert written["configurable"]["checkpoint_id"]
    drawn = await remote.aget_graph()
    assert "process" in drawn.nodes
