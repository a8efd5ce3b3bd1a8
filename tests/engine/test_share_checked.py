"""What was tried against task sessions and holds."""
# ruff: noqa

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from typing import Any, TypedDict
from uuid import uuid4

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.test_activation_share import Part, State, _story
from tests.engine.test_share_defects import _fan, _sends, _shape, _work_off
from threadmill.domain.run import RunStatus
from threadmill.testing.engine import TestDesk, attempt_of

_KINDS = ["killed before", "killed after", "database away before", "answer lost after"]


def _shorn(event: Any) -> tuple[str, str]:
    import re

    name = re.sub(r":[0-9a-f-]{36}", "", event.event)
    data = json.loads(event.data)
    if "messages" in event.event:
        data = (
            [data[0].get("content"), data[0].get("type")]
            if isinstance(data, list)
            else data
        )
    text = json.dumps(data)
    return name, re.sub(
        r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}|\d{4}-\d\d-\d\dT[\d:.+]+", "", text
    )


@pytest.mark.parametrize("keeps", [10, 2])
@pytest.mark.parametrize("together", [True, False])
async def test_answers_one_by_one_and_together(
    engine_store: EngineStore, keeps: int, *, together: bool
) -> None:
    """Each task takes its own answer, however its superstep is shared."""

    async def work(part: Part) -> Any:
        return {"seen": [interrupt({"q": part["i"]})]}

    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: _fan(work, _sends)})
    kwargs = {"input": {"n": 4}, "stream_mode": ["updates", "values"]}
    run = await driver.submit(graph_id, thread, kwargs)
    run = await _work_off(engine_store, driver, run, keeps=keeps)
    asked = await engine_store.checkpoints.get(TENANT, str(thread), "")
    assert asked is not None
    ids = {
        value[0].value["q"]: value[0].id
        for _, channel, value in asked.writes
        if channel == "__interrupt__"
    }
    steps = [[0, 1, 2, 3]] if together else [[2], [0], [3], [1]]
    for step in steps:
        assert run.status is RunStatus.SUCCESS  # it waits for a human
        resume = {"resume": {ids[i]: 10 + i for i in step}}
        run = await driver.submit(
            graph_id, thread, {**kwargs, "input": None, "command": resume}
        )
        run = await _work_off(engine_store, driver, run, keeps=keeps)
    assert run.status is RunStatus.SUCCESS
    head = await engine_store.checkpoints.get(TENANT, str(thread), "")
    assert head is not None
    assert head.checkpoint["channel_values"]["seen"] == [10, 11, 12, 13]


@pytest.mark.parametrize("keeps", [10, 2])
async def test_a_command_that_goes_to_many(
    engine_store: EngineStore, keeps: int
) -> None:
    """`Command(goto=[Send, ...], update=...)` of a run is applied once."""
    calls: Counter[int] = Counter()

    async def work(part: Part) -> Any:
        calls[part["i"]] += 1
        return {"seen": [part["i"]]}

    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: _fan(work, _sends)})
    run = await driver.submit(graph_id, thread, {"input": {"n": 1}})
    run = await _work_off(engine_store, driver, run, keeps=10)
    calls.clear()
    goto = [{"node": "work", "input": {"i": i}} for i in range(6)]
    command = {"goto": goto, "update": {"seen": [99]}}
    run = await driver.submit(graph_id, thread, {"command": command})
    run = await _work_off(engine_store, driver, run, keeps=keeps)
    assert run.status is RunStatus.SUCCESS
    assert calls == Counter(range(6))
    head = await engine_store.checkpoints.get(TENANT, str(thread), "")
    assert head is not None
    assert head.checkpoint["channel_values"]["seen"] == [0, 99, 0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("bad", [0, 3])
async def test_one_result_of_many_that_cannot_be_stored_fails_the_run(
    engine_store: EngineStore, bad: int
) -> None:
    async def work(part: Part) -> Any:
        return {"seen": [threading.Lock() if part["i"] == bad else part["i"]]}

    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: _fan(work, _sends)})
    run = await driver.submit(graph_id, thread, {"input": {"n": 5}})
    run = await _work_off(engine_store, driver, run, keeps=2)
    assert run.status is RunStatus.ERROR
    assert await engine_store.left_over(thread) == (0, None)


async def test_a_time_limit_ends_a_run_with_tasks_everywhere(
    engine_store: EngineStore,
) -> None:
    story = await _story(engine_store, 4, run_seconds=0.5)
    story.watch.hold(0, 1, 2, 3)
    _, _, planning = await story.plan(keeps=1)
    await story.watch.begun[0].wait()
    process, claims = await story.claim(1)
    _, one = story.begin(process, claims)
    process, claims = await story.claim(2)
    _, two = story.begin(process, claims)
    await asyncio.wait_for(asyncio.gather(planning, one, two), 10)
    assert (await story.end_of_run()).status is RunStatus.TIMEOUT
    assert await engine_store.left_over(story.run.thread_id) == (0, None)


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("seed", range(8))
async def test_bounded_supersteps_survive_losses(
    engine_store: EngineStore, seed: int, kind: str
) -> None:
    """`max_concurrency` with faults: no task waits for ever, no result twice."""
    from random import Random

    from threadmill.testing.process import Fault, FaultKind

    running = most = 0

    async def work(part: Part) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            for _ in range(3):
                await asyncio.sleep(0)
        finally:
            running -= 1
        return {"seen": [part["i"]]}

    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: _fan(work, _sends)}, node=seed % 2 == 0)
    kwargs = {
        "input": {"n": 7},
        "config": {"max_concurrency": 1 + seed % 3},
        "stream_mode": ["updates", "values"],
    }
    run = await driver.submit(graph_id, thread, kwargs)
    fault = Fault(FaultKind(kind), 1 + seed)
    ended = await driver.carry_out_spread(run, Random(seed), fault)
    assert ended.run.status is RunStatus.SUCCESS
    head = await engine_store.checkpoints.get(TENANT, str(thread), "")
    assert head is not None
    values = head.checkpoint["channel_values"]
    assert (values["seen"], values["joined"]) == (list(range(7)), 1)
    told = Counter(map(_shape, await engine_store.events(thread)))
    told.pop(("metadata",), None)
    assert set(told.values()) == {1}
    assert most <= 1 + seed % 3


@pytest.mark.parametrize("blocking", [False, True])
async def test_subgraphs_of_spread_tasks_tell_what_those_of_undivided_ones_tell(
    engine_store: EngineStore, *, blocking: bool
) -> None:
    """Tokens, custom data and updates of subgraphs, each once."""
    from langchain_core.language_models import FakeListChatModel
    from langgraph.config import get_stream_writer

    class Sub(TypedDict, total=False):
        i: int
        said: str

    if blocking:

        def say(s: Sub) -> Any:
            get_stream_writer()({"custom": s["i"]})
            told = FakeListChatModel(responses=[f"ab{s['i']}"]).invoke("x")
            return {"said": told.content}

    else:

        async def say(s: Sub) -> Any:
            get_stream_writer()({"custom": s["i"]})
            told = await FakeListChatModel(responses=[f"ab{s['i']}"]).ainvoke("x")
            return {"said": told.content}

    inner: Any = StateGraph(Sub)
    inner.add_node("say", say)
    inner.add_edge(START, "say")
    subgraph = inner.compile()
    slow = threading.Lock()

    async def work(part: Part) -> Any:
        get_stream_writer()({"outer": part["i"]})
        await subgraph.ainvoke({"i": part["i"]})
        return {"seen": [part["i"]]}

    def work_blocking(part: Part) -> Any:
        get_stream_writer()({"outer": part["i"]})
        with slow:
            subgraph.invoke({"i": part["i"]})
        return {"seen": [part["i"]]}

    told = []
    for keeps in (20, 1):
        graph_id, thread = str(uuid4()), uuid4()
        graph = _fan(work_blocking if blocking else work, _sends)
        driver = engine_store.driver({graph_id: graph})
        kwargs = {
            "input": {"n": 5},
            "stream_mode": ["values", "updates", "custom", "messages-tuple"],
            "subgraphs": True,
        }
        run = await driver.submit(graph_id, thread, kwargs)
        run = await _work_off(engine_store, driver, run, keeps=keeps)
        assert run.status is RunStatus.SUCCESS
        told.append(Counter(map(_shorn, await engine_store.events(thread))))
    assert (told[0] - told[1], told[1] - told[0]) == (Counter(), Counter())


@pytest.mark.parametrize("keeps", [20, 2])
async def test_a_fork_of_a_wide_superstep(
    engine_store: EngineStore, keeps: int
) -> None:
    """Time travel to just before it: every task once more, on the fork."""
    calls: Counter[int] = Counter()

    async def work(part: Part) -> Any:
        calls[part["i"]] += 1
        return {"seen": [part["i"]]}

    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: _fan(work, _sends)})
    run = await driver.submit(graph_id, thread, {"input": {"n": 5}})
    await _work_off(engine_store, driver, run, keeps=20)
    history = [
        c async for c in engine_store.checkpoints.list(TENANT, str(thread), ns="")
    ]
    before = next(c for c in history if c.metadata.get("step") == 0)
    calls.clear()
    where = {"checkpoint_id": before.checkpoint["id"]}
    run = await driver.submit(graph_id, thread, {"input": None, "checkpoint": where})
    run = await _work_off(engine_store, driver, run, keeps=keeps)
    assert run.status is RunStatus.SUCCESS
    assert calls == Counter(range(5))


@pytest.mark.parametrize("filled", ["planner", "other", "both", "none"])
@pytest.mark.parametrize("last", ["planner", "other"])
async def test_caches_that_differ_between_processes(
    engine_store: EngineStore, filled: str, last: str
) -> None:
    """Each result is applied and told once, whichever process knows it already."""
    from langgraph.cache.memory import InMemoryCache
    from langgraph.types import CachePolicy

    gates: dict[str, asyncio.Event] = {}
    begun = asyncio.Event()
    graph_id, thread = str(uuid4()), uuid4()
    drivers = {}
    calls: Counter[tuple[str, int]] = Counter()

    def graph_of(name: str) -> Any:
        async def work(part: Part) -> Any:
            calls[name, part["i"]] += 1
            if name in gates and part["i"] == 0:
                begun.set()
                await gates[name].wait()
            return {"seen": [part["i"]]}

        def key(part: Part) -> str:
            # The first is in nobody's cache.
            return str(part["i"]) if part["i"] else str(uuid4())

        builder: Any = StateGraph(State)
        builder.add_node("work", work, cache_policy=CachePolicy(key_func=key))
        builder.add_node("join", lambda _: {"joined": 1})
        builder.add_conditional_edges(START, _sends, ["work"])
        builder.add_edge("work", "join")
        return builder.compile(cache=InMemoryCache())

    for name in ("planner", "other"):
        graph = graph_of(name)
        drivers[name] = engine_store.driver({graph_id: graph})
        if filled in {name, "both"}:
            await graph.ainvoke({"n": 5})
    calls.clear()
    if last == "planner":
        gates["planner"] = asyncio.Event()
    kwargs = {"input": {"n": 6}, "stream_mode": ["updates", "values"]}
    run = await drivers["planner"].submit(graph_id, thread, kwargs)
    process = drivers["planner"].process()
    claims = await drivers["planner"].claim(process)
    desk = TestDesk(tasks_at_once=1)
    planning = asyncio.create_task(
        drivers["planner"].work(process, attempt_of(*claims, desk=desk))
    )
    if last == "planner":
        await asyncio.wait_for(begun.wait(), 10)
        run = await _work_off(engine_store, drivers["other"], run, keeps=3, rounds=3)
        gates.pop("planner").set()
    await asyncio.wait_for(planning, 10)
    for _ in range(10):
        run = await _work_off(engine_store, drivers["other"], run, keeps=3, rounds=1)
    assert run.status is RunStatus.SUCCESS
    head = await engine_store.checkpoints.get(TENANT, str(thread), "")
    assert head is not None
    values = head.checkpoint["channel_values"]
    assert (values["seen"], values["joined"]) == (list(range(6)), 1)
    told = [e for e in await engine_store.events(thread) if e.event == "updates"]
    shown = Counter(str(json.loads(e.data).get("work")) for e in told)
    assert {k: n for k, n in shown.items() if k != "None"} == {
        str({"seen": [i]}): 1 for i in range(6)
    }


@pytest.mark.parametrize("keeps", [20, 2])
@pytest.mark.parametrize("where", ["interrupt_before", "interrupt_after"])
@pytest.mark.parametrize("node", ["work", "join"])
async def test_static_breakpoints_around_a_wide_superstep(
    engine_store: EngineStore, where: str, node: str, keeps: int
) -> None:
    calls: Counter[int] = Counter()

    async def work(part: Part) -> Any:
        calls[part["i"]] += 1
        return {"seen": [part["i"]]}

    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: _fan(work, _sends)})
    kwargs = {"input": {"n": 5}, "stream_mode": ["values", "updates"], where: [node]}
    run = await driver.submit(graph_id, thread, kwargs)
    run = await _work_off(engine_store, driver, run, keeps=keeps)
    assert run.status is RunStatus.SUCCESS
    paused = bool(calls)
    assert paused is ((where, node) != ("interrupt_before", "work"))
    run = await driver.submit(graph_id, thread, {**kwargs, "input": None})
    run = await _work_off(engine_store, driver, run, keeps=keeps)
    assert run.status is RunStatus.SUCCESS
    assert calls == Counter(range(5))


async def test_a_redriven_superstep_runs_only_what_is_missing(
    engine_store: EngineStore,
) -> None:
    story = await _story(engine_store, 5, attempts_max=1)
    _, _, planning = await story.plan(keeps=2)
    await planning
    process, _ = await story.claim()
    await story.driver.heal(process)
    process, claims = await story.claim()
    await story.begin(process, claims)[1]
    assert (await story.end_of_run()).status is RunStatus.ERROR
    await engine_store.dead_letters.redrive(TENANT, story.run.run_id, queue_max=10)
    run = await _work_off(engine_store, story.driver, story.run, keeps=2)
    assert run.status is RunStatus.SUCCESS
    assert story.watch.calls == Counter(range(5))
    assert (await story.state())["joined"] == 1


async def test_cancels_and_losses_at_every_moment_leave_nothing(
    engine_store: EngineStore,
) -> None:
    """Whoever is first, nothing of the run is left and nobody deadlocks."""
    from random import Random

    for seed in range(12):
        chance = Random(seed)
        story = await _story(
            engine_store, 8, config={"max_concurrency": 4} if seed % 2 else None
        )
        working = []
        process = story.driver.process()
        claims = await story.driver.claim(process)
        working.append(story.begin(process, claims, keeps=2, takes_more=True)[1])

        async def others() -> None:
            for _ in range(3):
                await asyncio.sleep(chance.random() * 0.02)
                p, c = await story.claim(2)
                if c:
                    working.append(story.begin(p, c, takes_more=True)[1])

        async def cancel() -> None:
            await asyncio.sleep(chance.random() * 0.06)
            try:
                await engine_store.runs.cancel(
                    TENANT, story.run.thread_id, story.run.run_id
                )
            except Exception as error:
                assert "ended" in str(error) or "not found" in str(error), error

        await asyncio.gather(others(), cancel())
        await asyncio.wait_for(asyncio.gather(*working), 20)
        assert await engine_store.left_over(story.run.thread_id) == (0, None)
        assert all(n == 1 for n in story.watch.calls.values())
