"""Streams through the stock SDK: every mode, subgraphs, coming back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk.errors import NotFoundError, UnprocessableEntityError
from langgraph_sdk.schema import StreamPart
from pydantic import SecretStr

from tests.fixtures.fleet import Fleet, RunningServer
from tests.fixtures.redis import RedisServer

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "user_id": "u"}
ASK = {"messages": [{"role": "user", "content": "what is it?"}]}


async def collected(parts: AsyncIterator[StreamPart]) -> list[StreamPart]:
    return [part async for part in parts]


def names(parts: list[StreamPart]) -> list[str]:
    return [part.event for part in parts]


async def test_values(client: Any) -> None:
    thread = await client.threads.create()
    parts = await collected(
        client.runs.stream(thread["thread_id"], "conversation", input=HELLO)
    )
    (run,) = await client.runs.list(thread["thread_id"])
    assert names(parts) == ["metadata"] + ["values"] * (len(parts) - 1)
    assert parts[0].data == {"run_id": run["run_id"], "attempt": 1}
    counts = [part.data.get("turn_count", 0) for part in parts[1:]]
    assert counts == sorted(counts)
    assert counts[-1] == 1
    assert parts[-1].data["messages"][-1]["content"] == "Turn 1: Processed 'Hello'"
    assert [part.id for part in parts] == [None] * len(parts)
    assert run["status"] == "success"


async def test_updates(client: Any) -> None:
    parts = await collected(
        client.runs.stream(None, "conversation", input=HELLO, stream_mode="updates")
    )
    assert names(parts) == ["metadata", "updates", "updates", "updates"]
    assert [next(iter(p.data)) for p in parts[1:]] == ["receive", "process", "save"]


async def test_messages(client: Any) -> None:
    parts = await collected(
        client.runs.stream(None, "chat", input=ASK, stream_mode="messages")
    )
    events = names(parts)
    assert events[:2] == ["metadata", "messages/metadata"]
    assert set(events[2:]) <= {
        "messages/metadata",
        "messages/partial",
        "messages/complete",
    }
    partial = [p.data[0]["content"] for p in parts if p.event == "messages/partial"]
    assert partial == sorted(partial, key=len)
    assert partial[-1] == "the answer is 42"


async def test_messages_as_tuples(client: Any) -> None:
    parts = await collected(
        client.runs.stream(
            None, "chat", input=ASK, stream_mode=["messages-tuple", "messages"]
        )
    )
    assert set(names(parts)) == {"metadata", "messages"}
    tokens = [p.data[0] for p in parts[1:] if p.data[0]["type"] == "AIMessageChunk"]
    assert "".join(t["content"] for t in tokens) == "the answer is 42"
    assert {p.data[1]["langgraph_node"] for p in parts[1:]} == {"answer"}


async def test_custom(client: Any) -> None:
    parts = await collected(
        client.runs.stream(None, "chat", input=ASK, stream_mode="custom")
    )
    assert [(p.event, p.data) for p in parts[1:]] == [("custom", {"thinking": True})]


async def test_events(client: Any) -> None:
    parts = await collected(
        client.runs.stream(None, "chat", input=ASK, stream_mode="events")
    )
    assert set(names(parts)) == {"metadata", "events"}
    kinds = [part.data["event"] for part in parts[1:]]
    assert "on_chat_model_stream" in kinds
    assert kinds[0] == "on_chain_start"
    assert kinds[-1] == "on_chain_end"


async def test_tasks_checkpoints_and_debug(client: Any) -> None:
    modes: Any = ["tasks", "checkpoints", "debug"]
    parts = await collected(
        client.runs.stream(None, "conversation", input=HELLO, stream_mode=modes)
    )
    assert set(names(parts)) == {"metadata", *modes}
    kinds = {p.data["type"] for p in parts if p.event == "debug"}
    assert kinds == {"task", "task_result", "checkpoint"}
    started = [
        p.data["name"] for p in parts if p.event == "tasks" and "input" in p.data
    ]
    assert started == ["receive", "process", "save"]
    last = [p.data for p in parts if p.event == "checkpoints"][-1]
    assert last["values"]["turn_count"] == 1


async def test_subgraphs(client: Any) -> None:
    parts = await collected(
        client.runs.stream(
            None,
            "nested",
            input={"path": ["start"]},
            stream_mode=["values", "updates"],
            stream_subgraphs=True,
        )
    )
    inner = [event for event in names(parts) if "|" in event]
    assert any(event.startswith("values|inner:") for event in inner)
    assert any(event.startswith("updates|inner:") for event in inner)
    assert parts[-1].event == "values"
    assert parts[-1].data == {"path": ["start", "first", "start", "first", "deep"]}
    outer = await collected(
        client.runs.stream(
            None, "nested", input={"path": ["start"]}, stream_mode="updates"
        )
    )
    assert names(outer) == ["metadata", "updates", "updates"]


async def test_an_error_comes_last(client: Any) -> None:
    thread = await client.threads.create()
    parts = await collected(
        client.runs.stream(thread["thread_id"], "failing", input={})
    )
    assert parts[-1].event == "error"
    assert parts[-1].data == {
        "error": "ValueError",
        "message": "the second node always fails",
    }
    (run,) = await client.runs.list(thread["thread_id"])
    assert run["status"] == "error"


async def test_an_interrupt_shows_in_values_and_updates(
    client: Any,
) -> None:
    thread = await client.threads.create()
    parts = await collected(
        client.runs.stream(
            thread["thread_id"],
            "approval",
            input={"request": "pay"},
            stream_mode=["values", "updates"],
        )
    )
    updates = [p.data for p in parts if p.event == "updates"]
    (question,) = updates[-1]["__interrupt__"]
    assert question["value"] == {"approve": "pay"}
    values = [p.data for p in parts if p.event == "values"]
    assert values[-1]["__interrupt__"][0]["id"] == question["id"]


async def test_a_stream_of_a_cancelled_run_just_ends(
    server: RunningServer, tmp_path: Path
) -> None:
    client = server.client
    thread = await client.threads.create()
    seen = []
    async for part in client.runs.stream(
        thread["thread_id"],
        "slow",
        input={"gate": str(tmp_path / "gate")},
        stream_mode="updates",
    ):
        seen.append(part.event)
        if part.event == "updates":
            (run,) = await client.runs.list(thread["thread_id"])
            await client.runs.cancel(thread["thread_id"], run["run_id"])
    assert seen == ["metadata", "updates"]


async def test_join_a_stream_live(server: RunningServer, tmp_path: Path) -> None:
    """Without Last-Event-ID only what comes from now on is sent."""
    client, gate = server.client, tmp_path / "gate"
    thread = await client.threads.create()
    run = await client.runs.create(
        thread["thread_id"],
        "slow",
        input={"gate": str(gate)},
        stream_mode=["updates", "values"],
    )
    await _exists(gate.with_suffix(".waiting"))
    joined = asyncio.create_task(
        collected(
            client.runs.join_stream(
                thread["thread_id"], run["run_id"], stream_mode="updates"
            )
        )
    )
    await _watched(server)
    gate.touch()
    parts = await joined
    assert [next(iter(part.data)) for part in parts] == ["wait", "finish"]
    late = await collected(client.runs.join_stream(thread["thread_id"], run["run_id"]))
    assert late == []


@pytest.mark.parametrize("beginning", ["-1", "0", "0-0"])
async def test_replay_from_the_beginning(client: Any, beginning: str) -> None:
    thread = await client.threads.create()
    parts = await collected(
        client.runs.stream(
            thread["thread_id"], "conversation", input=HELLO, stream_resumable=True
        )
    )
    (run,) = await client.runs.list(thread["thread_id"])
    replayed = await collected(
        client.runs.join_stream(
            thread["thread_id"], run["run_id"], last_event_id=beginning
        )
    )
    assert replayed == parts
    assert all(part.id for part in parts)


async def test_coming_back_to_another_server_misses_and_repeats_nothing(
    fleet: Fleet, tmp_path: Path
) -> None:
    await fleet.worker()
    first, second = await fleet.server(), await fleet.server()
    gate = tmp_path / "gate"
    thread = await first.client.threads.create()
    seen: list[StreamPart] = []
    async for part in first.client.runs.stream(
        thread["thread_id"],
        "slow",
        input={"gate": str(gate)},
        stream_mode=["updates", "values", "tasks"],
        stream_resumable=True,
    ):
        seen.append(part)
        if part.event == "updates":
            break
    (run,) = await first.client.runs.list(thread["thread_id"])
    rest = asyncio.create_task(
        collected(
            second.client.runs.join_stream(
                thread["thread_id"], run["run_id"], last_event_id=seen[-1].id
            )
        )
    )
    gate.touch()
    seen += await rest
    whole = await collected(
        second.client.runs.join_stream(
            thread["thread_id"], run["run_id"], last_event_id="-1"
        )
    )
    assert seen == whole
    numbers = [int((part.id or "").partition("-")[2]) for part in whole]
    assert numbers == sorted(set(numbers))


async def test_a_stream_survives_its_servers_end(fleet: Fleet, tmp_path: Path) -> None:
    """A draining server closes the stream; the SDK finds the run again by itself."""
    await fleet.worker()
    server = await fleet.server()
    client, gate = server.client, tmp_path / "gate"
    thread = await client.threads.create()
    stream = client.runs.stream(
        thread["thread_id"],
        "slow",
        input={"gate": str(gate)},
        stream_mode="updates",
        stream_resumable=True,
    )
    seen = []
    async for part in stream:
        seen.append(part)
        if part.event == "updates" and not gate.exists():
            # The client comes back within a second or so, to the same address.
            server.services.drain.begin()
            server.services.drain._begun.clear()
            gate.touch()
    assert [next(iter(p.data)) for p in seen if p.event == "updates"] == [
        "begin",
        "wait",
        "finish",
    ]


async def test_events_come_through_redis(
    fleet: Fleet, tmp_path: Path, private_redis: RedisServer
) -> None:
    """The same as without, also when it dies in the middle."""
    uri = SecretStr(private_redis.uri)
    await fleet.worker(stream_uri=uri)
    server = await fleet.server(stream_uri=uri, poll_seconds=0.2)
    client, gate = server.client, tmp_path / "gate"
    thread = await client.threads.create()
    seen = []
    async for part in client.runs.stream(
        thread["thread_id"],
        "slow",
        input={"gate": str(gate)},
        stream_mode="updates",
        stream_resumable=True,
    ):
        seen.append(part)
        if part.event == "updates" and not gate.exists():
            with private_redis.connection() as connection:
                assert connection.keys("*:events") != []
            await asyncio.to_thread(private_redis.kill)
            gate.touch()
    assert [next(iter(p.data)) for p in seen if p.event == "updates"] == [
        "begin",
        "wait",
        "finish",
    ]
    ids = [part.id for part in seen]
    assert len(set(ids)) == len(ids)


async def test_unknown_modes_are_refused(idle_server: RunningServer) -> None:
    thread = await idle_server.client.threads.create()
    for mode in ("nothing", "lifecycle", "tools"):
        with pytest.raises(UnprocessableEntityError, match=mode):
            await idle_server.client.runs.create(
                thread["thread_id"],
                "conversation",
                input=HELLO,
                stream_mode=mode,
            )


async def test_streams_of_nobody(client: Any) -> None:
    thread = await client.threads.create()
    run = await client.runs.create(thread["thread_id"], "conversation", input=HELLO)
    other = await client.threads.create()
    with pytest.raises(NotFoundError):
        await collected(client.runs.join_stream(other["thread_id"], run["run_id"]))
    with pytest.raises(UnprocessableEntityError, match="Last-Event-ID"):
        await collected(
            client.runs.join_stream(
                thread["thread_id"], run["run_id"], last_event_id="yesterday"
            )
        )


async def test_a_deleted_thread_ends_its_streams(
    server: RunningServer, tmp_path: Path
) -> None:
    client = server.client
    thread = await client.threads.create()
    async for part in client.runs.stream(
        thread["thread_id"],
        "slow",
        input={"gate": str(tmp_path / "gate")},
        stream_mode="updates",
    ):
        if part.event == "updates":
            await client.threads.delete(thread["thread_id"])


async def _exists(file: Path) -> None:
    async with asyncio.timeout(20):
        while not file.exists():  # noqa: ASYNC110, ASYNC240 - a file
            await asyncio.sleep(0.01)


async def _watched(server: RunningServer) -> None:
    """Returns when somebody waits for a thread."""
    async with asyncio.timeout(20):
        while not server.services.watch.statistics().threads:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
