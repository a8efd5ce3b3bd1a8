"""A run that is given up, and put back, applies its message once."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from langgraph.pregel import Pregel
from langgraph.types import interrupt

from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.small_graphs import Steps, row, step
from threadmill.config import GraphPolicy
from threadmill.domain.run import RunStatus
from threadmill.engine.redrive import Redrive
from threadmill.errors import NotFound
from threadmill.stores.operations import DeadLetter
from threadmill.stores.records import Run
from threadmill.testing.engine import EngineDriver, SilentHints
from threadmill.testing.process import Fault, FaultKind

POLICY = GraphPolicy(dead_letter_errors=True)


class Fragile:
    """A node that raises until it is mended."""

    def __init__(self) -> None:
        self.broken = True

    async def __call__(self, state: Steps) -> Any:  # noqa: ARG002 - LangGraph's
        if self.broken:
            raise ValueError("the other side is down")
        return {"steps": ["fragile"]}


class Story:
    """A thread with runs of first, fragile, last; or of another graph."""

    def __init__(
        self,
        store: EngineStore,
        policy: GraphPolicy,
        graph: Pregel | None = None,
        **rules: Any,
    ) -> None:
        self.store = store
        self.fragile = Fragile()
        self.graph_id = str(uuid4())
        self.thread_id = uuid4()
        graph = graph or row(
            first=step("first"), fragile=self.fragile, last=step("last")
        )
        self.driver: EngineDriver = store.driver(
            {self.graph_id: graph}, policies={self.graph_id: policy}, **rules
        )

    async def submit(self) -> Run:
        given = {"input": {"steps": ["said"]}, "stream_mode": ["values"]}
        return await self.driver.submit(self.graph_id, self.thread_id, given)

    async def letter(self, run_id: UUID) -> DeadLetter:
        return await self.store.dead_letters.get(TENANT, run_id)

    async def redrive(self, run_id: UUID) -> tuple[Run, list[str]]:
        hints = SilentHints()
        back = Redrive(self.store.dead_letters, hints, queue_max=9)
        return await back(TENANT, run_id), hints.told

    async def steps(self) -> list[str]:
        head = await self.store.checkpoints.get(TENANT, str(self.thread_id), "")
        assert head is not None
        steps: list[str] = head.checkpoint["channel_values"]["steps"]
        return steps


async def test_an_error_makes_a_dead_letter_only_if_the_graph_says_so(
    engine_store: EngineStore,
) -> None:
    story = Story(engine_store, GraphPolicy())
    ended = await story.driver.carry_out(await story.submit())
    assert ended.run.status is RunStatus.ERROR
    with pytest.raises(NotFound):
        await story.letter(ended.run.run_id)


async def test_a_redriven_run_goes_on_where_it_failed(
    engine_store: EngineStore,
) -> None:
    story = Story(engine_store, POLICY)
    ended = await story.driver.carry_out(await story.submit())
    letter = await story.letter(ended.run.run_id)
    assert letter.cause == {"error": "ValueError", "message": "the other side is down"}
    assert letter.checkpoint_id is not None
    assert letter.attempts == 1
    told = [event.data for event in await engine_store.events(story.thread_id)]
    story.fragile.broken = False
    back, hinted = await story.redrive(ended.run.run_id)
    assert hinted == [f"ready {story.graph_id}", f"moved {TENANT} {story.thread_id}"]
    ended = await story.driver.carry_out(back)
    assert ended.run.status is RunStatus.SUCCESS
    assert await story.steps() == ["said", "first", "fragile", "last"]
    events = [event.data for event in await engine_store.events(story.thread_id)]
    assert events[: len(told)] == told
    states = [data for data in events if data.startswith('{"steps"')]
    assert len(set(states)) == len(states)


async def test_a_run_whose_workers_died_tells_how_and_is_given_its_input_again(
    engine_store: EngineStore,
) -> None:
    story = Story(engine_store, GraphPolicy(), attempts_max=1)
    story.fragile.broken = False
    fault = Fault(FaultKind.KILL_BEFORE, commit=1)
    ended = await story.driver.carry_out(await story.submit(), fault)
    assert ended.run.status is RunStatus.ERROR
    letter = await story.letter(ended.run.run_id)
    assert letter.attempts == 1
    assert "ended while it ran" in letter.cause["message"]
    assert ended.run.error == letter.cause
    assert letter.checkpoint_id is None
    back, _ = await story.redrive(ended.run.run_id)
    ended = await story.driver.carry_out(back)
    assert ended.run.status is RunStatus.SUCCESS
    assert await story.steps() == ["said", "first", "fragile", "last"]


async def test_an_answer_that_was_given_up_is_taken_and_told_once(
    engine_store: EngineStore,
) -> None:
    """It left no checkpoint, but its answer lies at the one that it answered."""
    broken = True

    async def ask(state: Steps) -> Any:
        answer = interrupt("go on?")
        if broken:
            raise ValueError("the other side is down")
        return {"steps": [answer]}

    story = Story(engine_store, POLICY, graph=row(ask=ask, last=step("last")))
    await story.driver.carry_out(await story.submit())
    given = {"command": {"resume": "yes"}, "stream_mode": ["values"]}
    answering = await story.driver.submit(story.graph_id, story.thread_id, given)
    ended = await story.driver.carry_out(answering)
    assert (await story.letter(answering.run_id)).checkpoint_id is None
    broken = False
    back, _ = await story.redrive(answering.run_id)
    ended = await story.driver.carry_out(back)
    assert ended.run.status is RunStatus.SUCCESS
    assert await story.steps() == ["said", "yes", "last"]
    events = await engine_store.events(story.thread_id)
    own = [event.data for event in events if event.run_id == answering.run_id]
    states = [data for data in own if data.startswith('{"steps"')]
    assert len(states) == len(set(states)) > 0
