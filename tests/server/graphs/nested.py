"""A graph inside a graph."""

import operator
from collections.abc import Callable
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    """Who was here."""

    path: Annotated[list[str], operator.add]


def node(name: str) -> Callable[[State], dict]:
    def visit(state: State) -> dict:
        return {"path": [name]}

    return visit


def deep(state: State) -> dict:
    if "ask" in state["path"]:
        interrupt("go on?")
    return {"path": ["deep"]}


inner = StateGraph(State)
inner.add_node("deep", deep)
inner.add_edge(START, "deep")
inner.add_edge("deep", END)

outer = StateGraph(State)
outer.add_node("first", node("first"))  # type: ignore[arg-type]  # made at run time
outer.add_node("inner", inner.compile())
outer.add_edge(START, "first")
outer.add_edge("first", "inner")
outer.add_edge("inner", END)
graph = outer.compile()
