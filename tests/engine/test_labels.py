"""What a worker must have to run a node."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel

from tests.engine.small_graphs import Steps
from threadmill.engine.activation.places import labels_of
from threadmill.errors import GraphFailed


def _graph(node: Any, *labels: str, metadata: Any = None) -> Pregel:
    builder = StateGraph(Steps)
    given = {"labels": list(labels)} if metadata is None else metadata
    builder.add_node("node", node, metadata={"threadmill": given})
    builder.add_edge(START, "node")
    return builder.compile()


async def _plain(state: Steps) -> Steps:
    return state


def test_a_node_needs_what_its_metadata_says() -> None:
    assert labels_of(_graph(_plain, "gpu", "eu"), "node") == ["eu", "gpu"]
    assert labels_of(_graph(_plain), "node") == []


def test_a_node_that_is_a_graph_needs_what_that_graphs_nodes_need() -> None:
    innermost = _graph(_plain, "gpu")
    assert labels_of(_graph(_graph(innermost, "ssd"), "eu"), "node") == [
        "eu",
        "gpu",
        "ssd",
    ]


def test_a_node_that_calls_a_graph_needs_what_that_graphs_nodes_need() -> None:
    inner = _graph(_plain, "gpu")

    async def calls(state: Steps) -> Any:
        return await inner.ainvoke(state)

    assert labels_of(_graph(calls), "node") == ["gpu"]


@pytest.mark.parametrize("metadata", ["gpu", {"label": ["gpu"]}, {"labels": "a b"}])
def test_metadata_of_another_form_is_refused(metadata: Any) -> None:
    with pytest.raises(GraphFailed, match="node 'node'"):
        labels_of(_graph(_graph(_plain, metadata=metadata)), "node")
