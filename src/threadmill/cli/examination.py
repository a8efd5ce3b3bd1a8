"""Gathers what the doctor judges: files, environment, graphs, LangGraph, database."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from threadmill.checkpoints.configured import away_of
from threadmill.composition import Inspections, broker, inspections_of
from threadmill.config import LangGraphConfig, load_config
from threadmill.drivers.postgres.configured import (
    pending_migrations,
    reach_database,
    reach_direct,
)
from threadmill.engine.activation.selftest import self_test
from threadmill.engine.doctor import (
    Finding,
    Needs,
    doubtful,
    good,
    judge_broker,
    judge_chunk_store,
    judge_graphs,
    judge_langgraph,
    judge_relay,
    judge_route,
    judge_schema,
    judge_server,
    may_read,
    skipped,
    wrong,
)
from threadmill.engine.graphs import GraphCatalogue, load_graphs
from threadmill.errors import (
    BadSetting,
    BrokerUnavailable,
    Error,
    GraphLoadFailed,
    SetupError,
    StoreUnavailable,
)
from threadmill.settings import Settings
from threadmill.stores.inspection import ServerFacts
from threadmill.streams.configured import relay_database

_REFERENCE: Final = "see docs/reference/"
_OF_DATABASE: Final = (
    "durability",
    "clock",
    "connections",
    "sessions",
    "schema",
    "roles",
    "row-level security",
)


class Examination:
    """One look at everything; findings come one by one, as they are made.

    Args:
        path: langgraph.json or its folder.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[Finding]:
        """Looks, in the order in which one would mend."""
        config = yield from self._configuration()
        settings = yield from self._settings({} if config is None else config.env)
        problem = asyncio.run(_engine_problem())
        yield judge_langgraph(version("langgraph"), problem)
        yield from self._graphs(config)
        yield from self._database(settings)
        yield self._checkpoints(settings, config)
        yield self._streams(settings)
        yield self._broker(settings)

    def _configuration(self) -> Generator[Finding, None, LangGraphConfig | None]:
        check = "langgraph.json"
        warnings: list[str] = []
        try:
            config = load_config(self._path, warn=warnings.append)
        except BadSetting as error:
            yield wrong(check, str(error), f"{_REFERENCE}langgraph-json.md")
            return None
        if "auth" in config.unused_keys:
            # Worse than the warning that it also gets.
            warnings = [line for line in warnings if "'auth'" not in line]
            yield wrong(
                check,
                "sets 'auth', which this version does not carry out",
                "remove it if something else protects the server: `serve` refuses it",
            )
        for line in warnings:
            yield doubtful(check, line, f"{_REFERENCE}langgraph-json.md")
        if not warnings and "auth" not in config.unused_keys:
            yield good(check, str(config.path))
        return config

    def _settings(
        self, env: Mapping[str, str]
    ) -> Generator[Finding, None, Settings | None]:
        check = "settings"
        warnings: list[str] = []
        try:
            settings = Settings.from_env(fallback=env, warn=warnings.append)
        except BadSetting as error:
            yield wrong(check, str(error), f"{_REFERENCE}settings.md")
            return None
        for line in warnings:
            yield doubtful(check, line, f"{_REFERENCE}settings.md")
        if not warnings:
            yield good(check, "every variable is known and valid")
        return settings

    def _graphs(self, config: LangGraphConfig | None) -> Iterator[Finding]:
        if config is None:
            yield skipped("graphs", "langgraph.json is not to be had")
            return
        config.apply_env(os.environ)
        graphs = load_graphs(config)
        yield from judge_graphs(graphs, asyncio.run(_built(graphs)))

    def _database(self, settings: Settings | None) -> Iterator[Finding]:
        if settings is None:
            yield skipped("database", "the settings are wrong")
        else:
            try:
                yield from asyncio.run(_looked_at(settings))
            except BadSetting as error:
                yield wrong("database", str(error), "set it, or mend it")
            except Error as error:
                yield wrong("database", str(error), "start it, or mend the address")
            else:
                return
        for check in _OF_DATABASE:
            yield skipped(check, "no database to look at")

    def _checkpoints(
        self, settings: Settings | None, config: LangGraphConfig | None
    ) -> Finding:
        if settings is None:
            return skipped("checkpoints", "the settings are wrong")
        graphs = config.graphs if config is not None else ()
        places = {g.id: g.policy.checkpoints for g in graphs if g.policy.checkpoints}
        try:
            used = asyncio.run(_chunk_store_opens(settings, places))
        except Error as error:
            return judge_chunk_store(used=True, problem=str(error))
        return judge_chunk_store(used=used, problem=None)

    def _streams(self, settings: Settings | None) -> Finding:
        if settings is None:
            return skipped("streams", "the settings are wrong")
        used = settings.stream_uri is not None
        try:
            asyncio.run(_relay_opens(settings))
        except Error as error:
            lasting = not isinstance(error, StoreUnavailable)
            return judge_relay(used=True, problem=str(error), lasting=lasting)
        return judge_relay(used=used, problem=None, lasting=False)

    def _broker(self, settings: Settings | None) -> Finding:
        if settings is None:
            return skipped("broker", "the settings are wrong")
        try:
            told, waiting = asyncio.run(_asked(settings))
        except (BadSetting, BrokerUnavailable) as error:
            return judge_broker(None, waiting=0, problem=str(error))
        return judge_broker(told, waiting=waiting, problem=None)


async def _chunk_store_opens(settings: Settings, places: Mapping[str, str]) -> bool:
    """Whether there is a chunk store; it can be used then.

    Raises:
        BadSetting: its URI cannot be read, or it is missing.
        SetupError: it cannot be trusted with state.
        StoreUnavailable: it does not answer.
    """
    away = away_of(settings, places)
    if away is None:
        return False
    try:
        await away.store.open()
    finally:
        await away.store.close()
    return True


async def _relay_opens(settings: Settings) -> None:
    """Looks whether copies of streams can be kept, if they are to be.

    Raises:
        BadSetting: the URI cannot be read.
        SetupError: it refuses the login, or is too old.
        StoreUnavailable: it does not answer.
    """
    database = relay_database(settings)
    if database is None:
        return
    try:
        await database.open()
    finally:
        await database.close()


async def _asked(settings: Settings) -> tuple[str | None, int]:
    """What the broker is, and how many hints wait there for any worker.

    Raises:
        BadSetting: nobody knows its scheme, or its library is missing.
        BrokerUnavailable: it does not answer.
    """
    asked = broker(settings, "threadmill doctor")
    if asked is None:
        return None, 0
    try:
        await asked.open()
        return await asked.health(), await asked.depth()
    finally:
        await asked.close()


async def _engine_problem() -> str | None:
    """Why the engine cannot drive the installed LangGraph, if it cannot."""
    try:
        await self_test()
    except SetupError as error:
        return str(error)
    return None


async def _built(graphs: GraphCatalogue) -> Mapping[str, str]:
    """Builds the graphs of async factories; why some cannot be, by id."""
    causes = {}
    for graph in graphs:
        if graph.graph is None and not graph.per_use:
            try:
                await graph.build()
            except GraphLoadFailed as error:
                causes[graph.id] = str(error)
    return causes


async def _looked_at(settings: Settings) -> Sequence[Finding]:
    """Everything about the database.

    Raises:
        BadSetting: no database is configured.
        StoreUnavailable: it does not answer.
        SetupError: its migrations are not those of this release.
    """
    await reach_database(settings, lambda _: None, patience_seconds=0)
    inspections = inspections_of(settings)
    server = await inspections.main.server()
    needs = Needs(
        pool_max=settings.pool_max,
        lease_seconds=settings.lease_seconds,
        prepared=settings.prepared_statements,
    )
    schema = await inspections.main.schema()
    pending = await pending_migrations(settings) if may_read(schema) else ()
    return [
        *judge_server(server, needs),
        judge_route(server, await _direct(settings, inspections), needs),
        *judge_schema(schema, pending),
    ]


async def _direct(
    settings: Settings, inspections: Inspections
) -> ServerFacts | str | None:
    """What is behind DATABASE_URI_DIRECT if it is set, or why nothing is."""
    if inspections.direct is None:
        return None
    try:
        await reach_direct(settings, lambda _: None, patience_seconds=0)
        return await inspections.direct.server()
    except StoreUnavailable as error:
        return str(error)
