"""A process of the fleet: what it runs, when it is ready, and how it drains.

Servers, workers and `dev` (both in one) differ only in which parts they run. All parts
live on one event loop over one core; when one of them ends by itself, the process does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from socket import socket
from typing import TYPE_CHECKING, Literal

import structlog

from threadmill.composition import (
    Core,
    build_worker,
    new_member,
    open_core,
)
from threadmill.domain.draining import STOP_SECONDS, work_seconds
from threadmill.engine.activation.selftest import self_test
from threadmill.errors import Error, InvariantViolated
from threadmill.membership import in_fleet
from threadmill.server.app import create_app
from threadmill.server.health import health_app
from threadmill.server.live import Drain
from threadmill.server.process import HttpServer, url_of
from threadmill.server.request_log import RequestLog
from threadmill.server.services import Services, build_services

if TYPE_CHECKING:
    from threadmill.brokers.base import HintReceiver
    from threadmill.cli.life import Stop
    from threadmill.engine.graphs import GraphCatalogue
    from threadmill.settings import Settings
    from threadmill.worker.worker import Worker

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a process runs.

    Args:
        role: as announced to the fleet; a server has no worker.
        settings: of the process.
        graphs: what it loaded.
        labels: of the worker.
        api: where the interface listens; None for a worker.
        health: where a worker tells how it is, if anywhere.
        on_ready: called when everything runs.
    """

    role: Literal["server", "worker", "dev"]
    settings: Settings
    graphs: GraphCatalogue
    labels: Sequence[str] = ()
    api: socket | None = None
    health: socket | None = None
    on_ready: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """Something that runs until it is told to stop."""

    name: str
    run: Callable[[], Awaitable[None]]
    stop: Callable[[], None]
    started: Callable[[], Awaitable[None]] | None = None


async def run_member(plan: Plan, stop: Stop) -> None:
    """Joins the fleet and works until the process is asked to end, then drains.

    Raises:
        Error: it cannot start; see `open_core` and `self_test`.
    """
    if plan.role != "server":
        # Before anybody sees this worker: a LangGraph it cannot drive is not for it.
        await self_test()
    member = new_member(plan.settings, plan.graphs, plan.role, plan.labels)
    async with open_core(plan.settings, plan.graphs, member) as core:
        worker = None if plan.role == "server" else build_worker(core)
        services = None if plan.api is None else build_services(core)
        receivers: list[HintReceiver] = []
        if services is not None:
            await services.start()
            receivers.append(services.watch)
        if worker is not None:
            receivers.append(worker)
        await plan.graphs.start()
        fleet = in_fleet(core, receivers, worker, on_drain=stop.ask_from_thread)
        async with fleet, asyncio.TaskGroup() as group:
            # Probes go on asking while a worker drains.
            health = _health(plan, core, worker)
            for part in health:
                group.create_task(_until_stopped(part, stop), name=part.name)
            await _work(
                plan, _parts(plan, services, worker), stop, partial(_tell, core)
            )
            for part in health:
                part.stop()


def _parts(
    plan: Plan, services: Services | None, worker: Worker | None
) -> Sequence[_Part]:
    parts = []
    if services is not None:
        http = HttpServer(
            RequestLog(create_app(services, plan.settings)),
            listener=plan.api,
            drain=services.drain,
            grace_seconds=work_seconds(plan.settings.drain_grace_seconds),
            request_seconds=plan.settings.request_seconds,
        )
        parts.append(_Part("server", http.run, http.stop, http.started))
    if worker is not None:
        parts.append(_Part("worker", worker.run, worker.drain))
    return parts


def _health(plan: Plan, core: Core, worker: Worker | None) -> Sequence[_Part]:
    if plan.health is None or worker is None:
        return ()
    http = HttpServer(
        health_app(core.threads.ping, lambda: _numbers(core, worker)),
        listener=plan.health,
        drain=Drain(),
        grace_seconds=1,
        request_seconds=plan.settings.request_seconds,
    )
    return (_Part("health", http.run, http.stop),)


async def _tell(core: Core) -> None:
    """Marks the process as draining, so that nobody counts on it.

    A database that does not answer must not hold the drain up.
    """
    with suppress(Error, TimeoutError):
        async with asyncio.timeout(STOP_SECONDS):
            await core.operations.fleet.drain(core.member.worker_id)


async def _work(
    plan: Plan,
    parts: Sequence[_Part],
    stop: Stop,
    tell: Callable[[], Awaitable[None]],
) -> None:
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(_until_stopped(part, stop), name=part.name)
        for part in parts:
            if part.started is not None:
                await part.started()
        _announce(plan)
        await stop.heeded()
        for part in parts:
            part.stop()
        await tell()


async def _until_stopped(part: _Part, stop: Stop) -> None:
    await part.run()
    if not stop.asked:
        msg = f"the {part.name} ended without being asked to"
        raise InvariantViolated(msg)


def _announce(plan: Plan) -> None:
    graphs = list(plan.graphs.ids)
    if plan.api is not None:
        _log.info(
            "server.ready",
            url=url_of(plan.api, plan.settings.mount_prefix),
            graphs=graphs,
        )
    if plan.role != "server":
        _log.info(
            "worker.ready",
            slots=plan.settings.slots,
            graphs=graphs,
            labels=list(plan.labels),
            dispatch=plan.settings.dispatch,
        )
    if plan.on_ready is not None:
        plan.on_ready()


def _numbers(core: Core, worker: Worker) -> Mapping[str, float]:
    now = worker.statistics()
    pool = core.database.statistics()
    return {
        "slots": now.slots,
        "slots_taken": now.taken,
        "activations_running": now.running,
        "activations_claimed_total": now.claimed,
        "draining": int(now.draining),
        "pool_connections": pool.get("pool_size", 0),
        "pool_requests_waiting": pool.get("requests_waiting", 0),
        "pruned_threads_total": core.retain.freed.threads,
        "pruned_bytes_total": core.retain.freed.bytes,
    }
