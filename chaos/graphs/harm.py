"""The graph under load: its nodes log that they begin, and some do harm when asked to.

What a message asks for is the word after its last dash. Harm that would be repeated by
whoever takes over is done once per message, but for `poison`, which kills every worker
that takes it, until the run is given up.
"""

from __future__ import annotations

import asyncio
import ctypes
import operator
import os
import random
import signal
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import get_runtime
from langgraph.types import Send

from threadmill.testing.history import HistoryLog

_FAN_WIDTH = 6
_BLOB_CHARACTERS = 5_000_000
# Beyond the lease: who renews on the loop loses it.
_BLOCK_SECONDS = 6.5
# Whoever has grown by a third of that is killed, see `chaos.memory`.
_GREED_BYTES_MAX = 600_000_000
_GREED_STEP_BYTES = 20_000_000
# How long after such harm others may still feel it.
_AFTERMATH_SECONDS = 3.0


class State(TypedDict, total=False):
    """`done` has a mark of each task; `blob` is large for one superstep."""

    messages: Annotated[list[str], operator.add]
    done: Annotated[list[str], operator.add]
    blob: str


class Part(TypedDict):
    """What a task of the fan-out gets."""

    part: int


def _log() -> HistoryLog:
    return HistoryLog(Path(os.environ["CHAOS_NODES"]), clock=time.monotonic)


def _begin(node: str, config: RunnableConfig) -> dict[str, Any]:
    """Logs the beginning; returns what the task leaves in the state."""
    info, configurable = get_runtime().execution_info, config["configurable"]
    if info is None:
        msg = "this graph runs under an engine"
        raise RuntimeError(msg)
    with _log() as log:
        where = {"thread": configurable["thread_id"], "run": configurable["run_id"]}
        log.node(node, task=info.task_id, **where)
    return {"done": [info.task_id]}


def _pause() -> float:
    return random.uniform(0.005, 0.2)


def receive(state: State, config: RunnableConfig) -> dict[str, Any]:
    """Takes the message."""
    left = _begin("receive", config)
    time.sleep(_pause())
    return left


def spread(state: State) -> list[Send] | str:
    """One task, or several at once."""
    if state["messages"][-1].endswith("-fan"):
        return [Send("part", {"part": number}) for number in range(_FAN_WIDTH)]
    return "work"


def part(state: Part, config: RunnableConfig) -> dict[str, Any]:
    """One of many."""
    left = _begin("part", config)
    time.sleep(_pause())
    return left


async def work(state: State, config: RunnableConfig) -> dict[str, Any]:
    """Works, or does what the message asks for."""
    left = _begin("work", config)
    message = state["messages"][-1]
    match message.rpartition("-")[2]:
        case "poison":
            _last_words("poison node", 0)
            os.kill(os.getpid(), signal.SIGKILL)
        case "block" if _first(message):
            time.sleep(_BLOCK_SECONDS)  # noqa: ASYNC251 - that is the fault
        case "gil" if _first(message):
            seconds = int(os.environ["CHAOS_GIL_SECONDS"])
            _last_words("node holds the GIL", seconds)
            ctypes.PyDLL(None).sleep(seconds)  # PyDLL does not release it
        case "oom" if _first(message):
            await _devour()
        case "big":
            return {**left, "blob": "x" * _BLOB_CHARACTERS}
        case _:
            await asyncio.sleep(_pause())
    return left


def _first(message: str) -> bool:
    """Whether nobody has done this message's harm yet."""
    try:
        mark = Path(os.environ["CHAOS_ONCE"], message)
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _last_words(kind: str, seconds: float) -> None:
    with _log() as log:
        now = log.now()
        until = now + seconds + (_AFTERMATH_SECONDS if seconds else 0)
        log.fault(kind, at=now, until=until, pid=os.getpid())


async def _devour() -> None:
    eaten = []
    for _ in range(_GREED_BYTES_MAX // _GREED_STEP_BYTES):
        eaten.append(b"x" * _GREED_STEP_BYTES)
        await asyncio.sleep(0.05)


def save(state: State, config: RunnableConfig) -> dict[str, Any]:
    """Ends the turn."""
    left = _begin("save", config)
    time.sleep(_pause())
    return {**left, "blob": ""}


builder = StateGraph(State)
builder.add_node("receive", receive)
builder.add_node("part", part)
builder.add_node("work", work)
builder.add_node("save", save)
builder.add_edge(START, "receive")
builder.add_conditional_edges("receive", spread, ["part", "work"])
builder.add_edge("part", "save")
builder.add_edge("work", "save")
builder.add_edge("save", END)

graph = builder.compile()
