"""A graph that asks, then calls a subgraph without awaiting it.

`ask` asks a human, unless the input has the answer; `call` blocks in a subgraph that
keeps its checkpoints.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from ledger import begin  # type: ignore[import-not-found]  # beside this file


class Nested(TypedDict, total=False):
    """What was answered, and which nodes ran."""

    answer: str
    steps: Annotated[list[str], operator.add]


def _inner(state: Nested, config: RunnableConfig) -> dict[str, Any]:
    begin("inner", config)
    return {"steps": ["inner"]}


inner_builder = StateGraph(Nested)
inner_builder.add_node("inner", _inner)
inner_builder.add_edge(START, "inner")
inner = inner_builder.compile()


def ask(state: Nested, config: RunnableConfig) -> dict[str, Any]:
    """Waits for a human, then begins in earnest."""
    answer = state.get("answer") or interrupt("go on?")
    begin("ask", config)
    return {"answer": answer, "steps": ["ask"]}


def call(state: Nested, config: RunnableConfig) -> dict[str, Any]:
    """A node that blocks."""
    begin("call", config)
    return {"steps": inner.invoke({"steps": []})["steps"]}


builder = StateGraph(Nested)
builder.add_node("ask", ask)
builder.add_node("call", call)
builder.add_edge(START, "ask")
builder.add_edge("ask", "call")
graph = builder.compile()
