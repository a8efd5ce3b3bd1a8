"""Retries, caches, timeouts, error handlers, errors, and runs after them.

A handler that runs after a loss is given its error as text: that is how LangGraph's
serializer keeps exceptions. So the handlers here only name the node.
"""

from __future__ import annotations

import asyncio
from typing import Any

from langgraph.cache.memory import InMemoryCache
from langgraph.errors import NodeError
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import CachePolicy, Command, RetryPolicy, TimeoutPolicy

from tests.engine.parity.flows import Trail, step
from tests.engine.parity.harness import Ledger, Saver, Scenario, Turn


def _quick(attempts: int) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=attempts, initial_interval=0.0, max_interval=0.0, jitter=False
    )


def retried(ledger: Ledger, saver: Saver) -> Pregel:
    """Fails twice in one execution, then succeeds."""

    async def flaky(state: Trail, runtime: Any) -> Any:
        ledger("flaky")
        if runtime.execution_info.node_attempt < 3:
            raise ConnectionError("try again")
        return {"trail": ["flaky"]}

    builder = StateGraph(Trail)
    builder.add_node("first", step(ledger, "first"))
    builder.add_node("flaky", flaky, retry_policy=_quick(3))
    builder.add_node("last", step(ledger, "last"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "flaky")
    builder.add_edge("flaky", "last")
    return builder.compile(checkpointer=saver)


def retried_in_vain(ledger: Ledger, saver: Saver) -> Pregel:
    async def broken(state: Trail) -> Any:
        ledger("broken")
        raise ConnectionError("never works")

    builder = StateGraph(Trail)
    builder.add_node("first", step(ledger, "first"))
    builder.add_node("broken", broken, retry_policy=_quick(2))
    builder.add_edge(START, "first")
    builder.add_edge("first", "broken")
    return builder.compile(checkpointer=saver)


def failing(ledger: Ledger, saver: Saver) -> Pregel:
    """Fails as long as the state says so, next to a node that succeeds."""

    async def fails(state: Trail) -> Any:
        ledger("fails")
        await asyncio.sleep(0.01)
        if state.get("n", 0) == 0:
            raise ValueError("n must not be 0")
        return {"trail": ["did not fail"]}

    builder = StateGraph(Trail)
    builder.add_node("first", step(ledger, "first"))
    builder.add_node("fails", fails)
    builder.add_node("beside", step(ledger, "beside"))
    builder.add_node("join", step(ledger, "join"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "fails")
    builder.add_edge("first", "beside")
    builder.add_edge(["fails", "beside"], "join")
    return builder.compile(checkpointer=saver)


def failing_alone(ledger: Ledger, saver: Saver) -> Pregel:
    async def fails(state: Trail) -> Any:
        ledger("fails")
        raise ValueError("always")

    builder = StateGraph(Trail)
    builder.add_node("fails", fails)
    builder.add_edge(START, "fails")
    return builder.compile(checkpointer=saver)


def handled(ledger: Ledger, saver: Saver) -> Pregel:
    """A node whose error another node takes over, next to a slow one."""

    async def fails(state: Trail) -> Any:
        ledger("fails")
        raise ValueError("to be handled")

    async def handler(state: Trail, error: NodeError) -> Command[Any]:
        ledger("handler")
        return Command(update={"trail": [f"{error.node} failed"]}, goto="last")

    builder = StateGraph(Trail)
    builder.add_node("first", step(ledger, "first"))
    builder.add_node("fails", fails, error_handler=handler)
    builder.add_node("beside", step(ledger, "beside"))
    builder.add_node("last", step(ledger, "last"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "fails")
    builder.add_edge("first", "beside")
    return builder.compile(checkpointer=saver)


def handled_alone(ledger: Ledger, saver: Saver) -> Pregel:
    async def fails(state: Trail) -> Any:
        ledger("fails")
        raise ValueError("to be handled")

    async def handler(state: Trail, error: NodeError) -> Any:
        ledger("handler")
        return {"trail": [f"{error.node} failed"]}

    builder = StateGraph(Trail)
    builder.add_node("fails", fails, error_handler=handler)
    builder.add_edge(START, "fails")
    return builder.compile(checkpointer=saver)


def timed_out(ledger: Ledger, saver: Saver) -> Pregel:
    async def slow(state: Trail) -> Any:
        ledger("slow")
        await asyncio.sleep(30)

    async def handler(state: Trail, error: NodeError) -> Any:
        ledger("handler")
        return {"trail": [f"{error.node} failed"]}

    builder = StateGraph(Trail)
    builder.add_node(
        "slow", slow, timeout=TimeoutPolicy(run_timeout=0.02), error_handler=handler
    )
    builder.add_edge(START, "slow")
    return builder.compile(checkpointer=saver)


def step_timed_out(ledger: Ledger, saver: Saver) -> Pregel:
    async def slow(state: Trail) -> Any:
        ledger("slow")
        await asyncio.sleep(30)

    builder = StateGraph(Trail)
    builder.add_node("first", step(ledger, "first"))
    builder.add_node("slow", slow)
    builder.add_edge(START, "first")
    builder.add_edge("first", "slow")
    graph = builder.compile(checkpointer=saver)
    graph.step_timeout = 0.3
    return graph


def cached(ledger: Ledger, saver: Saver) -> Pregel:
    """Two cached nodes and one that is not; a second input finds the cache filled."""

    def key(state: Any) -> str:
        return str(len(state.get("trail", ())) > 0)

    builder = StateGraph(Trail)
    builder.add_node(
        "first", step(ledger, "first"), cache_policy=CachePolicy(key_func=key)
    )
    builder.add_node(
        "left", step(ledger, "left"), cache_policy=CachePolicy(key_func=key)
    )
    builder.add_node("right", step(ledger, "right"))
    builder.add_node("join", step(ledger, "join"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "left")
    builder.add_edge("first", "right")
    builder.add_edge(["left", "right"], "join")
    return builder.compile(checkpointer=saver, cache=InMemoryCache())


def cancelling(ledger: Ledger, saver: Saver) -> Pregel:
    """A node that raises what asyncio uses to cancel."""

    async def quits(state: Trail) -> Any:
        ledger("quits")
        raise asyncio.CancelledError("from the node")

    builder = StateGraph(Trail)
    builder.add_node("quits", quits)
    builder.add_edge(START, "quits")
    return builder.compile(checkpointer=saver)


_HELLO = Turn(input={"trail": ["hello"]})

SCENARIOS = [
    Scenario(name="retry", build=retried, turns=[_HELLO]),
    Scenario(name="retry-in-vain", build=retried_in_vain, turns=[_HELLO, _HELLO]),
    Scenario(
        name="error-then-input",
        build=failing,
        turns=[_HELLO, Turn(input={"n": 1})],
    ),
    Scenario(
        name="error-then-resume",
        build=failing,
        turns=[
            _HELLO,
            Turn(update=({"n": 1}, None)),
            Turn(input=None),
        ],
    ),
    Scenario(name="error-then-again", build=failing, turns=[_HELLO, Turn(input=None)]),
    Scenario(name="error-alone", build=failing_alone, turns=[_HELLO]),
    # Before, an error that a handler had taken over came back at the end of the run.
    Scenario(name="error-handler", build=handled, turns=[_HELLO], since=(1, 2, 18)),
    Scenario(
        name="error-handler-alone",
        build=handled_alone,
        turns=[_HELLO, _HELLO],
        since=(1, 2, 18),
    ),
    Scenario(name="node-timeout", build=timed_out, turns=[_HELLO], since=(1, 2, 18)),
    Scenario(name="step-timeout", build=step_timed_out, turns=[_HELLO]),
    Scenario(name="cache", build=cached, turns=[_HELLO, _HELLO]),
    Scenario(name="cancelled-error", build=cancelling, turns=[_HELLO]),
]
