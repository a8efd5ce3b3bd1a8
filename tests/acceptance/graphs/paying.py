"""A graph with two effects, whose calls begin like nodes do: in the ledger.

The first one may be told to wait; its name there ends with what it does when in doubt.
What a call leads to tells the process that made it.
"""

from __future__ import annotations

import os
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph
from ledger import Ledger, begin  # type: ignore[import-not-found]  # beside this file

import threadmill


def pay(_: Ledger, config: RunnableConfig) -> dict[str, Any]:
    """Blocks in its effect."""
    on_unknown = config["configurable"]["on_unknown"]

    def call(key: str) -> str:
        begin(f"pay {on_unknown}", config)
        return f"{key} by {os.getpid()}"

    return {"steps": [threadmill.effect_sync("pay", call, on_unknown=on_unknown)]}


async def tell(_: Ledger, config: RunnableConfig) -> dict[str, Any]:
    """Awaits its effect."""
    on_unknown = config["configurable"]["on_unknown"]

    async def call(key: str) -> str:
        begin("tell", config)
        return f"{key} by {os.getpid()}"

    return {"steps": [await threadmill.effect("tell", call, on_unknown=on_unknown)]}


builder: Any = StateGraph(Ledger)
builder.add_node("pay", pay)
builder.add_node("tell", tell)
builder.add_edge(START, "pay")
builder.add_edge("pay", "tell")

graph = builder.compile()
