"""Shows what a node sees of its context and configuration."""

from dataclasses import dataclass
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime


@dataclass
class Context:
    """What a caller may choose."""

    model: str = "small"
    depth: int = 1


class State(TypedDict, total=False):
    """What was seen."""

    seen: dict[str, Any]
    metadata: dict[str, Any]


def look(state: State, config: RunnableConfig, runtime: Runtime[Context]) -> dict:
    shown = {
        key: value
        for key, value in config["configurable"].items()
        if not key.startswith("__")
    }
    context: Context | None = runtime.context
    return {
        "seen": {
            "context": None if context is None else vars(context),
            "configurable": shown,
            "tags": config.get("tags"),
        },
        "metadata": dict(config["metadata"]),
    }


builder = StateGraph(State, context_schema=Context)
builder.add_node("look", look)  # type: ignore[arg-type]  # config and runtime
builder.add_edge(START, "look")
builder.add_edge("look", END)
graph = builder.compile()
