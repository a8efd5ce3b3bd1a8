"""How runs show in LangSmith, and what a graph's own callback handlers are told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers import LangChainTracer
from langgraph.graph import MessagesState, StateGraph
from langgraph.types import interrupt
from langsmith import tracing_context
from structlog.testing import capture_logs

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.langsmith_collector import Collector, Span
from tests.engine.small_graphs import Steps, row, step
from tests.engine.wide_story import Watch, wide, work_off
from threadmill.domain.run import RunStatus
from threadmill.engine.activation.selftest import self_test
from threadmill.engine.activation.stop import StopReason
from threadmill.engine.graph_factories import Factory
from threadmill.stores.records import Run
from threadmill.testing.engine import EngineDriver, TestDesk, attempt_of

pytestmark = pytest.mark.langgraph


@pytest.fixture
def langsmith() -> Iterator[Collector]:
    """Tracing is on, and goes to this one."""
    collector = Collector()
    with tracing_context(enabled=True, client=collector.client):
        yield collector
    collector.close()


def _graph() -> Any:
    return row(a=step("a"), b=step("b"), c=step("c"))


async def _submit(
    store: EngineStore, graph: Any, *, kwargs: Any = None, **rules: Any
) -> tuple[EngineDriver, Run]:
    graph_id = str(uuid4())
    driver = store.driver({graph_id: graph}, **rules)
    given = {"input": {"steps": []}, "stream_mode": ["values"], **(kwargs or {})}
    return driver, await driver.submit(graph_id, uuid4(), given)


class _Held:
    """A node that tells when it has begun, and waits."""

    def __init__(self) -> None:
        self.begun, self.open = asyncio.Event(), asyncio.Event()

    async def __call__(self, state: Steps) -> Any:  # noqa: ARG002 - LangGraph's
        self.begun.set()
        await self.open.wait()
        return {"steps": ["held"]}


async def _die_in(held: _Held, driver: EngineDriver) -> None:
    """A first process that is lost while the node runs."""
    process = driver.process()
    attempt = attempt_of(*await driver.claim(process))
    working = asyncio.create_task(driver.work(process, attempt))
    await held.begun.wait()
    working.cancel()
    await asyncio.wait({working})
    await driver.heal(process)


async def _trace(langsmith: Collector, run: Run) -> Span:
    """The one trace that there is."""
    (root,) = await asyncio.to_thread(langsmith.traces)
    assert root.told["id"] == root.told["trace_id"] == str(run.run_id)
    assert root.name == run.graph_id
    return root


@pytest.mark.parametrize("node", [True, False])
async def test_a_run_is_one_trace(
    engine_store: EngineStore, langsmith: Collector, *, node: bool
) -> None:
    """However many entries it takes; that they hand it over is no error of theirs."""
    driver, run = await _submit(
        engine_store, _graph(), kwargs={"config": {"tags": ["t"]}}, node=node
    )
    process = driver.process()
    while claims := await driver.claim(process):
        await driver.work(process, attempt_of(*claims))
        await asyncio.to_thread(langsmith.client.flush)
    root = await _trace(langsmith, run)
    below = [span.shape() for span in root.below]
    if node:
        assert below == [("LangGraph", name) for name in "abc"]
    else:
        assert below == [("LangGraph", "a", "b", "c")]
    assert root.told["inputs"] == {"steps": []}
    assert root.told["outputs"] == {"steps": ["a", "b", "c"]}
    assert (root.error, root.ended) == (None, True)
    assert root.told["tags"] == ["t"]
    metadata = root.told["extra"]["metadata"]
    assert metadata["thread_id"] == str(run.thread_id)
    assert metadata["graph_id"] == run.graph_id
    # LangSmith refuses a second beginning, or end. Its client sends them together
    # where it can.
    told = [[part["id"] for part in p] for p in (langsmith.begun, langsmith.ended)]
    assert [ids.count(str(run.run_id)) for ids in told] == [1, 1 if node else 0]


async def test_a_superstep_that_is_spread_is_in_its_runs_trace(
    engine_store: EngineStore, langsmith: Collector
) -> None:
    graph = wide(Watch().work)
    driver, run = await _submit(engine_store, graph, kwargs={"input": {"n": 5}})
    await work_off(engine_store, driver, run)
    root = await _trace(langsmith, run)
    assert [span.error for span in root.below] == [None] * 3
    works = [[n.name for n in span.below].count("work") for span in root.below]
    assert works == [2, 2, 1]
    assert root.told["outputs"]["seen"] == [0, 1, 2, 3, 4]


async def test_a_second_attempt_is_a_second_child(
    engine_store: EngineStore, langsmith: Collector
) -> None:
    held = _Held()
    graph = row(a=step("a"), b=held, c=step("c"))
    driver, run = await _submit(engine_store, graph)
    await _die_in(held, driver)
    held.open.set()
    await driver.carry_out(run)
    root = await _trace(langsmith, run)
    # This process did not really die, and so its client could tell how it ended.
    assert [span.shape() for span in root.below] == [
        ("LangGraph: CancelledError", "a", "b: CancelledError"),
        ("LangGraph", "b", "c"),
    ]
    attempts = [s.told["extra"]["metadata"]["run_attempt"] for s in root.below]
    assert attempts == [1, 2]
    assert (root.error, root.ended) == (None, True)


async def test_who_ends_a_run_tells_what_the_first_one_had_no_time_to_send(
    engine_store: EngineStore, langsmith: Collector
) -> None:
    lost = Collector()
    driver, run = await _submit(engine_store, _graph(), node=True)
    process = driver.process()
    with tracing_context(enabled=True, client=lost.client):
        await driver.work(process, attempt_of(*await driver.claim(process)))
    lost.close()
    await driver.carry_out(run)
    root = await _trace(langsmith, run)
    assert [span.shape() for span in root.below] == [("LangGraph", n) for n in "bc"]
    assert str(run.run_id) not in [part["id"] for part in langsmith.begun]
    assert root.told["inputs"] == {"steps": []}


async def _fail(state: Steps) -> Any:
    raise ValueError("broken")


async def _ask(state: Steps) -> Any:
    return {"steps": [interrupt("well?")]}


@pytest.mark.parametrize(
    ("node", "status", "error"),
    [(_fail, RunStatus.ERROR, "ValueError"), (_ask, RunStatus.SUCCESS, None)],
)
async def test_a_trace_ends_as_its_run_does(
    engine_store: EngineStore,
    langsmith: Collector,
    node: Any,
    status: RunStatus,
    error: str | None,
) -> None:
    driver, run = await _submit(engine_store, row(a=step("a"), b=node), node=True)
    assert (await driver.carry_out(run)).run.status is status
    root = await _trace(langsmith, run)
    assert (root.error, root.ended) == (error, True)


async def test_a_run_that_is_given_up_ends_its_trace(
    engine_store: EngineStore, langsmith: Collector
) -> None:
    held = _Held()
    driver, run = await _submit(engine_store, row(a=held), attempts_max=1)
    await _die_in(held, driver)
    await driver.carry_out(run)
    root = await _trace(langsmith, run)
    assert (root.error, root.ended) == ("RuntimeError", True)
    assert "gave up after 1 attempt" in root.told["error"]


async def test_a_run_whose_graph_does_not_load_ends_its_trace(
    engine_store: EngineStore, langsmith: Collector
) -> None:
    async def factory(config: RunnableConfig) -> Any:
        raise ValueError("broken")

    driver, run = await _submit(engine_store, cast("Any", Factory.of(factory)))
    assert (await driver.carry_out(run)).run.status is RunStatus.ERROR
    root = await _trace(langsmith, run)
    assert (root.error, root.ended) == ("GraphLoadFailed", True)


async def test_a_cancelled_run_ends_its_trace(
    engine_store: EngineStore, langsmith: Collector
) -> None:
    held = _Held()
    driver, run = await _submit(engine_store, row(a=held))
    process = driver.process()
    attempt = attempt_of(*await driver.claim(process))
    working = asyncio.create_task(driver.work(process, attempt))
    await held.begun.wait()
    await engine_store.runs.cancel(TENANT, run.thread_id, run.run_id)
    attempt.stop.request(StopReason.CANCELLED)
    await working
    root = await _trace(langsmith, run)
    assert (root.error, root.ended) == ("stopped: cancelled", True)


async def test_a_failure_elsewhere_is_not_told_as_a_cancellation(
    engine_store: EngineStore, langsmith: Collector
) -> None:
    """Who runs another task of the superstep is stopped, and does not know why."""
    watch = Watch(fails={1})
    watch.hold(0)
    driver, run = await _submit(
        engine_store, wide(watch.work), kwargs={"input": {"n": 2}}
    )
    process, other = driver.process(), driver.process()
    attempt = attempt_of(*await driver.claim(process), desk=TestDesk(tasks_at_once=1))
    working = asyncio.create_task(driver.work(process, attempt))
    await watch.begun[0].wait()
    await driver.work(other, attempt_of(*await driver.claim(other)))
    attempt.stop.request(StopReason.CANCELLED)
    await working
    assert (await engine_store.runs.get(TENANT, run.run_id)).status is RunStatus.ERROR
    root = await _trace(langsmith, run)
    assert (root.error, root.ended) == ("ValueError", True)


async def test_who_has_lost_a_run_does_not_end_its_trace(
    engine_store: EngineStore, langsmith: Collector
) -> None:
    """LangSmith would keep the first end that it is told, and it is not known here."""
    held = _Held()
    driver, run = await _submit(engine_store, row(a=held))
    process = driver.process()
    working = asyncio.create_task(
        driver.work(process, attempt_of(*await driver.claim(process)))
    )
    await held.begun.wait()
    await engine_store.runs.cancel(TENANT, run.thread_id, run.run_id)
    held.open.set()
    await working
    root = await _trace(langsmith, run)
    assert root.told["id"] == str(run.run_id)
    assert not root.ended


async def test_a_trace_that_cannot_be_told_harms_no_run(
    engine_store: EngineStore, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(inputs: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("not to be told")

    collector = Collector(hide_inputs=refuse)
    driver, run = await _submit(engine_store, _graph(), node=True)
    with (
        caplog.at_level(logging.CRITICAL),
        capture_logs() as logs,
        tracing_context(enabled=True, client=collector.client),
    ):
        assert (await driver.carry_out(run)).run.status is RunStatus.SUCCESS
    collector.close()
    assert "trace.lost" in [log["event"] for log in logs]


class _Bound(AsyncCallbackHandler):
    """A handler of the user's: parents, and how entries end."""

    def __init__(self) -> None:
        self.parents: list[UUID | None] = []
        self.errors: list[str] = []

    async def on_chain_start(
        self, *_: Any, parent_run_id: UUID | None = None, **__: Any
    ) -> None:
        self.parents.append(parent_run_id)

    async def on_chain_error(self, error: BaseException, **_: Any) -> None:
        self.errors.append(type(error).__name__)


async def test_bound_handlers_are_told_what_langgraph_tells(
    engine_store: EngineStore, langsmith: Collector
) -> None:
    """They know no parent of an entry, so they are told of none."""
    bound = _Bound()
    graph = _graph().with_config(callbacks=[bound])
    driver, run = await _submit(engine_store, graph, node=True)
    await driver.carry_out(run)
    assert len(bound.parents) == 6
    assert bound.parents.count(None) == 3
    assert bound.errors == ["GraphDrained"] * 2
    assert len((await _trace(langsmith, run)).below) == 3


async def test_where_a_tracer_is_bound_nothing_is_told_twice(
    engine_store: EngineStore, langsmith: Collector
) -> None:
    tracer = LangChainTracer(client=langsmith.client)
    graph = row(a=step("a")).with_config(callbacks=[tracer])
    driver, run = await _submit(engine_store, graph)
    await driver.carry_out(run)
    traces = await asyncio.to_thread(langsmith.traces)
    assert [trace.shape() for trace in traces] == [("LangGraph", "a")]


@pytest.mark.parametrize("mode", ["messages-tuple", "events"])
async def test_streams_are_the_same_where_tracing_is_on(
    engine_store: EngineStore, langsmith: Collector, mode: str
) -> None:
    async def say(state: MessagesState) -> Any:
        messages = iter([AIMessage("one two", id="m1")])
        return {"messages": [await GenericFakeChatModel(messages=messages).ainvoke("")]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("say", say)
    builder.add_node("last", lambda _: None)
    builder.add_edge("say", "last")
    graph = builder.set_entry_point("say").compile()
    kwargs = {"input": {"messages": []}, "stream_mode": [mode]}
    told = []
    for enabled in (True, False):
        with tracing_context(enabled=enabled, client=langsmith.client):
            driver, run = await _submit(engine_store, graph, kwargs=kwargs, node=True)
            await driver.carry_out(run)
        events = await engine_store.events(run.thread_id)
        told.append([(e.event, e.data[:30]) for e in events if e.event != "metadata"])
    assert told[0] == told[1]
    assert len(told[0]) > 1
    # The model is told below its node, and nothing where tracing is off.
    (root,) = await asyncio.to_thread(langsmith.traces)
    assert [span.shape() for span in root.below] == [
        ("LangGraph", ("say", "GenericFakeChatModel")),
        ("LangGraph", "last"),
    ]


async def test_no_trace_tells_of_the_self_test(langsmith: Collector) -> None:
    await self_test()
    assert await asyncio.to_thread(langsmith.traces) == []
