"""What is read back is what LangGraph's own saver would return."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.types import Overwrite

from tests.fixtures.savers import NewSaver
from threadmill.checkpoints.known import Memory


class Shelf(list):
    """An heir of list."""


@pytest.fixture
def ours(new_saver: NewSaver) -> Iterator[Any]:
    with new_saver() as saver:
        yield saver


def _put_both(savers: Any, thread: str, values: dict[str, Any], number: int) -> None:
    for saver in savers:
        checkpoint = empty_checkpoint()
        checkpoint["id"] = f"c{number:04}"
        checkpoint["channel_values"] = values
        versions: Any = dict.fromkeys(values, number + 1)
        checkpoint["channel_versions"] = versions
        parent = {"checkpoint_id": f"c{number - 1:04}"} if number else {}
        config: Any = {
            "configurable": {"thread_id": thread, "checkpoint_ns": "", **parent}
        }
        saver.put(config, checkpoint, {"step": number}, versions)


def _typed(value: Any) -> Any:
    """With the type of everything in it: 1 is not True, a heir of list not a list."""
    if isinstance(value, list):
        return type(value), [_typed(item) for item in value]
    if isinstance(value, dict):
        return type(value), [(key, _typed(item)) for key, item in value.items()]
    return type(value), value


def _history(saver: Any, thread: str) -> list[Any]:
    config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    return [
        (found.checkpoint["id"], _typed(found.checkpoint["channel_values"]))
        for found in saver.list(config)
    ]


def _same(ours: Any, states: list[dict[str, Any]]) -> None:
    """Puts these states one after the other, here and there, and compares all."""
    theirs, thread = InMemorySaver(), str(uuid4())
    for number, values in enumerate(states):
        _put_both((ours, theirs), thread, values, number)
    assert _history(ours, thread) == _history(theirs, thread)


_LONG: list[Any] = [
    {"n": n, "text": f"{n} " + "word " * 20, "deep": {"tags": [n]}} for n in range(90)
]


def _nested(items: list[Any]) -> list[Any]:
    items[17]["deep"]["tags"].append("edited")
    return items


def _slot(items: list[Any]) -> list[Any]:
    items[40] = {"n": "other"}
    return items


@pytest.mark.parametrize(
    "change",
    [
        _nested,
        _slot,
        lambda items: items[:30] + items[31:],
        lambda items: [*items, {"n": "new"}],
        lambda items: [{"n": "first"}, *items],
        lambda items: items[::-1],
        lambda items: sorted(items, key=lambda item: item["n"] % 7),
        lambda items: [items[0]] * 50 + items,
        lambda items: [items, items],
        lambda _: [],
        lambda _: None,
        tuple,
        lambda items: {"items": items},
        lambda _: "text " * 200,
        Shelf,
        lambda items: [Shelf(items)],
        lambda items: [None, b"bytes", bytearray(b"more"), (1, 2), {3}, *items],
        lambda items: [*items, "huge " * 200_000],
        lambda items: [*items, [], [[]], {}],
        lambda _: list(range(5000)),
        lambda _: b"bytes" * 200,
        lambda _: bytearray(b"bytes" * 200),
    ],
    ids=[
        "nested edit",
        "replaced",
        "removed",
        "appended",
        "put before",
        "turned",
        "sorted",
        "the same object again",
        "a list of lists",
        "empty",
        "none",
        "a tuple",
        "a dictionary",
        "a text",
        "an heir of list",
        "an heir of list inside",
        "items of any type",
        "a huge item",
        "empty items",
        "many items",
        "bytes",
        "a bytearray",
    ],
)
def test_every_kind_of_change_reads_back(
    ours: Any, change: Callable[[list[Any]], Any]
) -> None:
    """There, further, and back."""
    changed = change(copy.deepcopy(_LONG))
    states = [{"items": _LONG}, {"items": changed}, {"items": _LONG, "more": changed}]
    _same(ours, [*states, {"items": changed, "more": _LONG}, {}])


def test_a_list_changed_in_place_is_looked_at_again(ours: Any) -> None:
    """The same object, with other content, is another value."""
    theirs, thread = InMemorySaver(), str(uuid4())
    items = copy.deepcopy(_LONG)
    for number in range(6):
        items[number * 11]["deep"]["tags"].append(number)
        _put_both((ours, theirs), thread, {"items": items}, number)
    assert _history(ours, thread) == _history(theirs, thread)


# ------------------------------------------------------------------------ by property

_SMALL = st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=5)
_ITEM = st.recursive(
    _SMALL | st.binary(max_size=5) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=5,
)
_VALUE = st.lists(_ITEM, max_size=4) | _ITEM | st.text(min_size=200, max_size=300)
_STEP = st.fixed_dictionaries(
    {
        "channel": st.sampled_from(["a", "b", "c"]),
        "how": st.sampled_from(
            ["append", "append", "edit", "take", "put", "turn", "set", "drop", "empty"]
        ),
        "at": st.integers(0, 200),
        "items": st.lists(_ITEM, max_size=3),
        "times": st.integers(1, 40),
        "value": _VALUE,
        "before": st.sampled_from(["", "", "", "forget", "read", "prune"]),
    }
)


def _next(state: dict[str, Any], step: dict[str, Any]) -> dict[str, Any]:
    channel, how = step["channel"], step["how"]
    found = state.get(channel)
    items = list(found) if isinstance(found, list) else []
    at, new = min(step["at"], len(items)), step["items"] * step["times"]
    if how == "drop":
        return {name: value for name, value in state.items() if name != channel}
    value = {
        "append": [*items, *new],
        "edit": [*items[:at], *new[:1], *items[at + 1 :]],
        "take": [*items[:at], *items[at + step["times"] :]],
        "put": [*items[:at], *new, *items[at:]],
        "turn": items[::-1],
        "set": step["value"],
        "empty": [],
    }[how]
    return {**state, channel: value}


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(_STEP, min_size=1, max_size=12))
def test_any_sequence_of_states_reads_back(
    ours: Any, steps: list[dict[str, Any]]
) -> None:
    """Also when the process has forgotten, has read, or the thread was pruned."""
    theirs, thread = InMemorySaver(), str(uuid4())
    state: dict[str, Any] = {}
    kept = 0
    for number, step in enumerate(steps):
        if step["before"] == "forget":
            ours._checkpoints.memory = Memory()
        elif step["before"] == "read":
            ours._checkpoints.memory = Memory()
            ours.get_tuple({"configurable": {"thread_id": thread}})
        elif step["before"] == "prune":
            ours.prune([thread])
            kept = max(0, number - 1)
        state = _next(state, step)
        _put_both((ours, theirs), thread, state, number)
    expected = _history(theirs, thread)
    assert _history(ours, thread) == expected[: len(steps) - kept]


# ------------------------------------------------------------------- through LangGraph


class Conversation(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[str], operator.add]
    change: str


def _message(number: int) -> AnyMessage:
    kind = HumanMessage if number % 2 else AIMessage
    return kind(f"message {number} " + "word " * 20, id=f"m{number}")


def _act(state: Conversation) -> dict[str, Any]:
    messages = state.get("messages", [])
    said = {"log": [state["change"] * 100]}
    if state["change"] == "begin":
        return {"messages": [_message(n) for n in range(40)], **said}
    if state["change"] == "in place":
        messages[3].content = "edited in place"
        messages[4].additional_kwargs["deep"] = {"er": [1]}
        return {"messages": [], **said}
    changes: dict[str, Any] = {
        "append": [_message(100), _message(101)],
        "replace": [HumanMessage("replaced", id="m7")],
        "remove": [RemoveMessage(id=str(m.id)) for m in messages[9:30:11]],
        "remove and append": [RemoveMessage(id=str(messages[-1].id)), _message(200)],
        "remove all": [RemoveMessage(id=REMOVE_ALL_MESSAGES), _message(300)],
        "overwrite": Overwrite([_message(n) for n in (5, 4, 3)]),
        "overwrite with nothing": Overwrite([]),
    }
    return {"messages": changes[state["change"]], **said}


@pytest.mark.langgraph
@pytest.mark.parametrize(
    "change",
    [
        "append",
        "in place",
        "replace",
        "remove",
        "remove and append",
        "remove all",
        "overwrite",
        "overwrite with nothing",
    ],
)
def test_a_graph_s_history_is_the_same_as_over_langgraph_s_saver(
    ours: Any, change: str
) -> None:
    builder: Any = StateGraph(Conversation)
    builder.add_node("act", _act)
    builder.add_edge(START, "act")
    histories = []
    for saver in (ours, InMemorySaver(serde=JsonPlusSerializer())):
        graph = builder.compile(checkpointer=saver)
        config: Any = {"configurable": {"thread_id": str(uuid4())}}
        for turn in ("begin", change, "begin", change):
            # Puts in the background would see what later nodes change in place.
            graph.invoke({"change": turn}, config, durability="sync")
        histories.append([s.values for s in graph.get_state_history(config)])
    assert histories[0] == histories[1]
