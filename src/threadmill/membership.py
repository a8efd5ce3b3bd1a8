"""What a process does as a member of the fleet: it renews, listens and heals.

Everything here runs beside the process's own work, and ends with it. Presence ends
last, because nobody heals the runs of a process that shows itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from threadmill.brokers.base import HintReceiver
from threadmill.brokers.outbox import BrokerHints
from threadmill.brokers.postgres import PostgresListener
from threadmill.composition import Core, broker, lease_times
from threadmill.drivers.postgres.configured import database_uri, direct_uri
from threadmill.drivers.postgres.database import connection_info
from threadmill.ending import aside, end
from threadmill.engine.sweep import Sweep, SweepRules
from threadmill.stores.postgres.renewal import RenewalThread
from threadmill.stores.records import Claim, OwnSession
from threadmill.worker.feed import HintFeed
from threadmill.worker.worker import Worker

# However long leases are: members connect again every two seconds.
_SETTLE_SECONDS_MAX: Final = 10.0


@asynccontextmanager
async def in_fleet(
    core: Core,
    receivers: Sequence[HintReceiver],
    worker: Worker | None,
    *,
    on_drain: Callable[[], None] = lambda: None,
) -> AsyncIterator[None]:
    """Holds leases and presence, listens for hints and sweeps, while the block runs.

    It begins once the others see that the process lives, unless they cannot at present.
    Presence ends with it, whatever fails on the way in or out.

    Args:
        core: the process.
        receivers: told of every hint, from here and elsewhere.
        worker: told which leases still hold.
        on_drain: called from another thread when somebody wants the process to drain.
    """
    settings = core.settings
    for receiver in receivers:
        core.hints.add_local(receiver)
    direct, main = direct_uri(settings), database_uri(settings)
    # Attempts to connect must leave time for the next renewal, over the other way.
    limits = replace(
        core.database.limits,
        connect_timeout_seconds=min(
            settings.connect_timeout_seconds, settings.renew_seconds
        ),
    )
    name = f"{core.member.name} renewal"
    session = partial(connection_info, name=name, limits=limits)
    renewal = RenewalThread(
        session(direct or main, session_settings=direct is not None),
        core.member,
        core.lock_key,
        detour=session(main) if direct not in (None, main) else None,
        times=lease_times(settings),
        on_renewed=worker.renewed if worker is not None else _ignore,
        on_drain=on_drain,
        faults=core.faults,
    )
    sweep = _sweep(core, lambda: renewal.own_session)
    async with AsyncExitStack() as begun:
        renewal.start()
        # Last, and whatever else fails: while it renews, nobody heals our runs.
        begun.push_async_callback(aside, renewal.stop)
        await aside(partial(renewal.wait_until_begun, settings.renew_seconds))
        if direct is not None:
            await _listen(begun, core, direct, receivers)
        await _feed(begun, core, worker)
        sweeping = asyncio.create_task(sweep.run(), name="sweep")
        begun.push_async_callback(end, sweeping)
        yield


def _sweep(core: Core, session: Callable[[], OwnSession | None]) -> Sweep:
    """The healing loop of this process."""
    settings = core.settings
    return Sweep(
        dispatcher=core.dispatcher,
        members=core.members,
        threads=core.threads,
        hints=core.hints,
        rules=SweepRules(
            sweep_seconds=settings.sweep_seconds,
            presence_seconds=settings.presence_seconds,
            lease_seconds=settings.lease_seconds,
            settle_seconds=min(settings.lease_seconds, _SETTLE_SECONDS_MAX),
            attempts_max=settings.attempts_max,
        ),
        session=session,
        retain=core.retain,
        chunks=core.chunks,
        faults=core.faults,
    )


async def _listen(
    begun: AsyncExitStack, core: Core, direct: str, receivers: Sequence[HintReceiver]
) -> None:
    """Receives the hints of other processes."""
    info = connection_info(
        direct,
        name=f"{core.member.name} hints",
        limits=core.database.limits,
        session_settings=True,
    )
    listener = PostgresListener(info, receivers, origin=str(core.member.worker_id))
    await listener.start()
    begun.push_async_callback(listener.close)


async def _feed(begun: AsyncExitStack, core: Core, worker: Worker | None) -> None:
    """Receives hints for the worker, if there are both it and a broker."""
    if worker is None or not isinstance(core.hints, BrokerHints):
        return
    name = f"{core.member.name} receives"
    receives = broker(core.settings, name, core.member.labels)
    assert receives is not None  # noqa: S101 - the hints have one
    feed = HintFeed(receives, worker, core.hints, faults=core.faults)
    await feed.start()
    begun.push_async_callback(feed.close)


def _ignore(_asked_at: float, _held: Sequence[Claim]) -> None:
    """A process without a worker holds no claims."""
