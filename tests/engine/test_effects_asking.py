"""A human decides about an effect whose outcome nobody knows.

LangGraph knows the questions of a task by their order alone: an answer must not slip to
another question, whatever happens after it was given.
"""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.types import interrupt

import threadmill
from tests.engine.effect_graphs import INTENT, OUTCOME, Receiver, Story
from tests.engine.engine_store import EngineStore
from tests.engine.small_graphs import Steps
from threadmill.domain.run import RunStatus
from threadmill.testing.process import Fault, FaultKind

pytestmark = pytest.mark.langgraph

kinds = pytest.mark.parametrize("kind", ["node", "blocking_node"])


async def _asked(store: EngineStore, receiver: Receiver, kind: str = "node") -> Story:
    """A story whose effect has been called, and whose outcome nobody knows."""
    story = Story.of(store, pay=getattr(receiver, kind)("ask"))
    await story.killed(OUTCOME)
    assert await story.is_paused()
    assert len(receiver.calls) == 1
    return story


@kinds
async def test_the_question_says_what_a_human_needs_to_find_out(
    engine_store: EngineStore, kind: str
) -> None:
    receiver = Receiver()
    story = await _asked(engine_store, receiver, kind)
    (question,) = await story.questions()
    assert question["effect"] == "pay"
    assert question["node"] == "pay"
    assert question["idempotency_key"] == receiver.calls[0]
    assert set(question) == {"effect", "node", "idempotency_key", "when", "question"}


@kinds
async def test_told_to_retry_it_calls_again_under_the_same_key(
    engine_store: EngineStore, kind: str
) -> None:
    receiver = Receiver()
    story = await _asked(engine_store, receiver, kind)
    ended = await story.answered({"retry": True})
    assert ended.run.status is RunStatus.SUCCESS
    assert len(receiver.calls) == 2
    assert len(set(receiver.calls)) == 1
    assert await story.value() == "receipt 2"


@kinds
async def test_told_the_outcome_it_does_not_call(
    engine_store: EngineStore, kind: str
) -> None:
    receiver = Receiver()
    story = await _asked(engine_store, receiver, kind)
    ended = await story.answered({"outcome": {"receipt": 7}})
    assert ended.run.status is RunStatus.SUCCESS
    assert len(receiver.calls) == 1
    assert await story.value() == {"receipt": 7}
    assert [record["state"] for record in await story.records()] == ["done"]


@pytest.mark.parametrize(
    "answer",
    [
        "yes",
        {"retry": "true"},
        {"retry": True, "outcome": 1},
        {"outcome": 1, "more": 2},
    ],
)
async def test_an_answer_that_says_neither_is_asked_about_again(
    engine_store: EngineStore, answer: Any
) -> None:
    receiver = Receiver()
    story = await _asked(engine_store, receiver)
    await story.answered(answer)
    assert await story.is_paused()
    (question,) = [q for q in await story.questions() if "not_understood" in q]
    assert question["not_understood"] == answer
    assert (await story.answered({"outcome": 1})).run.status is RunStatus.SUCCESS
    assert len(receiver.calls) == 1
    assert await story.value() == 1


async def test_nobody_is_asked_while_nothing_is_unknown(
    engine_store: EngineStore,
) -> None:
    receiver = Receiver()
    story = Story.of(engine_store, pay=receiver.node("ask"))
    assert (await story.turn()).run.status is RunStatus.SUCCESS
    assert len(receiver.calls) == 1


def _pays_then_asks(receiver: Receiver) -> Any:
    async def pay(state: Steps) -> Any:
        receipt = await threadmill.effect("pay", receiver.take_async, on_unknown="ask")
        return {"value": [receipt, interrupt("and now?")]}

    return pay


@pytest.mark.parametrize("answer", [{"retry": True}, {"outcome": "told"}])
async def test_an_answer_does_not_slip_to_the_nodes_next_question(
    engine_store: EngineStore, answer: Any
) -> None:
    receiver = Receiver()
    story = Story.of(engine_store, pay=_pays_then_asks(receiver))
    await story.killed(OUTCOME)
    await story.answered(answer)
    assert await story.is_paused()
    assert "and now?" in await story.questions()
    assert (await story.answered("go on")).run.status is RunStatus.SUCCESS
    receipt = "told" if "outcome" in answer else "receipt 2"
    assert await story.value() == [receipt, "go on"]


@pytest.mark.parametrize("fault", list(FaultKind), ids=str)
async def test_nor_does_it_when_the_worker_dies_after_it_was_given(
    engine_store: EngineStore, fault: FaultKind
) -> None:
    for commit in range(1, 9):
        receiver = Receiver()
        story = Story.of(engine_store, pay=_pays_then_asks(receiver))
        await story.killed(OUTCOME)
        run = await story.driver.submit(
            story.graph_id, story.thread_id, {"command": {"resume": {"retry": True}}}
        )
        await story.driver.carry_out(run, Fault(fault, commit))
        calls = len(receiver.calls)
        assert await story.is_paused()
        if "and now?" not in await story.questions():
            # The second call's outcome is unknown, too: asked once more.
            assert calls <= 2
            await story.answered({"outcome": "told"})
            assert len(receiver.calls) == calls
        assert "and now?" in await story.questions()
        ended = await story.answered("go on")
        assert ended.run.status is RunStatus.SUCCESS
        value = await story.value()
        assert value[1] == "go on"
        assert value[0] in {"told", "receipt 2"}
        assert len(receiver.calls) <= 2


async def test_what_was_recorded_before_an_interrupt_holds_after_it(
    engine_store: EngineStore,
) -> None:
    """The node runs from its beginning again when the answer comes."""
    receiver = Receiver()

    async def pay(state: Steps) -> Any:
        receipt = await threadmill.effect("pay", receiver.take_async)
        return {"value": [receipt, interrupt("which?"), interrupt("really?")]}

    story = Story.of(engine_store, pay=pay)
    await story.turn()
    await story.answered("this")
    await story.answered("yes")
    assert await story.value() == ["receipt 1", "this", "yes"]
    assert len(receiver.calls) == 1


async def test_a_crash_before_the_call_asks_as_well(engine_store: EngineStore) -> None:
    """Nobody can tell it from one after the call."""
    receiver = Receiver()
    story = Story.of(engine_store, pay=receiver.node("ask"))
    await story.killed(INTENT, FaultKind.KILL_AFTER)
    assert await story.is_paused()
    assert receiver.calls == []
    await story.answered({"retry": True})
    assert len(receiver.calls) == 1
