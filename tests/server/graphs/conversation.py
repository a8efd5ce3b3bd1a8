"""Three nodes over a pydantic state: the conversation of the demo."""

from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel


class State(BaseModel):
    """What the thread remembers."""

    messages: list[dict]
    user_id: str
    turn_count: int = 0


def receive(state: State) -> dict:
    return {"turn_count": state.turn_count + 1}


def process(state: State) -> dict:
    text = state.messages[-1]["content"]
    answer = f"Turn {state.turn_count}: Processed '{text}'"
    return {"messages": [*state.messages, {"role": "assistant", "content": answer}]}


def save(state: State) -> dict:
    return {}


builder = StateGraph(State)
builder.add_node("receive", receive)
builder.add_node("process", process)
builder.add_node("save", save)
builder.add_edge(START, "receive")
builder.add_edge("receive", "process")
builder.add_edge("process", "save")
builder.add_edge("save", END)
graph = builder.compile()
