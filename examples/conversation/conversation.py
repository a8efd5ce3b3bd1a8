"""A conversation over a pydantic state: receive, process, save.

The graph is compiled without a checkpointer. Threadmill keeps the state: each turn may
be served by another server and another worker, and finds what the last one left.
"""

from __future__ import annotations

from typing import Any

from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel


class State(BaseModel):
    """What the thread remembers between turns.

    A client sends `messages` and `user_id` only. `turn_count` is the graph's own: what
    a turn does not send keeps its value.
    """

    messages: list[dict[str, Any]]
    user_id: str
    turn_count: int = 0


def receive(state: State) -> dict[str, Any]:
    """Counts the turn."""
    return {"turn_count": state.turn_count + 1}


def process(state: State) -> dict[str, Any]:
    """Answers the last message; a real one would ask a model here."""
    said = state.messages[-1]["content"]
    answer = f"Turn {state.turn_count}: Processed '{said}'"
    return {"messages": [*state.messages, {"role": "assistant", "content": answer}]}


def save(_state: State) -> dict[str, Any]:
    """Does nothing: the state is saved after every node anyway."""
    return {}


builder = StateGraph(State)
builder.add_node("receive", receive)
builder.add_node("process", process)
builder.add_node("save", save)
builder.add_edge(START, "receive")
builder.add_edge("receive", "process")
builder.add_edge("process", "save")
builder.add_edge("save", END)

graph = builder.compile()
