"""What the stream holds: every mode, tokens, attempts, and when it gets there."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import interrupt

from tests.engine.engine_store import EngineStore
from tests.engine.parity.harness import bare
from tests.engine.small_graphs import Steps, compiled, row, step
from threadmill.streams.base import Event
from threadmill.testing.engine import attempt_of
from threadmill.testing.process import Fault, FaultKind

pytestmark = pytest.mark.langgraph


async def _events(
    store: EngineStore, graph: Any, *, node: bool = False, **kwargs: Any
) -> list[Event]:
    graph_id, thread_id = str(uuid4()), uuid4()
    driver = store.driver({graph_id: graph}, node=node)
    run = await driver.submit(graph_id, thread_id, {"input": {"steps": []}, **kwargs})
    await driver.carry_out(run)
    return list(await store.events(thread_id))


def _payloads(events: list[Event], mode: str) -> list[Any]:
    return [json.loads(e.data) for e in events if e.event.split("|")[0] == mode]


def _talking(name: str) -> Any:
    async def node(state: Steps) -> Any:
        write = get_stream_writer()
        write({"says": name, "n": 1})
        write({"says": name, "n": 2})
        return {"steps": [name]}

    return node


def _nested() -> dict[str, Any]:
    return {"first": _talking("first"), "sub": row(x=_talking("x")), "last": step("l")}


@pytest.mark.parametrize("node", [False, True])
@pytest.mark.parametrize("mode", ["custom", "tasks", "checkpoints", "debug"])
async def test_every_mode_tells_what_langgraph_tells(
    engine_store: EngineStore, mode: str, *, node: bool
) -> None:
    plain: Counter[str] = Counter()
    graph = compiled(_nested(), checkpointer=InMemorySaver())
    stream: Any = graph.astream
    async for path, payload in stream(
        {"steps": []},
        {"configurable": {"thread_id": "plain"}},
        stream_mode=mode,
        subgraphs=True,
    ):
        plain[_told("|".join([mode, *path]), payload)] += 1
    told: Counter[str] = Counter()
    for event in await _events(
        engine_store,
        compiled(_nested()),
        node=node,
        stream_mode=[mode],
        subgraphs=True,
    ):
        if event.event != "metadata":
            told[_told(event.event, json.loads(event.data))] += 1
    assert told == plain


async def test_debug_names_checkpoints_as_clients_know_them(
    engine_store: EngineStore,
) -> None:
    events = await _events(engine_store, row(a=step("a")), stream_mode=["debug"])
    told = [
        p["payload"] for p in _payloads(events, "debug") if p["type"] == "checkpoint"
    ]
    first, *later = told
    assert first["parent_checkpoint"] is None
    for before, after in pairwise(told):
        assert after["parent_checkpoint"] == before["checkpoint"]
    assert later[-1]["checkpoint"].keys() >= {"thread_id", "checkpoint_id"}


def _told(name: str, payload: Any) -> str:
    """An event, as far as two runs of one graph agree on it."""
    kept = bare(payload)
    inner = kept.get("payload", kept)
    places = ("checkpoint", "parent_checkpoint")  # see the test below
    for changing in ("config", "parent_config", "metadata", "timestamp", *places):
        inner.pop(changing, None)
        kept.pop(changing, None)
    for task in inner.get("tasks", ()):
        task.pop("state", None)
    return f"{bare(name)} {json.dumps(kept, sort_keys=True)}"


def _model_graph() -> Any:
    model = GenericFakeChatModel(messages=iter([AIMessage("one two three", id="m1")]))

    async def call(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke("hi")]}

    builder = StateGraph(MessagesState)
    builder.add_node("call", call)
    builder.add_edge(START, "call")
    return builder.compile()


async def test_messages_are_told_in_parts(engine_store: EngineStore) -> None:
    events = await _events(
        engine_store, _model_graph(), input={"messages": []}, stream_mode=["messages"]
    )
    assert len(_payloads(events, "messages/metadata")) == 1
    parts = [p[0]["content"] for p in _payloads(events, "messages/partial")]
    assert parts[-1] == "one two three"
    assert all(a != b and b.startswith(a) for a, b in pairwise(parts))


async def test_messages_are_told_as_tuples(engine_store: EngineStore) -> None:
    events = await _events(
        engine_store,
        _model_graph(),
        input={"messages": []},
        stream_mode=["messages-tuple", "messages"],
    )
    chunks = _payloads(events, "messages")
    assert "".join(message["content"] for message, _ in chunks) == "one two three"
    assert {meta["langgraph_node"] for _, meta in chunks} == {"call"}
    assert not _payloads(events, "messages/partial")


async def test_events_mode_tells_langchains_events(engine_store: EngineStore) -> None:
    events = await _events(
        engine_store, _model_graph(), input={"messages": []}, stream_mode=["events"]
    )
    kinds = {payload["event"] for payload in _payloads(events, "events")}
    assert {"on_chain_start", "on_chat_model_stream", "on_chain_end"} <= kinds


async def test_a_run_that_streams_nothing_leaves_no_event(
    engine_store: EngineStore,
) -> None:
    assert await _events(engine_store, row(a=step("a"))) == []


@pytest.mark.parametrize("resumed", [False, True])
async def test_tokens_are_committed_while_the_node_runs(
    engine_store: EngineStore, *, resumed: bool
) -> None:
    """Nothing that waits for a commit of its own holds them back."""
    spoken, go_on = asyncio.Event(), asyncio.Event()

    async def node(state: Steps) -> Any:
        if resumed:
            interrupt("ready?")
        get_stream_writer()({"token": 1})
        spoken.set()
        await go_on.wait()
        return {"steps": ["node"]}

    graph_id, thread_id = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: row(node=node)})
    kwargs: dict[str, Any] = {"stream_mode": ["custom", "values", "updates"]}
    first = {"input": {"steps": []}, **kwargs}
    if resumed:
        await driver.carry_out(await driver.submit(graph_id, thread_id, first))
        first = {"command": {"resume": "yes"}, **kwargs}
    await driver.submit(graph_id, thread_id, first)
    process = driver.process()
    (claim,) = await driver.claim(process)
    working = asyncio.create_task(driver.work(process, attempt_of(claim)))
    await spoken.wait()
    async with asyncio.timeout(5):
        while "custom" not in await _names(engine_store, thread_id):
            await driver.hints.published.wait()
            driver.hints.published.clear()
    go_on.set()
    await working


async def _names(store: EngineStore, thread_id: UUID) -> list[str]:
    return [event.event for event in await store.events(thread_id)]


async def test_a_repeated_attempt_announces_itself_and_its_tokens_stay(
    engine_store: EngineStore,
) -> None:
    graph_id, thread_id = str(uuid4()), uuid4()
    driver = engine_store.driver(
        {graph_id: compiled({"a": _talking("a"), "b": _talking("b")})}
    )
    run = await driver.submit(
        graph_id,
        thread_id,
        {"input": {"steps": []}, "stream_mode": ["custom", "updates"]},
    )
    commits = (await _count_commits(engine_store)) - 1
    ended = await driver.carry_out(run, Fault(FaultKind.KILL_BEFORE, commits))
    assert ended.run.attempt == 2
    events = await engine_store.events(thread_id)
    attempts = [event.attempt for event in events]
    assert attempts == sorted(attempts)
    announced = [json.loads(e.data) for e in events if e.event == "metadata"]
    assert announced == [
        {"run_id": str(run.run_id), "attempt": 1},
        {"run_id": str(run.run_id), "attempt": 2},
    ]
    assert [e.event for e in events].count("updates") == 2
    second = [e for e in events if e.attempt == 2]
    assert second[0].event == "metadata"


async def _count_commits(store: EngineStore) -> int:
    graph_id = str(uuid4())
    driver = store.driver(
        {graph_id: compiled({"a": _talking("a"), "b": _talking("b")})}
    )
    run = await driver.submit(
        graph_id,
        uuid4(),
        {"input": {"steps": []}, "stream_mode": ["custom", "updates"]},
    )
    return (await driver.carry_out(run)).commits


async def test_a_question_is_told_with_its_pause(engine_store: EngineStore) -> None:
    async def ask(state: Steps) -> Any:
        return {"steps": [interrupt("why?")]}

    events = await _events(engine_store, row(ask=ask), stream_mode=["updates"])
    (paused,) = _payloads(events, "updates")
    assert [q["value"] for q in paused["__interrupt__"]] == ["why?"]
