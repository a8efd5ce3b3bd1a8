"""Graphs that the saver's tests run."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel


class Conversation(BaseModel):
    """A pydantic state without reducers."""

    messages: list[dict[str, str]]
    user_id: str
    turn_count: int = 0


def conversation() -> StateGraph[Any]:
    """A chain: receive (turn + 1) -> process (an answer) -> save (nothing)."""

    def receive(state: Conversation) -> dict[str, Any]:
        return {"turn_count": state.turn_count + 1}

    def process(state: Conversation) -> dict[str, Any]:
        last = state.messages[-1]["content"]
        answer = f"Turn {state.turn_count}: Processed '{last}'"
        message = {"role": "assistant", "content": answer}
        return {"messages": [*state.messages, message]}

    def save(state: Conversation) -> dict[str, Any]:
        return {}

    builder = StateGraph(Conversation)
    builder.add_sequence([receive, process, save])
    builder.add_edge(START, "receive")
    builder.add_edge("save", END)
    return builder


class Log(TypedDict):
    """A state that grows."""

    items: Annotated[list[str], operator.add]


def nested() -> StateGraph[Any]:
    """A parent around a subgraph that keeps a history of its own."""

    def inner(state: Log) -> dict[str, Any]:
        return {"items": [f"inner saw {len(state['items'])}"]}

    child = StateGraph(Log)
    child.add_node("inner", inner)
    child.add_edge(START, "inner")

    def outer(state: Log) -> dict[str, Any]:
        return {"items": ["outer"]}

    parent = StateGraph(Log)
    parent.add_node("outer", outer)
    parent.add_node("child", child.compile(checkpointer=True))
    parent.add_edge(START, "outer")
    parent.add_edge("outer", "child")
    return parent


def asking() -> StateGraph[Any]:
    """Two tasks at once, one of which asks a human twice."""

    def ask(state: Log) -> dict[str, Any]:
        first = interrupt("first?")
        second = interrupt("second?")
        return {"items": [f"asked {first} {second}"]}

    def work(state: Log) -> dict[str, Any]:
        return {"items": ["worked"]}

    def end(state: Log) -> Command[Any]:
        return Command(update={"items": ["ended"]})

    builder = StateGraph(Log)
    builder.add_node("ask", ask)
    builder.add_node("work", work)
    builder.add_node("end", end)
    builder.add_edge(START, "ask")
    builder.add_edge(START, "work")
    builder.add_edge(["ask", "work"], "end")
    return builder


def _append(state: list[str], updates: list[list[str]]) -> list[str]:
    return [*state, *(item for update in updates for item in update)]


class DeltaLog(TypedDict):
    """A state whose list is rebuilt from writes, a snapshot every fourth."""

    items: Annotated[list[str], DeltaChannel(_append, snapshot_frequency=4)]
    notes: Annotated[list[str], DeltaChannel(_append, snapshot_frequency=100)]
    turn: int


def delta() -> StateGraph[Any]:
    """One node that adds to both lists, and two that run at once."""

    def one(state: DeltaLog) -> dict[str, Any]:
        turn = state.get("turn", 0) + 1
        return {"items": [f"one {turn}"], "turn": turn}

    def left(state: DeltaLog) -> dict[str, Any]:
        return {"items": ["left"], "notes": ["left"]}

    def right(state: DeltaLog) -> dict[str, Any]:
        return {"items": ["right"]}

    builder = StateGraph(DeltaLog)
    for node in (one, left, right):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "one")
    builder.add_edge("one", "left")
    builder.add_edge("one", "right")
    return builder
