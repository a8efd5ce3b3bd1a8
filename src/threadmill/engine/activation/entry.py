"""One entry into a graph: prepare, drive, and say how it ended.

The entry never says that something was written: the saver's commits say that. It says
whether the run is done, waits for a human, failed, was handed over, or was stopped.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import (
    ErrorCode,
    GraphDrained,
    GraphRecursionError,
    create_error_message,
)
from langgraph.pregel import Pregel
from langgraph.runtime import RunControl, Runtime

from threadmill.checkpoints.base import Checkpoints, Stored
from threadmill.domain.fence import Fence
from threadmill.engine.activation.resume import entry_input, is_reentry
from threadmill.engine.activation.saver import START, ActivationSaver
from threadmill.engine.activation.stop import Stop, StopReason
from threadmill.engine.activation.tap import Tap
from threadmill.engine.activation.tasks import KEY as SUBMIT_KEY
from threadmill.engine.activation.tasks import TaskStarter
from threadmill.errors import Error, LeaseLost
from threadmill.faults import Faults
from threadmill.stores.base import Run
from threadmill.streams.base import NewEvent

STREAM_KEY: Final = "__pregel_stream"
RUNTIME_KEY: Final = "__pregel_runtime"
# LangGraph counts one superstep for the input and one more to stop at.
_STEPS_AROUND: Final = 2


class _StepsLeft(int):
    """A recursion limit that may be below 1.

    LangGraph takes no such limit from users. An entry near the end of its run has one:
    so it tells the same `RemainingSteps` and gives up at the same superstep as a run
    that was never left.
    """

    def __lt__(self, other: int) -> bool:
        return other != 1 and int(self) < other

    def __hash__(self) -> int:
        return int.__hash__(self)


class Outcome(StrEnum):
    """How an entry ended."""

    DONE = "done"
    PAUSED = "paused"
    FAILED = "failed"
    HANDED_OVER = "handed_over"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Left:
    """An entry's end.

    Args:
        outcome: how.
        error: what the graph raised, for FAILED.
        reason: why it was stopped, for STOPPED.
        released: the activation was already handed back, with its last checkpoint.
        events: what the stream still lacks; to be committed with what follows.
    """

    outcome: Outcome
    error: BaseException | None = None
    reason: StopReason | None = None
    released: bool = False
    events: Sequence[NewEvent] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryLimits:
    """Bounds of an entry.

    Args:
        token_flush_seconds: the longest that tokens wait for their commit.
        recursion_limit: supersteps of a run that does not say.
    """

    token_flush_seconds: float = 0.03
    recursion_limit: int = 10_011


class Entry:
    """One attempt's way through its graph.

    Args:
        graph: compiled, without a checkpointer.
        run: as begun.
        head: the thread's head, read after the claim.
        fence: the claim.
        store: where commits go.
        reads: a saver to read with.
        hand_over: asked after each superstep with user nodes: leave now?
        limits: bounds.
        first_claim: False after a loss: then the first checkpoint counts as progress,
            and the stream is told that a new attempt begins.
        on_events: told after each commit with events.
        faults: what tests make happen around commits.
    """

    def __init__(
        self,
        graph: Pregel[Any, Any, Any, Any],
        *,
        run: Run,
        head: Stored | None,
        fence: Fence,
        store: Checkpoints,
        reads: BaseCheckpointSaver[Any],
        hand_over: Callable[[], bool],
        limits: EntryLimits,
        first_claim: bool,
        on_events: Callable[[], None],
        faults: Faults | None = None,
    ) -> None:
        self._run = run
        self._head = head
        self._limits = limits
        self._reentry = is_reentry(head, run.run_id)
        # Handed over to us; before its first checkpoint, a run always begins anew.
        self._goes_on = self._reentry and first_claim
        self._loop = asyncio.get_running_loop()
        self._loose = asyncio.Event()
        self._control = RunControl()
        kwargs = run.kwargs
        self._modes = list(kwargs.get("stream_mode") or ())
        self._tap = Tap(
            self._modes,
            subgraphs=bool(kwargs.get("subgraphs")),
            on_loose=self._on_loose,
        )
        self._recursion_limit = self._limit_of_run(graph)
        self._saver = ActivationSaver(
            store=store,
            reads=reads,
            fence=fence,
            head=head,
            reentry=self._reentry,
            tap=self._tap,
            control=self._control,
            hand_over=hand_over,
            progressed=first_claim,
            on_events=on_events,
            faults=faults or Faults(),
        )
        self._tasks = TaskStarter(
            recursion_limit=self._recursion_limit,
            max_concurrency=(kwargs.get("config") or {}).get("max_concurrency"),
        )
        self._graph = _bound(graph, self._saver)

    async def run(self, stop: Stop) -> Left:
        """Drives the graph until it ends, leaves, or `stop` says so.

        Args:
            stop: the switch of this attempt.

        Raises:
            LeaseLost: somebody else owns the activation; nothing more was written.
            Unavailable: the store failed; hand the activation back.
        """
        if self._modes and not self._goes_on:
            self._tap.announce(self._metadata_event())
        if self._reentry:
            self._tap.skip_first_values("")
            self._tap.drop_cached = True
        if await self._at_breakpoint():
            return Left(Outcome.PAUSED, events=self._tap.take_all(checkpoints=True))
        driving = asyncio.create_task(self._drive())
        stopping = asyncio.create_task(stop.requested())
        failing = asyncio.create_task(self._saver.failed.wait())
        flushing = asyncio.create_task(self._flush_tokens())
        try:
            await asyncio.wait(
                {driving, stopping, failing}, return_when=asyncio.FIRST_COMPLETED
            )
            if not driving.done():
                return await self._stopped(driving, stop.reason)
            return await self._left(driving)
        finally:
            await self._clean_up(driving, stopping, failing, flushing)

    # --- driving -----------------------------------------------------------------

    async def _drive(self) -> None:
        """Lets LangGraph run; every effect goes through saver and tap."""
        given = entry_input(self._run.kwargs, self._head, self._run.run_id)
        kwargs = self._run.kwargs
        options: dict[str, Any] = {
            "context": kwargs.get("context"),
            "durability": "sync",
            "control": self._control,
            "stream_mode": [],
            "interrupt_before": kwargs.get("interrupt_before"),
            "interrupt_after": kwargs.get("interrupt_after"),
        }
        config = self._config()
        try:
            if "events" in self._modes:
                async for event in self._graph.astream_events(
                    given, config, version="v2", **options
                ):
                    self._tap.write_event(event)
                return
            chunks: AsyncIterator[Any] = self._graph.astream(given, config, **options)
            async for _ in chunks:
                pass
        except GraphRecursionError as error:
            if self._saver.step < self._stop_step():
                raise  # a subgraph's own
            raise GraphRecursionError(self._out_of_steps()) from error

    def _config(self) -> RunnableConfig:
        run = self._run
        given: Mapping[str, Any] = run.kwargs.get("config") or {}
        configurable = dict(given.get("configurable") or {})
        for key in ("checkpoint_id", "checkpoint_ns", "checkpoint_map"):
            configurable.pop(key, None)
        if not self._reentry:
            configurable.update(_fork(run.kwargs))
        configurable.update(
            {
                "thread_id": str(run.thread_id),
                STREAM_KEY: self._tap.protocol(),
                RUNTIME_KEY: Runtime(
                    store=self._graph.store, stream_writer=self._tap.write_custom
                ),
                SUBMIT_KEY: self._tasks,
            }
        )
        config: dict[str, Any] = {
            key: value
            for key, value in given.items()
            if key in {"tags", "run_name", "max_concurrency"} and value is not None
        }
        return RunnableConfig(
            **config,
            configurable=configurable,
            metadata={
                **(given.get("metadata") or {}),
                **run.metadata,
                "run_id": str(run.run_id),
                "thread_id": str(run.thread_id),
                "graph_id": run.graph_id,
                "assistant_id": str(run.assistant_id),
                "run_attempt": run.attempt,
            },
            callbacks=[*self._tap.handlers()],
            recursion_limit=self._remaining(),
        )

    # --- supersteps left -----------------------------------------------------------

    def _limit_of_run(self, graph: Pregel[Any, Any, Any, Any]) -> int:
        asked = (self._run.kwargs.get("config") or {}).get("recursion_limit")
        own = (graph.config or {}).get("recursion_limit")
        return int(asked or own or self._limits.recursion_limit)

    def _stop_step(self) -> int:
        """The superstep at which LangGraph gives up; the same in every entry."""
        return self._run.start_step + self._recursion_limit + _STEPS_AROUND

    def _remaining(self) -> int:
        if not self._reentry:
            return self._recursion_limit
        return _StepsLeft(self._stop_step() - self._saver.step - _STEPS_AROUND)

    def _out_of_steps(self) -> str:
        return create_error_message(
            message=(
                f"Recursion limit of {self._recursion_limit} reached without hitting a "
                "stop condition. You can increase the limit by setting the "
                "`recursion_limit` config key."
            ),
            error_code=ErrorCode.GRAPH_RECURSION_LIMIT,
        )

    # --- breakpoints -----------------------------------------------------------------

    async def _at_breakpoint(self) -> bool:
        """Whether the run died or was handed over right at a static breakpoint.

        Entering without input passes breakpoints, so they are looked at here.
        """
        before = _breakpoints(self._run.kwargs, self._graph, "before")
        after = _breakpoints(self._run.kwargs, self._graph, "after")
        head = self._head
        if not self._reentry or head is None or not (before or after):
            return False
        if head.metadata.get("source") not in {"loop", "input"}:
            return False
        stepped = self._saver.step < self._stop_step()
        if before and stepped:
            if _hits(before, await self._nodes_at(head.checkpoint["id"])):
                return True
        if not after or head.metadata.get("source") != "loop" or not head.parent_id:
            return False
        return _hits(after, await self._nodes_at(head.parent_id))

    async def _nodes_at(self, checkpoint_id: str) -> Sequence[str]:
        state = await self._graph.aget_state(
            {
                "configurable": {
                    "thread_id": str(self._run.thread_id),
                    "checkpoint_id": checkpoint_id,
                }
            }
        )
        return [task.name for task in state.tasks]

    # --- leaving ---------------------------------------------------------------------

    async def _left(self, driving: asyncio.Task[None]) -> Left:
        await self._tasks.close()
        error = driving.exception() if not driving.cancelled() else None
        self._raise_failure()
        if isinstance(error, GraphDrained):
            return await self._handed_over()
        await self._saver.flush()
        events = self._tap.take_all(checkpoints=True)
        if error is not None:
            return Left(Outcome.FAILED, error=error, events=events)
        outcome = Outcome.PAUSED if self._tap.interrupted else Outcome.DONE
        return Left(outcome, events=events)

    async def _handed_over(self) -> Left:
        if not self._saver.released:
            await self._saver.flush()
        events = self._tap.take_all(checkpoints=False)
        return Left(Outcome.HANDED_OVER, released=self._saver.released, events=events)

    async def _stopped(
        self, driving: asyncio.Task[None], reason: StopReason | None
    ) -> Left:
        failed = self._saver.failure is not None
        if not failed:
            # What a cancelled graph still writes would read as its nodes' failure.
            self._saver.refuse(LeaseLost(f"stopped: {reason}"))
        driving.cancel()
        await asyncio.wait({driving})
        await self._tasks.close()
        if failed:
            self._raise_failure()
        return Left(Outcome.STOPPED, reason=reason)

    def _raise_failure(self) -> None:
        """A refused write outranks whatever the graph made of it."""
        if self._saver.failure is not None:
            raise self._saver.failure

    async def _clean_up(self, *tasks: asyncio.Task[Any]) -> None:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError, Exception):
                await task
        await self._tasks.close()

    # --- tokens ------------------------------------------------------------------

    def _on_loose(self) -> None:
        self._loop.call_soon_threadsafe(self._loose.set)

    async def _flush_tokens(self) -> None:
        while True:
            await self._loose.wait()
            await asyncio.sleep(self._limits.token_flush_seconds)
            self._loose.clear()
            with suppress(Error):  # the saver remembers, and the entry ends by it
                await self._saver.flush()

    def _metadata_event(self) -> NewEvent:
        return NewEvent(
            "metadata",
            f'{{"run_id":"{self._run.run_id}","attempt":{self._run.attempt}}}',
        )


def _bound(
    graph: Pregel[Any, Any, Any, Any], saver: ActivationSaver
) -> Pregel[Any, Any, Any, Any]:
    """A shallow copy that persists through `saver`.

    Streaming eagerly makes LangGraph start even a single task through the hook.
    """
    bound = copy.copy(graph)
    bound.checkpointer = saver
    bound.stream_eager = True
    return bound


def _fork(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    checkpoint = kwargs.get("checkpoint") or {}
    return {
        key: checkpoint[key]
        for key in ("checkpoint_id", "checkpoint_ns", "checkpoint_map")
        if checkpoint.get(key)
    }


def _breakpoints(
    kwargs: Mapping[str, Any], graph: Pregel[Any, Any, Any, Any], where: str
) -> str | Sequence[str]:
    return (
        kwargs.get(f"interrupt_{where}")
        or getattr(graph, f"interrupt_{where}_nodes")
        or ()
    )


def _hits(breakpoints: str | Sequence[str], nodes: Sequence[str]) -> bool:
    user_nodes = [node for node in nodes if node != START]
    if breakpoints == "*":
        return bool(user_nodes)
    return any(node in breakpoints for node in user_nodes)
