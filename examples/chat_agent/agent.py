"""An agent that thinks, calls a tool, and thinks again.

Each round trip between model and tool is committed: a worker that dies in between
costs no finished model call and no finished tool call.
"""

from __future__ import annotations

from typing import Any

from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from scripted_model import ScriptedModel


@tool
def multiply(a: int, b: int) -> int:
    """Multiplies two whole numbers."""
    return a * b


TOOLS = [multiply]
MODEL = ScriptedModel().bind_tools(TOOLS)


async def think(state: MessagesState) -> dict[str, Any]:
    """Asks the model what to say or which tool to call."""
    return {"messages": [await MODEL.ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("think", think)
builder.add_node("tools", ToolNode(TOOLS))
builder.add_edge(START, "think")
builder.add_conditional_edges("think", tools_condition)
builder.add_edge("tools", "think")

graph = builder.compile()
