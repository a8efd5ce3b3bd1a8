"""From settings to objects; ARCHITECTURE.md has the other places that name adapters.

A process is a `Core` (what every role needs), plus a worker, plus the services of the
HTTP interface, as its role asks. Whoever opens a core closes it; nothing is global.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final
from uuid import uuid4

from threadmill import __version__
from threadmill.brokers.broker import Broker, BrokerOptions
from threadmill.brokers.outbox import BrokerHints
from threadmill.brokers.postgres import PostgresHints
from threadmill.brokers.schemes import broker_of
from threadmill.checkpoints.away import Away
from threadmill.checkpoints.chunk_upkeep import ChunkUpkeep
from threadmill.checkpoints.codec import Codec
from threadmill.checkpoints.configured import away_of, open_away
from threadmill.checkpoints.history_search import PostgresHistories
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.pruning import PostgresPruning
from threadmill.checkpoints.run_states import PostgresRunStates
from threadmill.checkpoints.saver import PostgresSaver
from threadmill.checkpoints.sizes import PostgresSizes
from threadmill.checkpoints.sync import PostgresSyncCheckpoints
from threadmill.domain.lease import LeaseTimes
from threadmill.drivers.postgres.configured import (
    database_uri,
    direct_uri,
    limits_of,
)
from threadmill.drivers.postgres.database import Database
from threadmill.drivers.postgres.migrate import require_current
from threadmill.ending import aside
from threadmill.engine.activate import Activate, ActivateRules
from threadmill.engine.activation.entry import EntryLimits
from threadmill.engine.effects import EffectPorts
from threadmill.engine.graphs import GraphCatalogue
from threadmill.engine.measure import Measure
from threadmill.engine.prune import Prune
from threadmill.engine.retain import Retain
from threadmill.engine.search_histories import SearchHistories
from threadmill.faults import Faults
from threadmill.operations import Operations, operations_over, retention_of
from threadmill.settings import Settings
from threadmill.stores.inspection import Inspection
from threadmill.stores.postgres.assistants import PostgresAssistants
from threadmill.stores.postgres.dispatcher import PostgresDispatcher
from threadmill.stores.postgres.effects import PostgresEffects, PostgresSyncEffects
from threadmill.stores.postgres.inspection import PostgresInspection
from threadmill.stores.postgres.members import PostgresMembers
from threadmill.stores.postgres.retention import PostgresRetention
from threadmill.stores.postgres.runs import PostgresRuns
from threadmill.stores.postgres.threads import PostgresThreads
from threadmill.stores.records import Member
from threadmill.streams.base import Stream
from threadmill.streams.configured import open_relay
from threadmill.streams.postgres import PostgresStream
from threadmill.streams.relay import Relay
from threadmill.streams.relayed import RelayedStream
from threadmill.worker.desk import DeskRules
from threadmill.worker.slots import threads_of_slot
from threadmill.worker.worker import Worker, WorkerRules

# Nodes that block while they call a subgraph are few.
_BLOCKING_CONNECTIONS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What every process of the fleet has, open and announced."""

    settings: Settings
    graphs: GraphCatalogue
    member: Member
    lock_key: int | None
    database: Database
    runs: PostgresRuns
    threads: PostgresThreads
    assistants: PostgresAssistants
    dispatcher: PostgresDispatcher
    members: PostgresMembers
    checkpoints: PostgresCheckpoints
    blocking: PostgresSyncCheckpoints
    effects: EffectPorts
    run_states: PostgresRunStates
    stream: Stream
    hints: BrokerHints | PostgresHints
    operations: Operations
    retain: Retain
    prune: Prune
    histories: SearchHistories
    measure: Measure
    chunks: ChunkUpkeep | None
    faults: Faults

    def saver(self, tenant: str) -> PostgresSaver:
        """A LangGraph saver of one tenant, for reading."""
        return PostgresSaver(self.checkpoints, tenant=tenant)


def lease_times(settings: Settings) -> LeaseTimes:
    """How long leases hold."""
    return LeaseTimes(
        lease_seconds=settings.lease_seconds,
        renew_seconds=settings.renew_seconds,
        margin_seconds=min(1.0, settings.lease_seconds / 10),
    )


def new_member(
    settings: Settings, graphs: GraphCatalogue, role: str, labels: Sequence[str] = ()
) -> Member:
    """This process, as it announces itself."""
    return Member(
        worker_id=uuid4(),
        name=f"{role}@{socket.gethostname()}:{os.getpid()}",
        role=role,
        version=__version__,
        graphs=graphs.ids,
        labels=tuple(labels),
        slots=0 if role == "server" else settings.slots,
    )


@dataclass(frozen=True, slots=True)
class Inspections:
    """What the doctor looks through: the database, and the direct way to it if any."""

    main: Inspection
    direct: Inspection | None


def inspections_of(settings: Settings) -> Inspections:
    """Looks at the configured database.

    Raises:
        BadSetting: none is configured, or a URI cannot be parsed.
    """
    limits = limits_of(settings)
    direct = settings.database_uri_direct
    return Inspections(
        PostgresInspection(database_uri(settings), limits=limits),
        None
        if direct is None
        else PostgresInspection(
            direct.get_secret_value(), limits=limits, setting="DATABASE_URI_DIRECT"
        ),
    )


@asynccontextmanager
async def open_core(
    settings: Settings, graphs: GraphCatalogue, member: Member
) -> AsyncIterator[Core]:
    """Opens connections, checks the schema and announces the process.

    Raises:
        BadSetting: no database is configured, or a store that cannot be used.
        SchemaOutdated: `threadmill migrate` must be run first.
        SetupError: Redis cannot be trusted with state.
        StoreUnavailable: the database does not answer, or Redis.
    """
    uri, limits = database_uri(settings), limits_of(settings)
    await require_current(uri, limits=limits)
    database = Database(
        uri, name=member.name, limits=limits, prepare=settings.prepared_statements
    )
    await database.open()
    try:
        async with (
            open_away(settings, graphs.places) as away,
            open_relay(settings) as relay,
        ):
            members = PostgresMembers(
                database, present=direct_uri(settings) is not None
            )
            lock_key = await members.join(member)
            faults = Faults(os.environ.get("THREADMILL_FAULTS", ""))
            async with _hints(settings, member, database, faults) as hints:
                core = _core(
                    settings,
                    graphs,
                    member,
                    lock_key,
                    database,
                    members,
                    hints=hints,
                    faults=faults,
                    away=away,
                    relay=relay,
                )
                try:
                    yield core
                finally:
                    await aside(core.blocking.close)
                # Not after a failure: who is listed, and holds no lock, is healed.
                with suppress(Exception):
                    await members.leave(member.worker_id)
    finally:
        await database.close()


def broker(settings: Settings, name: str, labels: Sequence[str] = ()) -> Broker | None:
    """A connection to the configured broker, not open yet; None without one.

    Raises:
        BadSetting: nobody knows its scheme, or its library is missing.
    """
    if settings.broker_uri is None:
        return None
    uri = settings.broker_uri.get_secret_value()
    return broker_of(BrokerOptions(uri=uri, name=name, labels=labels))


@asynccontextmanager
async def _hints(
    settings: Settings, member: Member, database: Database, faults: Faults
) -> AsyncIterator[BrokerHints | PostgresHints]:
    """Publishes hints while the block runs, through a broker if there is one."""
    everybody = PostgresHints(database, origin=str(member.worker_id), faults=faults)
    publishes = broker(settings, f"{member.name} publishes")
    await everybody.start()
    try:
        if publishes is None:
            yield everybody
            return
        hints = BrokerHints(publishes, everybody, faults=faults)
        await hints.start()
        try:
            yield hints
        finally:
            await hints.close()
    finally:
        await everybody.close()


def _core(
    settings: Settings,
    graphs: GraphCatalogue,
    member: Member,
    lock_key: int | None,
    database: Database,
    members: PostgresMembers,
    *,
    hints: BrokerHints | PostgresHints,
    faults: Faults,
    away: Away | None,
    relay: Relay,
) -> Core:
    retention = retention_of(settings)
    codec = Codec(
        state_bytes_max=settings.state_bytes_max,
        whole=settings.checkpoint_format == "whole",
    )
    checkpoints = PostgresCheckpoints(
        database, codec, indexed=graphs.indexed, away=away, relay=relay
    )
    blocking = PostgresSyncCheckpoints(
        lambda: _for_threads(settings, graphs, member, checkpoints)
    )
    kept, pruning = PostgresRetention(database), PostgresPruning(checkpoints)
    return Core(
        settings=settings,
        graphs=graphs,
        member=member,
        lock_key=lock_key,
        database=database,
        runs=PostgresRuns(database, retention, relay),
        threads=PostgresThreads(database, relay),
        assistants=PostgresAssistants(database),
        dispatcher=PostgresDispatcher(database, retention, relay),
        members=members,
        checkpoints=checkpoints,
        blocking=blocking,
        effects=EffectPorts(
            effects=PostgresEffects(database),
            blocking=PostgresSyncEffects(blocking.on_database),
            codec=codec,
            faults=faults,
        ),
        run_states=PostgresRunStates(checkpoints, retention),
        stream=RelayedStream(
            PostgresStream(database), relay, trust_seconds=settings.poll_seconds
        ),
        hints=hints,
        operations=operations_over(database, hints, settings),
        retain=Retain(store=kept, pruning=pruning, rules=graphs.retention),
        prune=Prune(kept, pruning),
        histories=SearchHistories(PostgresHistories(checkpoints), graphs.indexed),
        measure=Measure(PostgresSizes(database, away)),
        chunks=None if away is None else ChunkUpkeep(database, away),
        faults=faults,
    )


def _for_threads(
    settings: Settings,
    graphs: GraphCatalogue,
    member: Member,
    like: PostgresCheckpoints,
) -> PostgresCheckpoints:
    """Checkpoints over connections of their own, for nodes that block."""
    database = Database(
        database_uri(settings),
        name=f"{member.name} blocking",
        limits=replace(
            limits_of(settings),
            pool_min=min(settings.pool_min, _BLOCKING_CONNECTIONS),
            pool_max=_BLOCKING_CONNECTIONS,
        ),
        prepare=settings.prepared_statements,
    )
    return PostgresCheckpoints(
        database,
        like.codec,
        like.memory,
        indexed=like.indexed,
        away=away_of(settings, graphs.places),
    )


def build_worker(core: Core) -> Worker:
    """The worker of this process; call it on the event loop that it lives on."""
    settings = core.settings
    activate = Activate(
        graphs=core.graphs,
        dispatcher=core.dispatcher,
        run_states=core.run_states,
        checkpoints=core.checkpoints,
        blocking=core.blocking,
        effects=core.effects,
        saver=core.saver,
        stream=core.stream,
        hints=core.hints,
        rules=ActivateRules(
            per_superstep=settings.dispatch == "node",
            run_seconds=settings.run_timeout_seconds,
            attempts_max=settings.attempts_max,
        ),
        limits=EntryLimits(
            token_flush_seconds=settings.token_flush_seconds,
            recursion_limit=settings.recursion_limit,
        ),
        faults=core.faults,
    )
    return Worker(
        worker_id=core.member.worker_id,
        graphs=core.graphs,
        dispatcher=core.dispatcher,
        activate=activate,
        times=lease_times(settings),
        rules=WorkerRules(
            slots=settings.slots,
            poll_seconds=settings.poll_seconds,
            grace_seconds=settings.drain_grace_seconds,
            desk=DeskRules(
                labels=core.member.labels,
                tasks_at_once=min(
                    settings.slots,
                    threads_of_slot(settings.slots),
                    settings.tasks_max,
                ),
                tasks_max=settings.tasks_max,
                slice_seconds=settings.slice_seconds,
            ),
        ),
        faults=core.faults,
    )
