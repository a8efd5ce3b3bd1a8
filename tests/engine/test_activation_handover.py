"""When an activation leaves between supersteps, and what whoever enters next sees."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from structlog.testing import capture_logs

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.parity import states
from tests.engine.parity.flows import functional
from tests.engine.parity.harness import EngineStory, Ledger, tell_plainly
from tests.engine.small_graphs import Steps, row, step
from threadmill.domain.run import RunStatus
from threadmill.engine.graph_factories import Factory
from threadmill.testing.engine import EngineDriver, TestDesk, attempt_of
from threadmill.testing.process import Process

NODES = ("a", "b", "c", "d")


def _graph() -> Any:
    return row(**{name: step(name) for name in NODES})


async def _submit(store: EngineStore, **options: Any) -> tuple[EngineDriver, Any]:
    graph_id = str(uuid4())
    driver = store.driver({graph_id: _graph()}, **options)
    run = await driver.submit(
        graph_id, uuid4(), {"input": {"steps": []}, "stream_mode": ["values"]}
    )
    return driver, run


async def test_node_dispatch_claims_every_superstep(engine_store: EngineStore) -> None:
    driver, run = await _submit(engine_store, node=True)
    ended = await driver.carry_out(run)
    # One claim for each node, and one that finds nothing left or ends at once.
    assert ended.claims in {len(NODES), len(NODES) + 1}
    assert ended.run.attempt == 1
    events = await engine_store.events(run.thread_id)
    assert [e.event for e in events] == ["metadata"] + ["values"] * (len(NODES) + 1)


async def test_burst_claims_once(engine_store: EngineStore) -> None:
    driver, run = await _submit(engine_store)
    assert (await driver.carry_out(run)).claims == 1


async def _first_attempt(driver: EngineDriver, *, leaving: bool) -> Process:
    process = driver.process()
    (claim,) = await driver.claim(process)
    desk = TestDesk(leaving=lambda: leaving)
    await driver.work(process, attempt_of(claim, desk=desk))
    return process


@pytest.mark.parametrize("leaving", [True, False])
async def test_burst_leaves_when_its_worker_wants_it_to(
    engine_store: EngineStore, *, leaving: bool
) -> None:
    driver, run = await _submit(engine_store)
    process = await _first_attempt(driver, leaving=leaving)
    run = await engine_store.runs.get(TENANT, run.run_id)
    assert run.status is (RunStatus.RUNNING if leaving else RunStatus.SUCCESS)
    head = await engine_store.checkpoints.get(TENANT, str(run.thread_id), "")
    assert head is not None
    done = head.checkpoint["channel_values"]["steps"]
    assert done == (["a"] if leaving else list(NODES))
    if leaving:
        (claim,) = await driver.claim(process)
        assert claim.attempt == 1


async def test_leaving_costs_no_commit_of_its_own(engine_store: EngineStore) -> None:
    driver, _ = await _submit(engine_store)
    process = await _first_attempt(driver, leaving=True)
    begin, entered_and_first = 1, 2
    assert process.commits <= begin + entered_and_first + 1  # one flush of events
    assert [told for told in driver.hints.told if told.startswith("ready")]


@pytest.mark.parametrize("node", [True, False])
async def test_untracked_values_keep_a_run_in_one_process(
    engine_store: EngineStore, *, node: bool
) -> None:
    plain = await tell_plainly(states.UNTRACKED)
    story = EngineStory(engine_store, states.UNTRACKED, node=node)
    with capture_logs() as logs:
        told = await story.tell()
    assert [turn.state for turn in told] == [turn.state for turn in plain]
    assert story.claims == [1, 1]
    warnings = [log for log in logs if log["event"] == "graph.stays_in_one_process"]
    # The driver makes a new `Activate` for every claim; each warns once.
    assert [log["channels"] for log in warnings] == [["secret"]] * 2


async def test_an_entrypoint_does_not_wait_for_its_own_tasks_slot(
    engine_store: EngineStore,
) -> None:
    """With one task at a time, LangGraph by itself would wait for ever."""
    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: functional(Ledger(), None)})
    run = await driver.submit(
        graph_id, uuid4(), {"input": {"n": 1}, "config": {"max_concurrency": 1}}
    )
    assert (await driver.carry_out(run)).run.status is RunStatus.SUCCESS


async def test_a_run_of_one_node_commits_when_it_begins_before_the_node_and_at_the_end(
    engine_store: EngineStore,
) -> None:
    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: row(a=step("a"))})
    run = await driver.submit(graph_id, uuid4(), {"input": {"steps": []}})
    assert (await driver.carry_out(run)).commits == 3


async def test_a_run_that_ends_is_not_handed_over_first(
    engine_store: EngineStore,
) -> None:
    """Its last superstep has several tasks, whose commits are still on their way."""
    graph_id = str(uuid4())
    builder: Any = StateGraph(Steps)
    builder.add_node("a", step("a"))
    builder.add_node("w", step("w"))
    builder.add_edge(START, "a")
    builder.add_conditional_edges("a", lambda _: [Send("w", {}) for _ in range(3)])
    driver = engine_store.driver({graph_id: builder.compile()}, node=True)
    run = await driver.submit(
        graph_id, uuid4(), {"input": {"steps": []}, "stream_mode": ["checkpoints"]}
    )
    ended = await driver.carry_out(run)
    assert ended.claims == 2
    told = [
        json.loads(event.data)["metadata"]["step"]
        for event in await engine_store.events(run.thread_id)
        if event.event == "checkpoints"
    ]
    assert told == [-1, 0, 1, 2]


async def test_the_run_has_ended_before_its_graph_is_closed(
    engine_store: EngineStore,
) -> None:
    """Closing a factory's graph is user code: dying in it must not repeat a node."""
    heads: list[int] = []
    thread_id = uuid4()

    async def factory(config: RunnableConfig) -> AsyncIterator[Any]:
        yield row(a=step("a"))
        head = await engine_store.checkpoints.get(TENANT, str(thread_id), "")
        heads.append(-2 if head is None else head.metadata["step"])

    graph_id = str(uuid4())
    made: Any = Factory.of(factory)
    driver = engine_store.driver({graph_id: made})
    run = await driver.submit(graph_id, thread_id, {"input": {"steps": []}})
    await driver.carry_out(run)
    assert heads[-1] == 1
