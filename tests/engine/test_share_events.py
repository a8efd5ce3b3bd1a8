"""What a shared superstep tells: every event of every mode once, whoever runs what."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypedDict
from uuid import uuid4

import pytest
from langchain_core.language_models import FakeListChatModel
from langgraph.cache.memory import InMemoryCache
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy, interrupt

from tests.engine.engine_store import EngineStore
from tests.engine.wide_story import (
    ALL,
    Part,
    State,
    sends,
    shape,
    state_of,
    wide,
    work_off,
)
from threadmill.domain.run import RunStatus
from threadmill.stores.records import Claim, Superstep
from threadmill.streams.base import Event
from threadmill.testing.engine import EngineDriver, TestDesk, attempt_of

_UNDIVIDED = 20
_MODES = ["values", "updates", "tasks", "debug", "checkpoints"]
_DIFFERS = re.compile(
    r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}|\d{4}-\d\d-\d\dT[\d:.+]+"
)


class _Shared:
    """One run whose tasks are shared in a certain order, and what it tells.

    Args:
        store: the ports.
        order: "planner_last" and "planner_first" say which of two processes ends the
            superstep; "one_process" claims every task that it has published itself.
        asks: whether the tasks interrupt.
        node: whether the run is handed over after every superstep.
    """

    def __init__(
        self, store: EngineStore, order: str, *, asks: bool, node: bool
    ) -> None:
        self._store, self._order, self._asks = store, order, asks
        self._begun, self._gate = asyncio.Event(), asyncio.Event()
        self._graph_id = str(uuid4())
        self._driver = store.driver({self._graph_id: wide(self._work)}, node=node)

    async def _work(self, part: Part) -> Any:
        if part["i"] == 0 and self._order == "planner_last":
            self._begun.set()
            await self._gate.wait()
        return {"seen": [interrupt({"q": part["i"]}) if self._asks else part["i"]]}

    async def told(self, keeps: int) -> Counter[tuple[str, ...]]:
        """Runs it with processes that keep so many tasks."""
        kwargs = {"input": {"n": 4}, "stream_mode": _MODES}
        run = await self._driver.submit(self._graph_id, uuid4(), kwargs)
        if keeps >= _UNDIVIDED:
            self._gate.set()
        planning = asyncio.create_task(self._plan(keeps))
        if self._order == "planner_last" and keeps < _UNDIVIDED:
            await asyncio.wait_for(self._begun.wait(), 10)
            other = self._driver.process()
            claims = await self._driver.claim(other, ALL)
            await self._driver.work(other, attempt_of(*claims))
            self._gate.set()
        await planning
        run = await work_off(self._store, self._driver, run, keeps=max(2, keeps))
        assert run.status is RunStatus.SUCCESS
        return Counter(map(shape, await self._store.events(run.thread_id)))

    async def _plan(self, keeps: int) -> None:
        process = self._driver.process()

        async def more(of: Superstep, n: int) -> Sequence[Claim]:
            if self._order != "one_process":
                return ()
            return await self._driver.claim(process, n, of)

        claims = await self._driver.claim(process)
        desk = TestDesk(tasks_at_once=keeps, claims=more)
        await self._driver.work(process, attempt_of(*claims, desk=desk))


@pytest.mark.parametrize("node", [False, True])
@pytest.mark.parametrize("order", ["planner_last", "planner_first", "one_process"])
@pytest.mark.parametrize("asks", [False, True])
async def test_a_shared_superstep_tells_what_an_undivided_one_tells(
    engine_store: EngineStore, order: str, *, asks: bool, node: bool
) -> None:
    undivided, shared = [
        await _Shared(engine_store, order, asks=asks, node=node).told(keeps)
        for keeps in (_UNDIVIDED, 1)
    ]
    assert (undivided - shared, shared - undivided) == (Counter(), Counter())


# --- subgraphs -------------------------------------------------------------------


class _Sub(TypedDict, total=False):
    i: int
    said: str


def _with_subgraphs(*, blocking: bool) -> Any:
    """Tasks that each call a subgraph; what both write is custom data and tokens."""

    def say(sub: _Sub) -> Any:
        get_stream_writer()({"custom": sub["i"]})
        return {"said": FakeListChatModel(responses=[f"ab{sub['i']}"]).invoke("x")}

    async def asay(sub: _Sub) -> Any:
        get_stream_writer()({"custom": sub["i"]})
        model = FakeListChatModel(responses=[f"ab{sub['i']}"])
        return {"said": await model.ainvoke("x")}

    inner: Any = StateGraph(_Sub)
    inner.add_node("say", say if blocking else asay)
    inner.add_edge(START, "say")
    subgraph = inner.compile()

    def work(part: Part) -> Any:
        get_stream_writer()({"outer": part["i"]})
        subgraph.invoke({"i": part["i"]})
        return {"seen": [part["i"]]}

    async def awork(part: Part) -> Any:
        get_stream_writer()({"outer": part["i"]})
        await subgraph.ainvoke({"i": part["i"]})
        return {"seen": [part["i"]]}

    return wide(work if blocking else awork)


def _nameless(event: Event) -> tuple[str, str]:
    """An event without the ids and times in it, and a message without its metadata."""
    data = json.loads(event.data)
    if "messages" in event.event and isinstance(data, list):
        data = [data[0].get("content"), data[0].get("type")]
    return _DIFFERS.sub("", event.event), _DIFFERS.sub("", json.dumps(data))


@pytest.mark.parametrize("blocking", [False, True])
async def test_subgraphs_of_shared_tasks_tell_what_those_of_undivided_ones_tell(
    engine_store: EngineStore, *, blocking: bool
) -> None:
    """Tokens, custom data and updates of subgraphs, each once."""
    told = []
    for keeps in (_UNDIVIDED, 1):
        graph_id, thread = str(uuid4()), uuid4()
        driver = engine_store.driver({graph_id: _with_subgraphs(blocking=blocking)})
        modes = ["values", "updates", "custom", "messages-tuple"]
        kwargs = {"input": {"n": 5}, "stream_mode": modes, "subgraphs": True}
        run = await driver.submit(graph_id, thread, kwargs)
        run = await work_off(engine_store, driver, run, keeps=keeps)
        assert run.status is RunStatus.SUCCESS
        told.append(Counter(map(_nameless, await engine_store.events(thread))))
    undivided, shared = told
    assert any("ab3" in data for _, data in shared)
    assert (undivided - shared, shared - undivided) == (Counter(), Counter())


# --- caches ----------------------------------------------------------------------


class _Cached:
    """A graph of one process, with a cache of its own.

    The first task is in nobody's cache. It waits for `gate`.
    """

    def __init__(self, store: EngineStore, graph_id: str) -> None:
        self.begun, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()
        builder: Any = StateGraph(State)
        policy = CachePolicy(key_func=lambda part: str(part["i"] or uuid4()))
        builder.add_node("work", self._work, cache_policy=policy)
        builder.add_node("join", lambda _: {"joined": 1})
        builder.add_conditional_edges(START, sends, ["work"])
        builder.add_edge("work", "join")
        self.graph = builder.compile(cache=InMemoryCache())
        self.driver: EngineDriver = store.driver({graph_id: self.graph})

    async def _work(self, part: Part) -> Any:
        if part["i"] == 0:
            self.begun.set()
            await self.gate.wait()
        return {"seen": [part["i"]]}


@pytest.mark.parametrize("filled", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("planner_last", [True, False])
async def test_what_some_caches_know_is_applied_and_told_once(
    engine_store: EngineStore, filled: Sequence[int], *, planner_last: bool
) -> None:
    """Whichever process knows a result already, and whichever ends the superstep."""
    graph_id, thread = str(uuid4()), uuid4()
    both = planner, other = [_Cached(engine_store, graph_id) for _ in range(2)]
    for place in filled:
        await both[place].graph.ainvoke({"n": 5})
        both[place].begun.clear()
    if planner_last:
        planner.gate.clear()
    kwargs = {"input": {"n": 6}, "stream_mode": ["updates", "values"]}
    run = await planner.driver.submit(graph_id, thread, kwargs)
    process = planner.driver.process()
    claims = await planner.driver.claim(process)
    attempt = attempt_of(*claims, desk=TestDesk(tasks_at_once=1))
    planning = asyncio.create_task(planner.driver.work(process, attempt))
    if planner_last:
        await asyncio.wait_for(planner.begun.wait(), 10)
        await work_off(engine_store, other.driver, run, keeps=3, rounds=3)
        planner.gate.set()
    await asyncio.wait_for(planning, 10)
    run = await work_off(engine_store, other.driver, run, keeps=3)
    assert run.status is RunStatus.SUCCESS
    state = await state_of(engine_store, thread)
    assert (state["seen"], state["joined"]) == (list(range(6)), 1)
    events = await engine_store.events(thread)
    told = [json.loads(it.data) for it in events if it.event == "updates"]
    seen = [update["work"]["seen"][0] for update in told if "work" in update]
    assert sorted(seen) == list(range(6))
