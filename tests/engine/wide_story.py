"""A graph whose one superstep is wide, and processes that share it: who does what."""

from __future__ import annotations

import asyncio
import json
import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypedDict
from uuid import UUID, uuid4

from langgraph.graph import START, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import Send

from tests.engine.engine_store import TENANT, EngineStore
from threadmill.domain.run import TERMINAL
from threadmill.engine.attempt import Attempt
from threadmill.stores.records import Claim, Run, Superstep
from threadmill.streams.base import Event
from threadmill.testing.engine import EngineDriver, TestDesk, attempt_of
from threadmill.testing.process import Process

ALL: Final = 100


class State(TypedDict, total=False):
    """Which tasks have run, and how often what follows them has."""

    n: int
    seen: Annotated[list[int], operator.add]
    joined: Annotated[int, operator.add]


class Part(TypedDict):
    """What one task is given."""

    i: int


@dataclass
class Watch:
    """What the tasks of a test do, as the test sees it."""

    calls: Counter[int] = field(default_factory=Counter)
    running: int = 0
    most: int = 0
    gates: dict[int, asyncio.Event] = field(default_factory=dict)
    begun: dict[int, asyncio.Event] = field(default_factory=dict)
    fails: set[int] = field(default_factory=set)

    def hold(self, *tasks: int) -> None:
        """These tasks wait for their gate."""
        for i in tasks:
            self.gates[i], self.begun[i] = asyncio.Event(), asyncio.Event()

    async def work(self, part: Part) -> Any:
        """A task."""
        i = part["i"]
        self.calls[i] += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if i in self.gates:
                self.begun[i].set()
                await self.gates[i].wait()
            await asyncio.sleep(0)
            if i in self.fails:
                raise ValueError(f"task {i} fails")
        finally:
            self.running -= 1
        return {"seen": [i]}


def sends(state: State) -> list[Send]:
    """One task for each of `n`."""
    return [Send("work", Part(i=i)) for i in range(state["n"])]


def wide(
    work: Any, split: Callable[[State], list[Send]] = sends, **options: Any
) -> Pregel:
    """`work` once for each part, all in one superstep, and `join` after them.

    Args:
        work: the node.
        split: says what the tasks are given.
        options: of `add_node`.
    """
    builder: Any = StateGraph(State)
    builder.add_node("work", work, **options)
    builder.add_node("join", lambda _: {"joined": 1})
    builder.add_conditional_edges(START, split, ["work"])
    builder.add_edge("work", "join")
    graph: Pregel = builder.compile()
    return graph


def needing(*labels: str) -> dict[str, Any]:
    """The metadata of a node that runs only where these labels are."""
    return {"threadmill": {"labels": list(labels)}}


@dataclass
class Story:
    """One run of a wide graph, and the processes that work on it."""

    store: EngineStore
    driver: EngineDriver
    run: Run
    watch: Watch

    async def plan(self, keeps: int) -> tuple[Process, Attempt, asyncio.Task[None]]:
        """The first process begins; it keeps so many tasks and publishes the rest."""
        process = self.driver.process()
        (claim,) = await self.driver.claim(process)
        return process, *self.begin(process, [claim], keeps)

    def begin(
        self,
        process: Process,
        claims: Sequence[Claim],
        keeps: int = ALL,
        *,
        takes_more: bool = False,
    ) -> tuple[Attempt, asyncio.Task[None]]:
        """A process works on what it has claimed."""

        async def more(of: Superstep, n: int) -> Sequence[Claim]:
            return await self.driver.claim(process, n, of) if takes_more else ()

        attempt = attempt_of(*claims, desk=TestDesk(tasks_at_once=keeps, claims=more))
        return attempt, asyncio.create_task(self.driver.work(process, attempt))

    async def claim(self, n: int = ALL) -> tuple[Process, Sequence[Claim]]:
        """Another process takes what is ready."""
        process = self.driver.process()
        return process, await self.driver.claim(process, n)

    async def end_of_run(self) -> Run:
        """The run as it is stored."""
        return await self.store.runs.get(TENANT, self.run.run_id)

    async def state(self) -> Any:
        """What the thread's last checkpoint holds."""
        return await state_of(self.store, self.run.thread_id)


async def story_of(
    store: EngineStore,
    n: int,
    *,
    labels: Sequence[str] = (),
    config: Any = None,
    **rules: Any,
) -> Story:
    """A run of `n` tasks that is accepted and not begun.

    Args:
        store: the ports.
        n: tasks of its one wide superstep.
        labels: what their node needs.
        config: of the run.
        rules: of its processes.
    """
    watch, graph_id = Watch(), str(uuid4())
    graph = wide(watch.work, metadata=needing(*labels))
    driver = store.driver({graph_id: graph}, **rules)
    kwargs = {"input": {"n": n}, "config": config, "stream_mode": ["updates"]}
    run = await driver.submit(graph_id, uuid4(), kwargs)
    return Story(store, driver, run, watch)


async def planned(store: EngineStore, n: int, keeps: int, **options: Any) -> Story:
    """A run whose first process has planned and done its share."""
    story = await story_of(store, n, **options)
    _, _, working = await story.plan(keeps)
    await working
    return story


async def state_of(store: EngineStore, thread_id: UUID) -> Any:
    """What the thread's last checkpoint holds."""
    head = await store.checkpoints.get(TENANT, str(thread_id), "")
    assert head is not None
    return head.checkpoint["channel_values"]


async def work_off(
    store: EngineStore, driver: EngineDriver, run: Run, keeps: int = 2, rounds: int = 12
) -> Run:
    """Lets one process after the other work until the run has ended.

    Args:
        store: the ports.
        driver: makes the processes.
        run: an accepted run.
        keeps: how many tasks each of them takes, and keeps of what it plans.
        rounds: how many processes there are at most.
    """
    for _ in range(rounds):
        process = driver.process()
        claims = await driver.claim(process, keeps)
        if claims:
            desk = TestDesk(tasks_at_once=keeps)
            await driver.work(process, attempt_of(*claims, desk=desk))
        run = await store.runs.get(TENANT, run.run_id)
        if run.status in TERMINAL:
            break
    return run


def shape(event: Event) -> tuple[str, ...]:
    """What an event tells, without what differs from one run to the next."""
    data = json.loads(event.data)
    match event.event:
        case "metadata":
            return (event.event,)
        case "debug":
            inner = data["payload"]
            result = json.dumps(inner.get("result"))
            return event.event, data["type"], inner.get("name", ""), result
        case "tasks":
            what = "result" if "result" in data else "start"
            return event.event, what, data["name"], json.dumps(data.get("result"))
        case "checkpoints":
            return event.event, json.dumps(data.get("values")), json.dumps(data["next"])
    if isinstance(data, dict) and "__interrupt__" in data:
        asked = sorted(str(shown["value"]) for shown in data["__interrupt__"])
        return event.event, "interrupt", json.dumps(asked)
    return event.event, event.data
