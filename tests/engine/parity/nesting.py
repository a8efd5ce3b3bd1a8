"""Graphs inside graphs: added as nodes, or called by nodes in every way."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Send

from tests.engine.parity.flows import Trail, step
from tests.engine.parity.harness import Ledger, Saver, Scenario, Turn


class Outer(Trail):
    """The outer trail, and what the inner one looked like."""

    seen: str


class Inner(TypedDict, total=False):
    """The inner trail is its own; outside only `seen` is known."""

    own: Annotated[list[str], operator.add]
    seen: str
    n: int


def _inner_node(ledger: Ledger, name: str) -> Any:
    """A node that can be awaited and called."""

    def node(state: Inner) -> Any:
        ledger(name)
        trail = [*state.get("own", []), f"{name}{state.get('n', '')}"]
        return {"own": trail[-1:], "seen": "+".join(trail)}

    return node


def _inner(ledger: Ledger, checkpointer: Any = None, names: str = "xy") -> Pregel:
    """A subgraph of nodes in a row."""
    builder = StateGraph(Inner)
    before = START
    for name in names:
        builder.add_node(name, _inner_node(ledger, name))
        builder.add_edge(before, name)
        before = name
    return builder.compile(checkpointer=checkpointer)


def _around(ledger: Ledger, saver: Saver, node: Any, *, times: int = 1) -> Pregel:
    """`first`, `again`, `node` and so on, `last`; `node` runs `times` times."""

    def more(state: Outer) -> str:
        return "again" if state.get("n", 0) < times else "last"

    async def again(state: Outer) -> Any:
        ledger("again")
        return {"n": state["n"] + 1, "trail": [state["seen"]]}

    builder = StateGraph(Outer)
    builder.add_node("first", step(ledger, "first", n=1))
    builder.add_node("node", node)
    builder.add_node("again", again)
    builder.add_node("last", step(ledger, "last"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "node")
    builder.add_conditional_edges("node", more, ["again", "last"])
    builder.add_edge("again", "node")
    builder.add_edge("last", END)
    return builder.compile(checkpointer=saver)


def static(ledger: Ledger, saver: Saver) -> Pregel:
    return _around(ledger, saver, _inner(ledger), times=2)


def static_stateful(ledger: Ledger, saver: Saver) -> Pregel:
    """A subgraph with a history of its own, entered again and again."""
    return _around(ledger, saver, _inner(ledger, checkpointer=True), times=2)


def static_stateless(ledger: Ledger, saver: Saver) -> Pregel:
    return _around(ledger, saver, _inner(ledger, checkpointer=False))


def _called(kind: str, *, checkpointer: Any = None, times: int = 1) -> Any:
    """A node that calls a subgraph: from a coroutine or a thread, awaiting or not."""

    def build(ledger: Ledger, saver: Saver) -> Pregel:
        inner = _inner(ledger, checkpointer)

        async def awaits(state: Trail) -> Any:
            ledger("caller")
            found = await inner.ainvoke({"own": ["given"], "n": state["n"]})
            return {"seen": found["seen"]}

        async def blocks(state: Trail) -> Any:
            ledger("caller")
            found = inner.invoke({"own": ["given"], "n": state["n"]})
            return {"seen": found["seen"]}

        def in_thread(state: Trail) -> Any:
            ledger("caller")
            found = inner.invoke({"own": ["given"], "n": state["n"]})
            return {"seen": found["seen"]}

        def in_thread_awaits(state: Trail) -> Any:
            ledger("caller")
            found = asyncio.run(inner.ainvoke({"own": ["given"], "n": state["n"]}))
            return {"seen": found["seen"]}

        nodes = {
            "ainvoke in async": awaits,
            "invoke in async": blocks,
            "invoke in sync": in_thread,
            "ainvoke in sync": in_thread_awaits,
        }
        return _around(ledger, saver, nodes[kind], times=times)

    return build


def twice(ledger: Ledger, saver: Saver) -> Pregel:
    """One node calls two subgraphs, and its own code runs again in between."""
    one, two = _inner(ledger), _inner(ledger, names="uv")

    async def caller(state: Trail) -> Any:
        ledger("caller")
        first = await one.ainvoke({"own": ["one"]})
        second = await two.ainvoke({"own": [first["seen"]]})
        return {"seen": second["seen"]}

    return _around(ledger, saver, caller)


def two_deep(ledger: Ledger, saver: Saver) -> Pregel:
    inner = StateGraph(Inner)
    inner.add_node("m", _inner_node(ledger, "m"))
    inner.add_node("deep", _inner(ledger))
    inner.add_node("n", _inner_node(ledger, "n"))
    inner.add_edge(START, "m")
    inner.add_edge("m", "deep")
    inner.add_edge("deep", "n")
    return _around(ledger, saver, inner.compile())


def two_deep_stateful(ledger: Ledger, saver: Saver) -> Pregel:
    inner = StateGraph(Inner)
    inner.add_node("m", _inner_node(ledger, "m"))
    inner.add_node("deep", _inner(ledger, checkpointer=True))
    inner.add_edge(START, "m")
    inner.add_edge("m", "deep")
    return _around(ledger, saver, inner.compile(checkpointer=True), times=2)


def two_deep_called(ledger: Ledger, saver: Saver) -> Pregel:
    deep = _inner(ledger)

    async def deeper(state: Trail) -> Any:
        ledger("deeper")
        found = await deep.ainvoke({"own": ["deep"]})
        return {"seen": found["seen"]}

    inner = StateGraph(Inner)
    inner.add_node("m", _inner_node(ledger, "m"))
    inner.add_node("deeper", deeper)
    inner.add_edge(START, "m")
    inner.add_edge("m", "deeper")
    middle = inner.compile()

    async def caller(state: Trail) -> Any:
        ledger("caller")
        found = await middle.ainvoke({"own": ["middle"]})
        return {"seen": found["seen"]}

    return _around(ledger, saver, caller)


def _listed(inner: Pregel, label: str) -> Any:
    """Calls a subgraph, and appends what was seen."""

    async def node(state: Inner) -> Any:
        found = await inner.ainvoke({"own": [label]})
        return {"trail": [f"{label} {found['seen']}"]}

    return node


def beside(ledger: Ledger, saver: Saver) -> Pregel:
    """Subgraphs and a plain node in one superstep."""
    builder = StateGraph(Outer)
    builder.add_node("static", _inner(ledger, names="ab"))
    builder.add_node("called", _listed(_inner(ledger, names="cde"), "called"))
    builder.add_node("plain", step(ledger, "plain"))
    builder.add_node("join", step(ledger, "join"))
    for name in ("static", "called", "plain"):
        builder.add_edge(START, name)
    builder.add_edge(["static", "called", "plain"], "join")
    return builder.compile(checkpointer=saver)


def beside_stateful(ledger: Ledger, saver: Saver) -> Pregel:
    """A subgraph with a history next to a node of the same superstep."""
    builder = StateGraph(Outer)
    builder.add_node("kept", _inner(ledger, checkpointer=True))
    builder.add_node("plain", step(ledger, "plain"))
    builder.add_node("join", step(ledger, "join"))
    builder.add_edge(START, "kept")
    builder.add_edge(START, "plain")
    builder.add_edge(["kept", "plain"], "join")
    return builder.compile(checkpointer=saver)


def sends(ledger: Ledger, saver: Saver) -> Pregel:
    """Several calls of one subgraph at once."""
    inner = _inner(ledger)

    async def piece(state: Inner) -> Any:
        found = await inner.ainvoke({"own": [f"piece {state['n']}"]})
        return {"trail": [found["seen"]]}

    def scatter(state: Trail) -> list[Send]:
        return [Send("piece", {"n": n}) for n in range(3)]

    builder = StateGraph(Trail)
    builder.add_node("plan", step(ledger, "plan"))
    builder.add_node("piece", piece)
    builder.add_node("gather", step(ledger, "gather"))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", scatter, ["piece"])
    builder.add_edge("piece", "gather")
    return builder.compile(checkpointer=saver)


_HELLO = Turn(input={"trail": ["hello"]})
_AGAIN = Turn(input={"trail": ["again"]})

SCENARIOS = [
    Scenario(name="sub", build=static, turns=[_HELLO]),
    Scenario(name="sub-stateful", build=static_stateful, turns=[_HELLO, _AGAIN]),
    Scenario(name="sub-stateless", build=static_stateless, turns=[_HELLO], exact=False),
    Scenario(
        name="sub-ainvoke-in-async", build=_called("ainvoke in async"), turns=[_HELLO]
    ),
    Scenario(
        name="sub-invoke-in-async",
        build=_called("invoke in async"),
        turns=[_HELLO],
        exact=False,
    ),
    Scenario(
        name="sub-invoke-in-sync",
        build=_called("invoke in sync"),
        turns=[_HELLO],
        exact=False,
    ),
    Scenario(
        name="sub-ainvoke-in-sync",
        build=_called("ainvoke in sync"),
        turns=[_HELLO],
        exact=False,
    ),
    Scenario(
        name="sub-called-stateful",
        build=_called("ainvoke in async", checkpointer=True, times=2),
        turns=[_HELLO],
    ),
    Scenario(
        name="sub-invoked-stateful",
        build=_called("invoke in sync", checkpointer=True, times=2),
        turns=[_HELLO],
        exact=False,
    ),
    Scenario(
        name="sub-called-stateless",
        build=_called("ainvoke in async", checkpointer=False),
        turns=[_HELLO],
        exact=False,
    ),
    Scenario(name="sub-twice", build=twice, turns=[_HELLO]),
    Scenario(name="sub-two-deep", build=two_deep, turns=[_HELLO]),
    Scenario(name="sub-two-deep-stateful", build=two_deep_stateful, turns=[_HELLO]),
    Scenario(name="sub-two-deep-called", build=two_deep_called, turns=[_HELLO]),
    Scenario(name="sub-beside", build=beside, turns=[_HELLO]),
    Scenario(name="sub-beside-stateful", build=beside_stateful, turns=[_HELLO, _AGAIN]),
    Scenario(name="sub-sends", build=sends, turns=[_HELLO]),
]
