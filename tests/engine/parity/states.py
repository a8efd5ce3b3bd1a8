"""States of every kind, and what else a graph may carry with it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels.delta import DeltaChannel
from langgraph.channels.untracked_value import UntrackedValue
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel import Pregel
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from pydantic import BaseModel

from tests.engine.parity.flows import Trail, step
from tests.engine.parity.harness import Ledger, Saver, Scenario, Turn


class Conversation(BaseModel):
    messages: list[dict[str, Any]]
    user_id: str
    turn_count: int = 0


def pydantic(ledger: Ledger, saver: Saver) -> Pregel:
    async def receive(state: Conversation) -> Any:
        ledger("receive")
        return {"turn_count": state.turn_count + 1}

    async def process(state: Conversation) -> Any:
        ledger("process")
        last = state.messages[-1]["content"]
        answer = f"Turn {state.turn_count}: Processed '{last}'"
        return {"messages": [*state.messages, {"role": "assistant", "content": answer}]}

    async def save(state: Conversation) -> Any:
        ledger("save")
        return {}

    builder = StateGraph(Conversation)
    builder.add_node("receive", receive)
    builder.add_node("process", process)
    builder.add_node("save", save)
    builder.add_edge(START, "receive")
    builder.add_edge("receive", "process")
    builder.add_edge("process", "save")
    return builder.compile(checkpointer=saver)


@dataclass
class Point:
    x: int
    label: str = ""


@dataclass
class Board:
    points: Annotated[list[Point], operator.add] = field(default_factory=list)
    best: Point | None = None


def dataclasses(ledger: Ledger, saver: Saver) -> Pregel:
    async def draw(state: Board) -> Any:
        ledger("draw")
        return {"points": [Point(len(state.points), "drawn")]}

    async def choose(state: Board) -> Any:
        ledger("choose")
        return {"best": state.points[-1]}

    builder = StateGraph(Board)
    builder.add_node("draw", draw)
    builder.add_node("choose", choose)
    builder.add_edge(START, "draw")
    builder.add_edge("draw", "choose")
    return builder.compile(checkpointer=saver)


def messages(ledger: Ledger, saver: Saver) -> Pregel:
    async def reply(state: MessagesState) -> Any:
        ledger("reply")
        last = state["messages"][-1].content
        return {"messages": [AIMessage(f"you said {last}", id=f"a{len(last)}")]}

    async def correct(state: MessagesState) -> Any:
        ledger("correct")
        last = state["messages"][-1]
        return {"messages": [AIMessage(f"{last.content}!", id=last.id)]}

    builder = StateGraph(MessagesState)
    builder.add_node("reply", reply)
    builder.add_node("correct", correct)
    builder.add_edge(START, "reply")
    builder.add_edge("reply", "correct")
    return builder.compile(checkpointer=saver)


def _extended(log: list[str], writes: Sequence[list[str]]) -> list[str]:
    return [*log, *(line for write in writes for line in write)]


class Deltas(TypedDict, total=False):
    log: Annotated[list[str], DeltaChannel(_extended, snapshot_frequency=3)]
    n: int


def deltas(ledger: Ledger, saver: Saver) -> Pregel:
    def write(name: str) -> Any:
        async def node(state: Deltas) -> Any:
            ledger(name)
            return {"log": [f"{name} after {len(state.get('log', []))}"]}

        return node

    builder = StateGraph(Deltas)
    for name in ("a", "b", "c", "d"):
        builder.add_node(name, write(name))
    builder.add_edge(START, "a")
    builder.add_edge("a", "b")
    builder.add_edge("a", "c")
    builder.add_edge(["b", "c"], "d")
    return builder.compile(checkpointer=saver)


class Untracked(Trail):
    secret: Annotated[str, UntrackedValue]


def untracked(ledger: Ledger, saver: Saver) -> Pregel:
    async def make(state: Untracked) -> Any:
        ledger("make")
        return {"secret": "s", "trail": ["made"]}

    async def use(state: Untracked) -> Any:
        ledger("use")
        return {"trail": [f"used {state.get('secret', 'nothing')}"]}

    builder = StateGraph(Untracked)
    builder.add_node("make", make)
    builder.add_node("use", use)
    builder.add_edge(START, "make")
    builder.add_edge("make", "use")
    return builder.compile(checkpointer=saver)


@dataclass
class Context:
    name: str
    times: int = 1


def context_and_store(ledger: Ledger, saver: Saver) -> Pregel:
    async def remember(state: Trail, runtime: Runtime[Context]) -> Any:
        ledger("remember")
        assert runtime.store is not None
        await runtime.store.aput(("names",), runtime.context.name, {"seen": True})
        return {"trail": [runtime.context.name] * runtime.context.times}

    def recall(state: Trail, runtime: Runtime[Context]) -> Any:
        ledger("recall")
        assert runtime.store is not None
        found = runtime.store.get(("names",), runtime.context.name)
        return {"trail": [f"known: {found is not None}"]}

    builder: Any = StateGraph(Trail, context_schema=Context)
    builder.add_node("remember", remember)
    builder.add_node("recall", recall)
    builder.add_edge(START, "remember")
    builder.add_edge("remember", "recall")
    return builder.compile(checkpointer=saver, store=InMemoryStore())


class Given(TypedDict):
    question: str


class Answered(TypedDict):
    answer: str


class Whole(Given, Answered, Trail):
    pass


def schemas(ledger: Ledger, saver: Saver) -> Pregel:
    """Input, output and state differ."""

    async def think(state: Given) -> Any:
        ledger("think")
        return {"trail": [state["question"]]}

    async def say(state: Whole) -> Any:
        ledger("say")
        return {"answer": state["trail"][-1].upper()}

    builder = StateGraph(Whole, input_schema=Given, output_schema=Answered)
    builder.add_node("think", think)
    builder.add_node("say", say)
    builder.add_edge(START, "think")
    builder.add_edge("think", "say")
    return builder.compile(checkpointer=saver)


def configured(ledger: Ledger, saver: Saver) -> Pregel:
    """A graph that was bound to a configuration, and a node that looks at its own."""

    async def look(state: Trail, config: RunnableConfig) -> Any:
        ledger("look")
        configurable = config["configurable"]
        return {
            "trail": [
                str(configurable.get("colour")),
                str(config["metadata"].get("purpose")),
                str(sorted(set(config["tags"]) & {"bound", "asked"})),
                str(config["recursion_limit"]),
            ]
        }

    builder = StateGraph(Trail)
    builder.add_node("first", step(ledger, "first"))
    builder.add_node("look", look)
    builder.add_edge(START, "first")
    builder.add_edge("first", "look")
    return builder.compile(checkpointer=saver).with_config(
        {"tags": ["bound"], "recursion_limit": 17, "metadata": {"purpose": "test"}}
    )


def nothing(ledger: Ledger, saver: Saver) -> Pregel:
    """Ends at once."""
    builder = StateGraph(Trail)
    builder.add_node("unreached", step(ledger, "unreached"))
    builder.add_conditional_edges(START, lambda _: "__end__", ["__end__", "unreached"])
    return builder.compile(checkpointer=saver)


_HELLO = Turn(input={"trail": ["hello"]})
_MESSAGE = {"messages": [{"role": "user", "content": "Hello"}], "user_id": "u"}

SCENARIOS = [
    Scenario(
        name="pydantic",
        build=pydantic,
        turns=[
            Turn(input=_MESSAGE),
            Turn(input={"messages": [{"role": "user", "content": "Continue"}]}),
        ],
    ),
    Scenario(
        name="pydantic-refuses",
        build=pydantic,
        turns=[Turn(input={"messages": "none", "user_id": 5}), Turn(input=_MESSAGE)],
        # Its error comes before LangGraph yields the values that led to it.
        same_events=False,
    ),
    Scenario(
        name="dataclass",
        build=dataclasses,
        turns=[Turn(input={"points": []}), Turn(input={"best": None})],
    ),
    Scenario(
        name="messages",
        build=messages,
        turns=[
            Turn(input={"messages": [{"role": "user", "content": text, "id": text}]})
            for text in ("hi", "there")
        ],
    ),
    Scenario(
        name="deltas",
        build=deltas,
        turns=[Turn(input={"log": ["one"]}), Turn(input={"log": ["two"], "n": 1})],
    ),
    Scenario(
        name="context-and-store",
        build=context_and_store,
        turns=[Turn(input={"trail": []}, context={"name": "ada", "times": 2})],
    ),
    Scenario(
        name="schemas", build=schemas, turns=[Turn(input={"question": "why"})] * 2
    ),
    Scenario(
        name="configured",
        build=configured,
        turns=[
            Turn(
                input={"trail": ["hello"]},
                config={"configurable": {"colour": "red"}, "tags": ["asked"]},
            )
        ],
    ),
    Scenario(name="nothing-to-do", build=nothing, turns=[_HELLO, _HELLO]),
    Scenario(
        name="empty-input", build=nothing, turns=[Turn(input={}), Turn(input=None)]
    ),
    Scenario(name="no-input", build=nothing, turns=[Turn(input=None)]),
]

# Not in the matrix: what such a channel holds is lost with its process.
UNTRACKED = Scenario(name="untracked", build=untracked, turns=[_HELLO, _HELLO])
