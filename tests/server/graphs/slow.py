"""Waits until the test says that it may go on."""

import asyncio
import operator
from pathlib import Path
from typing import Annotated, TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    """The gate is a file that the test makes; `steps` counts what ran."""

    gate: str
    steps: Annotated[list[str], operator.add]


def begin(state: State) -> dict:
    return {"steps": ["begin"]}


async def wait(state: State) -> dict:
    gate = Path(state["gate"])
    gate.with_suffix(".waiting").touch()
    async with asyncio.timeout(60):
        while not gate.exists():  # noqa: ASYNC110, ASYNC240 - a file
            await asyncio.sleep(0.01)
    return {"steps": ["wait"]}


def finish(state: State) -> dict:
    return {"steps": ["finish"]}


builder = StateGraph(State)
builder.add_node("begin", begin)
builder.add_node("wait", wait)
builder.add_node("finish", finish)
builder.add_edge(START, "begin")
builder.add_edge("begin", "wait")
builder.add_edge("wait", "finish")
builder.add_edge("finish", END)
graph = builder.compile()
