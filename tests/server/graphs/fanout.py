"""Several tasks in one superstep; one of them asks a human."""

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt


class State(TypedDict, total=False):
    """What came back."""

    items: list[str]
    results: Annotated[list[str], operator.add]


def split(state: State) -> list[Send]:
    return [Send("work", {"item": item}) for item in state["items"]]


def work(state: Any) -> dict:
    item = state["item"]
    if item.startswith("ask"):
        item = interrupt({"about": item})
    return {"results": [item.upper()]}


builder = StateGraph(State)
builder.add_node("work", work)
builder.add_conditional_edges(START, split, ["work"])
builder.add_edge("work", END)
graph = builder.compile()
