"""One superstep of many tasks, each of which shows who runs it; then one that joins.

`hold` in the run's config makes a node's tasks wait for a gate, as in `ledger`.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from ledger import begin  # type: ignore[import-not-found]  # beside this file


class Wide(TypedDict, total=False):
    """How many tasks, on which node; what they and the one that joins have left."""

    n: int
    on: str
    seen: Annotated[list[int], operator.add]
    joined: Annotated[int, operator.add]


class Part(TypedDict):
    """What one task is given."""

    i: int


def split(state: Wide) -> list[Send]:
    """One task for each number."""
    return [Send(state.get("on", "work"), Part(i=i)) for i in range(state["n"])]


def work(part: Part, config: RunnableConfig) -> dict[str, Any]:
    """A task that any worker may run."""
    begin("work", config)
    return {"seen": [part["i"]]}


def embed(part: Part, config: RunnableConfig) -> dict[str, Any]:
    """A task that needs a label."""
    begin("embed", config)
    return {"seen": [part["i"]]}


def join(state: Wide, config: RunnableConfig) -> dict[str, Any]:
    """Runs when all tasks have ended."""
    begin("join", config)
    return {"joined": 1}


builder: Any = StateGraph(Wide)
builder.add_node("work", work)
builder.add_node("embed", embed, metadata={"threadmill": {"labels": ["gpu"]}})
builder.add_node("join", join)
builder.add_conditional_edges(START, split, ["work", "embed"])
builder.add_edge("work", "join")
builder.add_edge("embed", "join")

graph = builder.compile()
