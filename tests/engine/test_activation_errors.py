"""What a run ends with when its graph, its state or its store fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config
from langgraph.graph import START, StateGraph
from pydantic import BaseModel
from structlog.testing import capture_logs

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.small_graphs import Steps, compiled, row, step
from threadmill.checkpoints.base import Stored
from threadmill.domain.run import RunStatus
from threadmill.errors import SchemaOutdated, StoreUnavailable
from threadmill.stores.records import Run
from threadmill.testing.engine import EngineDriver, attempt_of


async def _run(
    store: EngineStore, graph: Any, given: Any = None, **kwargs: Any
) -> tuple[Run, UUID]:
    graph_id, thread_id = str(uuid4()), uuid4()
    driver = store.driver({graph_id: graph})
    run = await driver.submit(
        graph_id, thread_id, {"input": given or {"steps": []}, **kwargs}
    )
    return (await driver.carry_out(run)).run, thread_id


def _error(run: Run) -> tuple[str, str]:
    assert run.status is RunStatus.ERROR
    assert run.error is not None
    return run.error["error"], run.error["message"]


# --------------------------------------------------------------- the graph's own code


class Abort(BaseException):
    """No Exception, as some libraries have them."""


def _raises(error: BaseException) -> Any:
    async def node(state: Steps) -> Any:
        raise error

    return node


def _raises_in_thread(error: BaseException) -> Any:
    def node(state: Steps) -> Any:
        raise error

    return node


@pytest.mark.parametrize("node", [_raises, _raises_in_thread])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("no good"), "ValueError"),
        (Abort("enough"), "Abort"),
        (SystemExit(3), "GraphFailed"),
        (KeyboardInterrupt(), "GraphFailed"),
        (asyncio.CancelledError(), "NodeCancelledError"),
    ],
)
async def test_whatever_a_node_raises_ends_its_run_only(
    engine_store: EngineStore,
    node: Callable[[BaseException], Any],
    error: BaseException,
    kind: str,
) -> None:
    run, _ = await _run(engine_store, row(first=step("first"), broken=node(error)))
    assert _error(run)[0] == kind
    assert run.attempt == 1


async def test_a_node_that_exits_is_named(engine_store: EngineStore) -> None:
    run, _ = await _run(engine_store, row(leaver=_raises(SystemExit(3))))
    assert _error(run) == ("GraphFailed", "node 'leaver' raised SystemExit")


async def test_the_error_is_the_last_event(engine_store: EngineStore) -> None:
    _, thread_id = await _run(
        engine_store, row(broken=_raises(ValueError("no good"))), stream_mode=["values"]
    )
    last = (await engine_store.events(thread_id))[-1]
    assert last.event == "error"
    assert last.data == '{"error":"ValueError","message":"no good"}'


class Strict(BaseModel):
    count: int


async def test_input_of_the_wrong_type_says_what_is_wrong(
    engine_store: EngineStore,
) -> None:
    async def node(state: Strict) -> Any:
        return {}

    builder = StateGraph(Strict)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    run, _ = await _run(engine_store, builder.compile(), {"count": "many"})
    kind, message = _error(run)
    assert kind == "ValidationError"
    assert "count" in message
    assert "many" in message


@pytest.mark.parametrize("beside", [False, True])
async def test_state_that_cannot_be_stored_names_channel_and_type(
    engine_store: EngineStore, *, beside: bool
) -> None:
    async def node(state: Steps) -> Any:
        return {"value": threading.Lock()}

    builder = StateGraph(Steps)
    builder.add_node("first", step("first"))
    builder.add_node("node", node)
    builder.add_edge(START, "first")
    builder.add_edge("first", "node")
    if beside:
        builder.add_node("beside", step("beside"))
        builder.add_edge("first", "beside")
    run, thread_id = await _run(
        engine_store, builder.compile(), stream_mode=["values", "updates"]
    )
    kind, message = _error(run)
    assert kind == "StateUnserializable"
    assert "'value'" in message
    assert "lock" in message
    head = await engine_store.checkpoints.get(TENANT, str(thread_id), "")
    assert head is not None
    assert head.checkpoint["channel_values"]["steps"] == ["first"]
    told = [event.event for event in await engine_store.events(thread_id)]
    # What describes the refused commit is not told.
    assert told.count("values") == 2
    assert told[-1] == "error"


async def test_a_graphs_own_checkpointer_is_not_used(engine_store: EngineStore) -> None:
    own = InMemorySaver()
    graph = compiled({"first": step("first")}, checkpointer=own)
    with capture_logs() as logs:
        run, thread_id = await _run(engine_store, graph)
    assert run.status is RunStatus.SUCCESS
    assert list(own.list(None)) == []
    assert await engine_store.checkpoints.get(TENANT, str(thread_id), "") is not None
    assert "graph.checkpointer_replaced" in {log["event"] for log in logs}


async def test_a_subgraph_of_another_thread_is_refused(
    engine_store: EngineStore,
) -> None:
    """By its config it would write under this thread's fence."""
    inner = row(x=step("x"))

    async def caller(state: Steps) -> Any:
        config = get_config()
        other = {**config["configurable"], "thread_id": "other"}
        await inner.ainvoke({"steps": []}, {**config, "configurable": other})
        return {}

    run, _ = await _run(engine_store, row(caller=caller))
    kind, message = _error(run)
    assert kind == "GraphFailed"
    assert "'other'" in message


# -------------------------------------------------------------------- the store


class Failing:
    """Checkpoints whose first reads of a subgraph fail."""

    def __init__(self, store: Any, times: int) -> None:
        self._store = store
        self._times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None = None
    ) -> Stored | None:
        if ns and self._times:
            self._times -= 1
            raise StoreUnavailable("the database is away")
        found: Stored | None = await self._store.get(
            tenant, thread_id, ns, checkpoint_id
        )
        return found


async def test_a_read_that_fails_is_no_failure_of_the_node(
    engine_store: EngineStore,
) -> None:
    """The attempt is given back; no error handler and no retry policy sees it."""
    seen: list[str] = []

    async def handler(state: Steps, error: Any = None) -> Any:
        seen.append("handler")
        return {"steps": ["handled"]}

    builder = StateGraph(Steps)
    builder.add_node("sub", row(x=step("x")), error_handler=handler)
    builder.add_edge(START, "sub")
    graph_id, thread_id = str(uuid4()), uuid4()
    failing: Any = Failing(engine_store.checkpoints, 2)
    engine_store.checkpoints = failing
    driver: EngineDriver = engine_store.driver({graph_id: builder.compile()})
    run = await driver.submit(graph_id, thread_id, {"input": {"steps": []}})
    ended = await driver.carry_out(run)
    assert ended.run.status is RunStatus.SUCCESS
    assert ended.claims == 3
    assert ended.run.attempt == 1
    assert seen == []


class Refusing:
    """A dispatcher that takes nothing back."""

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dispatcher, name)

    async def release(self, *_args: Any, **_kwargs: Any) -> None:
        raise SchemaOutdated("migrate first")


async def test_what_cannot_be_given_back_is_left_to_its_lease(
    engine_store: EngineStore,
) -> None:
    builder = StateGraph(Steps)
    builder.add_node("sub", row(x=step("x")))
    builder.add_edge(START, "sub")
    graph_id = str(uuid4())
    store: Any = engine_store
    store.checkpoints = Failing(store.checkpoints, 1)
    store.dispatcher = Refusing(store.dispatcher)
    driver: EngineDriver = store.driver({graph_id: builder.compile()})
    await driver.submit(graph_id, uuid4(), {"input": {"steps": []}})
    process = driver.process()
    (claim,) = await driver.claim(process)
    with capture_logs() as logs:
        await driver.work(process, attempt_of(claim))
    assert logs[-1]["event"] == "attempt.not_given_back"
    await driver.heal(process)
    assert len(await driver.claim(driver.process())) == 1


async def test_who_does_not_reach_the_store_leaves_it_to_others(
    engine_store: EngineStore,
) -> None:
    """It is not counted as an attempt."""
    builder = StateGraph(Steps)
    builder.add_node("sub", row(x=step("x")))
    builder.add_edge(START, "sub")
    graph_id = str(uuid4())
    failing: Any = Failing(engine_store.checkpoints, 1)
    engine_store.checkpoints = failing
    driver: EngineDriver = engine_store.driver(
        {graph_id: builder.compile()}, shun_seconds=3600.0
    )
    await driver.submit(graph_id, uuid4(), {"input": {"steps": []}})
    process = driver.process()
    (claim,) = await driver.claim(process)
    await driver.work(process, attempt_of(claim))
    assert await driver.claim(process) == []
    (again,) = await driver.claim(driver.process())
    assert again.attempt == claim.attempt
