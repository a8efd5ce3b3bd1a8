"""How long threads are kept, and pruning them, through the stock SDK."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError

from tests.fixtures.fleet import RunningServer
from threadmill.domain.retention import Strategy, Ttl
from threadmill.server.services import TENANT

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "user_id": "u"}


async def ttl_of(client: Any, thread_id: str) -> Any:
    return (await client.threads.get(thread_id, include=["ttl"]))["ttl"]


async def test_a_threads_own_ttl(idle_server: RunningServer) -> None:
    client = idle_server.client
    thread = await client.threads.create(ttl=90)
    assert "ttl" not in await client.threads.get(thread["thread_id"])
    shown = await ttl_of(client, thread["thread_id"])
    assert shown == {
        "strategy": "delete",
        "ttl_minutes": 90,
        "expires_at": shown["expires_at"],
        "rule": "thread",
    }
    expires = datetime.fromisoformat(shown["expires_at"])
    changed = datetime.fromisoformat(thread["updated_at"])
    assert expires - changed == timedelta(minutes=90)
    keep = {"ttl": 10, "strategy": "keep_latest"}
    await client.threads.update(thread["thread_id"], metadata={}, ttl=keep)
    shown = await ttl_of(client, thread["thread_id"])
    assert (shown["strategy"], shown["ttl_minutes"]) == ("keep_latest", 10)
    await client.threads.update(thread["thread_id"], metadata={"a": 1})
    assert (await ttl_of(client, thread["thread_id"]))["ttl_minutes"] == 10
    path = f"/threads/{thread['thread_id']}"
    assert (await idle_server.http.patch(path, json={"ttl": None})).status_code == 200
    assert await ttl_of(client, thread["thread_id"]) is None


async def test_a_tenants_rule_is_shown_where_nothing_nearer_holds(
    idle_server: RunningServer,
) -> None:
    thread = await idle_server.client.threads.create()
    store = idle_server.core.operations.retention
    await store.set_rule(TENANT, Ttl(60, Strategy.KEEP_LATEST))
    try:
        shown = await ttl_of(idle_server.client, thread["thread_id"])
        assert (shown["rule"], shown["ttl_minutes"]) == ("tenant", 60)
    finally:
        await store.set_rule(TENANT, None)


@pytest.mark.parametrize("ttl", [0, -5, {"ttl": 1, "strategy": "x"}, {"strategy": "x"}])
async def test_what_is_no_ttl_is_refused(idle_server: RunningServer, ttl: Any) -> None:
    with pytest.raises(UnprocessableEntityError):
        await idle_server.client.threads.create(ttl=ttl)


async def test_prune(client: Any) -> None:
    threads = [(await client.threads.create())["thread_id"] for _ in range(3)]
    answer = await client.runs.wait(threads[0], "conversation", input=HELLO)
    await client.runs.wait(threads[1], "conversation", input=HELLO)
    history = await client.threads.get_history(threads[0], limit=10)
    assert len(history) > 2
    done = await client.threads.prune(threads[:1], strategy="keep_latest")
    assert done == {"pruned_count": 1}
    (left,) = await client.threads.get_history(threads[0], limit=10)
    assert left["checkpoint_id"] == history[0]["checkpoint_id"]
    assert (await client.threads.get(threads[0]))["values"] == answer
    await client.runs.wait(threads[0], "conversation", input=HELLO)
    went_on = await client.threads.get_history(threads[0], limit=10)
    assert went_on[-1]["checkpoint_id"] == left["checkpoint_id"]
    assert len(went_on) > 2
    nobody = str(uuid4())
    done = await client.threads.prune([*threads[1:], threads[1], nobody])
    assert done == {"pruned_count": 2}
    for thread_id in threads[1:]:
        with pytest.raises(NotFoundError):
            await client.threads.get(thread_id)
    with pytest.raises(UnprocessableEntityError, match="strategy"):
        await client.threads.prune([threads[0]], strategy="half")


@pytest.mark.parametrize("strategy", ["keep_latest", "delete"])
async def test_a_dry_run_says_what_would_go_and_changes_nothing(
    idle_server: RunningServer, strategy: str
) -> None:
    client = idle_server.client
    at_rest, busy = [
        (await client.threads.create(graph_id="conversation"))["thread_id"]
        for _ in range(2)
    ]
    for turn in range(3):
        await client.threads.update_state(at_rest, {**HELLO, "user_id": f"u{turn}"})
    await client.runs.create(busy, "conversation", input=HELLO)
    before = await client.threads.get_history(at_rest)
    asked = {
        "thread_ids": [at_rest, busy, at_rest, str(uuid4())],
        "strategy": strategy,
        "dry_run": True,
    }
    answer = await idle_server.http.post("/threads/prune", json=asked)
    foreseen = answer.json()
    assert (answer.status_code, foreseen.pop("bytes") > 0) == (200, True)
    assert foreseen == {
        "pruned_count": 0,
        "dry_run": True,
        "threads": 1,
        "checkpoints": 3 if strategy == "delete" else 2,
    }
    assert await client.threads.get_history(at_rest) == before
    again = await idle_server.http.post("/threads/prune", json=asked)
    assert again.json() == answer.json()
    asked["dry_run"] = False
    done = await idle_server.http.post("/threads/prune", json=asked)
    assert done.json() == {"pruned_count": 1}


@pytest.mark.parametrize("dry_run", ["true", 1, None, []])
async def test_a_dry_run_is_true_or_false(
    idle_server: RunningServer, dry_run: Any
) -> None:
    thread_id = (await idle_server.client.threads.create())["thread_id"]
    asked = {"thread_ids": [thread_id], "dry_run": dry_run}
    answer = await idle_server.http.post("/threads/prune", json=asked)
    assert answer.status_code == 422
    assert "dry_run" in answer.text
    assert await idle_server.client.threads.get(thread_id)


async def test_a_run_from_a_checkpoint_that_was_pruned_is_refused(client: Any) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread_id, "conversation", input=HELLO)
    first = (await client.threads.get_history(thread_id, limit=10))[-1]
    await client.threads.prune([thread_id], strategy="keep_latest")
    with pytest.raises(UnprocessableEntityError, match="has no checkpoint"):
        await client.runs.create(
            thread_id, "conversation", checkpoint_id=first["checkpoint_id"]
        )


async def test_a_thread_with_an_open_run_is_left_alone(
    idle_server: RunningServer,
) -> None:
    client = idle_server.client
    thread_id = (await client.threads.create())["thread_id"]
    await client.runs.create(thread_id, "conversation", input=HELLO)
    for strategy in ("delete", "keep_latest"):
        done = await client.threads.prune([thread_id], strategy=strategy)
        assert done == {"pruned_count": 0}
    assert (await client.threads.get(thread_id))["status"] == "busy"


async def test_what_was_pruned_is_counted(idle_server: RunningServer) -> None:
    shown = await idle_server.http.get("/metrics")
    assert "threadmill_retention_threads_total 0.0" in shown.text.splitlines()
