"""Use-case: carry one claim through its graph, and end it.

Whatever happens, exactly one of these is true afterwards: the run has ended; the
activation is ready for somebody else; or it is no longer ours and nothing was written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from weakref import WeakKeyDictionary

import structlog
from langgraph.checkpoint.base import BaseCheckpointSaver

from threadmill.brokers.base import UNKNOWN_WORK, Hints
from threadmill.checkpoints.base import (
    Checkpoints,
    Commit,
    RunStates,
    Stored,
    SyncCheckpoints,
)
from threadmill.domain.fence import Fence
from threadmill.domain.run import RunEvent
from threadmill.engine.activation.entry import (
    UNSTORABLE,
    Entry,
    EntryLimits,
    Stores,
)
from threadmill.engine.activation.left import Left, Outcome
from threadmill.engine.activation.places import (
    Sharing,
    labels_of,
    untracked_channels,
)
from threadmill.engine.activation.resume import is_reentry
from threadmill.engine.activation.stop import StopReason
from threadmill.engine.activation.told import Told, read_told
from threadmill.engine.activation.trace import RunTrace
from threadmill.engine.attempt import Attempt, fence_of, is_planned
from threadmill.engine.described import describe, named, spent
from threadmill.engine.effects import EffectPorts
from threadmill.engine.graph_factories import GraphUse
from threadmill.engine.graphs import GraphCatalogue
from threadmill.engine.ready import hint_next, hint_of
from threadmill.engine.wire_json import encode
from threadmill.errors import (
    Error,
    GraphError,
    LeaseLost,
    NotFound,
    SetupError,
    StateLost,
    StoreReadOnly,
    StoreUnavailable,
)
from threadmill.faults import Faults
from threadmill.stores.base import Dispatcher
from threadmill.stores.records import Claim, Ending, NewDeadLetter, Run
from threadmill.streams.base import NewEvent, Stream

_log = structlog.get_logger(__name__)

# Of the pause between attempts.
_DOUBLINGS_MAX: Final = 6
# Somebody has to make room: with five attempts there are five minutes for it.
_FULL_FACTOR: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivateRules:
    """When an activation is left, given up, or ended.

    Args:
        per_superstep: hand over after every superstep (dispatch `node`).
        run_seconds: how long a run may take in all, from its first start.
        attempts_max: claims without progress after which a run fails.
        retry_seconds: pause before an attempt that the store's failure ended.
        shun_seconds: how much longer this worker leaves to others what it failed at.
    """

    per_superstep: bool = False
    run_seconds: float = 86_400.0
    attempts_max: int = 5
    retry_seconds: float = 0.5
    shun_seconds: float = 2.0


class Activate:
    """Carries claims out; shared by all slots of a worker.

    Args:
        graphs: what this process has loaded.
        dispatcher: takes back what is given up.
        run_states: begins and finishes.
        checkpoints: where state is committed.
        saver: makes a saver of a tenant, for reading.
        hints: told after commits.
        rules: when to leave.
        limits: bounds of an entry.
        stream: tells an attempt what the one before it has told.
        blocking: the checkpoints for subgraphs that nodes call by `invoke`.
        effects: where nodes record what they do outside.
        faults: what tests make happen at named points.
        entry: what drives a graph; the simulator's does it without LangGraph.
    """

    def __init__(
        self,
        *,
        graphs: GraphCatalogue,
        dispatcher: Dispatcher,
        run_states: RunStates,
        checkpoints: Checkpoints,
        saver: Callable[[str], BaseCheckpointSaver[Any]],
        hints: Hints,
        rules: ActivateRules,
        limits: EntryLimits,
        stream: Stream,
        blocking: SyncCheckpoints,
        effects: EffectPorts,
        faults: Faults | None = None,
        entry: type[Entry] = Entry,
    ) -> None:
        self._graphs = graphs
        self._dispatcher = dispatcher
        self._run_states = run_states
        self._checkpoints = checkpoints
        self._saver = saver
        self._hints = hints
        self._rules = rules
        self._limits = limits
        self._stream = stream
        self._blocking = blocking
        self._effects = effects
        self._bursts_only: set[str] = set()
        self._needs: WeakKeyDictionary[Any, Mapping[str, Sequence[str]]] = (
            WeakKeyDictionary()
        )
        self._faults = faults or Faults()
        self._enters = entry

    async def carry_out(self, attempt: Attempt) -> None:
        """Runs one claim to its end, its hand-over, or its loss.

        Never raises for what a graph, a lost lease or the store does. Under
        cancellation the activation stays leased until its lease runs out.
        """
        claim = attempt.claim
        log = _log.bind(
            tenant=claim.tenant, thread=str(claim.thread_id), run=str(claim.run_id)
        )
        held = Held(fence_of(*attempt.claims))
        pause = self._rules.retry_seconds
        try:
            await self._carry_out(attempt, held)
        except LeaseLost:
            log.info("attempt.fenced", token=claim.token)
            if held.fence.also:
                # One task of several was lost; the others are still ours to give back.
                await self._give_back(held.fence, delay_seconds=0.0)
        except StoreUnavailable as error:
            # It may be this process only that does not reach it, or has no connection.
            log.warning("attempt.store_unavailable", error=str(error))
            await self._give_back(
                held.fence, delay_seconds=pause, cause=named(error), counts=False
            )
        except StoreReadOnly as error:
            # Reads go on, so nodes would run again and again for nothing.
            log.warning("attempt.store_read_only", error=str(error))
            doubled = 2.0 ** min(claim.attempt, _DOUBLINGS_MAX)
            delay = _FULL_FACTOR * pause * doubled
            await self._give_back(held.fence, delay_seconds=delay, cause=named(error))
        except SetupError as error:
            log.error("attempt.not_here", error=str(error))  # noqa: TRY400 - it says all
            await self._give_back(
                held.fence, delay_seconds=pause, cause=named(error), counts=False
            )
        except Error as error:
            log.exception("attempt.broken")
            await self._give_back(held.fence, delay_seconds=pause, cause=named(error))
        except Exception as error:
            log.exception("attempt.crashed")
            cause = f"{type(error).__name__} in the worker; its log has more"
            await self._give_back(held.fence, delay_seconds=pause, cause=cause)

    async def _carry_out(self, attempt: Attempt, held: Held) -> None:
        claim = max(attempt.claims, key=lambda claim: claim.attempt)
        if claim.attempt > self._rules.attempts_max:
            await self._give_up(held, claim, claim.attempt - 1)
            return
        run: Run | None = None
        try:
            await self._faults.at("load.before")
            begun = attempt.begun or await self._run_states.begin(claim)
            run = begun.run
            await self._faults.at("load.after")
            held.fence = _with_attempt(held.fence, run)
            await self._enter(attempt, held, run, begun.at)
        except StateLost as lost:
            # The next attempt would find as little; whoever has restored it redrives.
            await self._give_up(held, claim, claim.attempt, lost, run)
        except UNSTORABLE as error:
            assert run is not None  # noqa: S101 - reading a state refuses nothing
            left = Left(Outcome.FAILED, error=error)
            await self._end(held.fence, run, left)
            RunTrace(run).end(left)

    async def _give_up(
        self,
        held: Held,
        claim: Claim,
        attempts: int,
        why: Error | None = None,
        run: Run | None = None,
    ) -> None:
        """Ends a run as a dead letter; without `why`, because its attempts are spent.

        Its state is not read: that may be what the attempts died of.
        """
        if run is None:
            run = await self._dispatcher.begin(claim)
        fence = _with_attempt(held.fence, run)
        error = why or spent(attempts, run.lost_by)
        dead = NewDeadLetter(cause=describe(error), attempts=attempts, node=claim.node)
        await self._finish(fence, RunEvent.FAIL, error, dead=dead)
        RunTrace(run).end(Left(Outcome.FAILED, error=error))

    async def _enter(
        self, attempt: Attempt, held: Held, run: Run, head: Stored | None
    ) -> None:
        """Carries the run through its graph, and ends it before the graph is closed.

        Code of the user's runs when a graph of a factory's is closed.
        """
        loaded = self._loaded(run.graph_id)
        use = GraphUse(
            access="threads.create_run",
            config=run.kwargs.get("config") or {},
            context=run.kwargs.get("context"),
        )
        deadline = asyncio.get_running_loop().call_later(
            max(0.0, self._rules.run_seconds - run.running_seconds),
            attempt.stop.request,
            StopReason.DEADLINE,
        )
        try:
            async with loaded.open(use) as graph:
                entry = await self._entry(attempt, held.fence, run, head, graph)
                try:
                    left = await entry.run(attempt.stop)
                finally:
                    held.fence = entry.fence
                try:
                    await self._end(held.fence, run, left)
                except UNSTORABLE as error:
                    left = entry.failed(error)
                    await self._end(held.fence, run, left)
                entry.tell_end(left)
        finally:
            deadline.cancel()

    async def _entry(
        self, attempt: Attempt, fence: Fence, run: Run, head: Stored | None, graph: Any
    ) -> Entry:
        claim = attempt.claim
        replays = bool(run.kwargs.get("checkpoint")) and not is_reentry(
            head, run.run_id
        )
        stays = self._stays(run.graph_id, graph)
        needs = self._needs_of(graph)
        return self._enters(
            graph,
            run=run,
            head=head,
            fence=fence,
            stores=Stores(
                checkpoints=self._checkpoints,
                blocking=self._blocking,
                reads=self._saver(fence.tenant),
                effects=self._effects,
            ),
            sharing=Sharing(
                desk=attempt.desk,
                claims=[c for c in attempt.claims if c.kind == "task"],
                planned=is_planned(claim),
                labels=run.labels,
                labels_of=needs.__getitem__,
                labelled=any(needs.values()),
                at_once=(run.kwargs.get("config") or {}).get("max_concurrency"),
                stays=stays,
                replays=replays,
                hand_over=lambda: (
                    stays is None
                    and (self._rules.per_superstep or attempt.desk.leaves())
                ),
                on_ready=lambda kind, labels, n: self._hints.ready(
                    hint_of(fence, run, kind, labels), n
                ),
            ),
            limits=self._limits,
            first_claim=claim.attempt <= 1,
            told=await self._told(attempt.claims, run, head),
            faults=self._faults,
            on_events=lambda: self._hints.moved(fence.tenant, fence.thread_id),
        )

    def _needs_of(self, graph: Any) -> Mapping[str, Sequence[str]]:
        """The labels of each node; a graph that is used again is looked at once."""
        needs = self._needs.get(graph)
        if needs is None or needs.keys() != graph.nodes.keys():
            needs = {node: labels_of(graph, node) for node in graph.nodes}
            self._needs[graph] = needs
        return needs

    def _stays(self, graph_id: str, graph: Any) -> str | None:
        """Why leaving between or within supersteps would lose state, if it would."""
        untracked = untracked_channels(graph)
        if not untracked:
            return None
        if graph_id not in self._bursts_only:
            self._bursts_only.add(graph_id)
            _log.warning(
                "graph.stays_in_one_process",
                graph=graph_id,
                channels=untracked,
                problem="UntrackedValue channels live in one process only: runs of "
                "this graph are not handed over between supersteps",
            )
        return f"UntrackedValue channels ({', '.join(untracked)}) live in one process"

    async def _told(
        self, claims: Sequence[Claim], run: Run, head: Stored | None
    ) -> Told | None:
        """What the stream holds of the run; None if these are no new attempt."""
        claim = max(claims, key=lambda claim: claim.attempt)
        if claim.kind != "step" and claim.attempt <= 1:
            return None
        if claim.kind == "task":
            # One that only its step was lost with repeats nothing.
            return None if run.lost_by is None else Told()
        reentry = is_reentry(head, run.run_id)
        # Whoever hands over leaves a head without pending writes.
        if claim.attempt <= 1 and reentry and head is not None and not head.writes:
            return None
        # A redriven run begins anew, and its stream is the one it had.
        if run.begins or not run.kwargs.get("stream_mode"):
            return Told()
        return await read_told(self._stream, claim.tenant, run)

    def _loaded(self, graph_id: str) -> Any:
        try:
            return self._graphs.get(graph_id)
        except NotFound as error:
            # Claimed by id, so it was there a moment ago.
            raise GraphError(str(error)) from error

    async def _end(self, fence: Fence, run: Run, left: Left) -> None:
        match left.outcome:
            case Outcome.DONE:
                await self._finish(fence, RunEvent.SUCCEED, rest=left.rest)
            case Outcome.PAUSED:
                await self._finish(fence, RunEvent.PAUSE, rest=left.rest)
            case Outcome.FAILED:
                dead = self._dead_by(run, left.error)
                await self._finish(
                    fence, RunEvent.FAIL, left.error, rest=left.rest, dead=dead
                )
            case Outcome.HANDED_OVER:
                if not left.stays:
                    self._hints.ready(hint_of(fence, run, "step", run.labels))
            case Outcome.PARKED:
                return
            case Outcome.STOPPED:
                await self._stopped(fence, left)

    def _dead_by(self, run: Run, error: BaseException | None) -> NewDeadLetter | None:
        """A dead letter, if the graph's policy makes one of its own errors."""
        policy = self._graphs.policy(run.graph_id)
        if error is None or not policy.dead_letter_errors:
            return None
        return NewDeadLetter(cause=describe(error), attempts=run.attempt)

    async def _stopped(self, fence: Fence, left: Left) -> None:
        match left.reason:
            case StopReason.DEADLINE:
                seconds = f"{self._rules.run_seconds:g} s (BG_JOB_TIMEOUT_SECS)"
                error = TimeoutError(f"the run took over {seconds}")
                await self._finish(fence, RunEvent.EXPIRE, error, rest=left.rest)
            case StopReason.DRAIN:
                await self._give_back(fence, delay_seconds=0.0)
            case _:
                # Cancelled or lost: the row is gone or somebody else's.
                return

    async def _finish(
        self,
        fence: Fence,
        event: RunEvent,
        error: BaseException | None = None,
        *,
        rest: Commit | None = None,
        dead: NewDeadLetter | None = None,
    ) -> None:
        described = describe(error) if error is not None else None
        last = [NewEvent("error", encode(described))] if described else []
        await self._faults.at("finish.before")
        finished = await self._run_states.finish(
            fence,
            Ending(event, error=described, events=last, dead=dead),
            rest or Commit(),
        )
        await self._faults.at("finish.after")
        self._hints.moved(fence.tenant, fence.thread_id)
        for activation_id, token in finished.stopped:
            self._hints.stop(activation_id, token)
        hint_next(self._hints, finished.next)

    async def _give_back(
        self,
        fence: Fence,
        *,
        delay_seconds: float,
        cause: str | None = None,
        counts: bool = True,
    ) -> None:
        """Hands claims back; with a `cause` others are preferred, and it may count."""
        await self._faults.at("release.before")
        try:
            await self._dispatcher.release(
                fence,
                count_attempt=counts and cause is not None,
                delay_seconds=delay_seconds,
                cause=cause,
                shun_seconds=self._rules.shun_seconds,
            )
        except Error as error:
            # The lease runs out by itself.
            _log.warning("attempt.not_given_back", error=str(error))
            return
        if not delay_seconds:
            self._hints.ready(UNKNOWN_WORK)
        await self._faults.at("release.after")


@dataclass(slots=True)
class Held:
    """What an attempt holds; it changes while tasks are claimed and end."""

    fence: Fence


def _with_attempt(fence: Fence, run: Run) -> Fence:
    return replace(fence, attempt=run.attempt)
