"""Runs through the stock SDK: wait, create, join, list, get, cancel, delete."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from langgraph_sdk.errors import (
    ConflictError,
    InternalServerError,
    NotFoundError,
    UnprocessableEntityError,
)

from tests.fixtures.fleet import Fleet, RunningServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "user_id": "u"}


async def test_a_conversation_goes_on_through_another_server(fleet: Fleet) -> None:
    await fleet.worker()
    first, second = await fleet.server(), await fleet.server()
    thread = await first.client.threads.create()
    one = await first.client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    messages = [*one["messages"], {"role": "user", "content": "Continue"}]
    two = await second.client.runs.wait(
        thread["thread_id"],
        "conversation",
        input={"messages": messages, "user_id": "u"},
    )
    assert (one["turn_count"], two["turn_count"]) == (1, 2)
    assert two["messages"][-1]["content"] == "Turn 2: Processed 'Continue'"


async def test_create_then_join(client: Any) -> None:
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "conversation", input=HELLO)
    assert run["status"] == "pending"
    joined = await client.runs.join(thread["thread_id"], run["run_id"])
    assert joined["turn_count"] == 1
    ended = await client.runs.get(thread["thread_id"], run["run_id"])
    assert ended["status"] == "success"
    again = await client.runs.join(thread["thread_id"], run["run_id"])
    assert again == joined


async def test_join_answers_from_the_runs_own_end(client: Any) -> None:
    """The next run has moved the thread's head since."""
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "conversation", input=HELLO)
    first = await client.runs.join(thread["thread_id"], run["run_id"])
    await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    assert await client.runs.join(thread["thread_id"], run["run_id"]) == first


async def test_runs_of_one_thread_go_in_order(client: Any) -> None:
    thread = await client.threads.create()
    runs = [
        await client.runs.create(thread["thread_id"], "conversation", input=HELLO)
        for _ in range(5)
    ]
    counts = [
        (await client.runs.join(thread["thread_id"], run["run_id"]))["turn_count"]
        for run in runs
    ]
    assert counts == [1, 2, 3, 4, 5]
    listed = await client.runs.list(thread["thread_id"])
    assert [r["run_id"] for r in listed] == [r["run_id"] for r in reversed(runs)]


async def test_a_run_shows_what_was_asked_for(idle_server: RunningServer) -> None:
    client = idle_server.client
    thread = await client.threads.create(metadata={"owner": "o"})
    assistant = (await client.assistants.search(graph_id="conversation"))[0]
    run = await client.runs.create(
        thread["thread_id"],
        "conversation",
        input=HELLO,
        metadata={"a": 1},
        config={"tags": ["t"], "configurable": {"x": 1, "user_id": "ada"}},
        stream_mode=["values", "updates"],
        stream_subgraphs=True,
        stream_resumable=True,
        multitask_strategy="enqueue",
        durability="exit",
    )
    assert set(run) >= {
        "run_id",
        "thread_id",
        "assistant_id",
        "created_at",
        "updated_at",
        "status",
        "metadata",
        "kwargs",
        "multitask_strategy",
        "langsmith_session_name",
    }
    assert run["assistant_id"] == assistant["assistant_id"]
    assert run["metadata"] == {
        "a": 1,
        "created_by": "system",
        "graph_id": "conversation",
        "assistant_id": assistant["assistant_id"],
    }
    kwargs = run["kwargs"]
    assert kwargs["input"] == HELLO
    assert kwargs["stream_mode"] == ["values", "updates"]
    assert (kwargs["subgraphs"], kwargs["resumable"]) == (True, True)
    assert (kwargs["temporary"], kwargs["checkpoint"]) == (False, None)
    assert kwargs["durability"] == "exit"
    configurable = kwargs["config"]["configurable"]
    assert configurable["run_id"] == run["run_id"]
    assert configurable["thread_id"] == thread["thread_id"]
    assert (configurable["graph_id"], configurable["x"]) == ("conversation", 1)
    assert configurable["user_id"] == "ada"
    assert kwargs["config"]["tags"] == ["t"]
    shown = await client.threads.get(thread["thread_id"])
    assert shown["status"] == "busy"
    assert shown["metadata"] == {
        "owner": "o",
        "graph_id": "conversation",
        "assistant_id": assistant["assistant_id"],
    }


async def test_an_error_is_answered_not_raised(client: Any) -> None:
    thread = await client.threads.create()
    answer = await client.runs.wait(
        thread["thread_id"], "failing", input={}, raise_error=False
    )
    assert answer == {
        "__error__": {"error": "ValueError", "message": "the second node always fails"}
    }
    (run,) = await client.runs.list(thread["thread_id"])
    assert run["status"] == "error"
    shown = await client.threads.get(thread["thread_id"])
    assert shown["status"] == "error"
    with pytest.raises(Exception, match="the second node always fails"):
        await client.runs.wait(thread["thread_id"], "failing", input={})


async def test_an_interrupt_and_its_answer(client: Any) -> None:
    thread = await client.threads.create()
    asked = await client.runs.wait(
        thread["thread_id"], "approval", input={"request": "pay"}
    )
    (question,) = asked["__interrupt__"]
    assert question["value"] == {"approve": "pay"}
    shown = await client.threads.get(thread["thread_id"])
    assert shown["status"] == "interrupted"
    (questions,) = shown["interrupts"].values()
    assert questions == [question]
    (run,) = await client.runs.list(thread["thread_id"])
    assert run["status"] == "success"

    done = await client.runs.wait(
        thread["thread_id"], "approval", command={"resume": "yes"}
    )
    assert done == {"request": "pay", "decision": "yes", "done": True}
    shown = await client.threads.get(thread["thread_id"])
    assert (shown["status"], shown["interrupts"]) == ("idle", {})
    again = await client.runs.join(thread["thread_id"], run["run_id"])
    assert again == asked


async def test_a_static_breakpoint(client: Any) -> None:
    thread = await client.threads.create()
    paused = await client.runs.wait(
        thread["thread_id"],
        "conversation",
        input=HELLO,
        interrupt_before=["process"],
    )
    assert paused == {**HELLO, "turn_count": 1}
    shown = await client.threads.get(thread["thread_id"])
    assert (shown["status"], shown["interrupts"]) == ("interrupted", {})
    done = await client.runs.wait(thread["thread_id"], "conversation")
    assert len(done["messages"]) == 2


async def test_some_tasks_end_while_another_asks(client: Any) -> None:
    """What `ainvoke` returns then includes the results of the tasks that ended."""
    thread = await client.threads.create()
    asked = await client.runs.wait(
        thread["thread_id"], "fanout", input={"items": ["a", "ask-b", "c"]}
    )
    assert sorted(asked["results"]) == ["A", "C"]
    assert [q["value"] for q in asked["__interrupt__"]] == [{"about": "ask-b"}]
    (run,) = await client.runs.list(thread["thread_id"])
    done = await client.runs.wait(
        thread["thread_id"], "fanout", command={"resume": "b"}
    )
    assert sorted(done["results"]) == ["A", "B", "C"]
    assert await client.runs.join(thread["thread_id"], run["run_id"]) == asked


async def test_the_functional_interface_answers_bare_values(
    client: Any,
) -> None:
    thread = await client.threads.create()
    answers = [
        await client.runs.wait(thread["thread_id"], "counter", input=n) for n in (1, 10)
    ]
    assert answers == [2, 13]


async def test_cancel_a_queued_run(idle_server: RunningServer) -> None:
    client = idle_server.client
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "conversation", input=HELLO)
    await client.runs.cancel(thread["thread_id"], run["run_id"])
    ended = await client.runs.get(thread["thread_id"], run["run_id"])
    assert ended["status"] == "interrupted"
    assert await client.runs.join(thread["thread_id"], run["run_id"]) == {}
    with pytest.raises(NotFoundError):
        await client.runs.cancel(thread["thread_id"], run["run_id"])


async def test_cancel_a_running_run(server: RunningServer, tmp_path: Path) -> None:
    client, gate = server.client, tmp_path / "gate"
    thread = await client.threads.create()
    events = client.runs.stream(
        thread["thread_id"], "slow", input={"gate": str(gate)}, stream_mode="updates"
    )
    async for part in events:
        if part.event == "updates":
            break
    (run,) = await client.runs.list(thread["thread_id"])
    assert run["status"] == "running"
    answer = await client.runs.cancel(thread["thread_id"], run["run_id"], wait=True)
    assert answer["steps"] == ["begin"]
    ended = await client.runs.get(thread["thread_id"], run["run_id"])
    assert ended["status"] == "interrupted"
    shown = await client.threads.get(thread["thread_id"])
    assert shown["status"] == "interrupted"


async def test_cancel_several(idle_server: RunningServer) -> None:
    client = idle_server.client
    thread = await client.threads.create()
    runs = [
        await client.runs.create(thread["thread_id"], "conversation", input=HELLO)
        for _ in range(3)
    ]
    await client.runs.cancel_many(
        thread_id=thread["thread_id"], run_ids=[runs[0]["run_id"], runs[2]["run_id"]]
    )
    listed = await client.runs.list(thread["thread_id"])
    statuses = [run["status"] for run in listed]
    assert statuses == ["interrupted", "pending", "interrupted"]
    with pytest.raises(NotFoundError):
        await client.runs.cancel_many(
            thread_id=thread["thread_id"], run_ids=[runs[0]["run_id"]]
        )
    pending = await client.runs.list(thread["thread_id"], status="pending")
    assert [run["run_id"] for run in pending] == [runs[1]["run_id"]]


async def test_delete_a_run(client: Any) -> None:
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "conversation", input=HELLO)
    await client.runs.join(thread["thread_id"], run["run_id"])
    await client.runs.delete(thread["thread_id"], run["run_id"])
    assert await client.runs.list(thread["thread_id"]) == []
    with pytest.raises(NotFoundError):
        await client.runs.get(thread["thread_id"], run["run_id"])


async def test_reject_while_busy(idle_server: RunningServer) -> None:
    client = idle_server.client
    thread = await client.threads.create()
    await client.runs.create(
        thread["thread_id"], "conversation", input=HELLO, multitask_strategy="reject"
    )
    with pytest.raises(ConflictError, match="active or queued run"):
        await client.runs.create(
            thread["thread_id"],
            "conversation",
            input=HELLO,
            multitask_strategy="reject",
        )


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
async def test_strategies_of_later_versions_are_named(
    idle_server: RunningServer, strategy: Any
) -> None:
    thread = await idle_server.client.threads.create()
    with pytest.raises(UnprocessableEntityError, match=strategy):
        await idle_server.client.runs.create(
            thread["thread_id"],
            "conversation",
            input=HELLO,
            multitask_strategy=strategy,
        )


async def test_one_key_gives_one_run(server: RunningServer) -> None:
    client = server.client
    thread = await client.threads.create()
    headers = {"Idempotency-Key": "turn-1"}
    run = await client.runs.create(
        thread["thread_id"], "conversation", input=HELLO, headers=headers
    )
    again = await client.runs.create(
        thread["thread_id"], "conversation", input=HELLO, headers=headers
    )
    assert again["run_id"] == run["run_id"]
    answer = await client.runs.join(thread["thread_id"], run["run_id"])
    assert answer["turn_count"] == 1
    created = run["kwargs"]["stream_mode"]
    body = {"assistant_id": "conversation", "input": HELLO, "stream_mode": created[0]}
    waited = await server.http.post(
        f"/threads/{thread['thread_id']}/runs/wait",
        json={**body, "stream_subgraphs": False, "stream_resumable": False},
        headers=headers,
    )
    assert waited.json() == answer
    with pytest.raises(ConflictError, match="Idempotency-Key"):
        await client.runs.create(
            thread["thread_id"], "conversation", input={}, headers=headers
        )
    other = await client.threads.create()
    with pytest.raises(ConflictError, match="Idempotency-Key"):
        await client.runs.create(
            other["thread_id"], "conversation", input=HELLO, headers=headers
        )


async def test_threads_can_be_made_by_their_first_run(
    client: Any,
) -> None:
    thread_id = str(uuid4())
    with pytest.raises(NotFoundError, match="thread"):
        await client.runs.create(thread_id, "conversation", input=HELLO)
    answer = await client.runs.wait(
        thread_id, "conversation", input=HELLO, if_not_exists="create"
    )
    assert answer["turn_count"] == 1


async def test_a_delayed_run_waits(client: Any) -> None:
    thread = await client.threads.create()
    delayed = await client.runs.create(
        thread["thread_id"], "conversation", input=HELLO, after_seconds=3600
    )
    answer = await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    assert answer["turn_count"] == 1
    run = await client.runs.get(thread["thread_id"], delayed["run_id"])
    assert run["status"] == "pending"


async def test_a_fork_from_an_older_checkpoint(client: Any) -> None:
    thread = await client.threads.create()
    for _ in range(2):
        await client.runs.wait(thread["thread_id"], "conversation", input=HELLO)
    history = await client.threads.get_history(thread["thread_id"], limit=20)
    first = next(
        state
        for state in history
        if not state["next"] and state["values"]["turn_count"] == 1
    )
    answer = await client.runs.wait(
        thread["thread_id"],
        "conversation",
        input=HELLO,
        checkpoint=first["checkpoint"],
    )
    assert answer["turn_count"] == 2
    state = await client.threads.get_state(thread["thread_id"])
    assert state["values"]["turn_count"] == 2


async def test_stateless_runs(client: Any) -> None:
    answer = await client.runs.wait(None, "conversation", input=HELLO)
    assert answer["turn_count"] == 1
    run = await client.runs.create(None, "conversation", input=HELLO)
    joined = await client.runs.join(run["thread_id"], run["run_id"])
    assert joined["turn_count"] == 1
    assert await client.threads.search(ids=[run["thread_id"]]) == []
    kept = await client.runs.create(
        None, "conversation", input=HELLO, on_completion="keep"
    )
    await client.runs.join(kept["thread_id"], kept["run_id"])
    (found,) = await client.threads.search(ids=[kept["thread_id"]])
    assert found["values"]["turn_count"] == 1
    batch = await client.runs.create_batch(
        [{"assistant_id": "conversation", "input": HELLO}] * 2
    )
    assert len({run["run_id"] for run in batch}) == 2
    parts = [
        part async for part in client.runs.stream(None, "conversation", input=HELLO)
    ]
    assert parts[-1].data["turn_count"] == 1


async def test_context_and_configuration(client: Any) -> None:
    async def seen(**options: Any) -> Any:
        return await client.runs.wait(None, "contextual", input={}, **options)

    plain = await seen()
    assert plain["seen"]["context"] in ({"model": "small", "depth": 1}, None)
    given = await seen(context={"model": "large", "unknown": 1})
    assert given["seen"]["context"] == {"model": "large", "depth": 1}
    copied = await seen(config={"configurable": {"model": "huge", "__evil": 1}})
    assert copied["seen"]["context"] == {"model": "huge", "depth": 1}
    assert copied["seen"]["configurable"]["model"] == "huge"
    merged = await seen(
        config={"metadata": {"a": 1, "b": 1}, "tags": ["x"]},
        metadata={"b": 2},
        headers={"x-request-id": "r-1"},
    )
    assert merged["seen"]["tags"] == ["x"]
    assert merged["seen"]["configurable"]["langgraph_request_id"] == "r-1"
    shown = merged["metadata"]
    assert (shown["a"], shown["b"]) == (1, 2)
    assert shown["graph_id"] == "contextual"
    assert shown["run_id"] == merged["seen"]["configurable"]["run_id"]


async def test_a_factory_is_told_that_its_graph_runs(client: Any) -> None:
    context = {"user": "ada"}
    told = await client.runs.wait(None, "made-for-each-use", input={}, context=context)
    assert told == {"access": "threads.create_run", "context": context}


async def test_unknown_things_are_named(client: Any) -> None:
    thread = await client.threads.create()
    with pytest.raises(UnprocessableEntityError, match="known graphs: conversation"):
        await client.runs.create(thread["thread_id"], "nobody", input={})
    with pytest.raises(UnprocessableEntityError, match="assistant"):
        await client.runs.create(thread["thread_id"], str(uuid4()), input={})
    shown = r"^graph 'broken' does not load \(ModuleNotFoundError\); the server's log"
    with pytest.raises(InternalServerError, match=shown):
        await client.runs.create(thread["thread_id"], "broken", input={})


async def test_a_run_goes_on_without_its_client(
    server: RunningServer, tmp_path: Path
) -> None:
    """Its outcome is there for whoever asks later."""
    client, gate = server.client, tmp_path / "gate"
    thread = await client.threads.create()
    body = {"assistant_id": "slow", "input": {"gate": str(gate)}}
    path = f"/threads/{thread['thread_id']}/runs"
    async with server.http.stream("POST", f"{path}/stream", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("event: values"):
                break
    (run,) = await client.runs.list(thread["thread_id"])
    gate.touch()
    await client.runs.join(thread["thread_id"], run["run_id"])
    run = await client.runs.get(thread["thread_id"], run["run_id"])
    assert run["status"] == "success"


async def test_a_gone_client_may_cancel_its_run(
    server: RunningServer, tmp_path: Path
) -> None:
    client, gate = server.client, tmp_path / "gate"
    thread = await client.threads.create()
    body = {
        "assistant_id": "slow",
        "input": {"gate": str(gate)},
        "on_disconnect": "cancel",
        "stream_mode": "updates",
    }
    path = f"/threads/{thread['thread_id']}/runs"
    async with server.http.stream("POST", f"{path}/stream", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("event: updates"):
                break
    (run,) = await client.runs.list(thread["thread_id"])
    await client.runs.join(thread["thread_id"], run["run_id"])
    run = await client.runs.get(thread["thread_id"], run["run_id"])
    assert run["status"] == "interrupted"


async def test_nodes_that_block_have_connections_however_many_are_kept(
    fleet: Fleet,
) -> None:
    """Theirs are two, whatever `THREADMILL_POOL_MIN` says."""
    server = await fleet.server(pool_min=5)
    blocking = server.core.blocking
    assert await asyncio.to_thread(blocking.get, "default", str(uuid4()), "") is None
