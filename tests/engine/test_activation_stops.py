"""What ends an attempt from outside: cancellation, loss, deadline, drain."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any
from uuid import uuid4

from langgraph.graph import START, StateGraph
from structlog.testing import capture_logs

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.small_graphs import Steps, compiled, row, step
from threadmill.domain.run import RunStatus, ThreadStatus
from threadmill.engine.activation.stop import StopReason
from threadmill.engine.attempt import Attempt
from threadmill.testing.engine import EngineDriver, attempt_of
from threadmill.testing.process import Process


class Gate:
    """A node that tells when it has begun, and waits until it may go on."""

    def __init__(self, *, stubborn: bool = False) -> None:
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.ended = asyncio.Event()
        self.calls = 0
        self._stubborn = stubborn

    async def __call__(self, state: Steps) -> Any:  # noqa: ARG002 - LangGraph's
        self.calls += 1
        self.begun.set()
        while not self.open.is_set():
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                if not self._stubborn:
                    raise
        self.ended.set()
        return {"steps": ["gate"]}


async def _begin(
    store: EngineStore, graph: Any, **rules: Any
) -> tuple[EngineDriver, Process, Attempt, asyncio.Task[None]]:
    """A run whose first attempt is under way."""
    graph_id = str(uuid4())
    driver = store.driver({graph_id: graph}, **rules)
    await driver.submit(
        graph_id,
        uuid4(),
        {"input": {"steps": []}, "stream_mode": ["values", "updates"]},
    )
    process = driver.process()
    (claim,) = await driver.claim(process)
    attempt = attempt_of(claim)
    return driver, process, attempt, asyncio.create_task(driver.work(process, attempt))


async def _steps(store: EngineStore, attempt: Attempt) -> list[str]:
    head = await store.checkpoints.get(TENANT, str(attempt.claim.thread_id), "")
    assert head is not None
    steps: list[str] = head.checkpoint["channel_values"].get("steps", [])
    return steps


async def test_a_cancelled_run_writes_nothing_more(engine_store: EngineStore) -> None:
    gate = Gate()
    graph = row(first=step("first"), gate=gate, last=step("last"))
    _, _, attempt, working = await _begin(engine_store, graph)
    await gate.begun.wait()
    claim = attempt.claim
    cancelled = await engine_store.runs.cancel(TENANT, claim.thread_id, claim.run_id)
    assert cancelled.run.status is RunStatus.INTERRUPTED
    assert list(cancelled.activations) == [claim.key]
    told = await engine_store.events(claim.thread_id)
    attempt.stop.request(StopReason.CANCELLED)
    await working
    assert await _steps(engine_store, attempt) == ["first"]
    assert await engine_store.events(claim.thread_id) == told
    assert await engine_store.left_over(claim.thread_id) == (0, None)


async def test_a_cancelled_run_that_is_not_told_is_fenced(
    engine_store: EngineStore,
) -> None:
    gate = Gate()
    graph = row(first=step("first"), gate=gate, last=step("last"))
    _, _, attempt, working = await _begin(engine_store, graph)
    await gate.begun.wait()
    claim = attempt.claim
    await engine_store.runs.cancel(TENANT, claim.thread_id, claim.run_id)
    gate.open.set()
    with capture_logs() as logs:
        await working
    assert [log["event"] for log in logs] == ["attempt.fenced"]
    assert await _steps(engine_store, attempt) == ["first"]
    run = await engine_store.runs.get(TENANT, claim.run_id)
    assert run.status is RunStatus.INTERRUPTED


async def test_a_node_that_ignores_its_cancellation_is_left_behind(
    engine_store: EngineStore,
) -> None:
    gate = Gate(stubborn=True)
    _, _, attempt, working = await _begin(
        engine_store,
        row(first=step("first"), gate=gate, last=step("last")),
        stop_seconds=0.05,
    )
    await gate.begun.wait()
    claim = attempt.claim
    await engine_store.runs.cancel(TENANT, claim.thread_id, claim.run_id)
    attempt.stop.request(StopReason.CANCELLED)
    with capture_logs() as logs:
        await working
    assert "attempt.task_ignores_cancellation" in {log["event"] for log in logs}
    gate.open.set()
    await gate.ended.wait()
    assert await _steps(engine_store, attempt) == ["first"]


async def test_a_run_over_its_time_ends_as_timeout(engine_store: EngineStore) -> None:
    gate = Gate()
    _, _, attempt, working = await _begin(
        engine_store, row(first=step("first"), gate=gate), run_seconds=0.2
    )
    await working
    run = await engine_store.runs.get(TENANT, attempt.claim.run_id)
    assert run.status is RunStatus.TIMEOUT
    assert run.error is not None
    assert run.error["message"] == "the run took over 0.2 s (BG_JOB_TIMEOUT_SECS)"
    thread = await engine_store.threads.get(TENANT, attempt.claim.thread_id)
    assert thread.status is ThreadStatus.ERROR
    last = (await engine_store.events(attempt.claim.thread_id))[-1]
    assert last.event == "error"


async def test_what_a_drain_stops_is_given_back_uncounted(
    engine_store: EngineStore,
) -> None:
    gate = Gate()
    graph = row(first=step("first"), gate=gate, last=step("last"))
    driver, process, attempt, working = await _begin(engine_store, graph)
    await gate.begun.wait()
    attempt.stop.request(StopReason.DRAIN)
    await working
    gate.open.set()
    (claim,) = await driver.claim(process)
    assert claim.activation_id == attempt.claim.activation_id
    assert claim.attempt == 1
    assert claim.token > attempt.claim.token
    await driver.work(driver.process(), attempt_of(claim))
    run = await engine_store.runs.get(TENANT, claim.run_id)
    assert run.status is RunStatus.SUCCESS
    assert await _steps(engine_store, attempt) == ["first", "gate", "last"]
    assert gate.calls == 2


async def test_a_lost_lease_changes_nothing(engine_store: EngineStore) -> None:
    """A worker that was frozen past its lease, and woke up after the takeover."""
    gate = Gate()
    graph = row(first=step("first"), gate=gate, last=step("last"))
    driver, process, attempt, working = await _begin(engine_store, graph)
    await gate.begun.wait()
    await driver.heal(process)
    other = driver.process()
    (claim,) = await driver.claim(other)
    assert claim.attempt == 2
    gate.open.set()
    with capture_logs() as logs:
        await asyncio.gather(working, driver.work(other, attempt_of(claim)))
    assert [log["event"] for log in logs] == ["attempt.fenced"]
    told = await engine_store.events(claim.thread_id)
    assert await _steps(engine_store, attempt) == ["first", "gate", "last"]
    assert {e.attempt for e in told if e.event == "metadata"} == {1, 2}
    assert len([e for e in told if e.event == "values"]) == len(
        ["input", "first", "gate", "last"]
    )


async def test_a_reopened_run_may_still_be_ended_by_its_owner(
    engine_store: EngineStore,
) -> None:
    """Until somebody claims it, nobody else acts, so nothing is done twice."""
    gate = Gate()
    driver, process, attempt, working = await _begin(engine_store, row(gate=gate))
    await gate.begun.wait()
    await driver.heal(process)
    gate.open.set()
    await working
    assert await driver.claim(driver.process()) == []
    run = await engine_store.runs.get(TENANT, attempt.claim.run_id)
    assert run.status is RunStatus.SUCCESS


async def test_a_run_that_kills_every_worker_is_given_up(
    engine_store: EngineStore,
) -> None:
    gate = Gate()
    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: row(gate=gate)}, attempts_max=3)
    run = await driver.submit(graph_id, uuid4(), {"input": {}})
    for _ in range(3):
        gate.begun.clear()
        process = driver.process()
        (claim,) = await driver.claim(process)
        working = asyncio.create_task(driver.work(process, attempt_of(claim)))
        await gate.begun.wait()
        working.cancel()
        await asyncio.wait({working})
        await driver.heal(process)
    process = driver.process()
    (claim,) = await driver.claim(process)
    await driver.work(process, attempt_of(claim))
    run = await engine_store.runs.get(TENANT, run.run_id)
    assert run.status is RunStatus.ERROR
    assert run.error is not None
    assert "3 attempts" in run.error["message"]
    assert gate.calls == 3


async def test_a_result_is_kept_while_others_of_its_superstep_run(
    engine_store: EngineStore,
) -> None:
    gate, calls = Gate(), []

    async def quick(state: Steps) -> Any:
        calls.append("quick")
        return {"steps": ["quick"]}

    builder: Any = StateGraph(Steps)
    builder.add_node("quick", quick)
    builder.add_node("gate", gate)
    builder.add_edge(START, "quick")
    builder.add_edge(START, "gate")
    driver, process, attempt, working = await _begin(engine_store, builder.compile())
    await gate.begun.wait()
    async with asyncio.timeout(5):
        while not await _pending(engine_store, attempt):
            await driver.hints.published.wait()
            driver.hints.published.clear()
    working.cancel()
    await asyncio.wait({working})
    await driver.heal(process)
    gate.open.set()
    (claim,) = await driver.claim(process)
    await driver.work(driver.process(), attempt_of(claim))
    assert (calls, gate.calls) == (["quick"], 2)
    assert sorted(await _steps(engine_store, attempt)) == ["gate", "quick"]


async def _pending(store: EngineStore, attempt: Attempt) -> int:
    head = await store.checkpoints.get(TENANT, str(attempt.claim.thread_id), "")
    return len(head.writes) if head is not None else 0


async def test_progress_begins_the_count_anew(engine_store: EngineStore) -> None:
    """A long run may lose many workers, as long as each gets a superstep done."""
    gates = {f"n{n}": Gate() for n in range(4)}
    graph_id = str(uuid4())
    driver = engine_store.driver({graph_id: compiled(gates)}, attempts_max=2)
    run = await driver.submit(graph_id, uuid4(), {"input": {}})
    names = list(gates)
    for name, following in pairwise(names):
        process = driver.process()
        (claim,) = await driver.claim(process)
        working = asyncio.create_task(driver.work(process, attempt_of(claim)))
        gates[name].open.set()
        await gates[following].begun.wait()
        working.cancel()
        await asyncio.wait({working})
        await driver.heal(process)
    gates[names[-1]].open.set()
    ended = await driver.carry_out(run)
    assert ended.run.status is RunStatus.SUCCESS
    assert ended.run.attempt == len(names)
