"""Who holds which task of a shared superstep: losses, labels, limits and hints."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.wide_story import (
    Part,
    State,
    Story,
    needing,
    planned,
    shape,
    state_of,
    story_of,
    wide,
    work_off,
)
from tests.stores.run_store import until_somebody_waits
from threadmill.domain.run import RunStatus
from threadmill.engine.activation.stop import StopReason
from threadmill.errors import NotFound
from threadmill.stores.records import Claim, Superstep
from threadmill.testing.engine import TestDesk, attempt_of
from threadmill.testing.process import Fault, FaultKind


def _hinted(story: Story, what: str) -> bool:
    return any(hint.startswith(what) for hint in story.driver.hints.told)


# --- crashes ---------------------------------------------------------------------


async def test_a_bug_in_mid_superstep_counts_for_the_tasks_that_were_held(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 3)
    process = story.driver.process()
    claims = await story.driver.claim(process)

    async def broken(_of: Superstep, _n: int) -> Sequence[Claim]:
        raise RuntimeError("a bug of the worker's")

    desk = TestDesk(tasks_at_once=1, claims=broken)
    story.watch.hold(0)
    await story.driver.work(process, attempt_of(*claims, desk=desk))
    _, claims = await story.claim()
    assert sorted(claim.attempt for claim in claims) == [1, 1, 2]


async def test_a_redriven_superstep_runs_only_what_is_missing(
    engine_store: EngineStore,
) -> None:
    story = await planned(engine_store, 5, keeps=2, attempts_max=1)
    process, _ = await story.claim()
    await story.driver.heal(process)
    process, claims = await story.claim()
    await story.begin(process, claims)[1]
    assert (await story.end_of_run()).status is RunStatus.ERROR
    await engine_store.dead_letters.redrive(TENANT, story.run.run_id, queue_max=10)
    run = await work_off(engine_store, story.driver, story.run)
    assert run.status is RunStatus.SUCCESS
    assert story.watch.calls == Counter(range(5))
    assert (await story.state())["joined"] == 1


async def test_the_dead_letter_of_a_task_names_its_node(
    engine_store: EngineStore,
) -> None:
    story = await planned(engine_store, 3, keeps=1, attempts_max=1)
    process, _ = await story.claim()
    await story.driver.heal(process)
    process, claims = await story.claim()
    await story.begin(process, claims)[1]
    letter = await engine_store.dead_letters.get(TENANT, story.run.run_id)
    assert letter.node == "work"


@pytest.mark.parametrize("kind", FaultKind)
@pytest.mark.parametrize("bound", [1, 2, 3])
async def test_bounded_supersteps_survive_losses(
    engine_store: EngineStore, bound: int, kind: FaultKind
) -> None:
    """With `max_concurrency` no task waits for ever, and none is told twice."""
    running = most = 0

    async def work(part: Part) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        finally:
            running -= 1
        return {"seen": [part["i"]]}

    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: wide(work)}, node=bound == 2)
    config, modes = {"max_concurrency": bound}, ["updates", "values"]
    kwargs = {"input": {"n": 7}, "config": config, "stream_mode": modes}
    run = await driver.submit(graph_id, thread, kwargs)
    ended = await driver.carry_out_spread(run, Random(bound), Fault(kind, 1 + bound))
    assert ended.run.status is RunStatus.SUCCESS
    state = await state_of(engine_store, thread)
    assert (state["seen"], state["joined"]) == (list(range(7)), 1)
    told = Counter(map(shape, await engine_store.events(thread)))
    told.pop(("metadata",), None)
    assert set(told.values()) == {1}
    assert most <= bound


# --- how a run ends --------------------------------------------------------------


async def test_siblings_of_a_task_that_fails_are_told_to_stop(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 3)
    story.watch.hold(0)
    story.watch.fails = {2}
    _, _, planning = await story.plan(keeps=1)
    await story.watch.begun[0].wait()
    process, claims = await story.claim()
    await story.begin(process, claims)[1]
    assert (await story.end_of_run()).status is RunStatus.ERROR
    assert _hinted(story, "stop")
    story.watch.gates[0].set()
    await planning


@pytest.mark.parametrize("bad", [0, 3])
async def test_one_result_of_many_that_cannot_be_stored_fails_the_run(
    engine_store: EngineStore, bad: int
) -> None:
    async def work(part: Part) -> Any:
        return {"seen": [object() if part["i"] == bad else part["i"]]}

    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: wide(work)})
    run = await driver.submit(graph_id, thread, {"input": {"n": 5}})
    run = await work_off(engine_store, driver, run)
    assert run.status is RunStatus.ERROR
    assert await engine_store.left_over(thread) == (0, None)


async def test_a_time_limit_ends_a_run_with_tasks_everywhere(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 4, run_seconds=0.5)
    story.watch.hold(0, 1, 2, 3)
    _, _, planning = await story.plan(keeps=1)
    await story.watch.begun[0].wait()
    others = [await story.claim(n) for n in (1, 2)]
    working = [story.begin(process, claims)[1] for process, claims in others]
    await asyncio.wait_for(asyncio.gather(planning, *working), 10)
    assert (await story.end_of_run()).status is RunStatus.TIMEOUT
    assert await engine_store.left_over(story.run.thread_id) == (0, None)


# LangGraph drops unawaited what queues for `max_concurrency` when it is stopped.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("seed", range(8))
async def test_a_cancellation_at_any_moment_leaves_nothing(
    engine_store: EngineStore, seed: int
) -> None:
    """Whoever is first, nothing of the run is left and nobody deadlocks."""
    chance = Random(seed)
    config = {"max_concurrency": 4} if seed % 2 else None
    story = await story_of(engine_store, 8, config=config)
    process, claims = await story.claim(1)
    working = [story.begin(process, claims, keeps=2, takes_more=True)[1]]

    async def others() -> None:
        for _ in range(3):
            await asyncio.sleep(chance.random() * 0.02)
            process, claims = await story.claim(2)
            if claims:
                working.append(story.begin(process, claims, takes_more=True)[1])

    async def cancel() -> None:
        await asyncio.sleep(chance.random() * 0.06)
        with suppress(NotFound):  # it has ended
            run = story.run
            await engine_store.runs.cancel(TENANT, run.thread_id, run.run_id)

    await asyncio.gather(others(), cancel())
    await asyncio.wait_for(asyncio.gather(*working), 20)
    assert await engine_store.left_over(story.run.thread_id) == (0, None)
    assert set(story.watch.calls.values()) <= {1}


async def test_erasing_a_thread_meets_its_tasks_in_the_order_of_their_ids(
    engine_store: EngineStore, shared_database_uri: str
) -> None:
    """So it cannot deadlock with a commit under the fence of several tasks."""
    story = await planned(engine_store, 12, keeps=1)
    tasks = (
        "SELECT activation_id FROM threadmill.activation WHERE thread_id = %s"
        " ORDER BY activation_id"
    )
    lock = (
        "SELECT 1 FROM threadmill.activation WHERE activation_id = ANY(%s) FOR UPDATE"
    )
    connecting = psycopg.AsyncConnection.connect(shared_database_uri)
    async with await connecting as committing:
        found = await committing.execute(tasks, (story.run.thread_id,))
        first, *others = [id_ for (id_,) in await found.fetchall()]
        await committing.execute(lock, ([first],))
        erasing = asyncio.create_task(
            engine_store.threads.delete(TENANT, story.run.thread_id)
        )
        await until_somebody_waits(shared_database_uri)
        await committing.execute(f"{lock} NOWAIT", (others,))
    await erasing
    assert await engine_store.left_over(story.run.thread_id) == (0, None)


# --- labels and limits -----------------------------------------------------------


async def test_a_label_is_needed_no_longer_than_its_node(
    engine_store: EngineStore,
) -> None:
    """Once past the node, anybody goes on with the run after a loss."""
    begun, gate = asyncio.Event(), asyncio.Event()

    async def after(_: State) -> Any:
        begun.set()
        await gate.wait()
        return {"joined": 1}

    builder: Any = StateGraph(State)
    builder.add_node("gpu", lambda _: {"seen": [1]}, metadata=needing("gpu"))
    builder.add_node("after", after)
    builder.add_edge(START, "gpu")
    builder.add_edge("gpu", "after")
    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: builder.compile()})
    run = await driver.submit(graph_id, uuid4(), {"input": {"n": 1}})
    process = driver.process()
    await driver.work(process, attempt_of(*await driver.claim(process)))
    dying = driver.process()
    claims = await engine_store.dispatcher.claim(
        dying.worker_id, [graph_id], 1, 60.0, labels=["gpu"]
    )
    desk = TestDesk(labels=["gpu"])
    working = asyncio.create_task(driver.work(dying, attempt_of(*claims, desk=desk)))
    await asyncio.wait_for(begun.wait(), 10)
    working.cancel()
    await asyncio.wait([working])
    await driver.heal(dying)
    gate.set()
    run = await work_off(engine_store, driver, run)
    assert run.status is RunStatus.SUCCESS


async def test_a_fork_onto_tasks_of_a_label_goes_where_that_is(
    engine_store: EngineStore,
) -> None:
    """Its tasks stay together, so whoever runs them has the labels of all."""
    calls: list[str] = []

    def node(name: str) -> Any:
        def run(_: State) -> Any:
            calls.append(name)
            return {"seen": [len(calls)]}

        return run

    builder: Any = StateGraph(State)
    builder.add_node("first", node("first"))
    builder.add_node("gpu", node("gpu"), metadata=needing("gpu"))
    builder.add_node("cpu", node("cpu"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "gpu")
    builder.add_edge("first", "cpu")
    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: builder.compile()})

    async def work(*labels: str) -> int:
        process = driver.process()
        claims = await engine_store.dispatcher.claim(
            process.worker_id, [graph_id], 1, 60.0, labels=labels
        )
        if claims:
            desk = TestDesk(labels=labels)
            await driver.work(process, attempt_of(*claims, desk=desk))
        return len(claims)

    await driver.submit(graph_id, thread, {"input": {"n": 1}})
    assert await work("gpu") == 1
    assert sorted(calls) == ["cpu", "first", "gpu"]
    listed = engine_store.checkpoints.list(TENANT, str(thread), ns="")
    before = [it async for it in listed if it.metadata.get("step") == 1]
    calls.clear()
    where = {"checkpoint_id": before[0].checkpoint["id"]}
    run = await driver.submit(graph_id, thread, {"input": None, "checkpoint": where})
    assert (await work(), calls) == (1, [])
    assert await work() == 0
    assert await work("gpu") == 1
    assert sorted(calls) == ["cpu", "gpu"]
    run = await engine_store.runs.get(TENANT, run.run_id)
    assert run.status is RunStatus.SUCCESS


@pytest.mark.parametrize("n", [4, 12])
async def test_a_planner_keeps_no_more_tasks_than_its_worker_takes_at_all(
    engine_store: EngineStore, n: int
) -> None:
    story = await story_of(engine_store, n)
    process, claims = await story.claim(1)
    desk = TestDesk(tasks_at_once=8, tasks_max=2)
    await story.driver.work(process, attempt_of(*claims, desk=desk))
    assert len(story.watch.calls) == 2


class _Counted(dict):
    """Counts how often any of its kind is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        _Counted.compared += 1
        return super().__eq__(other)

    __hash__ = None


async def test_planning_compares_no_more_than_the_width(
    engine_store: EngineStore,
) -> None:
    async def work(part: Any) -> Any:
        return {"seen": [part["i"]]}

    def counted(state: State) -> list[Send]:
        return [Send("work", _Counted(i=i)) for i in range(state["n"])]

    graph_id, width = str(uuid4()), 200
    driver = engine_store.driver({graph_id: wide(work, counted)})
    await driver.submit(graph_id, uuid4(), {"input": {"n": width}})
    process = driver.process()
    claims = await driver.claim(process)
    _Counted.compared = 0
    desk = TestDesk(tasks_at_once=10)
    await driver.work(process, attempt_of(*claims, desk=desk))
    assert len(await driver.claim(driver.process(), 2 * width)) == width - 10
    assert _Counted.compared <= 20 * width


# --- hints -----------------------------------------------------------------------


async def test_a_task_that_becomes_ready_is_hinted(engine_store: EngineStore) -> None:
    """With `max_concurrency` it is the end of another one that lets it begin."""
    story = await story_of(engine_store, 3, config={"max_concurrency": 1})
    story.watch.hold(0)
    _, _, planning = await story.plan(keeps=1)
    await story.watch.begun[0].wait()
    story.driver.hints.told.clear()
    story.watch.gates[0].set()
    await planning
    assert [claim.kind for claim in (await story.claim())[1]] == ["task"]
    assert _hinted(story, "ready")


async def test_what_a_drain_hands_back_is_hinted(engine_store: EngineStore) -> None:
    story = await story_of(engine_store, 3)
    story.watch.hold(0, 1)
    _, attempt, planning = await story.plan(keeps=2)
    await story.watch.begun[1].wait()
    story.driver.hints.told.clear()
    attempt.stop.request(StopReason.DRAIN)
    await planning
    assert _hinted(story, "ready")
