"""Defects of task sessions, each as a test that says what should hold."""
# ruff: noqa

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict
from uuid import UUID, uuid4

import pytest
from langgraph.channels import UntrackedValue
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.test_activation_share import ALL, Part, State, _story
from threadmill.domain.run import RunStatus
from threadmill.stores.records import Claim, Run
from threadmill.testing.engine import EngineDriver, TestDesk, attempt_of


async def _work_off(
    store: EngineStore, driver: EngineDriver, run: Run, keeps: int = 2, rounds: int = 12
) -> Run:
    """Processes take what is ready, `keeps` tasks each, until the run has ended."""
    for _ in range(rounds):
        process = driver.process()
        claims = await driver.claim(process, keeps)
        if claims:
            desk = TestDesk(tasks_at_once=keeps)
            await driver.work(process, attempt_of(*claims, desk=desk))
        run = await store.runs.get(TENANT, run.run_id)
        if run.status in {
            RunStatus.SUCCESS,
            RunStatus.ERROR,
            RunStatus.INTERRUPTED,
            RunStatus.TIMEOUT,
        }:
            return run
    return run


def _fan(node: Any, sends: Any, **options: Any) -> Any:
    builder: Any = StateGraph(State)
    builder.add_node("work", node, **options)
    builder.add_node("join", lambda _: {"joined": 1})
    builder.add_conditional_edges(START, sends, ["work"])
    builder.add_edge("work", "join")
    return builder.compile()


def _sends(state: State) -> list[Send]:
    return [Send("work", Part(i=i)) for i in range(state["n"])]


@dataclass(eq=False)
class Array:
    """Like an array of numpy's: its comparison is no truth value."""

    i: int

    def __eq__(self, other: object) -> Any:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class Counted(dict):  # type: ignore[type-arg]
    """Counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]


async def _ask(part: Part) -> Any:
    answer = interrupt({"q": part["i"]})
    return {"seen": [answer]}


async def _plain(part: Part) -> Any:
    await asyncio.sleep(0)
    return {"seen": [part["i"]]}


def _shape(event: Any) -> tuple[str, ...]:
    data = json.loads(event.data)
    if event.event == "debug":
        inner = data["payload"]
        name = inner.get("name", "")
        return event.event, data["type"], name, json.dumps(inner.get("result"))
    if event.event == "tasks":
        return (
            event.event,
            "result" if "result" in data else "start",
            data["name"],
            json.dumps(data.get("result")),
        )
    if event.event == "checkpoints":
        return event.event, json.dumps(data.get("values")), json.dumps(data["next"])
    if event.event == "metadata":
        return (event.event,)
    shown = data.get("__interrupt__") if isinstance(data, dict) else None
    if shown:
        return (
            event.event,
            "interrupt",
            json.dumps(sorted(str(s["value"]) for s in shown)),
        )
    return event.event, event.data


async def test_blocking_subgraphs_of_tasks_survive_the_end_of_a_sibling(
    engine_store: EngineStore,
) -> None:
    """A node that calls `subgraph.invoke()` is fenced by its own task alone.

    That another task of the same entry ends meanwhile is no loss: nothing runs twice.
    """
    calls: Counter[int] = Counter()

    class Sub(TypedDict, total=False):
        i: int

    inner: Any = StateGraph(Sub)
    inner.add_node("a", lambda s: {"i": s["i"]})
    inner.add_node("b", lambda s: {"i": s["i"]})
    inner.add_edge(START, "a")
    inner.add_edge("a", "b")
    subgraph = inner.compile()
    lock = threading.Lock()

    def work(part: Part) -> Any:
        with lock:
            calls[part["i"]] += 1
        for _ in range(1 + part["i"] % 3):
            subgraph.invoke({"i": part["i"]})
        return {"seen": [part["i"]]}

    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: _fan(work, _sends)})
    run = await driver.submit(graph_id, uuid4(), {"input": {"n": 9}})
    for _ in range(6):
        process = driver.process()
        claims = await driver.claim(process, ALL)
        if not claims:
            await driver.heal(process)
            break
        desk = TestDesk(tasks_at_once=8)
        await driver.work(process, attempt_of(*claims, desk=desk))
        await driver.heal(process)
    run = await engine_store.runs.get(TENANT, run.run_id)
    assert calls == Counter(range(9))
    assert (run.status, run.attempt) == (RunStatus.SUCCESS, 1)


async def test_inputs_that_cannot_be_compared_can_be_spread(
    engine_store: EngineStore,
) -> None:
    """Tasks are told apart by their ids, never by comparing what they are given."""

    async def work(part: Any) -> Any:
        return {"seen": [part["array"].i]}

    def sends(state: State) -> list[Send]:
        return [Send("work", {"array": Array(i)}) for i in range(state["n"])]

    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: _fan(work, sends)})
    run = await driver.submit(graph_id, uuid4(), {"input": {"n": 5}})
    run = await _work_off(engine_store, driver, run)
    assert run.status is RunStatus.SUCCESS


async def test_a_plan_costs_no_more_than_its_width(engine_store: EngineStore) -> None:
    """Planning N tasks compares O(N) things."""

    async def work(part: Any) -> Any:
        return {"seen": [part["i"]]}

    def sends(state: State) -> list[Send]:
        return [Send("work", Counted(i=i)) for i in range(state["n"])]

    graph_id, width = str(uuid4()), 200
    driver = engine_store.driver({graph_id: _fan(work, sends)})
    run = await driver.submit(graph_id, uuid4(), {"input": {"n": width}})
    process = driver.process()
    claims = await driver.claim(process)
    Counted.compared = 0
    await driver.work(process, attempt_of(*claims, desk=TestDesk(tasks_at_once=10)))
    assert Counted.compared <= 20 * width
    assert run.run_id


async def test_siblings_of_a_task_that_fails_are_told_to_stop(
    engine_store: EngineStore,
) -> None:
    """Who runs a sibling hears at once that the run is over, as with a cancellation."""
    story = await _story(engine_store, 3)
    story.watch.hold(0)
    story.watch.fails = {2}
    _, _, planning = await story.plan(keeps=1)
    await story.watch.begun[0].wait()
    process, claims = await story.claim()
    _, working = story.begin(process, claims)
    await working
    try:
        assert (await story.end_of_run()).status is RunStatus.ERROR
        assert [hint for hint in story.driver.hints.told if hint.startswith("stop")]
    finally:
        story.watch.gates[0].set()
        await planning


@pytest.mark.parametrize("node", [False, True])
@pytest.mark.parametrize("order", ["planner_last", "planner_first", "one_process"])
@pytest.mark.parametrize("kind", ["plain", "ask"])
async def test_a_spread_superstep_tells_what_an_undivided_one_tells(
    engine_store: EngineStore, kind: str, order: str, *, node: bool
) -> None:
    """Every event of every mode once, whoever runs the tasks."""
    modes = ["values", "updates", "tasks", "debug", "checkpoints"]
    told = []
    for spread in (False, True):
        held = asyncio.Event()
        if not spread:
            held.set()
        first = asyncio.Event()

        async def work(part: Part) -> Any:
            if part["i"] == 0 and order == "planner_last":
                first.set()
                await held.wait()
            return await (_ask if kind == "ask" else _plain)(part)

        graph_id = str(uuid4())
        driver = engine_store.driver({graph_id: _fan(work, _sends)}, node=node)
        run = await driver.submit(
            graph_id, uuid4(), {"input": {"n": 4}, "stream_mode": modes}
        )
        keeps = 1 if spread else 10
        process = driver.process()

        async def more(of: Any, n: int) -> Sequence[Claim]:
            if order == "one_process":
                return await driver.claim(process, n, of)
            return ()

        claims = await driver.claim(process)
        desk = TestDesk(tasks_at_once=keeps, claims=more)
        planning = asyncio.create_task(
            driver.work(process, attempt_of(*claims, desk=desk))
        )
        if order == "planner_last" and spread:
            if node:  # the first superstep is entered by itself
                pass
            await asyncio.wait_for(first.wait(), 10)
            other = driver.process()
            claims = await driver.claim(other, ALL)
            await driver.work(
                other, attempt_of(*claims, desk=TestDesk(tasks_at_once=10))
            )
            held.set()
        await planning
        run = await _work_off(engine_store, driver, run, keeps=2 if spread else 10)
        assert run.status in {RunStatus.SUCCESS, RunStatus.INTERRUPTED}
        told.append(Counter(map(_shape, await engine_store.events(run.thread_id))))
    missing, extra = told[0] - told[1], told[1] - told[0]
    assert (missing, extra) == (Counter(), Counter())


@pytest.mark.parametrize("keeps", [10, 2])
async def test_an_answer_to_an_older_checkpoint_is_spread_like_any_other(
    engine_store: EngineStore, keeps: int
) -> None:
    """`Command(resume=...)` at a checkpoint that the thread has moved past.

    Every task runs once, and the run ends.
    """
    calls: Counter[int] = Counter()

    async def work(part: Part) -> Any:
        calls[part["i"]] += 1
        return {"seen": [interrupt({"q": part["i"]})]}

    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: _fan(work, _sends)})
    run = await driver.submit(graph_id, thread, {"input": {"n": 5}})
    run = await _work_off(engine_store, driver, run, keeps=10)
    assert run.status is RunStatus.SUCCESS  # it waits for a human
    asked = await engine_store.checkpoints.get(TENANT, str(thread), "")
    assert asked is not None
    ids = {
        value[0].value["q"]: value[0].id
        for _, channel, value in asked.writes
        if channel == "__interrupt__"
    }
    resume = {"resume": {ids[i]: 10 + i for i in range(5)}}
    run = await driver.submit(graph_id, thread, {"command": resume})
    run = await _work_off(engine_store, driver, run, keeps=keeps)
    assert run.status is RunStatus.SUCCESS
    calls.clear()
    again = {"resume": {ids[i]: 20 + i for i in range(5)}}
    where = {"checkpoint_id": asked.checkpoint["id"]}
    run = await driver.submit(graph_id, thread, {"command": again, "checkpoint": where})
    run = await _work_off(engine_store, driver, run, keeps=keeps)
    assert run.status is RunStatus.SUCCESS
    assert calls == Counter(range(5))


async def test_erasing_a_thread_meets_the_tasks_in_the_order_of_their_ids(
    engine_store: EngineStore,
) -> None:
    """No deadlock with an attempt that commits under the fence of several tasks."""
    for _ in range(4):
        story = await _story(engine_store, 12)
        story.watch.hold(*range(12))
        process = story.driver.process()
        (claim,) = await story.driver.claim(process)

        attempt, planning = story.begin(process, [claim], keeps=11)
        await story.watch.begun[10].wait()
        from threadmill.drivers.postgres.sql import Query

        ids = Query(
            "ids",
            b"SELECT activation_id FROM threadmill.activation WHERE tenant_id = %(t)s"
            b" AND thread_id = %(th)s ORDER BY activation_id",
        )
        lock = Query(
            "lock",
            b"SELECT 1 FROM threadmill.activation WHERE tenant_id = %(t)s"
            b" AND activation_id = %(id)s FOR UPDATE",
        )
        nap = Query("nap", b"SELECT pg_sleep(0.3)")
        async with engine_store.database.tenant_tx(TENANT, read_only=True) as tx:
            found = tx.add(ids, t=TENANT, th=story.run.thread_id)
        order = [row["activation_id"] for row in found.rows]

        async def in_order() -> None:
            async with engine_store.database.tenant_tx(TENANT) as tx:
                for id_ in order[:6]:
                    tx.add(lock, t=TENANT, id=id_)
                tx.add(nap)
                for id_ in order[6:]:
                    tx.add(lock, t=TENANT, id=id_)

        async def erase() -> None:
            await asyncio.sleep(0.1)
            await engine_store.threads.delete(TENANT, story.run.thread_id)

        done = await asyncio.gather(in_order(), erase(), return_exceptions=True)
        for gate in story.watch.gates.values():
            gate.set()
        await asyncio.wait_for(planning, 10)
        assert done == [None, None]
        assert attempt.claims


@pytest.mark.parametrize("n", [4, 12])
async def test_no_more_tasks_than_the_worker_takes_at_all(
    engine_store: EngineStore, n: int
) -> None:
    """`THREADMILL_TASKS_MAX` bounds what a planner keeps, too."""
    story = await _story(engine_store, n)
    process = story.driver.process()
    (claim,) = await story.driver.claim(process)
    desk = TestDesk(tasks_at_once=8, tasks_max=2)
    await story.driver.work(process, attempt_of(claim, desk=desk))
    assert story.watch.most <= 2


async def test_who_lost_its_lease_leaves_the_work_to_others_for_a_while(
    database: Any,
) -> None:
    """A worker that froze is not the first to take again what the sweep re-opens."""
    from tests.engine.test_sweep import Healing

    healing = Healing(database)
    frozen = uuid4()
    await healing.store.accept(await healing.store.thread())
    (claim,) = await healing.store.dispatcher.claim(frozen, ["graph"], 1, 0.0) or (
        await healing.store.claim(1, frozen)
    )
    async with database.system_tx() as tx:
        from threadmill.drivers.postgres.sql import Query

        tx.add(
            Query(
                "expire",
                b"SELECT * FROM threadmill.renew(%(w)s, interval '-1 s')",
            ),
            w=frozen,
        )
    await healing.sweep().look()
    assert await healing.store.claim(1, frozen) == []
    assert [c.run_id for c in await healing.store.claim(1, uuid4())] == [claim.run_id]


async def test_a_run_counts_one_attempt_for_one_lost_worker(
    engine_store: EngineStore,
) -> None:
    """However many processes take what it held."""
    story = await _story(engine_store, 6)
    story.watch.hold(*range(6))
    dying, _, planning = await story.plan(keeps=5)
    await story.watch.begun[4].wait()
    planning.cancel()
    await asyncio.wait([planning])
    await story.driver.heal(dying)
    for gate in story.watch.gates.values():
        gate.set()
    others = [await story.claim(2) for _ in range(3)]
    await asyncio.gather(*(story.begin(p, claims)[1] for p, claims in others))
    run = await story.end_of_run()
    assert (run.status, run.attempt) == (RunStatus.SUCCESS, 2)


async def test_a_label_is_needed_no_longer_than_its_node(
    engine_store: EngineStore,
) -> None:
    """A run that has got past the node is gone on with by anybody after a loss."""
    begun, gate = asyncio.Event(), asyncio.Event()

    async def after(_: State) -> Any:
        begun.set()
        await gate.wait()
        return {"joined": 1}

    builder: Any = StateGraph(State)
    labels = {"threadmill": {"labels": ["gpu"]}}
    builder.add_node("gpu", lambda _: {"seen": [1]}, metadata=labels)
    builder.add_node("after", after)
    builder.add_edge(START, "gpu")
    builder.add_edge("gpu", "after")
    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: builder.compile()})
    run = await driver.submit(graph_id, uuid4(), {"input": {"n": 1}})
    process = driver.process()
    claims = await driver.claim(process)
    await driver.work(process, attempt_of(*claims))
    dying = driver.process()
    claims = await engine_store.dispatcher.claim(
        dying.worker_id, [graph_id], 1, 60.0, labels=["gpu"]
    )
    desk = TestDesk(labels=["gpu"])
    working = asyncio.create_task(driver.work(dying, attempt_of(*claims, desk=desk)))
    await asyncio.wait_for(begun.wait(), 10)
    working.cancel()
    await asyncio.wait([working])
    await driver.heal(dying)
    gate.set()
    run = await _work_off(engine_store, driver, run)
    assert run.status is RunStatus.SUCCESS


async def test_who_lets_a_waiting_task_go_and_leaves_says_so(
    engine_store: EngineStore,
) -> None:
    """With `max_concurrency` the next task becomes ready by the end of another one."""
    story = await _story(engine_store, 3, config={"max_concurrency": 1})
    story.watch.hold(0)
    _, _, planning = await story.plan(keeps=1)
    await story.watch.begun[0].wait()
    story.driver.hints.told.clear()
    story.watch.gates[0].set()
    await planning
    assert [claim.kind for claim in (await story.claim())[1]] == ["task"]
    assert [hint for hint in story.driver.hints.told if hint.startswith("ready")]


async def test_what_a_drain_hands_back_is_hinted(engine_store: EngineStore) -> None:
    """Others need not wait for their next look."""
    story = await _story(engine_store, 3)
    story.watch.hold(0, 1)
    _, attempt, planning = await story.plan(keeps=2)
    await story.watch.begun[1].wait()
    story.driver.hints.told.clear()
    from threadmill.engine.activation.stop import StopReason

    attempt.stop.request(StopReason.DRAIN)
    await planning
    assert [hint for hint in story.driver.hints.told if hint.startswith("ready")]


async def test_the_dead_letter_of_a_task_names_its_node(
    engine_store: EngineStore,
) -> None:
    """Also if it is the next claim that finds the attempts spent."""
    story = await _story(engine_store, 3, attempts_max=1)
    _, _, planning = await story.plan(keeps=1)
    await planning
    process, claims = await story.claim()
    await story.driver.heal(process)
    process, claims = await story.claim()
    _, working = story.begin(process, claims)
    await working
    letter = await engine_store.dead_letters.get(TENANT, story.run.run_id)
    assert letter.node == "work"


async def test_events_of_a_spread_run_tell_of_its_graph_once(
    engine_store: EngineStore,
) -> None:
    """`stream_mode="events"`: the graph starts and ends once, whoever runs its tasks."""
    told = []
    for keeps in (10, 2):
        graph_id, thread = str(uuid4()), uuid4()
        driver = engine_store.driver({graph_id: _fan(_plain, _sends)})
        kwargs = {"input": {"n": 6}, "stream_mode": ["events"]}
        run = await driver.submit(graph_id, thread, kwargs)
        await _work_off(engine_store, driver, run, keeps=keeps)
        events = [json.loads(e.data) for e in await engine_store.events(thread)]
        told.append(Counter((e.get("event"), e.get("name")) for e in events))
    assert told[0] == told[1]


@pytest.mark.parametrize("keeps", [20, 2])
async def test_a_replay_at_a_state_update(
    engine_store: EngineStore, keeps: int
) -> None:
    """Time travel to a head that was made by hand, which is no fork of LangGraph's."""
    calls: Counter[int] = Counter()

    async def work(part: Part) -> Any:
        calls[part["i"]] += 1
        if part["i"] == 3:
            interrupt("?")
        return {"seen": [part["i"]]}

    graph_id, thread = str(uuid4()), uuid4()
    graph = _fan(work, _sends)
    driver = engine_store.driver({graph_id: graph})
    bound = graph.copy() if hasattr(graph, "copy") else graph
    bound.checkpointer = engine_store.saver()
    config: Any = {"configurable": {"thread_id": str(thread)}}
    await bound.aupdate_state(config, {"n": 5}, as_node=START)
    bound.checkpointer = None
    head = await engine_store.checkpoints.get(TENANT, str(thread), "")
    assert head is not None
    where = {"checkpoint_id": head.checkpoint["id"]}
    run = await driver.submit(graph_id, thread, {"input": None, "checkpoint": where})
    run = await _work_off(engine_store, driver, run, keeps=keeps)
    assert run.status is RunStatus.SUCCESS
    assert calls == Counter(range(5))
    calls.clear()
    run = await driver.submit(graph_id, thread, {"input": None, "checkpoint": where})
    run = await _work_off(engine_store, driver, run, keeps=keeps)
    assert run.status is RunStatus.SUCCESS
    assert calls == Counter(range(5))


def test_what_nobody_works_on_is_given_back_by_a_busy_worker_too() -> None:
    """However often its other tasks end, an orphan is not renewed for ever."""
    from threadmill.domain.lease import LeaseTimes
    from threadmill.engine.activation.stop import Stop
    from threadmill.worker.leases import Leases

    now = 0.0
    leases = Leases(LeaseTimes(lease_seconds=10.0), clock=lambda: now)
    orphan, *others = [
        Claim(
            tenant=TENANT,
            activation_id=uuid4(),
            thread_id=uuid4(),
            run_id=uuid4(),
            token=i,
            attempt=1,
        )
        for i in range(101)
    ]
    given_back = 0
    for busy in others:  # five minutes, with a renewal every three seconds
        with leases.claiming() as asked_at:
            leases.add([busy], asked_at, Stop())
        now += 1.0
        renewed_at = now
        leases.ending([busy.key])
        now += 1.0
        given_back += len(leases.renewed(renewed_at, [orphan, busy]))
        leases.drop([busy.key])
        now += 1.0
    assert given_back


async def test_a_crash_of_ours_in_mid_superstep_counts_for_the_tasks_it_held(
    engine_store: EngineStore,
) -> None:
    """What is no `Error` is our bug: what the attempt held by then is counted."""
    story = await _story(engine_store, 3)
    process, working = story.driver.process(), None
    (claim,) = await story.driver.claim(process)

    async def broken(_of: Any, _n: int) -> Sequence[Claim]:
        raise RuntimeError("a bug of the worker's")

    story.watch.hold(0)
    desk = TestDesk(tasks_at_once=1, claims=broken)
    attempt = attempt_of(claim, desk=desk)
    with pytest.raises(RuntimeError):
        working = await story.driver.work(process, attempt)
    assert working is None
    # As `Worker._carry_out` does it.
    from threadmill.engine.activate import fence_of

    await engine_store.dispatcher.release(
        fence_of(*attempt.claims), count_attempt=True, cause="crashed"
    )
    _, claims = await story.claim()
    assert sorted(c.attempt for c in claims) == [1, 1, 2]


@pytest.mark.parametrize("n", [1, 3])
async def test_a_label_does_not_lose_what_no_checkpoint_keeps(
    engine_store: EngineStore, n: int
) -> None:
    """A graph with UntrackedValue stays where it is, or its run says why it cannot."""

    class Held(State, total=False):
        secret: Annotated[str, UntrackedValue]

    async def work(part: Any) -> Any:
        return {"seen": [part["i"]]}

    async def last(state: Held) -> Any:
        return {"seen": [99 if state.get("secret") == "kept" else -1]}

    builder: Any = StateGraph(Held)
    labels = {"threadmill": {"labels": ["gpu"]}}
    builder.add_node("first", lambda _: {"secret": "kept"})
    builder.add_node("work", work, metadata=labels)
    builder.add_node("last", last)
    builder.add_edge(START, "first")
    builder.add_conditional_edges("first", _sends, ["work"])
    builder.add_edge("work", "last")
    graph_id, thread = str(uuid4()), uuid4()
    driver = engine_store.driver({graph_id: builder.compile()})
    run = await driver.submit(graph_id, thread, {"input": {"n": n}})
    for _ in range(6):
        process = driver.process()
        for labels_of in ([], ["gpu"]):
            claims = await engine_store.dispatcher.claim(
                process.worker_id, [graph_id], 5, 60.0, labels=labels_of
            )
            if claims:
                desk = TestDesk(labels=labels_of)
                await driver.work(process, attempt_of(*claims, desk=desk))
    run = await engine_store.runs.get(TENANT, run.run_id)
    if run.status is RunStatus.ERROR:
        assert "secret" in str(run.error)
        return
    head = await engine_store.checkpoints.get(TENANT, str(thread), "")
    assert head is not None
    assert head.checkpoint["channel_values"]["seen"] == [*range(n), 99]
