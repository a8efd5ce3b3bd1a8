"""Tells what its factory was told: why it is called, and of which context."""

from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph_sdk.runtime import ServerRuntime


class State(TypedDict, total=False):
    """What was told."""

    access: str
    context: Any


def graph(runtime: ServerRuntime) -> Any:
    """A graph for one use."""
    running = runtime.execution_runtime

    def tell(state: State) -> State:
        context = None if running is None else running.context
        return {"access": runtime.access_context, "context": context}

    builder = StateGraph(State)
    builder.add_node("tell", tell)
    builder.add_edge(START, "tell")
    builder.add_edge("tell", END)
    return builder
