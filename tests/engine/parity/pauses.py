"""Graphs that wait for a human, and runs that go on or follow an update."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Send, StateSnapshot, interrupt

from tests.engine.parity.flows import Trail, step
from tests.engine.parity.harness import Ledger, Saver, Scenario, Turn


def asks(ledger: Ledger, name: str, *questions: str) -> Any:
    """A node that asks its questions one after the other."""

    async def node(state: Trail) -> Any:
        ledger(name)
        return {"trail": [f"{name}: {interrupt(question)}" for question in questions]}

    return node


def _row(ledger: Ledger, saver: Saver, *nodes: tuple[str, Any], **compiled: Any) -> Any:
    builder = StateGraph(Trail)
    before = START
    for name, node in nodes:
        builder.add_node(name, node)
        builder.add_edge(before, name)
        before = name
    return builder.compile(checkpointer=saver, **compiled)


def one_question(ledger: Ledger, saver: Saver) -> Pregel:
    return _row(
        ledger,
        saver,
        ("before", step(ledger, "before")),
        ("ask", asks(ledger, "ask", "why?")),
        ("after", step(ledger, "after")),
    )


def asked_in_turn(ledger: Ledger, saver: Saver) -> Pregel:
    """Two questions of one node, and one of the next; the first two are the same."""
    return _row(
        ledger,
        saver,
        ("ask", asks(ledger, "ask", "more?", "more?")),
        ("again", asks(ledger, "again", "more?")),
        ("after", step(ledger, "after")),
    )


def asked_at_once(ledger: Ledger, saver: Saver) -> Pregel:
    """Questions in parallel, next to a node that asks nothing."""
    builder = StateGraph(Trail)
    builder.add_node("left", asks(ledger, "left", "left?"))
    builder.add_node("right", asks(ledger, "right", "right?", "really?"))
    builder.add_node("plain", step(ledger, "plain"))
    builder.add_node("join", step(ledger, "join"))
    for name in ("left", "right", "plain"):
        builder.add_edge(START, name)
    builder.add_edge(["left", "right", "plain"], "join")
    return builder.compile(checkpointer=saver)


def asked_of_many(ledger: Ledger, saver: Saver) -> Pregel:
    """The same node several times at once, each with its question."""

    async def work(state: Trail) -> Any:
        ledger(f"work {state['n']}")
        return {"trail": [f"{state['n']}: {interrupt({'piece': state['n']})}"]}

    def scatter(state: Trail) -> list[Send]:
        return [Send("work", {"n": n}) for n in range(3)]

    builder = StateGraph(Trail)
    builder.add_node("plan", step(ledger, "plan"))
    builder.add_node("work", work)
    builder.add_node("gather", step(ledger, "gather"))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", scatter, ["work"])
    builder.add_edge("work", "gather")
    return builder.compile(checkpointer=saver)


class Inner(TypedDict, total=False):
    own: Annotated[list[str], operator.add]


def _inner_step(ledger: Ledger, name: str) -> Any:
    async def node(state: Inner) -> Any:
        ledger(name)
        return {"own": [name]}

    return node


def _inner_asks(ledger: Ledger) -> Any:
    async def node(state: Inner) -> Any:
        ledger("inner ask")
        return {"own": [interrupt("inside?")]}

    return node


def _subgraph(ledger: Ledger, checkpointer: Any = None) -> Pregel:
    builder = StateGraph(Inner)
    builder.add_node("x", _inner_step(ledger, "x"))
    builder.add_node("ask", _inner_asks(ledger))
    builder.add_node("y", _inner_step(ledger, "y"))
    builder.add_edge(START, "x")
    builder.add_edge("x", "ask")
    builder.add_edge("ask", "y")
    return builder.compile(checkpointer=checkpointer)


def asked_inside(ledger: Ledger, saver: Saver) -> Pregel:
    """A subgraph that was added as a node asks."""

    class Outer(Inner, Trail):
        pass

    builder = StateGraph(Outer)
    builder.add_node("first", step(ledger, "first"))
    builder.add_node("sub", _subgraph(ledger))
    builder.add_node("last", step(ledger, "last"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "sub")
    builder.add_edge("sub", "last")
    return builder.compile(checkpointer=saver)


def asked_inside_kept(ledger: Ledger, saver: Saver) -> Pregel:
    """The same in a subgraph that keeps its history."""

    class Outer(Inner, Trail):
        pass

    builder = StateGraph(Outer)
    builder.add_node("sub", _subgraph(ledger, checkpointer=True))
    builder.add_node("last", step(ledger, "last"))
    builder.add_edge(START, "sub")
    builder.add_edge("sub", "last")
    return builder.compile(checkpointer=saver)


def asked_in_a_call(ledger: Ledger, saver: Saver) -> Pregel:
    """A subgraph that a node calls asks; the node's code runs again."""
    inner = _subgraph(ledger)

    async def caller(state: Trail) -> Any:
        ledger("caller")
        found = await inner.ainvoke({"own": ["given"]})
        return {"trail": ["+".join(found["own"])]}

    return _row(ledger, saver, ("caller", caller), ("last", step(ledger, "last")))


def asked_of_blocking(ledger: Ledger, saver: Saver) -> Pregel:
    """The same, called from a thread."""

    def inner_step(state: Inner) -> Any:
        ledger("x")
        return {"own": ["x"]}

    def inner_ask(state: Inner) -> Any:
        ledger("inner ask")
        return {"own": [interrupt("inside?")]}

    builder = StateGraph(Inner)
    builder.add_node("x", inner_step)
    builder.add_node("ask", inner_ask)
    builder.add_edge(START, "x")
    builder.add_edge("x", "ask")
    inner = builder.compile()

    def caller(state: Trail) -> Any:
        ledger("caller")
        found = inner.invoke({"own": ["given"]})
        return {"trail": ["+".join(found["own"])]}

    return _row(ledger, saver, ("caller", caller), ("last", step(ledger, "last")))


def functional(ledger: Ledger, saver: Saver) -> Pregel:
    @task
    async def prepare(n: int) -> int:
        ledger("prepare")
        return n + 1

    @task
    async def conclude(answer: str) -> str:
        ledger("conclude")
        return answer.upper()

    @entrypoint(checkpointer=saver)
    async def whole(given: dict[str, int]) -> Any:
        ledger("whole")
        n = await prepare(given["n"])
        return {"n": n, "said": await conclude(interrupt("go on?"))}

    return whole


def plain_row(ledger: Ledger, saver: Saver) -> Pregel:
    return _row(ledger, saver, *[(name, step(ledger, name)) for name in "abc"])


def with_breakpoints(ledger: Ledger, saver: Saver) -> Pregel:
    return _row(
        ledger,
        saver,
        *[(name, step(ledger, name)) for name in "abcd"],
        interrupt_before=["b"],
        interrupt_after=["c"],
    )


def _by_id(**answers: str) -> Any:
    """Answers by the interrupts' ids, of which the client knows the questions."""

    def answer(state: StateSnapshot) -> Any:
        known = {str(question): id_ for id_, question in _questions(state)}
        return {known[q.replace("_", "?")]: text for q, text in answers.items()}

    return answer


def _all_by_id(text: str) -> Any:
    return lambda state: {id_: f"{text} {q}" for id_, q in _questions(state)}


def _questions(state: StateSnapshot) -> Sequence[tuple[str, Any]]:
    return [(i.id, i.value) for task in state.tasks for i in task.interrupts]


HELLO = Turn(input={"trail": ["hello"]})
_GO_ON = Turn(input=None)


def resume(answer: Any) -> Turn:
    return Turn(command={"resume": answer})


SCENARIOS = [
    Scenario(name="asks", build=one_question, turns=[HELLO, resume("because"), HELLO]),
    Scenario(
        name="asks-by-id",
        build=one_question,
        turns=[HELLO, Turn(answer=_by_id(why_="because"))],
    ),
    Scenario(
        name="asks-new-input-instead",
        build=one_question,
        turns=[HELLO, HELLO, resume("because")],
    ),
    Scenario(
        name="asks-resume-and-update",
        build=one_question,
        turns=[
            HELLO,
            Turn(command={"resume": "because", "update": {"trail": ["by command"]}}),
        ],
    ),
    Scenario(
        name="asks-in-turn",
        build=asked_in_turn,
        turns=[HELLO, resume("one"), resume("two"), resume("three")],
    ),
    Scenario(
        name="asks-in-turn-same-answer",
        build=asked_in_turn,
        turns=[HELLO, resume("yes"), resume("yes"), resume("yes")],
    ),
    Scenario(
        name="asks-at-once",
        build=asked_at_once,
        turns=[
            HELLO,
            resume("ambiguous"),
            Turn(answer=_by_id(left_="l")),
            Turn(answer=_by_id(right_="r")),
            resume("really"),
        ],
    ),
    Scenario(
        name="asks-at-once-all",
        build=asked_at_once,
        turns=[HELLO, Turn(answer=_all_by_id("to")), resume("really")],
    ),
    Scenario(
        name="asks-many",
        build=asked_of_many,
        turns=[HELLO, Turn(answer=_all_by_id("to"))],
    ),
    Scenario(
        name="asks-inside",
        build=asked_inside,
        turns=[HELLO, resume("in")],
        exact_when_away=False,
    ),
    Scenario(
        name="asks-inside-kept",
        build=asked_inside_kept,
        turns=[HELLO, resume("in"), HELLO, resume("in again")],
        exact_when_away=False,
    ),
    Scenario(
        name="asks-in-a-call",
        build=asked_in_a_call,
        turns=[HELLO, resume("in")],
        exact_when_away=False,
    ),
    Scenario(
        name="asks-in-a-blocking-call",
        build=asked_of_blocking,
        turns=[HELLO, resume("in")],
        exact=False,
    ),
    Scenario(
        name="asks-functional",
        build=functional,
        turns=[Turn(input={"n": 1}), resume("sure")],
    ),
    Scenario(
        name="resume-nothing", build=plain_row, turns=[HELLO, resume("for nothing")]
    ),
    Scenario(
        name="break-compiled", build=with_breakpoints, turns=[HELLO, _GO_ON, _GO_ON]
    ),
    Scenario(
        name="break-before-all",
        build=plain_row,
        turns=[
            Turn(input={"trail": ["hello"]}, interrupt_before="*"),
            Turn(input=None, interrupt_before="*"),
            _GO_ON,
        ],
    ),
    Scenario(
        name="break-after-all",
        build=plain_row,
        turns=[
            Turn(input={"trail": ["hello"]}, interrupt_after="*"),
            Turn(input=None, interrupt_after="*"),
            _GO_ON,
        ],
    ),
    Scenario(
        name="break-at-the-limit",
        build=plain_row,
        turns=[
            Turn(
                input={"trail": ["hello"]},
                interrupt_before=["c"],
                config={"recursion_limit": 2},
            ),
            Turn(
                input={"trail": ["hello"]},
                interrupt_after=["b"],
                config={"recursion_limit": 2},
            ),
        ],
    ),
    Scenario(
        name="break-update-go-on",
        build=plain_row,
        turns=[
            Turn(input={"trail": ["hello"]}, interrupt_before=["b"]),
            Turn(update=({"trail": ["by hand"]}, None)),
            _GO_ON,
        ],
    ),
    Scenario(
        name="update-as-node",
        build=plain_row,
        turns=[HELLO, Turn(update=({"trail": ["by hand"]}, "a")), _GO_ON],
    ),
    Scenario(
        name="update-first",
        build=plain_row,
        turns=[Turn(update=({"n": 5}, "b")), _GO_ON],
    ),
    Scenario(
        name="command-update",
        build=plain_row,
        turns=[HELLO, Turn(command={"update": {"trail": ["by command"]}})],
    ),
    Scenario(
        name="command-goto",
        build=plain_row,
        turns=[
            HELLO,
            Turn(command={"goto": "b", "update": {"trail": ["by command"]}}),
            Turn(command={"goto": [{"node": "c", "input": {"n": 1}}, "b"]}),
        ],
    ),
]
