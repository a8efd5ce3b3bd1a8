"""Graphs of every kind whose supersteps are shared run as they would undivided.

Subgraphs, interrupts and their answers, replays and forks, breakpoints, values that
no checkpoint keeps, and inputs that are odd: each task runs once, on its own input.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from langgraph.channels import UntrackedValue
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Send, interrupt

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.wide_story import (
    ALL,
    Part,
    State,
    needing,
    sends,
    state_of,
    wide,
    work_off,
)
from threadmill.domain.run import RunStatus
from threadmill.stores.records import Run
from threadmill.testing.engine import EngineDriver, TestDesk, attempt_of


class _Thread:
    """A thread, and its runs through one graph."""

    def __init__(self, store: EngineStore, graph: Any) -> None:
        self.store = store
        self.id = uuid4()
        self._graph_id = str(uuid4())
        self.driver: EngineDriver = store.driver({self._graph_id: graph})

    async def run(self, *, keeps: int = 2, **kwargs: Any) -> Run:
        """One run more, to its end, each process keeping so many tasks."""
        run = await self.driver.submit(self._graph_id, self.id, kwargs)
        run = await work_off(self.store, self.driver, run, keeps=keeps)
        assert run.status is RunStatus.SUCCESS
        return run

    async def asked(self) -> tuple[str, Mapping[int, str]]:
        """The checkpoint that waits for answers, and the interrupt of each task."""
        head = await self.store.checkpoints.get(TENANT, str(self.id), "")
        assert head is not None
        return head.checkpoint["id"], {
            value[0].value["q"]: value[0].id
            for _, channel, value in head.writes
            if channel == "__interrupt__"
        }


def _counting(calls: Counter[int], *, asks: bool = False) -> Pregel:
    async def work(part: Part) -> Any:
        calls[part["i"]] += 1
        return {"seen": [interrupt({"q": part["i"]}) if asks else part["i"]]}

    return wide(work)


# --- subgraphs and odd inputs ----------------------------------------------------


async def test_blocking_subgraphs_outlive_the_end_of_a_sibling(
    engine_store: EngineStore,
) -> None:
    """A node that calls `subgraph.invoke()` is fenced by its own task alone."""
    calls: Counter[int] = Counter()
    lock = threading.Lock()

    inner: Any = StateGraph(Part)
    inner.add_sequence([("a", lambda part: part), ("b", lambda part: part)])
    inner.add_edge(START, "a")
    subgraph = inner.compile()

    def work(part: Part) -> Any:
        with lock:
            calls[part["i"]] += 1
        for _ in range(1 + part["i"] % 3):
            subgraph.invoke({"i": part["i"]})
        return {"seen": [part["i"]]}

    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: wide(work)})
    run = await driver.submit(graph_id, uuid4(), {"input": {"n": 9}})
    for _ in range(6):
        process = driver.process()
        claims = await driver.claim(process, ALL)
        if claims:
            desk = TestDesk(tasks_at_once=8)
            await driver.work(process, attempt_of(*claims, desk=desk))
        await driver.heal(process)
    run = await engine_store.runs.get(TENANT, run.run_id)
    assert calls == Counter(range(9))
    assert (run.status, run.attempt) == (RunStatus.SUCCESS, 1)


@dataclass(eq=False)
class _Array:
    """Like an array of numpy's: its comparison is no truth value."""

    i: int

    def __eq__(self, other: object) -> Any:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


async def test_inputs_that_cannot_be_compared_can_be_shared(
    engine_store: EngineStore,
) -> None:
    async def work(part: Any) -> Any:
        return {"seen": [part["array"].i]}

    def arrays(state: State) -> list[Send]:
        return [Send("work", {"array": _Array(i)}) for i in range(state["n"])]

    thread = _Thread(engine_store, wide(work, arrays))
    await thread.run(input={"n": 5})
    assert (await state_of(engine_store, thread.id))["seen"] == list(range(5))


@pytest.mark.parametrize("n", [1, 3])
async def test_what_no_checkpoint_keeps_is_not_lost_to_a_label(
    engine_store: EngineStore, n: int
) -> None:
    """A run that would have to leave its process fails, and says why."""

    class Held(State, total=False):
        secret: Annotated[str, UntrackedValue]

    async def work(part: Part) -> Any:
        return {"seen": [part["i"]]}

    builder: Any = StateGraph(Held)
    builder.add_node("first", lambda _: {"secret": "kept"})
    builder.add_node("work", work, metadata=needing("gpu"))
    builder.add_edge(START, "first")
    builder.add_conditional_edges("first", sends, ["work"])
    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: builder.compile()})
    run = await driver.submit(graph_id, uuid4(), {"input": {"n": n}})
    run = await work_off(engine_store, driver, run)
    assert run.status is RunStatus.ERROR
    assert "secret" in str(run.error)


# --- interrupts, commands, breakpoints -------------------------------------------


@pytest.mark.parametrize("groups", [[[0, 1, 2, 3]], [[2], [0], [3], [1]]])
async def test_each_task_takes_its_own_answer(
    engine_store: EngineStore, groups: list[list[int]]
) -> None:
    """Whether the answers come together or one by one."""
    thread = _Thread(engine_store, _counting(Counter(), asks=True))
    await thread.run(input={"n": 4})
    _, ids = await thread.asked()
    for group in groups:
        await thread.run(command={"resume": {ids[i]: 10 + i for i in group}})
    state = await state_of(engine_store, thread.id)
    assert (state["seen"], state["joined"]) == ([10, 11, 12, 13], 1)


@pytest.mark.parametrize("keeps", [10, 2])
async def test_an_answer_to_an_older_checkpoint_runs_each_task_once(
    engine_store: EngineStore, keeps: int
) -> None:
    """`Command(resume=...)` where the thread has moved past, undivided and shared."""
    calls: Counter[int] = Counter()
    thread = _Thread(engine_store, _counting(calls, asks=True))
    await thread.run(input={"n": 5})
    checkpoint_id, ids = await thread.asked()
    await thread.run(command={"resume": {ids[i]: 10 + i for i in range(5)}})
    calls.clear()
    await thread.run(
        command={"resume": {ids[i]: 20 + i for i in range(5)}},
        checkpoint={"checkpoint_id": checkpoint_id},
        keeps=keeps,
    )
    assert calls == Counter(range(5))


async def test_a_command_that_goes_to_many_is_applied_once(
    engine_store: EngineStore,
) -> None:
    calls: Counter[int] = Counter()
    thread = _Thread(engine_store, _counting(calls))
    await thread.run(input={"n": 1})
    calls.clear()
    goto = [{"node": "work", "input": {"i": i}} for i in range(6)]
    await thread.run(command={"goto": goto, "update": {"seen": [99]}})
    assert calls == Counter(range(6))
    state = await state_of(engine_store, thread.id)
    assert state["seen"] == [0, 99, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("where", "node", "begun"),
    [
        ("interrupt_before", "work", False),
        ("interrupt_after", "work", True),
        ("interrupt_before", "join", True),
        ("interrupt_after", "join", True),
    ],
)
async def test_breakpoints_hold_around_a_shared_superstep(
    engine_store: EngineStore, where: str, node: str, *, begun: bool
) -> None:
    calls: Counter[int] = Counter()
    thread = _Thread(engine_store, _counting(calls))
    breaks: Any = {where: [node]}
    await thread.run(input={"n": 5}, **breaks)
    assert bool(calls) is begun
    joined = (await state_of(engine_store, thread.id)).get("joined", 0)
    assert joined == ((where, node) == ("interrupt_after", "join"))
    await thread.run(input=None, **breaks)
    assert calls == Counter(range(5))
    assert (await state_of(engine_store, thread.id))["joined"] == 1


# --- time travel -----------------------------------------------------------------


async def test_a_fork_runs_the_tasks_after_it_once_more(
    engine_store: EngineStore,
) -> None:
    calls: Counter[int] = Counter()
    thread = _Thread(engine_store, _counting(calls))
    await thread.run(input={"n": 5})
    listed = engine_store.checkpoints.list(TENANT, str(thread.id), ns="")
    history = [stored async for stored in listed]
    before = next(it for it in history if it.metadata.get("step") == 0)
    calls.clear()
    where = {"checkpoint_id": before.checkpoint["id"]}
    await thread.run(input=None, checkpoint=where)
    assert calls == Counter(range(5))


@pytest.mark.parametrize("keeps", [20, 2])
async def test_a_replay_at_a_state_update_runs_each_task_once(
    engine_store: EngineStore, keeps: int
) -> None:
    """A head that was made by hand is no fork of LangGraph's."""
    calls: Counter[int] = Counter()

    async def work(part: Part) -> Any:
        calls[part["i"]] += 1
        if part["i"] == 3:
            interrupt("?")
        return {"seen": [part["i"]]}

    graph = wide(work)
    thread = _Thread(engine_store, graph)
    where = await _updated(engine_store, graph, thread.id)
    for _ in range(2):
        calls.clear()
        await thread.run(input=None, checkpoint=where, keeps=keeps)
        assert calls == Counter(range(5))


async def _updated(
    store: EngineStore, graph: Pregel, thread_id: UUID
) -> Mapping[str, str]:
    """Says by hand that five tasks are next; returns where that is kept."""
    edited = graph.copy({"checkpointer": store.saver()})
    config: Any = {"configurable": {"thread_id": str(thread_id)}}
    await edited.aupdate_state(config, {"n": 5}, as_node=START)
    head = await store.checkpoints.get(TENANT, str(thread_id), "")
    assert head is not None
    return {"checkpoint_id": head.checkpoint["id"]}
