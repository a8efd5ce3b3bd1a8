"""Asks a human before it acts, and waits as long as that takes.

While it waits, nothing runs: no process holds the question. It stands in the thread's
state, and the answer may come from anybody, through any server, next week.
"""

from __future__ import annotations

from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    """An order and what became of it."""

    order: str
    amount: int
    approved: bool
    outcome: str


def ask(state: State) -> State:
    """Asks once. The node begins anew with the answer, so nothing stands before it."""
    answer = interrupt(
        {"question": f"Pay {state['amount']} for {state['order']}?"},
    )
    return {"approved": bool(answer["approved"])}


def act(state: State) -> State:
    """Does what was decided.

    A node may run more than once, its result counts once. A real payment would pass a
    key of its own (the thread's id, say), so that its second try changes nothing.
    """
    return {"outcome": "paid" if state["approved"] else "declined"}


builder = StateGraph(State)
builder.add_node("ask", ask)
builder.add_node("act", act)
builder.add_edge(START, "ask")
builder.add_edge("ask", "act")
builder.add_edge("act", END)

graph = builder.compile()
