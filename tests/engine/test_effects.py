"""An effect happens once, or somebody is told that nobody knows.

Faults strike at each commit of a run with one effect, in async and in blocking nodes.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from langgraph.types import RetryPolicy

import threadmill
from tests.engine.effect_graphs import (
    FINISH,
    INTENT,
    OUTCOME,
    Gate,
    Receiver,
    Story,
    paying,
)
from tests.engine.engine_store import EngineStore
from tests.engine.small_graphs import Steps, row
from threadmill.domain.run import RunStatus
from threadmill.engine.activation.stop import StopReason
from threadmill.errors import (
    EffectNotDone,
    InvalidRequest,
    SetupError,
)
from threadmill.testing.engine import Ended, attempt_of
from threadmill.testing.process import Fault, FaultKind

pytestmark = pytest.mark.langgraph

_KINDS = [pytest.param("node", id="async"), pytest.param("blocking_node", id="sync")]
kinds = pytest.mark.parametrize("kind", _KINDS)
_SECONDS = 10


def _error(ended: Ended) -> str:
    assert ended.run.error is not None
    return str(ended.run.error["error"])


@kinds
@pytest.mark.parametrize("fault", list(FaultKind), ids=str)
async def test_by_default_nothing_is_called_twice_whatever_happens(
    engine_store: EngineStore, kind: str, fault: FaultKind
) -> None:
    for commit in range(1, 10):
        receiver = Receiver()
        story = Story.of(engine_store, pay=getattr(receiver, kind)())
        ended = await story.turn(Fault(fault, commit))
        assert len(receiver.calls) <= 1
        if ended.run.status is RunStatus.SUCCESS:
            assert len(receiver.calls) == 1
            assert await story.value() == "receipt 1"
        else:
            assert _error(ended) == "EffectUnknown"
            assert commit in {INTENT, OUTCOME}
        if not ended.faulted:
            assert commit > FINISH
            return
    pytest.fail("a run has more commits than the test knows of")


@kinds
@pytest.mark.parametrize("fault", list(FaultKind), ids=str)
async def test_with_retry_a_run_always_ends_well_and_every_call_has_one_key(
    engine_store: EngineStore, kind: str, fault: FaultKind
) -> None:
    for commit in range(2, FINISH + 2):
        receiver = Receiver()
        story = Story.of(engine_store, pay=getattr(receiver, kind)("retry"))
        ended = await story.turn(Fault(fault, commit))
        assert ended.run.status is RunStatus.SUCCESS
        assert len(set(receiver.calls)) == 1
        assert len(receiver.calls) <= 2
        assert await story.value() == f"receipt {len(receiver.calls)}"


@kinds
async def test_a_death_between_intent_and_outcome_is_told(
    engine_store: EngineStore, kind: str
) -> None:
    receiver = Receiver()
    story = Story.of(engine_store, pay=getattr(receiver, kind)())
    ended = await story.killed(OUTCOME)
    assert len(receiver.calls) == 1
    assert ended.run.status is RunStatus.ERROR
    assert ended.run.error is not None
    for told in ("'pay'", receiver.calls[0], "on_unknown"):
        assert told in ended.run.error["message"]


@kinds
async def test_a_death_after_the_outcome_calls_nothing_again(
    engine_store: EngineStore, kind: str
) -> None:
    receiver = Receiver()
    story = Story.of(engine_store, pay=getattr(receiver, kind)("retry"))
    ended = await story.killed(OUTCOME, FaultKind.KILL_AFTER)
    assert ended.run.status is RunStatus.SUCCESS
    assert len(receiver.calls) == 1
    assert await story.value() == "receipt 1"


@kinds
async def test_an_answer_that_was_lost_is_no_unknown_outcome(
    engine_store: EngineStore, kind: str
) -> None:
    """The database is away for a moment; the transaction is repeated as it is."""
    for commit in (INTENT, OUTCOME):
        for fault in (FaultKind.REFUSE, FaultKind.LOSE_ANSWER):
            receiver = Receiver()
            story = Story.of(engine_store, pay=getattr(receiver, kind)())
            ended = await story.turn(Fault(fault, commit))
            assert ended.faulted
            assert ended.run.status is RunStatus.SUCCESS
            assert (ended.claims, len(receiver.calls)) == (1, 1)


# --- what the function raises ---------------------------------------------------------


@kinds
async def test_an_exception_leaves_the_outcome_unknown(
    engine_store: EngineStore, kind: str
) -> None:
    receiver = Receiver(error=ConnectionError("reset"))
    story = Story.of(engine_store, pay=getattr(receiver, kind)())
    assert _error(await story.turn()) == "ConnectionError"
    receiver.error = None
    assert _error(await story.turn(input=None)) == "EffectUnknown"
    assert len(receiver.calls) == 1


@kinds
async def test_what_is_known_not_to_have_happened_is_called_again(
    engine_store: EngineStore, kind: str
) -> None:
    receiver = Receiver(error=EffectNotDone("no connection"))
    story = Story.of(engine_store, pay=getattr(receiver, kind)())
    assert _error(await story.turn()) == "EffectNotDone"
    assert [record["state"] for record in await story.records()] == ["void"]
    receiver.error = None
    ended = await story.turn(input=None)
    assert ended.run.status is RunStatus.SUCCESS
    assert len(receiver.calls) == 2
    assert len(set(receiver.calls)) == 1


@pytest.mark.parametrize(
    ("error", "on_unknown", "calls"),
    [
        (ConnectionError("reset"), "fail", 1),
        (ConnectionError("reset"), "retry", 3),
        (EffectNotDone("refused"), "fail", 3),
    ],
)
async def test_langgraphs_retries_follow_the_same_rule(
    engine_store: EngineStore, error: Exception, on_unknown: str, calls: int
) -> None:
    receiver = Receiver(error=error)
    policy = RetryPolicy(initial_interval=0.0, jitter=False, max_attempts=3)
    node: Any = receiver.node(on_unknown)
    graph = row(pay=node)
    graph.nodes["pay"].retry_policy = [policy]
    ended = await Story(engine_store, graph).turn()
    assert len(receiver.calls) == calls
    assert _error(ended) == (type(error).__name__ if calls > 1 else "EffectUnknown")


async def test_a_node_that_is_cancelled_in_the_call_leaves_it_unknown(
    engine_store: EngineStore,
) -> None:
    receiver, began = Receiver(), asyncio.Event()

    async def hangs(key: str) -> Any:
        receiver.take(key)
        began.set()
        if len(receiver.calls) == 1:
            await asyncio.sleep(3600)

    story = Story.of(engine_store, pay=paying(hangs))
    run = await story.driver.submit(
        story.graph_id, story.thread_id, {"input": {"steps": []}}
    )
    process = story.driver.process()
    (claim,) = await story.driver.claim(process)
    attempt = attempt_of(claim)
    working = asyncio.create_task(story.driver.work(process, attempt))
    await asyncio.wait_for(began.wait(), _SECONDS)
    attempt.stop.request(StopReason.DRAIN)
    await asyncio.wait_for(working, _SECONDS)
    ended = await story.driver.carry_out(run)
    assert _error(ended) == "EffectUnknown"
    assert len(receiver.calls) == 1


async def test_an_outcome_is_recorded_although_its_node_is_cancelled_meanwhile(
    engine_store: EngineStore,
) -> None:
    """Once the function has returned, only this process knows what came of it."""
    receiver, nodes = Receiver(), list[Any]()

    async def take(key: str) -> Any:
        asyncio.get_running_loop().call_soon(nodes[-1].cancel)
        return receiver.take(key)

    async def pay(state: Steps) -> Any:
        task = asyncio.current_task()
        nodes.append(task)
        if len(nodes) > 1:
            return {"value": await threadmill.effect("pay", receiver.take_async)}
        return {"value": await threadmill.effect("pay", take)}

    story = Story.of(engine_store, pay=pay)
    await story.turn()
    assert [record["state"] for record in await story.records()] == ["done"]
    assert (await story.turn(input=None)).run.status is RunStatus.SUCCESS
    assert len(receiver.calls) == 1


async def test_an_outcome_that_cannot_be_stored_is_told_and_stays_unknown(
    engine_store: EngineStore,
) -> None:
    receiver = Receiver(result=[open])
    story = Story.of(engine_store, pay=receiver.node())
    ended = await story.turn()
    assert ended.run.error is not None
    assert ended.run.error["error"] == "StateUnserializable"
    assert "effect 'pay', which has happened" in ended.run.error["message"]
    assert _error(await story.turn(input=None)) == "EffectUnknown"
    assert len(receiver.calls) == 1


@pytest.mark.parametrize("result", [None, {"a": (1, b"x")}, ["list"], 0, "\x00"])
async def test_an_outcome_is_the_same_the_first_time_and_later(
    engine_store: EngineStore, result: Any
) -> None:
    seen = []

    async def take(_: str) -> Any:
        return result

    async def pay(state: Steps) -> Any:
        seen.append(repr(await threadmill.effect("pay", take)))

    await Story.of(engine_store, pay=pay).killed(FINISH)
    assert len(seen) == 2
    assert len(set(seen)) == 1


# --- which effect it is ---------------------------------------------------------------


async def test_two_nodes_with_the_same_key_do_not_meet(
    engine_store: EngineStore,
) -> None:
    receiver = Receiver()
    story = Story.of(engine_store, a=receiver.node(), b=receiver.node())
    await story.turn()
    await story.turn()
    assert len(set(receiver.calls)) == 4


async def test_two_effects_of_a_task_are_two(engine_store: EngineStore) -> None:
    receiver = Receiver()

    async def pay(state: Steps) -> Any:
        return {
            "value": await asyncio.gather(
                *(threadmill.effect(f"pay {n}", receiver.take_async) for n in range(3))
            )
        }

    await Story.of(engine_store, pay=pay).turn()
    assert len(set(receiver.calls)) == 3


async def test_two_tenants_with_the_same_thread_do_not_meet(
    engine_store: EngineStore,
) -> None:
    receiver, thread_id = Receiver(), uuid4()
    stories = [
        Story(engine_store, row(pay=receiver.node()), tenant=tenant)
        for tenant in ("default", "other")
    ]
    for story in stories:
        story.thread_id = thread_id
        assert (await story.turn()).run.status is RunStatus.SUCCESS
    assert len(set(receiver.calls)) == 2
    assert [len(await story.records()) for story in stories] == [1, 1]


async def test_one_effect_is_not_begun_twice_at_once(
    engine_store: EngineStore,
) -> None:
    gate, receiver = Gate(), Receiver()

    async def take(key: str) -> Any:
        receiver.take(key)
        await gate.wait()

    async def pay(state: Steps) -> Any:
        first = asyncio.create_task(threadmill.effect("pay", take, on_unknown="retry"))
        await gate.reached.wait()
        with pytest.raises(InvalidRequest, match="under way"):
            await threadmill.effect("pay", take, on_unknown="retry")
        gate.open.set()
        await first

    ended = await Story.of(engine_store, pay=pay).turn()
    assert ended.run.status is RunStatus.SUCCESS, ended.run.error
    assert len(receiver.calls) == 1


async def test_a_thread_that_is_erased_takes_its_records_along(
    engine_store: EngineStore,
) -> None:
    story = Story.of(engine_store, pay=Receiver().node())
    await story.turn()
    assert len(await story.records()) == 1
    await engine_store.threads.delete(story.tenant, story.thread_id)
    assert await story.records() == []


# --- where it works -------------------------------------------------------------------


async def test_a_blocking_effect_works_on_the_event_loops_own_thread(
    engine_store: EngineStore,
) -> None:
    """An async node that calls a graph by `invoke` blocks the activation's loop."""
    receiver = Receiver()
    inner = row(pay=receiver.blocking_node())

    async def calls(state: Steps) -> Any:
        return {"value": inner.invoke({"steps": []})["value"]}

    story = Story.of(engine_store, calls=calls)
    ended = await story.turn()
    assert ended.run.status is RunStatus.SUCCESS, ended.run.error
    assert len(receiver.calls) == 1


async def test_an_effect_works_on_a_loop_of_the_nodes_own(
    engine_store: EngineStore,
) -> None:
    receiver = Receiver()

    def pay(state: Steps) -> Any:
        return asyncio.run(receiver.node()(state))

    story = Story.of(engine_store, pay=pay)
    assert (await story.turn()).run.status is RunStatus.SUCCESS
    assert [record["state"] for record in await story.records()] == ["done"]


async def test_outside_of_threadmill_it_says_so() -> None:
    receiver = Receiver()
    for graph in (row(pay=receiver.node()), row(pay=receiver.blocking_node())):
        with pytest.raises(SetupError, match="threadmill dev"):
            await graph.ainvoke({"steps": []})
    with pytest.raises(SetupError):
        await threadmill.effect("pay", receiver.take_async)
    with pytest.raises(SetupError):
        threadmill.idempotency_key()
    assert receiver.calls == []


@pytest.mark.parametrize(
    ("key", "options", "says"),
    [
        ("", {}, "1 to 512"),
        ("x" * 513, {}, "1 to 512"),
        ("\x00", {}, "NUL"),
        ("pay", {"on_unknown": "again"}, "'again'"),
    ],
)
async def test_bad_arguments_are_refused_before_anything_happens(
    engine_store: EngineStore, key: str, options: Any, says: str
) -> None:
    receiver = Receiver()

    async def pay(state: Steps) -> Any:
        await threadmill.effect(key, receiver.take_async, **options)

    ended = await Story.of(engine_store, pay=pay).turn()
    assert _error(ended) == "InvalidRequest"
    assert ended.run.error is not None
    assert says in ended.run.error["message"]
    assert receiver.calls == []


async def test_an_async_function_is_refused_in_a_blocking_effect(
    engine_store: EngineStore,
) -> None:
    receiver = Receiver()

    def pay(state: Steps) -> Any:
        take: Any = receiver.take_async
        threadmill.effect_sync("pay", take)

    story = Story.of(engine_store, pay=pay)
    assert _error(await story.turn()) == "InvalidRequest"
    assert await story.records() == []
