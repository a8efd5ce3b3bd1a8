"""A graph that asks, then calls a subgraph without awaiting it, then waits.

`ask` asks a human; `call` blocks in a subgraph that keeps its checkpoints; `hold`
waits like the ledger's nodes do.
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


def _inner(state: Nested) -> dict[str, Any]:
    return {"steps": ["inner"]}


inner_builder = StateGraph(Nested)
inner_builder.add_node("inner", _inner)
inner_builder.add_edge(START, "inner")
inner = inner_builder.compile()


def ask(state: Nested, config: RunnableConfig) -> dict[str, Any]:
    """Waits for a human, then begins in earnest."""
    answer = interrupt("go on?")
    begin("ask", config)
    return {"answer": answer, "steps": ["ask"]}


def call(state: Nested) -> dict[str, Any]:
    """A node that blocks."""
    return {"steps": inner.invoke({"steps": []})["steps"]}


builder = StateGraph(Nested)
builder.add_node("ask", ask)
builder.add_node("call", call)
builder.add_edge(START, "ask")
builder.add_edge("ask", "call")
graph = builder.compile()
