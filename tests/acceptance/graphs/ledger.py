"""The graph that faults are tried on: it shows what was applied, and what was run.

State keeps every message in the order of application. Each node writes a line to the
file that LEDGER names when it begins, before it may wait, so that a test sees which
process runs what, how often, and can act in the middle of a node.
"""

from __future__ import annotations

import json
import operator
import os
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph

_WAIT_SECONDS_MAX = 120.0


class Ledger(TypedDict, total=False):
    """`messages` are the inputs as applied; `steps` what the nodes made of them."""

    messages: Annotated[list[str], operator.add]
    steps: Annotated[list[str], operator.add]


def begin(node: str, config: RunnableConfig) -> None:
    """Writes that a node begins, and waits if the run's config says so."""
    configurable = config["configurable"]
    line = {"node": node, "run": configurable["run_id"], "pid": os.getpid()}
    with Path(os.environ["LEDGER"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    if configurable.get("hold") == node:
        _wait_for(Path(configurable["gate"]))


def _wait_for(gate: Path) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS_MAX
    while not gate.exists():
        if time.monotonic() > deadline:
            msg = f"nobody opened {gate}"
            raise TimeoutError(msg)
        time.sleep(0.01)


def receive(state: Ledger, config: RunnableConfig) -> dict[str, Any]:
    """First of three."""
    begin("receive", config)
    return {"steps": [f"receive {state['messages'][-1]}"]}


def process(state: Ledger, config: RunnableConfig) -> dict[str, Any]:
    """Second of three."""
    begin("process", config)
    return {"steps": [f"process {state['messages'][-1]}"]}


def save(state: Ledger, config: RunnableConfig) -> dict[str, Any]:
    """Third of three."""
    begin("save", config)
    return {"steps": [f"save {state['messages'][-1]}"]}


builder = StateGraph(Ledger)
builder.add_node("receive", receive)
builder.add_node("process", process)
builder.add_node("save", save)
builder.add_edge(START, "receive")
builder.add_edge("receive", "process")
builder.add_edge("process", "save")

graph = builder.compile()
