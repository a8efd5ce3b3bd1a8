"""A task's idempotency key: the same in every attempt, and no other task's.

Faults strike at every commit, so also before the first checkpoint of a subgraph, on
which LangGraph's own ids of its tasks depend.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from uuid import UUID

import pytest
from langgraph.func import task
from langgraph.graph import START, StateGraph
from langgraph.types import Send, interrupt

import threadmill
from tests.engine.effect_graphs import Receiver, Story
from tests.engine.engine_store import EngineStore
from tests.engine.small_graphs import Steps, compiled, row
from threadmill.domain.fence import Fence
from threadmill.domain.run import RunStatus
from threadmill.engine.activation.identity import TaskIdentity
from threadmill.engine.effects import EffectBook
from threadmill.testing.process import Fault, FaultKind

pytestmark = pytest.mark.langgraph

_COMMITS_MAX = 40


class _Keys:
    """The keys that nodes have read, by what they were meant for."""

    def __init__(self) -> None:
        self.by_what: dict[str, set[str]] = defaultdict(set)

    def read(self, what: str) -> None:
        self.by_what[what].add(threadmill.idempotency_key())

    def node(self, name: str) -> Any:
        async def node(state: Steps) -> Any:
            self.read(name)
            return {"steps": [name]}

        return node

    def blocking_node(self, name: str) -> Any:
        def node(state: Steps) -> Any:
            self.read(name)
            return {"steps": [name]}

        return node

    def assert_stable(self, *expected: str) -> None:
        """Each has one key, and no two have the same."""
        assert set(self.by_what) == set(expected)
        assert {w: len(keys) for w, keys in self.by_what.items() if len(keys) > 1} == {}
        keys = [key for found in self.by_what.values() for key in found]
        assert len(set(keys)) == len(keys)
        assert all(str(UUID(key)) == key for key in keys)


def _flat(keys: _Keys) -> Any:
    return row(a=keys.node("a"), b=keys.blocking_node("b"))


def _fanned_out(keys: _Keys) -> Any:
    async def work(state: Any) -> Any:
        keys.read(f"send {state['value']}")

    builder: Any = StateGraph(Steps)
    builder.add_node("work", work)
    builder.add_conditional_edges(
        START, lambda _: [Send("work", {"value": n}) for n in range(3)]
    )
    return builder.compile()


def _looping(keys: _Keys) -> Any:
    async def turn(state: Steps) -> Any:
        keys.read(f"turn {len(state['steps'])}")
        return {"steps": ["turn"]}

    builder: Any = StateGraph(Steps)
    builder.add_node("turn", turn)
    builder.add_edge(START, "turn")
    builder.add_conditional_edges(
        "turn", lambda state: "turn" if len(state["steps"]) < 3 else "__end__"
    )
    return builder.compile()


def _looping_inside(keys: _Keys) -> Any:
    return row(inner=_looping(keys))


def _tasks(keys: _Keys) -> Any:
    @task
    async def work(n: int) -> None:
        keys.read(f"call {n}")

    async def calls(state: Steps) -> Any:
        keys.read("caller")
        for n in range(2):
            await work(n)

    return row(calls=calls)


def _nested(keys: _Keys, **options: Any) -> Any:
    inner = compiled({"x": keys.node("x"), "y": keys.blocking_node("y")}, **options)
    return row(a=keys.node("a"), inner=inner)


def _nested_twice(keys: _Keys) -> Any:
    return row(outer=compiled({"middle": row(x=keys.node("x"), y=keys.node("y"))}))


def _called(keys: _Keys) -> Any:
    inner = row(x=keys.node("x"), y=keys.node("y"))

    async def calls(state: Steps) -> Any:
        keys.read("caller")
        await inner.ainvoke({"steps": []})

    return row(calls=calls)


def _called_blocking(keys: _Keys) -> Any:
    inner = row(x=keys.blocking_node("x"), y=keys.blocking_node("y"))

    def calls(state: Steps) -> Any:
        keys.read("caller")
        inner.invoke({"steps": []})

    return row(calls=calls)


CASES = {
    "flat": (_flat, ["a", "b"]),
    "send": (_fanned_out, ["send 0", "send 1", "send 2"]),
    "loop": (_looping, ["turn 0", "turn 1", "turn 2"]),
    "subgraph-loop": (_looping_inside, ["turn 0", "turn 1", "turn 2"]),
    "tasks": (_tasks, ["caller", "call 0", "call 1"]),
    "subgraph": (_nested, ["a", "x", "y"]),
    "subgraph-own-history": (
        lambda keys: _nested(keys, checkpointer=True),
        ["a", "x", "y"],
    ),
    "subgraph-no-checkpoints": (
        lambda keys: _nested(keys, checkpointer=False),
        ["a", "x", "y"],
    ),
    "two-levels": (_nested_twice, ["x", "y"]),
    "called": (_called, ["caller", "x", "y"]),
    "called-blocking": (_called_blocking, ["caller", "x", "y"]),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "fault", [FaultKind.KILL_BEFORE, FaultKind.KILL_AFTER], ids=str
)
async def test_a_key_is_the_same_in_every_attempt(
    engine_store: EngineStore, case: str, fault: FaultKind
) -> None:
    build, expected = CASES[case]
    for commit in range(2, _COMMITS_MAX):
        keys = _Keys()
        story = Story(engine_store, build(keys))
        ended = await story.turn(Fault(fault, commit))
        assert ended.run.status is RunStatus.SUCCESS
        keys.assert_stable(*expected)
        if not ended.faulted:
            return
    pytest.fail("the run has more commits than the test knows of")


async def test_a_key_is_the_same_after_an_interrupt(engine_store: EngineStore) -> None:
    keys = _Keys()

    async def asks(state: Steps) -> Any:
        keys.read("asks")
        return {"value": interrupt("?")}

    story = Story(engine_store, row(outer=row(asks=asks)))
    await story.turn()
    assert (await story.answered("!")).run.status is RunStatus.SUCCESS
    keys.assert_stable("asks")


@pytest.mark.parametrize(
    "options", [{}, {"checkpointer": True}, {"checkpointer": False}]
)
async def test_the_next_turn_has_other_keys(
    engine_store: EngineStore, options: dict[str, Any]
) -> None:
    seen: list[str] = []

    async def node(state: Steps) -> Any:
        seen.append(threadmill.idempotency_key())

    story = Story(engine_store, row(a=node, inner=compiled({"x": node}, **options)))
    for _ in range(3):
        await story.turn()
    assert len(seen) == 6
    assert len(set(seen)) == 6


async def test_a_task_has_another_key_in_another_thread_and_for_another_tenant(
    engine_store: EngineStore,
) -> None:
    identity = TaskIdentity(name="task", node="node", task_path="")
    keys = {
        EffectBook(
            engine_store.effects,
            tenant=tenant,
            thread_id=thread_id,
            fence_of=_no_fence,
            refuse=_ignore,
        ).idempotency_key(identity)
        for tenant in ("default", "other")
        for thread_id in (UUID(int=1), UUID(int=2))
    }
    assert len(keys) == 4


def _no_fence(_: str) -> Fence:
    raise AssertionError


def _ignore(_: BaseException) -> None:
    """Nothing is refused here."""


async def test_the_same_subgraph_called_twice_has_other_keys(
    engine_store: EngineStore,
) -> None:
    seen: list[str] = []

    async def node(state: Steps) -> Any:
        seen.append(threadmill.idempotency_key())

    inner = row(x=node)

    async def calls(state: Steps) -> Any:
        await inner.ainvoke({"steps": []})
        await inner.ainvoke({"steps": []})

    story = Story(engine_store, row(calls=calls, again=inner))
    assert (await story.turn()).run.status is RunStatus.SUCCESS
    assert len(set(seen)) == 3


@pytest.mark.parametrize("case", ["subgraph", "own", "none", "called", "blocking"])
async def test_an_effect_in_a_subgraph_happens_once(
    engine_store: EngineStore, case: str
) -> None:
    for commit in range(2, _COMMITS_MAX):
        receiver = Receiver()
        options = {"own": {"checkpointer": True}, "none": {"checkpointer": False}}
        node = receiver.blocking_node if case == "blocking" else receiver.node
        inner = compiled({"pay": node("retry")}, **options.get(case, {}))
        graph = row(
            inner=_calling(inner, case) if case in {"called", "blocking"} else inner
        )
        ended = await Story(engine_store, graph).turn(
            Fault(FaultKind.KILL_BEFORE, commit)
        )
        assert ended.run.status is RunStatus.SUCCESS, ended.run.error
        assert len(set(receiver.calls)) == 1
        if not ended.faulted:
            return
    pytest.fail("the run has more commits than the test knows of")


def _calling(inner: Any, case: str) -> Any:
    def calls(state: Steps) -> Any:
        return {"value": inner.invoke({"steps": []})["value"]}

    async def acalls(state: Steps) -> Any:
        return {"value": (await inner.ainvoke({"steps": []}))["value"]}

    return calls if case == "blocking" else acalls


async def test_where_no_key_would_last_an_effect_is_refused(
    engine_store: EngineStore,
) -> None:
    """Below a graph without checkpoints the next attempt's tasks are others."""
    receiver = Receiver()
    inner = row(pay=receiver.node())
    middle = compiled({"inner": inner}, checkpointer=False)
    ended = await Story(engine_store, row(middle=middle)).turn()
    assert ended.run.error is not None
    assert ended.run.error["error"] == "GraphFailed"
    assert "checkpointer=False" in ended.run.error["message"]
    assert receiver.calls == []
