"""The same conversation for several clients at once: each sends only its new message.

`messages` has a reducer, so that what a run writes is added to what is there. Runs of
one thread are carried out one after another, in the order in which they were accepted;
so no message is lost and none overwrites another.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any

from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel


class State(BaseModel):
    """What the thread remembers between turns."""

    messages: Annotated[list[dict[str, Any]], operator.add]
    user_id: str
    turn_count: int = 0


def receive(state: State) -> dict[str, Any]:
    """Counts the turn."""
    return {"turn_count": state.turn_count + 1}


def process(state: State) -> dict[str, Any]:
    """Answers the last message: adds one, and leaves the others alone."""
    said = state.messages[-1]["content"]
    answer = f"Turn {state.turn_count}: Processed '{said}'"
    return {"messages": [{"role": "assistant", "content": answer}]}


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
