"""Nodes that report progress, and timeouts of nodes that do not: as in plain LangGraph.

Each case is played by LangGraph alone and by the engine, and must end alike. A node
works for longer than its idle timeout; how it reports meanwhile decides what becomes of
it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import RetryPolicy, TimeoutPolicy

import threadmill
from tests.engine.effect_graphs import Receiver, Story
from tests.engine.engine_store import EngineStore
from tests.engine.small_graphs import Steps, row, step
from threadmill.domain.run import RunStatus

pytestmark = pytest.mark.langgraph

IDLE_SECONDS = 0.5
WORK_SECONDS = 0.8
BEAT_SECONDS = 0.02

Report = Callable[[Runtime[Any]], Any]


def _heartbeat(runtime: Runtime[Any]) -> None:
    runtime.heartbeat()


def _writes(runtime: Runtime[Any]) -> None:
    runtime.stream_writer({"beat": True})


def _writes_by_name(_: Runtime[Any]) -> None:
    get_stream_writer()({"beat": True})


async def _calls_a_model(_: Runtime[Any]) -> None:
    model = GenericFakeChatModel(messages=iter(["word"]))
    await model.ainvoke("go on")


async def _calls_a_subgraph(_: Runtime[Any]) -> None:
    await row(x=step("x")).ainvoke({"steps": []})


async def _calls_a_subgraph_that_beats(_: Runtime[Any]) -> None:
    async def beats(state: Steps, runtime: Runtime[Any]) -> Any:
        runtime.heartbeat()

    await row(x=beats).ainvoke({"steps": []})


def _nothing(_: Runtime[Any]) -> None:
    """Works in silence."""


def _worker(report: Report) -> Any:
    async def works(state: Steps, runtime: Runtime[Any]) -> Any:
        until = time.monotonic() + WORK_SECONDS
        while time.monotonic() < until:
            await asyncio.sleep(BEAT_SECONDS)
            reported = report(runtime)
            if reported is not None:
                await reported
        return {"value": "worked"}

    return works


def _timed(node: Any, timeout: TimeoutPolicy, retry: RetryPolicy | None = None) -> Any:
    builder: Any = StateGraph(Steps)
    builder.add_node("works", node, timeout=timeout, retry_policy=retry)
    builder.add_edge(START, "works")
    return builder.compile()


async def _plainly(graph: Any) -> str | None:
    try:
        await graph.ainvoke({"steps": []})
    except Exception as error:  # noqa: BLE001 - compared by its name
        return type(error).__name__
    return None


async def _by_the_engine(store: EngineStore, graph: Any) -> str | None:
    ended = await Story(store, graph).turn()
    assert ended.claims == 1
    return ended.run.error["error"] if ended.run.error else None


@pytest.mark.parametrize(
    ("report", "refresh_on", "ends"),
    [
        (_nothing, "auto", "NodeTimeoutError"),
        (_heartbeat, "auto", None),
        (_heartbeat, "heartbeat", None),
        (_writes, "auto", None),
        (_writes_by_name, "auto", None),
        (_writes, "heartbeat", "NodeTimeoutError"),
        (_calls_a_model, "auto", None),
        (_calls_a_subgraph, "auto", None),
        (_calls_a_subgraph_that_beats, "heartbeat", None),
    ],
)
async def test_an_idle_timeout_is_held_off_by_the_same_signals(
    engine_store: EngineStore, report: Report, refresh_on: Any, ends: str | None
) -> None:
    policy = TimeoutPolicy(idle_timeout=IDLE_SECONDS, refresh_on=refresh_on)
    plain = await _plainly(_timed(_worker(report), policy))
    engine = await _by_the_engine(engine_store, _timed(_worker(report), policy))
    assert (plain, engine) == (ends, ends)


async def _beats_for_ever(state: Steps, runtime: Runtime[Any]) -> None:
    while True:
        runtime.heartbeat()
        await asyncio.sleep(BEAT_SECONDS)


async def test_no_heartbeat_holds_off_the_timeout_of_an_attempt(
    engine_store: EngineStore,
) -> None:
    policy = TimeoutPolicy(run_timeout=0.2, idle_timeout=IDLE_SECONDS)
    plain = await _plainly(_timed(_beats_for_ever, policy))
    engine = await _by_the_engine(engine_store, _timed(_beats_for_ever, policy))
    assert plain == engine == "NodeTimeoutError"


async def test_a_timeout_is_retried_as_often_as_the_policy_says(
    engine_store: EngineStore,
) -> None:
    calls: list[str] = []

    async def hangs(state: Steps) -> None:
        calls.append("hangs")
        await asyncio.Event().wait()

    policy = TimeoutPolicy(run_timeout=0.05)
    retry = RetryPolicy(max_attempts=3, initial_interval=0.0, jitter=False)
    plain = await _plainly(_timed(hangs, policy, retry))
    assert (plain, len(calls)) == ("NodeTimeoutError", 3)
    engine = await _by_the_engine(engine_store, _timed(hangs, policy, retry))
    assert (engine, len(calls)) == ("NodeTimeoutError", 6)


def test_a_blocking_node_cannot_be_timed_here_or_there() -> None:
    def blocks(state: Steps) -> Any:
        """Never called."""

    with pytest.raises(ValueError, match="sync"):
        _timed(blocks, TimeoutPolicy(run_timeout=1.0))


async def test_progress_is_streamed_while_the_node_works(
    engine_store: EngineStore,
) -> None:
    """The reader has it before the node goes on."""
    graph_id, thread_id = str(uuid4()), uuid4()
    go_on = asyncio.Event()

    async def works(state: Steps, runtime: Runtime[Any]) -> Any:
        runtime.stream_writer({"percent": 50})
        await asyncio.wait_for(go_on.wait(), 10)
        runtime.stream_writer({"percent": 100})

    policy = TimeoutPolicy(idle_timeout=10.0)
    driver = engine_store.driver({graph_id: _timed(works, policy)})
    run = await driver.submit(
        graph_id, thread_id, {"input": {"steps": []}, "stream_mode": ["custom"]}
    )
    working = asyncio.create_task(driver.carry_out(run))
    async with asyncio.timeout(10):
        while not await _progress(engine_store, thread_id):
            await driver.hints.published.wait()
            driver.hints.published.clear()
    assert await _progress(engine_store, thread_id) == ['{"percent":50}']
    go_on.set()
    assert (await working).run.status is RunStatus.SUCCESS
    assert len(await _progress(engine_store, thread_id)) == 2


async def _progress(store: EngineStore, thread_id: Any) -> list[str]:
    events = await store.events(thread_id)
    return [event.data for event in events if event.event == "custom"]


async def test_an_attempt_that_timed_out_in_an_effect_leaves_it_unknown(
    engine_store: EngineStore,
) -> None:
    receiver = Receiver()

    async def hangs(key: str) -> None:
        receiver.take(key)
        await asyncio.Event().wait()

    async def pay(state: Steps) -> Any:
        await threadmill.effect("pay", hangs)

    policy = TimeoutPolicy(run_timeout=0.3)
    retry = RetryPolicy(max_attempts=3, initial_interval=0.0, jitter=False)
    engine = await _by_the_engine(engine_store, _timed(pay, policy, retry))
    assert (engine, len(receiver.calls)) == ("EffectUnknown", 1)
