"""A plain LangGraph program with only its checkpointer replaced.

No server, no worker: a graph, PostgreSQL, and `threadmill.PostgresSaver` where
LangGraph's own saver would stand. Run it with the URI of a database that may be
written to::

    DATABASE_URI=postgresql://localhost/mydb python examples/plain_langgraph.py
"""

from __future__ import annotations

import os
import sys
import uuid
from typing import TYPE_CHECKING, Any

from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel

from threadmill import PostgresSaver

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig
    from langgraph.graph.state import CompiledStateGraph


class State(BaseModel):
    """What is kept of a conversation."""

    messages: list[dict[str, str]]
    user_id: str
    turn_count: int = 0


def receive(state: State) -> dict[str, Any]:
    """Counts the turn."""
    return {"turn_count": state.turn_count + 1}


def process(state: State) -> dict[str, Any]:
    """Answers the last message."""
    last = state.messages[-1]["content"]
    answer = f"Turn {state.turn_count}: Processed '{last}'"
    return {"messages": [*state.messages, {"role": "assistant", "content": answer}]}


def save(state: State) -> dict[str, Any]:  # noqa: ARG001 - nodes take the state
    """Nothing to do: the checkpointer saves after every step."""
    return {}


def build(saver: PostgresSaver) -> CompiledStateGraph[Any]:
    """The graph: receive, process, save."""
    builder = StateGraph(State)
    builder.add_node("receive", receive)
    builder.add_node("process", process)
    builder.add_node("save", save)
    builder.add_edge(START, "receive")
    builder.add_edge("receive", "process")
    builder.add_edge("process", "save")
    builder.add_edge("save", END)
    return builder.compile(checkpointer=saver)


def main() -> None:
    """Two turns of one conversation."""
    uri = os.environ.get("DATABASE_URI")
    if not uri:
        sys.exit("set DATABASE_URI, for example postgresql://localhost/mydb")
    thread_id = f"plain-{uuid.uuid4()}"
    config: RunnableConfig = {"configurable": {"thread_id": thread_id}}
    with PostgresSaver.from_conn_string(uri) as saver:
        saver.setup()
        graph = build(saver)
        messages: list[dict[str, str]] = []
        for turn, text in enumerate(("Hello", "Continue"), start=1):
            messages = [*messages, {"role": "user", "content": text}]
            state = graph.invoke({"messages": messages, "user_id": "user-1"}, config)
            messages = state["messages"]
            print(f"Turn {turn} - Messages: {len(messages)}")
            print(f"Turn {turn} - Turn count: {state['turn_count']}")
            print(f"Turn {turn} - Last message: {messages[-1]['content']}")
        stored = len(list(saver.list(config)))
    print(f"{stored} checkpoints are stored as thread {thread_id}")


if __name__ == "__main__":
    main()
