"""Tries out, before a worker claims anything, what the adapter relies on.

The adapter uses LangGraph's public entry and a few seams beside it (see the package).
A release in which a seam behaves differently must not touch anybody's thread, so every
worker drives a small graph in memory first and looks at each seam.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Annotated, Any, Final, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphDrained, GraphRecursionError
from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import StreamProtocol
from langgraph.runtime import RunControl, Runtime
from langgraph.types import Send
from langsmith.run_helpers import tracing_context

from threadmill.engine.activation.entry import RUNTIME_KEY, STREAM_KEY
from threadmill.engine.activation.saver import RESUMING
from threadmill.engine.activation.steps import StepLimit
from threadmill.engine.activation.tasks import KEY as SUBMIT_KEY
from threadmill.errors import SetupError

_WIDTH: Final = 2
_STEPS: Final = 10
_TIMEOUT_SECONDS: Final = 10.0


async def self_test() -> None:
    """Drives a graph in memory past every seam; takes a few milliseconds.

    No trace tells of it: it is nobody's run.

    Raises:
        SetupError: a seam behaves differently in the installed LangGraph.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            with tracing_context(enabled=False):
                await _check_parking()
                await _check_draining()
                await _check_limit()
    except Exception as error:
        raise SetupError(
            f"langgraph {metadata.version('langgraph')} does not behave as threadmill "
            f"relies on ({error!s}); install {_supported()}"
        ) from error


def _supported() -> str:
    """The range of LangGraph that this release was tested with."""
    with suppress(metadata.PackageNotFoundError):
        for requirement in metadata.requires("threadmill") or ():
            if requirement.replace(" ", "").startswith(("langgraph>", "langgraph<")):
                return requirement
    return "a version that this release of threadmill supports"


class _Parked(GraphDrained):
    """What a task that must not run here is answered with."""


class _State(TypedDict, total=False):
    done: Annotated[list[int], operator.add]
    n: int


class _Inner(TypedDict, total=False):
    n: int


class _Recorder(InMemorySaver):
    """Keeps in one list what LangGraph did, in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[tuple[str, Any]] = []
        self.on_put: Callable[[CheckpointMetadata], None] | None = None

    def tap(self, chunk: tuple[tuple[str, ...], str, Any]) -> None:
        path, mode, payload = chunk
        if not path:
            self.log.append((mode, payload))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        if config["configurable"].get("checkpoint_ns"):
            self.log.append(("enter", RESUMING in config["configurable"]))
        return await super().aget_tuple(config)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        if not config["configurable"].get("checkpoint_ns"):
            self.log.append(("put", metadata["step"]))
            if self.on_put is not None:
                self.on_put(metadata)
        return await super().aput(config, checkpoint, metadata, new_versions)

    async def aput_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str = "",
    ) -> None:
        if not config["configurable"].get("checkpoint_ns"):
            self.log.append(("writes", task_id))
        await super().aput_writes(config, writes, task_id, task_path)


class _Starter:
    """The hook: starts every task, or parks some."""

    def __init__(self, parks: Callable[[Any], bool] | None = None) -> None:
        self._parks = parks
        self.started: list[Any] = []

    def __call__(self) -> Callable[..., asyncio.Future[Any]]:
        return self.submit

    def submit(
        self, fn: Callable[..., Any], *args: Any, **options: Any
    ) -> asyncio.Future[Any]:
        task = args[0]
        if task.name != START:
            self.started.append(task)
        if self._parks is not None and self._parks(task):
            parked: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            parked.set_exception(_Parked("parked"))
            return parked
        kept = {k: v for k, v in options.items() if not k.startswith("__")}
        return asyncio.get_running_loop().create_task(fn(*args, **kept))


def _graph(saver: _Recorder) -> Pregel[Any, Any, Any, Any]:
    """Plan, two tasks at once, a subgraph that keeps its history."""

    async def plan(_: _State) -> Any:
        return {"n": 1}

    async def work(state: _State) -> Any:
        return {"done": [state["n"]]}

    async def inside(_: _Inner) -> Any:
        return {"n": 2}

    def scatter(_: _State) -> list[Send]:
        return [Send("work", {"n": n}) for n in range(_WIDTH)]

    inner: Any = StateGraph(_Inner)
    inner.add_node("inside", inside)
    inner.add_edge(START, "inside")
    builder: Any = StateGraph(_State)
    builder.add_node("plan", plan)
    builder.add_node("work", work)
    builder.add_node("sub", inner.compile(checkpointer=True))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", scatter, ["work"])
    builder.add_edge("work", "sub")
    graph: Pregel[Any, Any, Any, Any] = builder.compile(checkpointer=saver)
    graph.stream_eager = True
    return graph


async def _enter(
    saver: _Recorder,
    given: Any,
    starter: _Starter,
    *,
    control: RunControl | None = None,
    limit: int = _STEPS,
) -> None:
    modes: Any = {"updates", "values", "tasks"}
    config = RunnableConfig(
        configurable={
            "thread_id": "self-test",
            SUBMIT_KEY: starter,
            STREAM_KEY: StreamProtocol(saver.tap, modes),
            RUNTIME_KEY: Runtime(),
        },
        recursion_limit=limit,
    )
    chunks = _graph(saver).astream(
        given, config, durability="sync", stream_mode=[], control=control
    )
    async for _ in chunks:
        pass


async def _check_parking() -> None:
    """A parked task leaves nothing; entering again runs it, and only it."""
    saver = _Recorder()
    parking = _Starter(parks=lambda task: task.name == "work" and task.path[1] == 1)
    await _expect(_Parked, _enter(saver, {"n": 0}, parking), "a parked task is ignored")
    names = [task.name for task in parking.started]
    _require(names == ["plan", "work", "work"], f"the hook saw {names}")
    parked = parking.started[-1].id
    _require(("writes", parked) not in saver.log, "a parked task has written")
    _check_order(saver.log)
    entered = len(saver.log)
    again = _Starter()
    await _enter(saver, None, again)
    names = [task.name for task in again.started]
    _require(names == ["work", "sub"], f"entering again started {names}")
    _require(again.started[0].id == parked, "a task's id has changed")
    later = saver.log[entered:]
    _require(("enter", False) in later, "a later superstep resumes its subgraph")
    repeated = [mode for mode, _ in later[:2]]
    _require(repeated == ["values", "tasks"], f"entering again told {repeated}")


def _check_order(log: Sequence[tuple[str, Any]]) -> None:
    """What describes a commit is told before it."""
    told: set[str] = set()
    for kind, what in log:
        if kind == "tasks" and "result" in what:
            told.add(what["id"])
        elif kind == "writes" and any(
            mode == "tasks" and payload["id"] == what for mode, payload in log
        ):
            _require(what in told, "a result is saved before it is told")
    kinds = [kind for kind, _ in log]
    first, plan = kinds.index("values"), kinds.index("updates")
    _require(first < plan, "the first state is told late")
    _require(kinds[plan + 1] == "tasks", "updates and task results come apart")
    put = log.index(("put", 1))
    _require("values" in kinds[plan:put], "a state is saved before it is told")


async def _check_draining() -> None:
    """A drain that is asked for by a checkpoint's commit leaves right after it.

    What is entered again there is told to resume.
    """
    saver, control = _Recorder(), RunControl()

    def drain(metadata: CheckpointMetadata) -> None:
        if metadata["step"] == 2:
            control.request_drain("self-test")

    saver.on_put = drain
    leaving = _enter(saver, {"n": 0}, _Starter(), control=control)
    await _expect(GraphDrained, leaving, "a drain is ignored")
    puts = [what for kind, what in saver.log if kind == "put"]
    _require(puts == [-1, 0, 1, 2], f"a drain at superstep 2 left after {puts}")
    await _enter(saver, None, _Starter())
    _require(("enter", True) in saver.log, "a subgraph is not told to resume")


async def _check_limit() -> None:
    """A limit below 1 is taken, and ends a run whose supersteps are used up."""
    saver, control = _Recorder(), RunControl()
    saver.on_put = lambda _: control.request_drain("self-test")
    leaving = _enter(saver, {"n": 0}, _Starter(), control=control)
    await _expect(GraphDrained, leaving, "a drain is ignored")
    none_left = StepLimit(1, start_step=-3).left_at(0)
    entering = _enter(saver, None, _Starter(), limit=none_left)
    await _expect(GraphRecursionError, entering, "a used up limit is ignored")


async def _expect(kind: type[Exception], doing: Any, otherwise: str) -> None:
    try:
        await doing
    except kind:
        return
    raise AssertionError(otherwise)


def _require(ok: bool, otherwise: str) -> None:  # noqa: FBT001  # reads as one
    if not ok:
        raise AssertionError(otherwise)
