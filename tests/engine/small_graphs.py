"""Small graphs for tests of one activation."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel


class Steps(TypedDict, total=False):
    """Which nodes have run."""

    steps: Annotated[list[str], operator.add]
    value: Any


def step(name: str) -> Any:
    """A node that leaves its name."""

    async def node(state: Steps) -> Any:
        return {"steps": [name]}

    return node


def row(**nodes: Any) -> Pregel:
    """Nodes one after the other."""
    return compiled(nodes)


def compiled(nodes: Mapping[str, Any], **options: Any) -> Pregel:
    """The same, with options of `compile`."""
    builder: Any = StateGraph(Steps)
    before = START
    for name, node in nodes.items():
        builder.add_node(name, node)
        builder.add_edge(before, name)
        before = name
    graph: Pregel = builder.compile(**options)
    return graph
