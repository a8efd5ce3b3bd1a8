"""Map and reduce with `Send`: one task per text, all in one superstep.

The tasks run on all workers that have room, and their results commit one by one. A
worker that dies after nine of ten texts leaves one to do: the nine are not counted
again.
"""

from __future__ import annotations

import asyncio
import operator
import os
import socket
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

SECONDS = 0.3


class State(TypedDict, total=False):
    """The texts, what was found in each, and the sum."""

    texts: list[str]
    counts: Annotated[list[dict[str, Any]], operator.add]
    total: int


class Part(TypedDict):
    """What one task is given."""

    text: str


def split(state: State) -> list[Send]:
    """One task per text."""
    return [Send("count", Part(text=text)) for text in state["texts"]]


async def count(part: Part) -> State:
    """Counts one text's words, and says where; a real one would be slow here."""
    text, here = part["text"], f"{socket.gethostname()}:{os.getpid()}"
    await asyncio.sleep(SECONDS)
    return {"counts": [{"text": text, "words": len(text.split()), "worker": here}]}


def add_up(state: State) -> State:
    """Runs once, after all tasks. Their results come in the order of the texts."""
    return {"total": sum(one["words"] for one in state["counts"])}


builder = StateGraph(State)
builder.add_node("count", count)
builder.add_node("add_up", add_up)
builder.add_conditional_edges(START, split, ["count"])
builder.add_edge("count", "add_up")
builder.add_edge("add_up", END)

graph = builder.compile()
