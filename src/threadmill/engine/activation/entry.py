"""One entry into a graph: prepare, drive, and say how it ended.

The entry never says that something was written: the saver's commits say that. It says
whether the run is done, waits for a human, failed, was handed over, or was stopped.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Mapping,
)
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Final, cast

import structlog
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.errors import GraphDrained, GraphRecursionError
from langgraph.pregel import Pregel
from langgraph.runtime import RunControl, Runtime
from langgraph.types import Command

from threadmill.checkpoints.base import Checkpoints, Commit, Stored, SyncCheckpoints
from threadmill.domain.fence import Fence
from threadmill.engine.activation.breakpoints import is_at_breakpoint
from threadmill.engine.activation.exits import guard_loop
from threadmill.engine.activation.left import Left, Outcome
from threadmill.engine.activation.nested import allow_subgraphs_without_checkpoints
from threadmill.engine.activation.places import Sharing
from threadmill.engine.activation.resume import (
    entry_input,
    is_reentry,
    replay_before,
    results,
)
from threadmill.engine.activation.saver import ActivationSaver
from threadmill.engine.activation.share import Share
from threadmill.engine.activation.steps import StepLimit
from threadmill.engine.activation.stop import Stop, StopReason
from threadmill.engine.activation.tap import Tap
from threadmill.engine.activation.tasks import KEY as SUBMIT_KEY
from threadmill.engine.activation.tasks import TaskStarter
from threadmill.engine.activation.told import Told
from threadmill.engine.activation.trace import RunTrace
from threadmill.engine.activation.writer import Writer
from threadmill.engine.effects import BOOK_KEY, EffectPorts
from threadmill.engine.run_config import metadata_of
from threadmill.engine.values import finished_tasks
from threadmill.errors import Error, GraphError, LeaseLost, PayloadTooLarge
from threadmill.faults import Faults
from threadmill.stores.records import Run
from threadmill.streams.base import NewEvent

_log = structlog.get_logger(__name__)

STREAM_KEY: Final = "__pregel_stream"
# What the graph's author has to mend: the run fails by it.
UNSTORABLE: Final = (GraphError, PayloadTooLarge)
RUNTIME_KEY: Final = "__pregel_runtime"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryLimits:
    """Bounds of an entry.

    Args:
        token_flush_seconds: the longest that tokens wait for their commit.
        recursion_limit: supersteps of a run that does not say.
        stop_seconds: how long nodes that were told to stop are waited for.
    """

    token_flush_seconds: float = 0.03
    recursion_limit: int = 10_011
    stop_seconds: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """What an entry reads and writes.

    Args:
        checkpoints: where commits go.
        blocking: the same for subgraphs that a node calls without awaiting.
        reads: a saver for everything that only reads.
        effects: where nodes record what they do outside.
    """

    checkpoints: Checkpoints
    blocking: SyncCheckpoints
    reads: BaseCheckpointSaver[Any]
    effects: EffectPorts


class Entry:
    """One attempt's way through its graph.

    Args:
        graph: compiled, without a checkpointer.
        run: as begun.
        head: the thread's head, read after the claim.
        fence: the claim.
        stores: what it reads and writes.
        sharing: how its supersteps are shared with other workers.
        limits: bounds.
        first_claim: False after a loss: then the first checkpoint counts as progress.
        told: what an earlier entry has told the stream; None if this one goes on from
            a hand-over, which is no new attempt.
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
        stores: Stores,
        sharing: Sharing,
        limits: EntryLimits,
        first_claim: bool,
        told: Told | None,
        on_events: Callable[[], None],
        faults: Faults | None = None,
    ) -> None:
        self._run = run
        self._head = head
        self._stores = stores
        self._limits = limits
        self._desk = sharing.desk
        self._goes_on = told is None
        self._planned = sharing.planned
        self._reentry = is_reentry(head, run.run_id)
        self._loop = asyncio.get_running_loop()
        self._loose = asyncio.Event()
        self._control = RunControl()
        self._modes = list(run.kwargs.get("stream_mode") or ())
        self._steps = StepLimit.of(run, graph.config or {}, limits.recursion_limit)
        self._tap = self._new_tap(told or Told())
        self._writer = Writer(
            store=stores.checkpoints,
            blocking=stores.blocking,
            fence=fence,
            tap=self._tap,
            progressed=first_claim and not sharing.labelled,
            run=run,
            on_events=on_events,
            faults=faults or Faults(),
        )
        self._share = Share(
            sharing=sharing,
            writer=self._writer,
            tap=self._tap,
            store=stores.checkpoints,
            head=head,
        )
        self._saver = ActivationSaver(
            store=stores.checkpoints,
            blocking=stores.blocking,
            reads=stores.reads,
            writer=self._writer,
            share=self._share,
            fence=fence,
            head=head,
            tap=self._tap,
            control=self._control,
            hand_over=sharing.hand_over,
        )
        self._tasks = TaskStarter(
            recursion_limit=self._steps.limit,
            max_concurrency=sharing.at_once,
            on_start=self._tap.task_runs,
            share=self._share,
            before_run=self._writer.settle,
            finished=results(head) if head is not None and self._reentry else {},
            handlers=self._tap.handlers(),
            faults=self._writer.faults,
        )
        self._graph = _bound(graph, self._saver)
        self._stuck: set[asyncio.Task[Any]] = set()

    @cached_property
    def _trace(self) -> RunTrace:
        return RunTrace(self._run, (self._graph.config or {}).get("callbacks"))

    def _new_tap(self, told: Told) -> Tap:
        return Tap(
            self._modes,
            subgraphs=bool(self._run.kwargs.get("subgraphs")),
            told=told,
            on_loose=self._on_loose,
        )

    async def run(self, stop: Stop) -> Left:
        """Drives the graph until it ends, leaves, or `stop` says so.

        Nodes that ignore their cancellation are left behind after `stop_seconds`: they
        can write nothing any more.

        Args:
            stop: the switch of this attempt.

        Raises:
            LeaseLost: somebody else owns the activation; nothing more was written.
            Unavailable: the store failed; hand the activation back.
        """
        guard_loop(self._loop)
        allow_subgraphs_without_checkpoints()
        if self._modes and not self._goes_on:
            self._tap.announce(self._metadata_event())
        if await self._is_at_breakpoint():
            self._tap.pause()
            return Left(Outcome.PAUSED, rest=await self._rest())
        given = await self._enter()
        if not self._reentry and self._run.begins:
            self._trace.begin()
        driving = asyncio.create_task(self._drive(given))
        stopping = asyncio.create_task(stop.requested())
        failing = asyncio.create_task(self._writer.failed.wait())
        flushing = asyncio.create_task(self._flush_tokens())
        try:
            await asyncio.wait(
                {driving, stopping, failing}, return_when=asyncio.FIRST_COMPLETED
            )
            if not driving.done():
                return await self._stopped(driving, stop.reason)
            return await self._left(driving)
        except LeaseLost:
            # Also what the writer says once something else has failed.
            return self._refused()
        finally:
            await self._clean_up(driving, stopping, failing, flushing)

    @property
    def fence(self) -> Fence:
        """What this entry holds now."""
        return self._writer.fence

    def tell_end(self, left: Left) -> None:
        """What became of the run is stored: ends its trace, if the run has ended.

        In a superstep that is spread a failure elsewhere stops like a cancellation.
        """
        if left.outcome is not Outcome.STOPPED or not self._share.spread:
            self._trace.end(left)

    async def _is_at_breakpoint(self) -> bool:
        if not self._reentry or self._head is None or self._planned:
            return False
        return await is_at_breakpoint(
            self._graph,
            self._run.kwargs,
            self._head,
            out_of_steps=self._steps.is_reached_at(self._saver.step),
        )

    async def _enter(self) -> Any:
        """What to give to the graph; tells the tap what will be repeated."""
        kwargs, head, run = self._run.kwargs, self._head, self._run
        given = entry_input(kwargs, head, run.run_id)
        if self._reentry:
            self._saver.replay_before = await replay_before(
                kwargs, self._stores.checkpoints, self.fence
            )
        if head is not None:
            self._tap.enter(
                "",
                resumes=given is None or isinstance(given, Command),
                own=self._reentry,
                finished=finished_tasks(head.writes),
                planned=self._planned,
            )
        return given

    # --- driving -----------------------------------------------------------------

    async def _drive(self, given: Any) -> None:
        """Lets LangGraph run; every effect goes through saver and tap."""
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
            if not self._steps.is_reached_at(self._saver.step):
                raise  # a subgraph's own
            raise self._steps.error() from error

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
                BOOK_KEY: self._stores.effects.book(
                    self.fence, self._share.fence_of, self._writer.refuse
                ),
            }
        )
        taken = {
            key: value
            for key, value in given.items()
            if key in {"tags", "run_name", "max_concurrency"} and value is not None
        }
        config = RunnableConfig(
            configurable=configurable,
            metadata={**metadata_of(run), "run_attempt": run.attempt},
            recursion_limit=self._steps.limit,
            callbacks=self._trace.callbacks,
        )
        if self._reentry:
            config["recursion_limit"] = self._steps.left_at(self._saver.step)
        return cast("RunnableConfig", {**taken, **config})

    # --- leaving -----------------------------------------------------------------

    async def _left(self, driving: asyncio.Task[None]) -> Left:
        await self._end_tasks()
        error = driving.exception() if not driving.cancelled() else None
        if self._writer.failure is not None:
            return self._refused()
        if isinstance(error, GraphDrained):
            return await self._drained()
        if not self._share.is_running and not await self._share.goes_on():
            # Whoever goes on meets the same error, or the same questions.
            return Left(Outcome.PARKED)
        rest = await self._rest()
        if error is not None:
            return Left(Outcome.FAILED, error=error, rest=rest)
        outcome = Outcome.PAUSED if self._tap.interrupted else Outcome.DONE
        return Left(outcome, rest=rest)

    async def _rest(self) -> Commit:
        rest = await self._writer.rest()
        return replace(rest, events=[*rest.events, *self._tap.take_all()])

    async def _drained(self) -> Left:
        if self._share.spread:
            return Left(Outcome.PARKED)
        needs = self._share.needs
        labels = self._run.labels if needs is None else needs
        committed = await self._desk.hand_over(partial(self._writer.hand_over, labels))
        return Left(Outcome.HANDED_OVER, stays=committed.begun is not None)

    async def _stopped(
        self, driving: asyncio.Task[None], reason: StopReason | None
    ) -> Left:
        if reason in {StopReason.DRAIN, StopReason.DEADLINE}:
            with suppress(Error):  # the writer remembers
                await self._writer.flush()
        failed = self._writer.failure is not None
        if not failed:
            # What a cancelled graph still writes would read as its nodes' failure.
            self._writer.refuse(LeaseLost(f"stopped: {reason}"))
        await self._end([driving])
        await self._end_tasks()
        if failed:
            return self._refused()
        return Left(Outcome.STOPPED, reason=reason)

    def _refused(self) -> Left:
        """A refused write outranks whatever the graph made of it.

        Raises:
            Error: it was not refused for what it holds.
        """
        failure = self._writer.failure or LeaseLost()
        if isinstance(failure, UNSTORABLE):
            return self.failed(failure)
        raise failure

    def failed(self, error: BaseException) -> Left:
        """The end of a run whose last commit could not be stored for what it holds."""
        self._tap.give_back()
        return Left(
            Outcome.FAILED, error=error, rest=Commit(events=self._tap.take_loose())
        )

    async def _clean_up(self, *tasks: asyncio.Task[Any]) -> None:
        await self._end(tasks)
        await self._end_tasks()
        await self._end(self._share.working)

    async def _end_tasks(self) -> None:
        await self._end(self._tasks.running)

    async def _end(self, tasks: Collection[asyncio.Task[Any]]) -> None:
        """Cancels tasks and waits for them, but not for ever."""
        waited_for = [task for task in tasks if task not in self._stuck]
        for task in waited_for:
            task.cancel()
            task.add_done_callback(_forget)
        if not waited_for:
            return
        _, stuck = await asyncio.wait(waited_for, timeout=self._limits.stop_seconds)
        self._stuck |= stuck
        for task in stuck:
            _log.warning(
                "attempt.task_ignores_cancellation",
                run=str(self._run.run_id),
                task=task.get_name(),
                remedy="let asyncio.CancelledError pass, or bound the wait",
            )

    # --- tokens ------------------------------------------------------------------

    def _on_loose(self) -> None:
        self._loop.call_soon_threadsafe(self._loose.set)

    async def _flush_tokens(self) -> None:
        while True:
            await self._loose.wait()
            await asyncio.sleep(self._limits.token_flush_seconds)
            self._loose.clear()
            with suppress(Error):  # the saver remembers, and the entry ends by it
                await self._writer.flush()

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


def _forget(task: asyncio.Task[Any]) -> None:
    """Looks at the error of a task that nobody waits for any more."""
    if not task.cancelled():
        task.exception()
