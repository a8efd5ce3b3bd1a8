"""The adapters that engine tests run on, and questions about what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from langgraph.pregel import Pregel

from threadmill.checkpoints.away import Away
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.codec import Codec
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.run_states import PostgresRunStates
from threadmill.checkpoints.saver import PostgresSaver
from threadmill.checkpoints.sync import PostgresSyncCheckpoints
from threadmill.config import GraphPolicy
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.drivers.postgres.sql import Query
from threadmill.engine.activate import ActivateRules
from threadmill.engine.activation.entry import EntryLimits
from threadmill.engine.effects import EffectPorts
from threadmill.stores.postgres.dead_letters import PostgresDeadLetters
from threadmill.stores.postgres.dispatcher import PostgresDispatcher
from threadmill.stores.postgres.effects import PostgresEffects, PostgresSyncEffects
from threadmill.stores.postgres.runs import PostgresRuns
from threadmill.stores.postgres.threads import PostgresThreads
from threadmill.stores.records import Retention
from threadmill.streams.base import Event
from threadmill.streams.postgres import PostgresStream
from threadmill.testing.engine import EngineDriver

TENANT = "default"

_LEFT_OVER = Query(
    "left_over",
    b"SELECT (SELECT count(*) FROM threadmill.activation"
    b" WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s) AS activations,"
    b" (SELECT holder FROM threadmill.thread"
    b" WHERE tenant_id = %(tenant)s AND thread_id = %(thread_id)s) AS holder",
)


class EngineStore:
    """Every port of the engine over one database.

    Args:
        database: opened.
        uri: the same, for threads that block.
        away: makes what keeps checkpoints' values elsewhere, for each event loop.
    """

    def __init__(
        self,
        database: Database,
        uri: str,
        away: Callable[[], Away | None] = lambda: None,
    ) -> None:
        retention = Retention()
        self.database = database
        self.runs = PostgresRuns(database, retention)
        self.threads = PostgresThreads(database)
        self.dead_letters = PostgresDeadLetters(database, retention)
        self.dispatcher = PostgresDispatcher(database, retention)
        self.checkpoints = PostgresCheckpoints(database, away=away())
        self.run_states = PostgresRunStates(self.checkpoints, retention)
        self.stream = PostgresStream(database)
        self.blocking = PostgresSyncCheckpoints(
            lambda: PostgresCheckpoints(
                Database(uri, name="blocking", limits=Limits(pool_max=2)),
                away=away(),
            )
        )

        self.effects = EffectPorts(
            effects=PostgresEffects(database),
            blocking=PostgresSyncEffects(self.blocking.on_database),
            codec=Codec(),
        )

    async def open(self) -> None:
        """Opens all connections."""
        await self.checkpoints.open()

    async def close(self) -> None:
        """Closes them, also those that blocking threads use."""
        await asyncio.to_thread(self.blocking.close)
        await self.checkpoints.close()

    def saver(self, tenant: str = TENANT) -> PostgresSaver:
        return PostgresSaver(self.checkpoints, tenant=tenant)

    def driver(
        self,
        graphs: Mapping[str, Pregel],
        *,
        node: bool = False,
        on_commit: Callable[[Commit], None] | None = None,
        stop_seconds: float = 5.0,
        tenant: str = TENANT,
        policies: Mapping[str, GraphPolicy] | None = None,
        **rules: Any,
    ) -> EngineDriver:
        """A driver of these graphs, in `burst` or in `node` dispatch."""
        return EngineDriver(
            runs=self.runs,
            dispatcher=self.dispatcher,
            run_states=self.run_states,
            checkpoints=self.checkpoints,
            saver=self.saver,
            stream=self.stream,
            blocking=self.blocking,
            effects=self.effects,
            graphs=graphs,
            rules=ActivateRules(
                **{
                    "per_superstep": node,
                    "retry_seconds": 0,
                    "shun_seconds": 0,
                    **rules,
                }
            ),
            limits=EntryLimits(token_flush_seconds=0.005, stop_seconds=stop_seconds),
            on_commit=on_commit,
            tenant=tenant,
            policies=policies,
        )

    async def events(self, thread_id: UUID) -> Sequence[Event]:
        return await self.stream.read(TENANT, thread_id, after=0, limit=100_000)

    async def left_over(self, thread_id: UUID) -> tuple[int, UUID | None]:
        """How many activations there are, and who holds the thread."""
        async with self.database.tenant_tx(TENANT, read_only=True) as tx:
            found = tx.add(_LEFT_OVER, tenant=TENANT, thread_id=thread_id)
        row = found.rows[0]
        return row["activations"], row["holder"]
