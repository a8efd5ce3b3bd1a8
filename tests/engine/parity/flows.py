"""Graphs of every shape: how nodes follow each other."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.managed import IsLastStep, RemainingSteps
from langgraph.pregel import Pregel
from langgraph.types import Command, Send

from tests.engine.parity.harness import Ledger, Saver, Scenario, Turn


class Trail(TypedDict, total=False):
    """Where the graph has been; `n` counts."""

    trail: Annotated[list[str], operator.add]
    n: int


class Countdown(Trail):
    """A trail that knows how many supersteps are left."""

    left: RemainingSteps
    last: IsLastStep


def step(ledger: Ledger, name: str, **update: Any) -> Any:
    """A node that leaves its name in the trail."""

    async def node(state: Trail) -> Any:
        ledger(name)
        return {"trail": [name], **update}

    return node


def blocking_step(ledger: Ledger, name: str) -> Any:
    """The same, in a thread."""

    def node(state: Trail) -> Any:
        ledger(name)
        return {"trail": [name]}

    return node


def linear(ledger: Ledger, saver: Saver) -> Pregel:
    builder = StateGraph(Trail)
    builder.add_node("a", step(ledger, "a", n=1))
    builder.add_node("b", blocking_step(ledger, "b"))
    builder.add_node("c", step(ledger, "c", n=3))
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("b", "c")
    return builder.compile(checkpointer=saver)


def loop(ledger: Ledger, saver: Saver) -> Pregel:
    async def again(state: Countdown) -> Any:
        ledger("again")
        n = state.get("n", 0) + 1
        return {"n": n, "trail": [f"{n} left {state['left']} last {state['last']}"]}

    def more(state: Countdown) -> str:
        return "again" if state["n"] % 4 else END

    builder = StateGraph(Countdown)
    builder.add_node("again", again)
    builder.add_edge(START, "again")
    builder.add_conditional_edges("again", more)
    return builder.compile(checkpointer=saver)


def endless(ledger: Ledger, saver: Saver) -> Pregel:
    async def again(state: Countdown) -> Any:
        ledger("again")
        return {"trail": [f"left {state['left']} last {state['last']}"]}

    builder = StateGraph(Countdown)
    builder.add_node("again", again)
    builder.add_edge(START, "again")
    builder.add_edge("again", "again")
    return builder.compile(checkpointer=saver)


def three(ledger: Ledger, saver: Saver) -> Pregel:
    """Ends exactly at, or one before, a small limit."""
    builder = StateGraph(Trail)
    for name in "abc":
        builder.add_node(name, step(ledger, name))
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("b", "c")
    return builder.compile(checkpointer=saver)


def conditional(ledger: Ledger, saver: Saver) -> Pregel:
    def route(state: Trail) -> list[str]:
        return ["left", "right"] if state.get("n") else ["left"]

    builder = StateGraph(Trail)
    builder.add_node("first", step(ledger, "first"))
    builder.add_node("left", step(ledger, "left"))
    builder.add_node("right", blocking_step(ledger, "right"))
    builder.add_node("join", step(ledger, "join"))
    builder.add_edge(START, "first")
    builder.add_conditional_edges("first", route, ["left", "right"])
    builder.add_edge("left", "join")
    builder.add_edge("right", "join")
    return builder.compile(checkpointer=saver)


def fan_out(ledger: Ledger, saver: Saver) -> Pregel:
    def scatter(state: Trail) -> list[Send]:
        return [Send("work", {"n": n}) for n in range(4)]

    async def work(state: Trail) -> Any:
        ledger(f"work {state['n']}")
        await asyncio.sleep(0.001 * state["n"])
        return {"trail": [f"work {state['n']}"]}

    builder = StateGraph(Trail)
    builder.add_node("plan", step(ledger, "plan"))
    builder.add_node("work", work)
    builder.add_node("gather", step(ledger, "gather"))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", scatter, ["work"])
    builder.add_edge("work", "gather")
    return builder.compile(checkpointer=saver)


def deferred(ledger: Ledger, saver: Saver) -> Pregel:
    builder = StateGraph(Trail)
    for name in ("a", "b", "b2"):
        builder.add_node(name, step(ledger, name))
    builder.add_node("last", step(ledger, "last"), defer=True)
    builder.add_edge(START, "a")
    builder.add_edge(START, "b")
    builder.add_edge("b", "b2")
    builder.add_edge("a", "last")
    builder.add_edge("b2", "last")
    return builder.compile(checkpointer=saver)


def barrier(ledger: Ledger, saver: Saver) -> Pregel:
    builder = StateGraph(Trail)
    for name in ("a", "b", "b2", "join"):
        builder.add_node(name, step(ledger, name))
    builder.add_edge(START, "a")
    builder.add_edge(START, "b")
    builder.add_edge("b", "b2")
    builder.add_edge(["a", "b2"], "join")
    return builder.compile(checkpointer=saver)


def commands(ledger: Ledger, saver: Saver) -> Pregel:
    """Nodes that say where to go; from a subgraph to its parent, too."""

    async def first(state: Trail) -> Command[Any]:
        ledger("first")
        return Command(goto="inner", update={"trail": ["first"], "n": 1})

    async def inside(state: Trail) -> Command[Any]:
        ledger("inside")
        return Command(
            goto=[Send("far", {"n": 7}), "near"],
            update={"trail": ["inside"]},
            graph=Command.PARENT,
        )

    async def far(state: Trail) -> Any:
        ledger("far")
        return {"trail": [f"far {state['n']}"]}

    inner = StateGraph(Trail)
    inner.add_node("before", step(ledger, "before"))
    inner.add_node("inside", inside)
    inner.add_edge(START, "before")
    inner.add_edge("before", "inside")
    builder = StateGraph(Trail)
    builder.add_node("first", first, destinations=("inner",))
    builder.add_node("inner", inner.compile(), destinations=("far", "near"))
    builder.add_node("far", far)
    builder.add_node("near", step(ledger, "near"))
    builder.add_edge(START, "first")
    return builder.compile(checkpointer=saver)


def functional(ledger: Ledger, saver: Saver) -> Pregel:
    @task
    async def double(n: int) -> int:
        ledger(f"double {n}")
        return 2 * n

    @task
    def add(a: int, b: int) -> int:
        ledger(f"add {a} {b}")
        return a + b

    @entrypoint(checkpointer=saver)
    async def whole(given: dict[str, int], *, previous: Any = None) -> Any:
        ledger("whole")
        first, second = await asyncio.gather(double(given["n"]), double(given["n"] + 1))
        total = await add(first, second)
        return entrypoint.final(
            value={"total": total, "previous": previous},
            save=total + (previous or 0),
        )

    return whole


def functional_sync(ledger: Ledger, saver: Saver) -> Pregel:
    @task
    def double(n: int) -> int:
        ledger(f"double {n}")
        return 2 * n

    @entrypoint(checkpointer=saver)
    def whole(given: dict[str, int]) -> Any:
        ledger("whole")
        futures = [double(n) for n in range(given["n"])]
        return {"all": [future.result() for future in futures]}

    return whole


def nothing_to_say(ledger: Ledger, saver: Saver) -> Pregel:
    """Nodes that write nothing, alone and beside others."""

    async def silent(state: Trail) -> None:
        ledger("silent")

    async def quiet(state: Trail) -> Any:
        ledger("quiet")
        return {}

    builder = StateGraph(Trail)
    builder.add_node("silent", silent)
    builder.add_node("quiet", quiet)
    builder.add_node("loud", step(ledger, "loud"))
    builder.add_node("end", quiet)
    builder.add_edge(START, "silent")
    builder.add_edge("silent", "quiet")
    builder.add_edge("silent", "loud")
    builder.add_edge(["quiet", "loud"], "end")
    return builder.compile(checkpointer=saver)


_HELLO = Turn(input={"trail": ["hello"]})
_AGAIN = Turn(input={"trail": ["again"], "n": 0})


def _limited(limit: int) -> Turn:
    return Turn(input={"trail": ["go"]}, config={"recursion_limit": limit})


SCENARIOS = [
    Scenario(name="linear", build=linear, turns=[_HELLO, _AGAIN]),
    Scenario(name="loop", build=loop, turns=[_limited(9)]),
    *[
        Scenario(name=f"endless-{n}", build=endless, turns=[_limited(n), _limited(n)])
        for n in (1, 2, 4)
    ],
    *[
        Scenario(name=f"three-in-{n}", build=three, turns=[_limited(n)])
        for n in (2, 3, 4)
    ],
    Scenario(
        name="out-of-steps-goes-on",
        build=three,
        turns=[_limited(2), Turn(input=None), _HELLO],
    ),
    Scenario(
        name="conditional",
        build=conditional,
        turns=[_HELLO, Turn(input={"n": 1})],
    ),
    Scenario(name="send", build=fan_out, turns=[_HELLO]),
    Scenario(
        name="max-concurrency",
        build=fan_out,
        turns=[Turn(input={"n": 0}, config={"max_concurrency": 1})],
    ),
    Scenario(name="defer", build=deferred, turns=[_HELLO]),
    Scenario(name="barrier", build=barrier, turns=[_HELLO]),
    Scenario(name="command", build=commands, turns=[_HELLO]),
    Scenario(name="functional", build=functional, turns=[Turn(input={"n": 1})] * 2),
    Scenario(
        name="functional-max-concurrency",
        build=functional,
        # With 1, LangGraph itself comes to a standstill.
        turns=[Turn(input={"n": 1}, config={"max_concurrency": 2})],
    ),
    Scenario(
        name="functional-sync", build=functional_sync, turns=[Turn(input={"n": 3})]
    ),
    Scenario(name="silence", build=nothing_to_say, turns=[_HELLO]),
]
