"""An input's checkpoint names the lists that nobody has had since they were read.

All others are looked at: only their content tells what a node has changed in place.
"""

from __future__ import annotations

from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages

from threadmill.checkpoints.base import Commit, Put
from threadmill.checkpoints.codec import Codec
from threadmill.checkpoints.configs import untouched
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.saver import PostgresSaver
from threadmill.checkpoints.upkeep import Upkeep
from threadmill.drivers.postgres.database import Database
from threadmill.testing.checkpoints import checkpoint, put

TENANT = "default"
LONG = [f"{number} {'word ' * 20}" for number in range(100)]


class Looks(JsonPlusSerializer):
    """Counts how often a long list is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.long = 0

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        self.long += isinstance(obj, list) and len(obj) > 10
        return super().dumps_typed(obj)


class Chat(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    edits: int


def _answer(_: Chat) -> dict[str, Any]:
    return {"messages": [AIMessage("an answer")]}


def _edit(state: Chat) -> dict[str, Any]:
    # In place: LangGraph gives the messages no new version.
    state["messages"][3].content = "seen"
    return {"edits": 1}


def _graph(saver: PostgresSaver) -> Any:
    builder: Any = StateGraph(Chat)
    builder.add_node("answer", _answer)
    builder.add_node("edit", _edit)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", "edit")
    return builder.compile(checkpointer=saver)


@pytest.fixture
def looks() -> Looks:
    return Looks()


@pytest.fixture
def here(database: Database, looks: Looks) -> PostgresCheckpoints:
    return PostgresCheckpoints(database, Codec(looks))


@pytest.fixture
def there(database: Database) -> PostgresCheckpoints:
    return PostgresCheckpoints(database)


def _input(checkpoint_id: str, parent: str, **values: Any) -> Put:
    made = put(checkpoint_id, parent, metadata={"source": "input"}, **values)
    fresh = untouched(made.checkpoint, made.metadata, {"__start__": 2})
    return Put(made.ns, made.checkpoint, made.metadata, parent, untouched=fresh)


async def _messages(store: PostgresCheckpoints, thread: str) -> Any:
    found = await store.get(TENANT, thread, "")
    assert found is not None
    return found.checkpoint["channel_values"]["messages"]


async def test_a_turn_looks_at_a_conversation_once_per_superstep(
    here: PostgresCheckpoints, looks: Looks
) -> None:
    graph = _graph(PostgresSaver(here))
    config = {"configurable": {"thread_id": str(uuid4())}}
    many = [HumanMessage(f"{number} {'word ' * 20}") for number in range(50)]
    await graph.aupdate_state(config, {"messages": many}, as_node="answer")
    looks.long = 0
    await graph.ainvoke({"messages": [HumanMessage("hello")]}, config)
    assert looks.long == 3
    found = (await graph.aget_state(config)).values["messages"]
    assert [len(found), found[3].content] == [52, "seen"]


async def test_an_untouched_list_reads_back(
    here: PostgresCheckpoints, looks: Looks
) -> None:
    thread = str(uuid4())
    await here.commit(TENANT, thread, Commit(puts=(put("c1", messages=LONG),)))
    looks.long = 0
    asked = _input("c2", "c1", messages=LONG, __start__="hello")
    await here.commit(TENANT, thread, Commit(puts=(asked,)))
    assert looks.long == 0
    assert await _messages(here, thread) == LONG


async def test_a_parent_that_is_not_known_tells_nothing(
    here: PostgresCheckpoints, there: PostgresCheckpoints, looks: Looks
) -> None:
    """What the process knows is of another checkpoint."""
    thread = str(uuid4())
    await here.commit(TENANT, thread, Commit(puts=(put("c1", messages=LONG[:50]),)))
    await there.commit(TENANT, thread, Commit(puts=(put("c2", "c1", messages=LONG),)))
    looks.long = 0
    asked = _input("c3", "c2", messages=LONG)
    await here.commit(TENANT, thread, Commit(puts=(asked,)))
    assert looks.long == 1
    assert await _messages(there, thread) == LONG


async def test_chunks_that_are_gone_are_sent_with_an_input_too(
    here: PostgresCheckpoints, there: PostgresCheckpoints
) -> None:
    thread = str(uuid4())
    await here.commit(TENANT, thread, Commit(puts=(put("c1", messages=LONG),)))
    other = put("c2", "c1", messages=["short"])
    await there.commit(TENANT, thread, Commit(puts=(other,)))
    await Upkeep(there).prune(TENANT, [thread])
    asked = _input("c3", "c1", messages=LONG)
    await here.commit(TENANT, thread, Commit(puts=(asked,)))
    assert await _messages(there, thread) == LONG


def test_only_an_input_leaves_channels_untouched() -> None:
    made = checkpoint("c1", messages=LONG, question="new")
    for source in ("loop", "update", "fork"):
        assert untouched(made, {"source": source}, {}) == frozenset()
    asked = untouched(made, {"source": "input"}, {"question": 2})
    assert asked == {"messages"}
