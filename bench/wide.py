"""Graphs that a worker runs: a wide one, a long one, one that sleeps, one that talks.

Each task leaves the process that ran it, so that it can be told who shared.
"""

from __future__ import annotations

import asyncio
import operator
import os
from typing import Annotated, Any, TypedDict

from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import Send

NODES = 20


class Wide(TypedDict, total=False):
    """So many tasks, each so long; who ran them."""

    tasks: int
    seconds: float
    ran: Annotated[list[int], operator.add]


class Part(TypedDict):
    """What one task is given."""

    seconds: float


def split(state: Wide) -> list[Send]:
    """All tasks in one superstep."""
    return [Send("work", Part(seconds=state["seconds"]))] * state["tasks"]


async def work(part: Part) -> dict[str, Any]:
    """Waits, as for a model's answer."""
    await asyncio.sleep(part["seconds"])
    return {"ran": [os.getpid()]}


async def hop(state: Wide) -> dict[str, Any]:  # noqa: ARG001
    """Does nothing but say where."""
    return {"ran": [os.getpid()]}


def _wide() -> Any:
    builder: Any = StateGraph(Wide)
    builder.add_node("work", work)
    builder.add_conditional_edges(START, split, ["work"])
    return builder


def _long() -> Any:
    builder: Any = StateGraph(Wide)
    before = START
    for number in range(NODES):
        builder.add_node(f"n{number}", hop)
        builder.add_edge(before, f"n{number}")
        before = f"n{number}"
    return builder


def _sleep() -> Any:
    builder: Any = StateGraph(Wide)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    return builder


class Talk(TypedDict, total=False):
    """What is said, and how fast."""

    words: int
    pause: float


async def say(state: Talk) -> dict[str, Any]:
    """One word after the other, as a model does."""
    tell = get_stream_writer()
    for word in range(state["words"]):
        tell(f"word {word}")
        await asyncio.sleep(state["pause"])
    return {}


def _talk() -> Any:
    builder: Any = StateGraph(Talk)
    builder.add_node("say", say)
    builder.add_edge(START, "say")
    return builder


BUILDERS = {"wide": _wide(), "long": _long(), "sleep": _sleep(), "talk": _talk()}
wide = BUILDERS["wide"].compile()
long = BUILDERS["long"].compile()
sleep = BUILDERS["sleep"].compile()
talk = BUILDERS["talk"].compile()
