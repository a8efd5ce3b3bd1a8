"""Runs that fork off from the history of a thread."""

from __future__ import annotations

from typing import Any

from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel

from tests.engine.parity.flows import Trail, step
from tests.engine.parity.harness import Ledger, Saver, Scenario, Turn
from tests.engine.parity.pauses import (
    HELLO,
    Inner,
    asks,
    one_question,
    plain_row,
    resume,
)


class Kept(Trail):
    seen: str


def with_history(ledger: Ledger, saver: Saver) -> Pregel:
    """A subgraph that counts over the whole thread, for forks."""

    async def count(state: Inner) -> Any:
        ledger("count")
        return {"own": [str(len(state.get("own", [])))]}

    async def show(state: Inner) -> Any:
        ledger("show")
        return {"seen": "+".join(state["own"])}

    class Counting(Inner):
        seen: str

    inner = StateGraph(Counting)
    inner.add_node("count", count)
    inner.add_node("show", show)
    inner.add_edge(START, "count")
    inner.add_edge("count", "show")
    builder = StateGraph(Kept)
    builder.add_node("first", step(ledger, "first"))
    builder.add_node("sub", inner.compile(checkpointer=True))
    builder.add_node("last", step(ledger, "last"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "sub")
    builder.add_edge("sub", "last")
    return builder.compile(checkpointer=saver)


def beside_a_question(ledger: Ledger, saver: Saver) -> Pregel:
    """A question next to nodes that ask nothing."""
    builder = StateGraph(Trail)
    names = ("left", "ask", "right")
    for name in names:
        node = asks(ledger, name, "why?") if name == "ask" else step(ledger, name)
        builder.add_node(name, node)
        builder.add_edge(START, name)
    builder.add_node("join", step(ledger, "join"))
    builder.add_edge(list(names), "join")
    return builder.compile(checkpointer=saver)


def _after(node: str) -> Any:
    """Picks the checkpoint at which `node` is next."""
    return lambda history: next(state for state in history if node in state.next)


SCENARIOS = [
    Scenario(
        name="fork", build=plain_row, turns=[HELLO, Turn(input=None, at=_after("b"))]
    ),
    Scenario(
        name="fork-with-input",
        build=plain_row,
        turns=[HELLO, Turn(input={"trail": ["other"]}, at=_after("b")), HELLO],
    ),
    Scenario(
        name="fork-before-a-question",
        build=one_question,
        turns=[
            HELLO,
            resume("because"),
            Turn(input=None, at=_after("before")),
            resume("otherwise"),
        ],
    ),
    Scenario(
        name="fork-at-a-question",
        build=one_question,
        turns=[
            HELLO,
            resume("because"),
            Turn(command={"resume": "otherwise"}, at=_after("ask")),
        ],
        replays=True,
    ),
    Scenario(
        name="fork-beside-a-question",
        build=beside_a_question,
        turns=[
            HELLO,
            resume("because"),
            Turn(command={"resume": "otherwise"}, at=_after("ask")),
        ],
        replays=True,
    ),
    Scenario(
        name="fork-with-command",
        build=plain_row,
        turns=[
            HELLO,
            Turn(command={"update": {"trail": ["new past"]}}, at=_after("b")),
        ],
    ),
    Scenario(
        name="fork-with-history",
        build=with_history,
        turns=[HELLO, HELLO, Turn(input=None, at=_after("first")), HELLO],
    ),
    Scenario(
        name="fork-from-update",
        build=with_history,
        turns=[
            HELLO,
            Turn(update=({"trail": ["by hand"]}, "first")),
            Turn(input=None, at=_after("sub")),
        ],
        # LangGraph begins a replayed subgraph anew until the run has its first
        # checkpoint.
        exact=False,
    ),
]
