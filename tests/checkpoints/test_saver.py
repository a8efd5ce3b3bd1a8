"""Our savers under plain LangGraph, without a server."""

from __future__ import annotations

import asyncio
import time
import types
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.base import id as checkpoint_ids
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from tests.checkpoints import graphs
from tests.fixtures.savers import NewSaver
from threadmill.checkpoints.interface import StoreSaver as Saver
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.saver import PostgresSaver
from threadmill.drivers.postgres.database import Database
from threadmill.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    SchemaOutdated,
    SetupError,
    StateUnserializable,
)
from threadmill.testing.checkpoints import checkpoint

pytestmark = pytest.mark.langgraph


def thread(name: str | None = None) -> Any:
    return {"configurable": {"thread_id": name or str(uuid4())}}


@pytest.fixture
async def saver(new_saver: NewSaver) -> AsyncIterator[Saver]:
    async with new_saver() as opened:
        yield opened


def said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


# ------------------------------------------------------------------- conversations


async def test_a_conversation_goes_on_over_turns(saver: Saver) -> None:
    graph = graphs.conversation().compile(checkpointer=saver)
    config = thread("any text may name a thread")
    await graph.ainvoke({"messages": [said("Hello")], "user_id": "u"}, config)
    state = (await graph.aget_state(config)).values
    messages = [*state["messages"], said("Continue")]
    state = await graph.ainvoke({"messages": messages}, config)
    assert state["turn_count"] == 2
    assert len(state["messages"]) == 4
    assert state["messages"][-1]["content"] == "Turn 2: Processed 'Continue'"


class Clock:
    """LangGraph's clock for checkpoint ids, which a test may set back."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.seconds_behind = 0.0
        shim = types.SimpleNamespace(time_ns=self._time_ns)
        monkeypatch.setattr(checkpoint_ids, "time", shim)

    def _time_ns(self) -> int:
        return time.time_ns() - round(self.seconds_behind * 1e9)

    def another_process(self, seconds_behind: float) -> None:
        """From now on ids are made as a process with this clock makes them."""
        self.seconds_behind = seconds_behind
        self._monkeypatch.setattr(checkpoint_ids, "_last_v6_timestamp", None)


async def test_a_process_whose_clock_is_behind_loses_no_turn(
    saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LangGraph's own savers take the turn before for the latest."""
    clock = Clock(monkeypatch)
    graph = graphs.conversation().compile(checkpointer=saver)
    config = thread()
    messages: list[dict[str, str]] = []
    for turn, behind in enumerate((0.0, 10.0, 20.0), start=1):
        clock.another_process(behind)
        messages = [*messages, said(f"{turn}")]
        sent = {"messages": messages, "user_id": "u"}
        messages = (await graph.ainvoke(sent, config))["messages"]
        state = (await graph.aget_state(config)).values
        assert (state["turn_count"], len(state["messages"])) == (turn, 2 * turn)
    history = [s async for s in graph.aget_state_history(config)]
    ids = [s.config["configurable"]["checkpoint_id"] for s in history]
    parents = [s.parent_config for s in history]
    assert [p and p["configurable"]["checkpoint_id"] for p in parents] == [
        *ids[1:],
        None,
    ]
    assert ids != sorted(ids, reverse=True)


async def test_a_subgraph_keeps_its_history_under_a_clock_that_is_behind(
    saver: Saver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    graph = graphs.nested().compile(checkpointer=saver)
    config = thread()
    states = []
    for behind in (0.0, 10.0, 20.0):
        clock.another_process(behind)
        states.append(await graph.ainvoke({"items": ["in"]}, config))
    clock.another_process(0.0)
    plain = graphs.nested().compile(checkpointer=InMemorySaver())
    assert states == [await plain.ainvoke({"items": ["in"]}, config) for _ in range(3)]
    inner: Any = {"configurable": {**config["configurable"], "checkpoint_ns": "child"}}
    found = [t async for t in saver.alist(inner)]
    steps = [t.metadata["step"] for t in found]
    assert steps == sorted(steps, reverse=True)
    head = await saver.aget_tuple(inner)
    assert head is not None
    assert head.checkpoint["id"] == found[0].checkpoint["id"]


# ------------------------------------- the same as LangGraph's own saver in memory


async def _everything(graph: Any, config: Any) -> list[Any]:
    """All that a history shows, without ids and times."""
    return [
        (
            snapshot.values,
            snapshot.next,
            snapshot.metadata["source"],
            snapshot.metadata["step"],
            [
                (t.name, t.error, [i.value for i in t.interrupts])
                for t in snapshot.tasks
            ],
        )
        async for snapshot in graph.aget_state_history(config)
    ]


async def _asked_and_answered(saver: Any) -> list[Any]:
    graph, config = graphs.asking().compile(checkpointer=saver), thread()
    seen = [await graph.ainvoke({"items": ["in"]}, config)]
    for answer in ("one", "two"):
        seen.append((await graph.aget_state(config)).tasks[0].interrupts[0].value)
        seen.append(await graph.ainvoke(Command(resume=answer), config))
    for step in seen:
        if isinstance(step, dict):
            step.pop("__interrupt__", None)
    return [seen, await _everything(graph, config)]


async def _forked_and_updated(saver: Any) -> list[Any]:
    graph, config = graphs.conversation().compile(checkpointer=saver), thread()
    for text in ("one", "two"):
        await graph.ainvoke({"messages": [said(text)], "user_id": "u"}, config)
    history = [s async for s in graph.aget_state_history(config)]
    past = next(s for s in history if s.next == ("process",))
    seen = [await graph.ainvoke(None, past.config)]
    fork = await graph.aupdate_state(past.config, {"messages": [said("other")]})
    seen.append(await graph.ainvoke(None, fork))
    await graph.aupdate_state(config, {"turn_count": 7}, as_node="receive")
    seen.append((await graph.aget_state(config)).next)
    return [seen, await _everything(graph, config)]


async def _replayed_inside_a_subgraph(saver: Any) -> list[Any]:
    graph, config = graphs.nested().compile(checkpointer=saver), thread()
    for _ in range(3):
        await graph.ainvoke({"items": ["in"]}, config)
    history = [s async for s in graph.aget_state_history(config)]
    before = [s.config for s in history if s.next == ("child",)]
    seen = [await graph.ainvoke(None, past) for past in before]
    return [seen, await _everything(graph, config)]


async def _rebuilt_from_deltas(saver: Any) -> list[Any]:
    graph, config = graphs.delta().compile(checkpointer=saver), thread()
    seen = []
    for turn in range(6):
        sent = {"items": [f"in {turn}"]}
        seen.append(await graph.ainvoke(sent, config, durability="sync"))
    await graph.aupdate_state(config, {"items": ["updated"]}, as_node="one")
    seen.append((await graph.aget_state(config)).values)
    return [seen, await _everything(graph, config)]


@pytest.mark.parametrize(
    "story",
    [
        _asked_and_answered,
        _forked_and_updated,
        _replayed_inside_a_subgraph,
        _rebuilt_from_deltas,
    ],
)
async def test_a_story_ends_as_it_does_in_memory(saver: Saver, story: Any) -> None:
    assert await story(saver) == await story(InMemorySaver())


# ------------------------------------------------------------------ delta channels


async def test_the_history_of_delta_channels_is_that_of_the_base_class(
    saver: Saver,
) -> None:
    """In pages and with few round trips, but the same."""
    graph, config = graphs.delta().compile(checkpointer=saver), thread()
    for turn in range(15):
        await graph.ainvoke({"items": [f"in {turn}"]}, config, durability="sync")
    channels = ["items", "notes", "turn", "unknown"]
    async for found in saver.alist(config):
        asked: Any = {"config": found.config, "channels": channels}
        quick = await saver.aget_delta_channel_history(**asked)
        slow = await BaseCheckpointSaver.aget_delta_channel_history(saver, **asked)
        assert quick == slow
    head = await saver.aget_delta_channel_history(config=config, channels=channels)
    assert len(head["notes"]["writes"]) == 15
    nothing = await saver.aget_delta_channel_history(config=thread(), channels=["a"])
    assert nothing == {"a": {"writes": []}}


async def test_pruning_keeps_what_delta_channels_are_rebuilt_from(
    saver: Saver,
) -> None:
    graph, config = graphs.delta().compile(checkpointer=saver), thread()
    other = thread()
    for turn in range(9):
        await graph.ainvoke({"items": [f"in {turn}"]}, config, durability="sync")
        await graph.ainvoke({"items": [f"in {turn}"]}, other, durability="sync")
    before = (await graph.aget_state(config)).values
    stored = len([t async for t in saver.alist(config)])
    await saver.aprune([config["configurable"]["thread_id"]])
    kept = [t async for t in saver.alist(config)]
    assert (await graph.aget_state(config)).values == before
    assert kept[-1].parent_config is None
    # `notes` has no snapshot yet, so nothing of its history may go.
    assert len(kept) == stored
    assert len([t async for t in saver.alist(other)]) == stored
    await graph.ainvoke({"items": ["on"]}, config, durability="sync")
    after = (await graph.aget_state(config)).values
    assert after["items"] == [*before["items"], "on", "one 10", "left", "right"]


# ------------------------------------------------------------- threads, runs, lists


async def _put(saver: Saver, config: Any, name: str, **meta: Any) -> Any:
    config = {"configurable": {"checkpoint_ns": "", **config["configurable"]}}
    metadata: Any = {"source": "loop", "step": 0, "parents": {}, **meta}
    return await saver.aput(config, checkpoint(name, name=name), metadata, {})


async def test_deleting_a_run_takes_the_thread_back_to_where_it_was(
    saver: Saver,
) -> None:
    """Its checkpoints, what it wrote elsewhere, and the head."""
    config = thread()
    first, second = str(uuid4()), str(uuid4())
    one = await _put(saver, config, "c1", run_id=first)
    two = await _put(saver, one, "c2", run_id=second)
    three = await _put(saver, two, "c3", run_id="a name, no id")
    await saver.adelete_for_runs(["a name, no id"])
    head = await saver.aget_tuple(config)
    assert head is not None
    assert head.checkpoint["id"] == "c2"
    assert await saver.aget_tuple(three) is None
    await saver.adelete_for_runs([first])
    head = await saver.aget_tuple(config)
    assert head is not None
    assert (head.checkpoint["id"], head.parent_config) == ("c2", None)
    await saver.adelete_for_runs([second])
    assert await saver.aget_tuple(config) is None


async def test_a_copy_goes_its_own_way(saver: Saver) -> None:
    graph = graphs.conversation().compile(checkpointer=saver)
    source, target = thread(), thread()
    names = [c["configurable"]["thread_id"] for c in (source, target)]
    await graph.ainvoke({"messages": [said("one")], "user_id": "u"}, source)
    await saver.acopy_thread(*names)
    await graph.ainvoke({"messages": [said("two")]}, target)
    assert (await graph.aget_state(source)).values["turn_count"] == 1
    assert (await graph.aget_state(target)).values["turn_count"] == 2
    with pytest.raises(AlreadyExists, match="has checkpoints already"):
        await saver.acopy_thread(*names)


async def test_pruning_refuses_what_it_does_not_know(saver: Saver) -> None:
    with pytest.raises(InvalidRequest, match="keep_latest"):
        await saver.aprune(["t"], strategy="keep_some")
    with pytest.raises(InvalidRequest, match="thread_ids must be a list"):
        await saver.aprune("12", strategy="delete")
    with pytest.raises(InvalidRequest, match="run_ids must be a list"):
        await saver.adelete_for_runs("12")


async def test_a_list_without_a_thread_is_over_all_threads(
    saver: Saver,
) -> None:
    configs = [thread(), thread(), thread()]
    for n, config in enumerate(configs):
        await _put(saver, config, f"c{n}", odd=bool(n % 2))
    found = [t.config async for t in saver.alist(None)]
    assert [c["configurable"]["checkpoint_id"] for c in found] == ["c2", "c1", "c0"]
    assert {c["configurable"]["thread_id"] for c in found} == {
        c["configurable"]["thread_id"] for c in configs
    }
    found = [t.config async for t in saver.alist(None, filter={"odd": True})]
    assert [c["configurable"]["checkpoint_id"] for c in found] == ["c1"]


async def test_a_config_with_an_id_lists_that_checkpoint(saver: Saver) -> None:
    config = thread()
    one = await _put(saver, config, "c1")
    await _put(saver, one, "c2")
    assert [t.checkpoint["id"] async for t in saver.alist(one)] == ["c1"]
    with pytest.raises(NotFound):
        _ = [t async for t in saver.alist(config, before=thread() | _id("c9"))]


def _id(checkpoint_id: str) -> dict[str, Any]:
    return {"configurable": {"checkpoint_id": checkpoint_id}}


async def test_metadata_takes_along_what_langgraph_keeps_of_the_config(
    saver: Saver,
) -> None:
    config = thread()
    run_id = str(uuid4())
    config["metadata"] = {"user\x00": "a\x00b", "run_id": run_id, "object": object()}
    config["configurable"]["__secret"] = "token"
    config["configurable"]["model"] = "m1"
    config["configurable"]["checkpoint_ns"] = ""
    metadata: Any = {"source": "loop", "step": 1, "parents": {"a": "\x00"}}
    await saver.aput(config, checkpoint("c1"), metadata, {})
    found = await saver.aget_tuple(config)
    assert found is not None
    assert found.metadata == {
        "source": "loop",
        "step": 1,
        "parents": {"a": ""},
        "user": "ab",
        "run_id": run_id,
        "model": "m1",
    }


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("thread_id", [7, UUID(int=1), b"t", ["t"]])
async def test_a_thread_id_that_is_no_string_is_refused(
    saver: Saver, thread_id: Any
) -> None:
    """LangGraph makes it one for `invoke`; whoever calls the saver does not."""
    config: Any = {"configurable": {"thread_id": thread_id}}
    with pytest.raises(InvalidRequest, match="thread_id must be a string, not "):
        await saver.aget_tuple(config)
    with pytest.raises(InvalidRequest, match="must be a string"):
        await saver.adelete_thread(thread_id)


@pytest.mark.parametrize(
    ("configurable", "message"),
    [
        ({}, "names no thread"),
        ({"thread_id": ""}, "thread_id is empty"),
        ({"thread_id": "a\x00"}, "NUL"),
        ({"thread_id": "a", "checkpoint_ns": 1}, "checkpoint_ns must be a string"),
        ({"thread_id": "a", "checkpoint_id": UUID(int=1)}, "checkpoint_id must be"),
    ],
)
async def test_a_config_that_names_nothing_is_refused(
    saver: Saver, configurable: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        await saver.aget_tuple({"configurable": configurable})


async def test_a_state_that_cannot_be_stored_ends_the_run_by_name(
    saver: Saver,
) -> None:
    graph = graphs.conversation().compile(checkpointer=saver)
    sent: Any = {"messages": [{"role": object()}], "user_id": "u"}
    with pytest.raises(StateUnserializable, match=r"'object'"):
        await graph.ainvoke(sent, thread(), durability="sync")


# -------------------------------------------------------------- tenants, serializer


async def test_tenants_do_not_see_each_other(saver: Saver, new_saver: NewSaver) -> None:
    config = thread()
    await _put(saver, config, "c1")
    async with new_saver(tenant="other") as other:
        assert await other.aget_tuple(config) is None
        assert [t async for t in other.alist(None)] == []
        await other.adelete_thread(config["configurable"]["thread_id"])
        await other.aprune([config["configurable"]["thread_id"]], strategy="delete")
    assert await saver.aget_tuple(config) is not None


async def test_a_saver_over_a_shared_database_neither_opens_nor_migrates_it(
    database: Database,
) -> None:
    saver = PostgresSaver(PostgresCheckpoints(database))
    assert await saver.aget_tuple(thread()) is None
    assert await asyncio.to_thread(saver.get_tuple, thread()) is None
    with pytest.raises(SetupError, match="from_conn_string"):
        await saver.asetup()
    with pytest.raises(SetupError, match="from_conn_string"):
        async with saver:
            pass


async def test_a_missing_schema_names_the_command(postgres_uri: str) -> None:
    async with PostgresSaver.from_conn_string(postgres_uri) as saver:
        with pytest.raises(SchemaOutdated, match="threadmill migrate"):
            await saver.aget_tuple(thread())
