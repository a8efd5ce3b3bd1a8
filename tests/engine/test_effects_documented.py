"""The page about side effects says what is: its code runs, its words are the code's."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import START, StateGraph

import threadmill
from tests.engine.effect_graphs import OUTCOME, Receiver, Story
from tests.engine.engine_store import EngineStore
from threadmill.domain.run import RunStatus
from threadmill.engine.effects import KEY_CHARACTERS_MAX, OnUnknown
from threadmill.testing.process import FaultKind

pytestmark = pytest.mark.langgraph

_DOCS = Path(__file__).parents[2] / "docs"
PAGE = (_DOCS / "how-to" / "side-effects.md").read_text("utf-8")
REFERENCE = (_DOCS / "reference" / "nodes.md").read_text("utf-8")


class Order(TypedDict, total=False):
    """What the page's nodes work on."""

    amount: int
    text: str
    receipt: Any


class _Outside:
    """The page's bank and its mail."""

    def __init__(self) -> None:
        self.receiver = Receiver()

    async def charge(self, amount: int, *, idempotency_key: str) -> Any:
        return {"amount": amount, "receipt": self.receiver.take(idempotency_key)}

    async def send(self, text: str, *, idempotency_key: str) -> None:
        assert text
        self.receiver.take(idempotency_key)


class _OldBank:
    def __init__(self, receiver: Receiver) -> None:
        self.charge = receiver.take


def _code() -> tuple[dict[str, Any], Receiver]:
    """Everything that the page's Python defines, and who is called by it."""
    outside = _Outside()
    names: dict[str, Any] = {
        "bank": outside,
        "mail": outside,
        "old_bank": _OldBank(outside.receiver),
    }
    for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE):
        exec(block, names)  # noqa: S102  # the page's own code
    return names, outside.receiver


def _order(node: Any) -> Any:
    builder: Any = StateGraph(Order)
    builder.add_node("charge", node)
    builder.add_edge(START, "charge")
    return builder.compile()


@pytest.mark.parametrize("name", ["charge", "charge_blocking", "notify"])
async def test_the_pages_nodes_work(engine_store: EngineStore, name: str) -> None:
    names, receiver = _code()
    story = Story(engine_store, _order(names[name]))
    ended = await story.turn(input={"amount": 12, "text": "hello"})
    assert ended.run.status is RunStatus.SUCCESS, ended.run.error
    assert len(receiver.calls) == 1


async def test_a_call_that_was_refused_is_made_again(
    engine_store: EngineStore,
) -> None:
    names, receiver = _code()
    receiver.error = ConnectionRefusedError("not there")

    async def node(_: Order) -> Any:
        receipt = await threadmill.effect("charge", names["charge_or_not"])
        return {"receipt": receipt}

    story = Story(engine_store, _order(node))
    ended = await story.turn(input={"amount": 12})
    assert ended.run.error is not None
    assert ended.run.error["error"] == "EffectNotDone"
    receiver.error = None
    assert (await story.turn(input=None)).run.status is RunStatus.SUCCESS


async def test_the_question_is_the_pages_and_so_are_its_answers(
    engine_store: EngineStore,
) -> None:
    shown, retry, outcome = [
        json.loads(text)
        for block in re.findall(r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
        for text in (block.splitlines() if block.startswith('{"') else [block])
    ]
    for answer, calls in ((retry, 2), (outcome, 1)):
        receiver = Receiver()
        story = Story.of(engine_store, charge=receiver.node("ask", key="charge"))
        await story.killed(OUTCOME, FaultKind.KILL_BEFORE)
        (question,) = await story.questions()
        assert list(question) == list(shown)
        same = ("effect", "node")
        assert [question[k] for k in same] == [shown[k] for k in same]
        ended = await story.turn(command=answer)
        assert ended.run.status is RunStatus.SUCCESS
        assert len(receiver.calls) == calls


def test_every_choice_and_every_name_is_documented() -> None:
    for page in (PAGE, REFERENCE):
        assert set(re.findall(r'`"(fail|retry|ask)"`', page)) == set(OnUnknown)
        for name in set(threadmill.__all__) - {
            "PostgresSaver",
            "RedisSaver",
            "__version__",
        }:
            assert name in page
    assert f"1 to {KEY_CHARACTERS_MAX} characters" in REFERENCE
