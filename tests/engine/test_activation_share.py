"""Tasks of one superstep in several processes: who runs what, and how it ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.wide_story import ALL, planned, story_of
from threadmill.domain.run import RunStatus
from threadmill.engine.activation.stop import StopReason
from threadmill.stores.records import Claim, Superstep
from threadmill.testing.engine import TestDesk, attempt_of


async def test_what_a_process_does_not_keep_others_take(
    engine_store: EngineStore,
) -> None:
    story = await planned(engine_store, 5, keeps=2)
    assert story.watch.calls == Counter({0: 1, 1: 1})
    process, claims = await story.claim()
    assert [claim.kind for claim in claims] == ["task"] * 3
    assert {claim.attempt for claim in claims} == {1}
    _, working = story.begin(process, claims)
    await working
    assert (await story.end_of_run()).status is RunStatus.SUCCESS
    assert story.watch.calls == Counter(range(5))
    state = await story.state()
    assert (state["seen"], state["joined"]) == ([0, 1, 2, 3, 4], 1)


async def test_a_superstep_that_fits_costs_no_commit_for_its_tasks_apart(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 5)
    _, _, working = await story.plan(keeps=5)
    await working
    assert (await story.claim())[1] == []
    assert (await story.end_of_run()).status is RunStatus.SUCCESS


async def test_whoever_ends_the_last_task_goes_on_by_itself(
    engine_store: EngineStore,
) -> None:
    """The planner waits for nobody: it has left when the other one ends the run."""
    story = await planned(engine_store, 4, keeps=1)
    process, claims = await story.claim()
    _, working = story.begin(process, claims)
    await working
    assert (await story.claim())[1] == []
    assert (await story.end_of_run()).status is RunStatus.SUCCESS
    assert (await story.state())["joined"] == 1


async def test_the_planner_goes_on_with_what_others_have_done(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 3)
    story.watch.hold(0)
    _, _, planning = await story.plan(keeps=1)
    await story.watch.begun[0].wait()
    process, claims = await story.claim()
    _, working = story.begin(process, claims)
    await working
    assert story.watch.calls == Counter(range(3))
    story.watch.gates[0].set()
    await planning
    assert (await story.end_of_run()).status is RunStatus.SUCCESS
    assert (await story.state())["seen"] == [0, 1, 2]
    told = await engine_store.events(story.run.thread_id)
    assert [e.event for e in told] == ["metadata"] + ["updates"] * 4


async def test_a_process_claims_more_while_there_is_more(
    engine_store: EngineStore,
) -> None:
    story = await planned(engine_store, 30, keeps=1)
    process, claims = await story.claim(1)
    attempt, working = story.begin(process, claims, keeps=4, takes_more=True)
    await working
    assert story.watch.calls == Counter(range(30))
    assert attempt.claims == tuple(claims)
    assert (await story.end_of_run()).status is RunStatus.SUCCESS


async def test_no_more_tasks_at_once_than_the_run_allows(
    engine_store: EngineStore,
) -> None:
    """LangGraph's `max_concurrency` bounds all processes together."""
    story = await planned(engine_store, 9, keeps=1, config={"max_concurrency": 3})
    while True:
        process, claims = await story.claim()
        if not any(claim.kind == "task" for claim in claims):
            break
        others = [await story.claim() for _ in range(2)]
        assert all(not more for _, more in others)
        assert len(claims) <= 3
        _, working = story.begin(process, claims)
        await working
    assert story.watch.most <= 3
    assert story.watch.calls == Counter(range(9))
    assert (await story.end_of_run()).status is RunStatus.SUCCESS


async def test_only_who_has_the_label_runs_a_node_that_needs_one(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 3, labels=["gpu"])
    _, _, working = await story.plan(keeps=2)
    await working
    assert not story.watch.calls
    process, claims = await story.claim()
    assert claims == []
    claims = await engine_store.dispatcher.claim(
        process.worker_id, [story.run.graph_id], ALL, 60.0, labels=["gpu", "eu"]
    )
    assert [claim.kind for claim in claims] == ["task"] * 3
    desk = TestDesk(labels=["gpu"])
    await story.driver.work(process, attempt_of(*claims, desk=desk))
    assert (await story.end_of_run()).status is RunStatus.SUCCESS


async def test_a_single_task_goes_to_who_has_its_label(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 1, labels=["gpu"])
    _, _, working = await story.plan(keeps=1)
    await working
    assert not story.watch.calls
    process, claims = await story.claim()
    assert claims == []
    (claim,) = await engine_store.dispatcher.claim(
        process.worker_id, [story.run.graph_id], 1, 60.0, labels=["gpu"]
    )
    assert (claim.kind, claim.attempt) == ("step", 1)
    desk = TestDesk(labels=["gpu"])
    await story.driver.work(process, attempt_of(claim, desk=desk))
    assert (await story.end_of_run()).status is RunStatus.SUCCESS
    told = await engine_store.events(story.run.thread_id)
    assert [e.event for e in told] == ["metadata"] + ["updates"] * 2


async def test_a_task_that_fails_ends_the_run_and_its_siblings(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 3)
    story.watch.hold(0)
    story.watch.fails = {2}
    _, _, planning = await story.plan(keeps=1)
    await story.watch.begun[0].wait()
    process, claims = await story.claim()
    _, working = story.begin(process, claims)
    await working
    run = await story.end_of_run()
    assert run.status is RunStatus.ERROR
    assert run.error == {"error": "ValueError", "message": "task 2 fails"}
    assert await engine_store.left_over(run.thread_id) == (0, None)
    story.watch.gates[0].set()
    await planning  # it is refused, and says nothing
    assert await engine_store.left_over(run.thread_id) == (0, None)


async def test_what_is_lost_of_a_superstep_runs_again_and_nothing_else(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 3)
    story.watch.hold(0)
    dying, _, planning = await story.plan(keeps=1)
    await story.watch.begun[0].wait()
    process, claims = await story.claim()
    _, working = story.begin(process, claims)
    await working
    planning.cancel()
    await asyncio.wait([planning])
    await story.driver.heal(dying)
    story.watch.gates[0].set()
    other, again = await story.claim()
    assert [(claim.kind, claim.attempt) for claim in again] == [("task", 2)]
    _, working = story.begin(other, again)
    await working
    assert story.watch.calls == Counter({0: 2, 1: 1, 2: 1})
    run = await story.end_of_run()
    assert (run.status, run.attempt) == (RunStatus.SUCCESS, 2)


async def test_a_task_that_kills_every_process_is_given_up(
    engine_store: EngineStore,
) -> None:
    story = await planned(engine_store, 3, keeps=1, attempts_max=2)
    process, claims = await story.claim()
    fine = [claim for claim in claims if claim.task_path != claims[0].task_path]
    _, working = story.begin(process, fine)
    await working
    for _ in range(2):
        await story.driver.heal(process)
        process, claims = await story.claim()
        assert [claim.kind for claim in claims] == ["task"]
    _, working = story.begin(process, claims)
    await working
    run = await story.end_of_run()
    assert run.status is RunStatus.ERROR
    assert "gave up after 2 attempts" in str(run.error)


async def test_a_cancelled_run_leaves_no_task_behind(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 4)
    story.watch.hold(0)
    _, attempt, planning = await story.plan(keeps=2)
    await story.watch.begun[0].wait()
    cancelled = await engine_store.runs.cancel(
        TENANT, story.run.thread_id, story.run.run_id
    )
    assert len(cancelled.activations) in {3, 4}
    assert await engine_store.left_over(story.run.thread_id) == (0, None)
    attempt.stop.request(StopReason.CANCELLED)
    await planning
    assert (await story.end_of_run()).status is RunStatus.INTERRUPTED


async def test_a_plan_and_a_cancellation_at_once_leave_no_task_behind(
    engine_store: EngineStore,
) -> None:
    """Whichever is first, nothing of the run is left."""
    for _ in range(10):
        story = await story_of(engine_store, 6)
        _, _, planning = await story.plan(keeps=2)
        await asyncio.gather(
            planning,
            engine_store.runs.cancel(TENANT, story.run.thread_id, story.run.run_id),
        )
        assert await engine_store.left_over(story.run.thread_id) == (0, None)


async def test_a_drained_process_gives_its_tasks_back_uncounted(
    engine_store: EngineStore,
) -> None:
    story = await story_of(engine_store, 3)
    story.watch.hold(0, 1)
    _, attempt, planning = await story.plan(keeps=2)
    await story.watch.begun[1].wait()
    attempt.stop.request(StopReason.DRAIN)
    await planning
    _, claims = await story.claim()
    assert [(claim.kind, claim.attempt) for claim in claims] == [("task", 1)] * 3


@pytest.mark.parametrize("leaves", [True, False])
async def test_a_process_that_wants_to_leave_takes_no_more(
    engine_store: EngineStore, *, leaves: bool
) -> None:
    story = await planned(engine_store, 4, keeps=1)
    process, claims = await story.claim(1)

    async def more(of: Superstep, n: int) -> Sequence[Claim]:
        return await story.driver.claim(process, n, of)

    desk = TestDesk(tasks_at_once=1, claims=more, leaving=lambda: leaves)
    await story.driver.work(process, attempt_of(*claims, desk=desk))
    assert len(story.watch.calls) == (2 if leaves else 4)
