"""What `wait` and `join` answer: the outcome of a run, from its own last checkpoint.

Not from the thread's head, which the next run may have moved already. The answer is
what LangGraph's own `ainvoke` would have returned: the graph's output channels, and
under `__interrupt__` the questions that the run ended with.
"""

from __future__ import annotations

import asyncio
import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from threadmill.checkpoints.configs import tuple_of
from threadmill.domain.run import FAILED
from threadmill.engine.graph_factories import GraphUse
from threadmill.engine.reading_saver import ReadingSaver
from threadmill.engine.values import (
    INTERRUPT,
    finished_tasks,
    interrupt_json,
    needs_history,
    open_interrupts,
    values_of,
)
from threadmill.engine.watch import Patience
from threadmill.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

    from threadmill.checkpoints.base import RunState, Stored
    from threadmill.engine.graph_schemas import CompiledGraph
    from threadmill.engine.graphs import GraphCatalogue
    from threadmill.stores.base import Runs
    from threadmill.stores.records import Run


class Answers:
    """The outcomes of ended runs.

    Args:
        runs: where runs are.
        graphs: says which channels are a graph's output.
        saver: a LangGraph saver of one tenant, for reading.
        poll_seconds: how long to wait before an unreachable database is asked again.
        patience_seconds: how long it is put up with.
    """

    def __init__(
        self,
        *,
        runs: Runs,
        graphs: GraphCatalogue,
        saver: Callable[[str], BaseCheckpointSaver[Any]],
        poll_seconds: float,
        patience_seconds: float = 60.0,
    ) -> None:
        self._runs = runs
        self._graphs = graphs
        self._saver = saver
        self._poll_seconds = poll_seconds
        self._patience_seconds = patience_seconds

    async def __call__(self, tenant: str, ended: RunState) -> Any:
        """The answer of an ended run, ready for JSON.

        A failed run answers `{"__error__": {"error": type, "message": text}}`. A
        cancelled one answers with its state so far, `{}` if it has none.

        Raises:
            GraphLoadFailed: the graph is not to be had.
            Unavailable: the database stays away.
        """
        patience = Patience(self._patience_seconds)
        while True:
            with patience:
                return await self._answer(tenant, ended)
            await asyncio.sleep(self._poll_seconds)

    async def _answer(self, tenant: str, ended: RunState) -> Any:
        run = ended.run
        if run.status in FAILED:
            unknown = {"error": str(run.status), "message": "the run failed"}
            return {"__error__": run.error or unknown}
        if ended.at is None:
            return {}
        stored = await self._as_left(tenant, run, ended.at)
        use = GraphUse(access="threads.read", config=run.kwargs.get("config") or {})
        async with self._graphs.get(run.graph_id).open(use) as graph:
            values = await self._values(tenant, graph, stored)
        asked = open_interrupts(stored.writes)
        if not asked:
            return values
        questions = [interrupt_json(i) for task in asked.values() for i in task]
        return {**(values if isinstance(values, dict) else {}), INTERRUPT: questions}

    async def _as_left(self, tenant: str, run: Run, stored: Stored) -> Stored:
        """The run's last checkpoint without what later runs wrote to it."""
        later = {id_ for id_ in set(stored.write_runs) if id_ not in {None, run.run_id}}
        later = {id_ for id_ in later if await self._came_after(tenant, id_, run)}
        pairs = zip(stored.writes, stored.write_runs, strict=True)
        writes = [write for write, run_id in pairs if run_id not in later]
        return replace(stored, writes=writes, write_runs=())

    async def _came_after(self, tenant: str, other: UUID | None, run: Run) -> bool:
        if other is None:
            return False
        try:
            return (await self._runs.get(tenant, other, run.thread_id)).seq > run.seq
        except NotFound:
            return False

    async def _values(self, tenant: str, graph: CompiledGraph, stored: Stored) -> Any:
        names = graph.output_channels
        if not finished_tasks(stored.writes) and not needs_history(graph, names):
            return values_of(graph, stored, names)
        # Results that no checkpoint carries yet, or differences: LangGraph knows how.
        bound = copy.copy(graph)
        bound.checkpointer = _Pinned(self._saver(tenant), stored)
        snapshot = await bound.aget_state(
            {"configurable": {"thread_id": stored.thread_id, "checkpoint_ns": ""}}
        )
        if isinstance(names, str) or not isinstance(snapshot.values, dict):
            return snapshot.values
        return {k: v for k, v in snapshot.values.items() if k in names}


class _Pinned(ReadingSaver):
    """A thread as it was when its head was one given checkpoint."""

    def __init__(self, reads: BaseCheckpointSaver[Any], head: Stored) -> None:
        super().__init__(reads)
        self._head = head

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The given checkpoint for the root's head, anything else as it is."""
        configurable = config.get("configurable", {})
        if configurable.get("checkpoint_ns") or configurable.get("checkpoint_id"):
            return await super().aget_tuple(config)
        return tuple_of(self._head)
