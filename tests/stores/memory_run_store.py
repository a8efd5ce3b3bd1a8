"""The same tests' store over the simulator's tables, so that both keep one contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any, cast
from uuid import UUID, uuid4

from tests.simulation.simulation import Store
from tests.simulation.store.tables import Tables
from tests.stores.run_store import TENANT, RunStore


class MemoryRunStore(RunStore):
    """`RunStore` in memory; its clock goes on whenever it is read."""

    def __init__(self) -> None:
        self._now = 1000.0
        self._tables = Tables(clock=self._clock, ids=uuid4, chance=Random(1))
        store = cast("Any", Store(self._tables))
        self.runs = store.runs
        self.dispatcher = store.dispatcher
        self.threads = store.threads
        self.stream = store.stream
        self.checkpoints = store.checkpoints

    def _clock(self) -> float:
        self._now += 0.005
        return self._now

    async def activations(
        self, thread_id: UUID | None = None
    ) -> Sequence[Mapping[str, Any]]:
        rows = self._tables.activations.values()
        return [asdict(row) for row in rows if thread_id in {None, row.thread_id}]

    async def holder(self, thread_id: UUID) -> UUID | None:
        return self._tables.threads[TENANT, thread_id].holder

    async def timers(self) -> Sequence[tuple[str, str]]:
        return sorted(("promote", timer.ref) for timer in self._tables.timers.values())

    async def make_timers_due(self) -> None:
        for timer in self._tables.timers.values():
            timer.due_at = self._now

    async def let_leases_expire(self) -> None:
        for row in self._tables.activations.values():
            row.lease_until = self._now - 1
