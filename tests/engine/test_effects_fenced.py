"""A worker that lost its task records no effect, and calls nothing unrecorded.

Also where the tasks of one superstep are activations of their own, on many workers.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Send

import threadmill
from tests.engine.effect_graphs import SECONDS, Gate, Receiver, Story, paying
from tests.engine.engine_store import EngineStore
from tests.engine.small_graphs import Steps
from threadmill.domain.run import RunStatus
from threadmill.errors import LeaseLost
from threadmill.testing.engine import TestDesk, attempt_of

pytestmark = pytest.mark.langgraph


async def _overtaken(story: Story, gate: Gate) -> Any:
    """A first attempt that is at the gate, and the claim of whoever took over."""
    run = await story.driver.submit(
        story.graph_id, story.thread_id, {"input": {"steps": []}}
    )
    stale = story.driver.process()
    (claim,) = await story.driver.claim(stale)
    working = asyncio.create_task(story.driver.work(stale, attempt_of(claim)))
    await asyncio.wait_for(gate.reached.wait(), SECONDS)
    await story.driver.heal(stale)
    other = story.driver.process()
    (taken,) = await story.driver.claim(other)
    assert taken.run_id == run.run_id
    return working, other, taken


async def test_a_stale_worker_records_no_intent_and_does_not_call(
    engine_store: EngineStore,
) -> None:
    gate, receiver, errors = Gate(), Receiver(), []

    async def pay(state: Steps) -> Any:
        await gate.wait()
        try:
            await threadmill.effect("pay", receiver.take_async)
        except LeaseLost as error:
            errors.append(error)
            raise

    story = Story.of(engine_store, pay=pay)
    working, _, _ = await _overtaken(story, gate)
    gate.open.set()
    await asyncio.wait_for(working, SECONDS)
    assert len(errors) == 1
    assert receiver.calls == []
    assert await story.records() == []


async def test_a_stale_worker_records_no_outcome(engine_store: EngineStore) -> None:
    gate, receiver = Gate(), Receiver()

    async def take(key: str) -> Any:
        receiver.take(key)
        await gate.wait()
        return "stale"

    story = Story.of(engine_store, pay=paying(take))
    working, other, taken = await _overtaken(story, gate)
    gate.open.set()
    await asyncio.wait_for(working, SECONDS)
    assert [record["state"] for record in await story.records()] == ["intent"]
    await story.driver.work(other, attempt_of(taken))
    run = await engine_store.runs.get(story.tenant, taken.run_id)
    assert run.error is not None
    assert run.error["error"] == "EffectUnknown"
    assert len(receiver.calls) == 1


async def test_the_store_of_a_lost_attempt_ends_it_even_if_the_node_hides_it(
    engine_store: EngineStore,
) -> None:
    gate, receiver = Gate(), Receiver()

    async def pay(state: Steps) -> Any:
        await gate.wait()
        try:
            await threadmill.effect("pay", receiver.take_async)
        except LeaseLost:
            await asyncio.sleep(3600)

    story = Story.of(engine_store, pay=pay)
    working, _, _ = await _overtaken(story, gate)
    gate.open.set()
    await asyncio.wait_for(working, SECONDS)


def _fanned_out(node: Any, width: int) -> Any:
    builder: Any = StateGraph(Steps)
    builder.add_node("pay", node)
    builder.add_conditional_edges(
        START, lambda _: [Send("pay", {"value": n}) for n in range(width)]
    )
    return builder.compile()


async def _take_turns(story: Story, processes: int) -> Any:
    """Each process takes one task at a time, until the run has ended."""
    run = await story.driver.submit(
        story.graph_id, story.thread_id, {"input": {"steps": []}}
    )
    workers = [story.driver.process() for _ in range(processes)]
    for turn in range(50):
        process = workers[turn % processes]
        for claim in await story.driver.claim(process):
            desk = TestDesk(tasks_at_once=1, tasks_max=1)
            await story.driver.work(process, attempt_of(claim, desk=desk))
        run = await story.store.runs.get(story.tenant, run.run_id)
        if run.finished_at is not None:
            return run
    raise AssertionError("the run does not end")


@pytest.mark.parametrize("kind", ["node", "blocking_node"])
async def test_tasks_of_one_superstep_record_under_their_own_activations(
    engine_store: EngineStore, kind: str
) -> None:
    receiver = Receiver(result="ok")
    node = getattr(receiver, kind)()

    def without_value(result: Any) -> Any:
        return {"steps": [result["value"]]}

    async def pays(state: Steps) -> Any:
        return without_value(await node(state))

    def pays_blocking(state: Steps) -> Any:
        return without_value(node(state))

    graph = _fanned_out(pays if kind == "node" else pays_blocking, 4)
    story = Story(engine_store, graph)
    run = await _take_turns(story, 2)
    assert run.status is RunStatus.SUCCESS, run.error
    records = await story.records()
    assert [record["state"] for record in records] == ["done"] * 4
    assert len({record["token"] for record in records}) == 4
    assert max(Counter(receiver.calls).values()) == 1


async def test_a_task_that_was_taken_over_stops_no_other_task_of_its_superstep(
    engine_store: EngineStore,
) -> None:
    """Its worker hangs in the call; the task fails elsewhere, as nobody knows."""
    gate, receiver = Gate(), Receiver()

    async def take(key: str) -> Any:
        receiver.take(key)
        if len(receiver.calls) == 1:
            await gate.wait()

    async def pays(state: Steps) -> Any:
        await threadmill.effect("pay", take)

    story = Story(engine_store, _fanned_out(pays, 2))
    await story.driver.submit(story.graph_id, story.thread_id, {"input": {"steps": []}})
    stale = story.driver.process()
    (claim,) = await story.driver.claim(stale)
    desk = TestDesk(tasks_at_once=1, tasks_max=1)
    working = asyncio.create_task(
        story.driver.work(stale, attempt_of(claim, desk=desk))
    )
    await asyncio.wait_for(gate.reached.wait(), SECONDS)
    await story.driver.heal(stale)
    other = story.driver.process()
    for _ in range(2):
        for taken in await story.driver.claim(other):
            one = TestDesk(tasks_at_once=1, tasks_max=1)
            await story.driver.work(other, attempt_of(taken, desk=one))
    gate.open.set()
    await asyncio.wait_for(working, SECONDS)
    assert len(receiver.calls) == 2
    states = [record["state"] for record in await story.records()]
    assert sorted(states) == ["done", "intent"]
