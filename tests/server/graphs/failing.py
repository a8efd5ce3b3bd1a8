"""Raises in its second node."""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    """How far it came."""

    reached: str


def first(state: State) -> dict:
    return {"reached": "first"}


def second(state: State) -> dict:
    msg = "the second node always fails"
    raise ValueError(msg)


builder = StateGraph(State)
builder.add_node("first", first)
builder.add_node("second", second)
builder.add_edge(START, "first")
builder.add_edge("first", "second")
builder.add_edge("second", END)
graph = builder.compile()
