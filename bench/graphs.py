"""The graph that every contender runs: three nodes over a pydantic state."""

from __future__ import annotations

from typing import Any

from langgraph.graph import START, StateGraph
from pydantic import BaseModel


class Conversation(BaseModel):
    """What the turns of one thread add up to."""

    messages: list[dict[str, Any]]
    user_id: str
    turn_count: int = 0


def receive(state: Conversation) -> dict[str, Any]:
    """Counts the turn."""
    return {"turn_count": state.turn_count + 1}


def process(state: Conversation) -> dict[str, Any]:
    """Answers the last message."""
    last = state.messages[-1]["content"]
    answer = f"Turn {state.turn_count}: Processed '{last}'"
    return {"messages": [*state.messages, {"role": "assistant", "content": answer}]}


def save(state: Conversation) -> dict[str, Any]:  # noqa: ARG001
    """Does nothing."""
    return {}


builder = StateGraph(Conversation)
builder.add_node("receive", receive)
builder.add_node("process", process)
builder.add_node("save", save)
builder.add_edge(START, "receive")
builder.add_edge("receive", "process")
builder.add_edge("process", "save")

graph = builder.compile()

INPUT = {"messages": [{"role": "user", "content": "Hello"}], "user_id": "bench"}
