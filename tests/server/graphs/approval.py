"""Asks a human before it goes on."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    """What is asked and answered."""

    request: str
    decision: str
    done: bool


def ask(state: State) -> dict:
    return {"decision": interrupt({"approve": state["request"]})}


def act(state: State) -> dict:
    return {"done": True}


builder = StateGraph(State)
builder.add_node("ask", ask)
builder.add_node("act", act)
builder.add_edge(START, "ask")
builder.add_edge("ask", "act")
builder.add_edge("act", END)
graph = builder.compile()
