"""Nodes with effects, a receiver that remembers its calls, and runs with faults."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import threadmill
from tests.engine.engine_store import TENANT, EngineStore
from tests.engine.small_graphs import Steps, row
from threadmill.domain.run import ThreadStatus
from threadmill.drivers.postgres.sql import Query
from threadmill.testing.engine import Ended, EngineDriver
from threadmill.testing.process import Fault, FaultKind

# A run of one node with one effect commits in this order.
SECONDS = 10
BEGIN, CHECKPOINT, INTENT, OUTCOME, FINISH = range(1, 6)

_RECORDS = Query(
    "records",
    b"SELECT key, state, token, answers, task_id FROM threadmill.effect"
    b" WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s"
    b" ORDER BY key, task_id",
)


@dataclass
class Receiver:
    """Somebody outside, who notes the idempotency key of every call.

    Args:
        error: raised by the next calls, after they have been noted.
        result: what a call leads to; by default its number.
    """

    calls: list[str] = field(default_factory=list)
    error: BaseException | None = None
    result: Any = None

    def take(self, key: str) -> Any:
        self.calls.append(key)
        if self.error is not None:
            raise self.error
        return self.result if self.result is not None else f"receipt {len(self.calls)}"

    async def take_async(self, key: str) -> Any:
        await asyncio.sleep(0)
        return self.take(key)

    def node(self, on_unknown: Any = "fail", key: str = "pay") -> Any:
        """A node that calls it once, as an effect."""

        async def pay(state: Steps) -> Any:
            value = await threadmill.effect(key, self.take_async, on_unknown=on_unknown)
            return {"value": value}

        return pay

    def blocking_node(self, on_unknown: Any = "fail") -> Any:
        """The same in a thread."""

        def pay(state: Steps) -> Any:
            value = threadmill.effect_sync("pay", self.take, on_unknown=on_unknown)
            return {"value": value}

        return pay


class Story:
    """Runs of one graph on one thread.

    Args:
        store: the adapters.
        graph: the graph.
        tenant: whose it is.
    """

    def __init__(self, store: EngineStore, graph: Any, tenant: str = TENANT) -> None:
        self.store = store
        self.tenant = tenant
        self.graph_id = str(uuid4())
        self.thread_id = uuid4()
        self.driver: EngineDriver = store.driver({self.graph_id: graph}, tenant=tenant)

    @classmethod
    def of(cls, store: EngineStore, **nodes: Any) -> Story:
        """A story of nodes in a row."""
        return cls(store, row(**nodes))

    async def turn(self, fault: Fault | None = None, **kwargs: Any) -> Ended:
        """One more run, to its end."""
        given = kwargs or {"input": {"steps": []}}
        run = await self.driver.submit(self.graph_id, self.thread_id, given)
        return await self.driver.carry_out(run, fault)

    async def killed(
        self, commit: int, kind: FaultKind = FaultKind.KILL_BEFORE
    ) -> Ended:
        """A run whose first process dies at this commit."""
        ended = await self.turn(Fault(kind, commit))
        assert ended.faulted
        return ended

    async def answered(self, answer: Any) -> Ended:
        """A run that gives a human's answer."""
        return await self.turn(command={"resume": answer})

    async def value(self) -> Any:
        """What the last node has left in the state."""
        head = await self.store.checkpoints.get(self.tenant, str(self.thread_id), "")
        assert head is not None
        return head.checkpoint["channel_values"].get("value")

    async def is_paused(self) -> bool:
        """Whether the thread waits for a human."""
        thread = await self.store.threads.get(self.tenant, self.thread_id)
        return thread.status is ThreadStatus.INTERRUPTED

    async def questions(self) -> Sequence[Any]:
        """What is asked of a human now."""
        head = await self.store.checkpoints.get(self.tenant, str(self.thread_id), "")
        assert head is not None
        return [
            interrupt.value
            for _, channel, value in head.writes
            if channel == "__interrupt__"
            for interrupt in value
        ]

    async def records(self, thread_id: UUID | None = None) -> Sequence[dict[str, Any]]:
        """What is recorded of the thread's effects."""
        async with self.store.database.tenant_tx(self.tenant, read_only=True) as tx:
            found = tx.add(
                _RECORDS, tenant=self.tenant, thread_id=thread_id or self.thread_id
            )
        return found.rows


class Gate:
    """A place where a node waits until the test lets it go on."""

    def __init__(self) -> None:
        self.reached, self.open = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await asyncio.wait_for(self.open.wait(), SECONDS)


def paying(take: Any, **options: Any) -> Any:
    """A node with one effect that `take` does."""

    async def pay(state: Steps) -> Any:
        return {"value": await threadmill.effect("pay", take, **options)}

    return pay
