"""Tells one story twice: by LangGraph alone, and through the engine.

A scenario is a graph and the turns of one thread. Told plainly, every turn is one
`astream` over LangGraph's in-memory saver. Told by the engine, every turn is a run, in
either dispatch, and at some commit of each turn a fault strikes. Both must show the
same state, history, interrupts, errors and events; the engine may run a task again only
if its result had not been committed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from random import Random
from typing import Any
from uuid import uuid4

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config
from langgraph.pregel import Pregel
from langgraph.types import StateSnapshot, StreamMode
from pydantic import ValidationError

from tests.engine.engine_store import TENANT, EngineStore
from threadmill.checkpoints.base import Commit
from threadmill.domain.run import RunStatus, ThreadStatus
from threadmill.engine.activation.resume import entry_input
from threadmill.engine.wire_json import encode
from threadmill.stores.records import Run
from threadmill.streams.base import Event
from threadmill.testing.process import Fault, FaultKind

_TURN_SECONDS = 20
# Of one process in a turn, as far as chance looks.
_COMMITS = 12
MODES: Sequence[StreamMode] = ("values", "updates")
_CONTROL = {"__interrupt__", "__resume__", "__error__", "__error_source_node__"}
_ID = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b"
)
_ELAPSED = re.compile(r"elapsed: [0-9.]+s")

Saver = BaseCheckpointSaver[Any] | None
Build = Callable[["Ledger", Saver], Pregel]
Answer = Callable[[StateSnapshot], Any]


class Ledger:
    """Counts node calls, and notes those that should not have been.

    A task whose result is durable must not run again, whatever happens.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._durable: set[str] = set()

    def __call__(self, name: str) -> None:
        """To be called by every node first."""
        task_id = get_config()["configurable"]["__pregel_task_id"]
        self.calls[name] += 1
        if task_id in self._durable:
            self.wrong.append(name)

    def on_commit(self, commit: Commit) -> None:
        """Notes which tasks must not run any more."""
        for writes in commit.writes:
            if any(channel not in _CONTROL for channel, _ in writes.writes):
                self._durable.add(writes.task_id)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One run of the thread, or one update of its state.

    Args:
        answer: makes the `resume` of a command from the state so far.
        at: picks the checkpoint to fork from out of the history, newest first.
        update: (values, as_node): `update_state` instead of a run.
    """

    input: Any = None
    command: Mapping[str, Any] | None = None
    answer: Answer | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    context: Any = None
    interrupt_before: Any = None
    interrupt_after: Any = None
    at: Callable[[Sequence[StateSnapshot]], StateSnapshot] | None = None
    update: tuple[Any, str | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A graph and what happens to one thread of it.

    Args:
        exact: whether subgraphs' events are told exactly once, too. Those of
            subgraphs that a node calls synchronously may be repeated.
        exact_when_away: the same after a failure of the database: who then goes on does
            not know that somebody has been there before.
        same_events: whether events are compared at all.
        since: the first LangGraph that tells this story right by itself.
        replays: whether LangGraph itself runs tasks again that had a result.
    """

    name: str
    build: Build
    turns: Sequence[Turn]
    exact: bool = True
    exact_when_away: bool = True
    same_events: bool = True
    replays: bool = False
    since: tuple[int, ...] = (0,)

    @property
    def is_told_right(self) -> bool:
        """Whether the installed LangGraph does."""
        installed = metadata.version("langgraph").split(".")
        return tuple(int(n) for n in installed if n.isdigit()) >= self.since


@dataclass
class Told:
    """What one turn showed."""

    outcome: Any
    state: Any
    history: Any
    events: Mapping[str, Any]
    calls: Mapping[str, int]


# ------------------------------------------------------------------------------ plainly


async def tell_plainly(scenario: Scenario) -> list[Told]:
    """By LangGraph alone."""
    ledger = Ledger()
    graph = scenario.build(ledger, InMemorySaver())
    thread = {"configurable": {"thread_id": "plain"}}
    story = []
    for turn in scenario.turns:
        before = Counter(ledger.calls)
        async with asyncio.timeout(_TURN_SECONDS):
            outcome, events = await _plain_turn(graph, turn, thread)
        story.append(
            Told(
                outcome,
                *await _shown(graph, thread),
                events=events,
                calls=ledger.calls - before,
            )
        )
    return story


async def _plain_turn(graph: Pregel, turn: Turn, thread: Any) -> Any:
    if turn.update is not None:
        await graph.aupdate_state(thread, turn.update[0], as_node=turn.update[1])
        return "updated", {}
    kwargs = await _kwargs(turn, graph, thread)
    config = dict(kwargs["config"])
    config["configurable"] = {
        **config.get("configurable", {}),
        **thread["configurable"],
        **(
            {"checkpoint_id": kwargs["checkpoint"]["checkpoint_id"]}
            if kwargs["checkpoint"]
            else {}
        ),
    }
    told: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    outcome: Any = "idle"
    try:
        stream: Any = graph.astream
        async for path, mode, payload in stream(
            entry_input(kwargs, None, uuid4()),
            config,
            stream_mode=[*MODES],
            subgraphs=True,
            context=kwargs["context"],
            interrupt_before=kwargs["interrupt_before"],
            interrupt_after=kwargs["interrupt_after"],
        ):
            told[_place(path)].append((mode, bare(payload)))
            if mode == "updates" and "__interrupt__" in payload and not path:
                outcome = "interrupted"
    except Exception as error:  # noqa: BLE001 - the graph's own
        outcome = ["error", type(error).__name__, bare(str(error))]
    return outcome, _in_order(told)


async def _kwargs(turn: Turn, graph: Pregel, thread: Any) -> dict[str, Any]:
    command = dict(turn.command) if turn.command else None
    if turn.answer is not None:
        command = {
            **(command or {}),
            "resume": turn.answer(await graph.aget_state(thread)),
        }
    checkpoint = None
    if turn.at is not None:
        history = [state async for state in graph.aget_state_history(thread)]
        checkpoint = {
            "checkpoint_id": turn.at(history).config["configurable"]["checkpoint_id"]
        }
    return {
        "input": turn.input,
        "command": command,
        "config": dict(turn.config),
        "context": turn.context,
        "interrupt_before": turn.interrupt_before,
        "interrupt_after": turn.interrupt_after,
        "checkpoint": checkpoint,
        "stream_mode": list(MODES),
        "subgraphs": True,
    }


# ------------------------------------------------------------------------ by the engine


class EngineStory:
    """One thread in the engine, with a fault at the same commit of every turn.

    With `spread`, a seed, several processes carry it out at once, and tasks of one
    superstep go to any of them in any order. Then the same fault may befall a second
    one, at a commit that chance chooses (`twice`).
    """

    def __init__(
        self,
        store: EngineStore,
        scenario: Scenario,
        *,
        node: bool,
        spread: int | None = None,
        kind: FaultKind | None = None,
        commit: int = 0,
        twice: bool = False,
    ) -> None:
        self._store = store
        self.scenario = scenario
        self._chance = Random(spread) if spread is not None else None
        self.fault = Fault(kind, commit) if kind else None
        self._twice = twice
        self.ledger = Ledger()
        self.faulted = False
        self.claims: list[int] = []
        self._graph_id = f"{scenario.name} {uuid4()}"
        self.thread_id = uuid4()
        graph = scenario.build(self.ledger, None)
        self._driver = store.driver(
            {self._graph_id: graph}, node=node, on_commit=self.ledger.on_commit
        )
        self._read = scenario.build(Ledger(), store.saver())

    async def tell(self) -> list[Told]:
        story = []
        thread = {"configurable": {"thread_id": str(self.thread_id)}}
        for turn in self.scenario.turns:
            before = Counter(self.ledger.calls)
            async with asyncio.timeout(_TURN_SECONDS):
                outcome, events = await self._turn(turn, thread)
            story.append(
                Told(
                    outcome,
                    *await _shown(self._read, thread),
                    events=events,
                    calls=self.ledger.calls - before,
                )
            )
        return story

    async def _turn(self, turn: Turn, thread: Any) -> Any:
        if turn.update is not None:
            await self._read.aupdate_state(
                thread, turn.update[0], as_node=turn.update[1]
            )
            return "updated", {}
        kwargs = await _kwargs(turn, self._read, thread)
        run = await self._driver.submit(self._graph_id, self.thread_id, kwargs)
        if self._chance is None:
            ended = await self._driver.carry_out(run, self.fault)
        else:
            ended = await self._driver.carry_out_spread(
                run, self._chance, *self._faults(self._chance)
            )
        self.faulted = self.faulted or ended.faulted
        self.claims.append(ended.claims)
        events = await self._events(run)
        return await self._outcome(ended.run), events

    def _faults(self, chance: Random) -> Sequence[Fault]:
        if self.fault is None:
            return ()
        if not self._twice:
            return (self.fault,)
        return self.fault, replace(self.fault, commit=chance.randint(1, _COMMITS))

    async def _outcome(self, run: Run) -> Any:
        thread = await self._store.threads.get(TENANT, self.thread_id)
        assert await self._store.left_over(self.thread_id) == (0, None)
        if run.status is RunStatus.ERROR:
            assert thread.status is ThreadStatus.ERROR
            assert run.error is not None
            return ["error", run.error["error"], bare(run.error["message"])]
        assert run.status is RunStatus.SUCCESS
        return thread.status.value

    async def _events(self, run: Run) -> Mapping[str, Any]:
        log = await self._store.events(self.thread_id)
        assert [event.seq for event in log] == list(range(1, len(log) + 1))
        mine = [event for event in log if event.run_id == run.run_id]
        _check_attempts(mine, several=self._chance is not None)
        told: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for event in mine:
            mode, *path = event.event.split("|")
            if mode in MODES:
                told[_place(path)].append((mode, bare(json.loads(event.data))))
        return _in_order(told)


def _check_attempts(events: Sequence[Event], *, several: bool) -> None:
    """Each attempt begins with its `metadata`; they rise, unless several go on at once.

    Two processes that repeat what others have lost are two attempts.
    """
    begun = [0]
    for event in events:
        if event.attempt not in begun:
            assert event.event == "metadata"
            begun.append(event.attempt)
            assert json.loads(event.data)["attempt"] == event.attempt
        assert several or event.attempt == begun[-1]
    assert several or begun == sorted(begun)
    assert len(begun) > 1


# --------------------------------------------------------------------------- comparison


async def _shown(graph: Pregel, thread: Any) -> tuple[Any, Any]:
    try:
        state = await graph.aget_state(thread, subgraphs=True)
        history = [_snapshot(s) async for s in graph.aget_state_history(thread)]
    except ValidationError as error:
        # A state that its own schema refuses cannot be shown.
        return bare(str(error)), None
    return _snapshot(state), history


def _snapshot(state: StateSnapshot) -> Any:
    metadata = state.metadata or {}
    return {
        "values": bare(state.values),
        "next": sorted(state.next),
        "source": metadata.get("source"),
        "step": metadata.get("step"),
        "tasks": sorted(
            (
                {
                    "name": task.name,
                    "error": bare(repr(task.error)),
                    "interrupts": [bare(i.value) for i in task.interrupts],
                    "result": bare(task.result),
                    "state": _snapshot(task.state)
                    if isinstance(task.state, StateSnapshot)
                    else None,
                }
                for task in state.tasks
            ),
            key=str,
        ),
    }


def bare(value: Any) -> Any:
    """`value` as JSON without ids that differ from run to run."""
    if isinstance(value, Mapping) and "__metadata__" in value:
        # Whether the cache answered may depend on what a lost process has left there.
        value = {k: v for k, v in value.items() if k != "__metadata__"}
    text = value if isinstance(value, str) else encode(value)
    text = _ELAPSED.sub("elapsed: <time>", _ID.sub("<id>", text))
    return text if isinstance(value, str) else json.loads(text)


def _place(path: Sequence[str]) -> str:
    return bare("|".join(path))


def _in_order(told: Mapping[str, Sequence[tuple[str, Any]]]) -> Mapping[str, Any]:
    """Events by namespace: the root's by superstep, whose tasks finish in any order.

    Several subgraphs at once share one place here, so theirs are only counted.
    """
    return {
        place: [sorted(part) for part in _supersteps(events)]
        if not place
        else sorted(line for part in _supersteps(events) for line in part)
        for place, events in told.items()
    }


def _supersteps(events: Sequence[tuple[str, Any]]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for mode, payload in events:
        parts[-1].append(f"{mode} {json.dumps(payload, sort_keys=True)}")
        # A question is shown with the state as it is, whatever else is still running.
        if mode == "values" and "__interrupt__" not in (payload or ()):
            parts.append([])
    return [part for part in parts if part]
