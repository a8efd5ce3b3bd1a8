"""The graphs of the story: the example's own, with nodes that tell where they run.

`errand` is the third one: its middle node takes its time, so that its worker can be
killed in the middle of it.
"""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any, TypedDict

import conversation as conversation_example
import inbox as inbox_example
from langgraph.graph import START, StateGraph
from story.journal import note, noted


def told(example: ModuleType) -> Any:
    """The example's graph: the same state, the same nodes in the same order."""
    nodes = [example.receive, example.process, example.save]
    builder = StateGraph(example.State)
    builder.add_sequence([(node.__name__, noted(node)) for node in nodes])
    builder.add_edge(START, "receive")
    return builder.compile()


conversation = told(conversation_example)
inbox = told(inbox_example)


class Errand(TypedDict, total=False):
    """What was prepared, dug and reported."""

    seconds: float
    found: str
    report: str


async def prepare(_state: Errand) -> Errand:
    """Comes before the slow node."""
    note("prepare")
    return {"found": "a hill"}


async def dig(state: Errand) -> Errand:
    """Takes its time."""
    note("dig")
    await asyncio.sleep(state["seconds"])
    return {"found": f"a coin in {state['found']}"}


async def report(state: Errand) -> Errand:
    """Comes after the slow node."""
    note("report")
    return {"report": f"Found {state['found']}"}


_builder = StateGraph(Errand)
_builder.add_sequence([prepare, dig, report])
_builder.add_edge(START, "prepare")
errand = _builder.compile()
