"""A process is present as long as it works, and whatever fails on the way in or out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import cast

import psycopg
import pytest
from pydantic import SecretStr

from threadmill.brokers import schemes
from threadmill.brokers.broker import Broker, BrokerOptions
from threadmill.brokers.outbox import BrokerHints
from threadmill.brokers.postgres import PostgresHints
from threadmill.composition import build_worker, new_member, open_core
from threadmill.engine.graphs import GraphCatalogue
from threadmill.errors import BadSetting, BrokerUnavailable
from threadmill.membership import in_fleet
from threadmill.settings import Settings

pytestmark = pytest.mark.timeout(60)


class Clumsy:
    """Somebody's adapter, which fails where it must not."""

    def __init__(self, options: BrokerOptions) -> None:
        del options

    async def open(self) -> None:
        raise BrokerUnavailable

    async def close(self) -> None:
        raise ValueError("of somebody's adapter")


@pytest.fixture(autouse=True)
def clumsy_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install `clumsy://`."""
    here = EntryPoint("clumsy", f"{__name__}:Clumsy", schemes.ENTRY_POINTS)

    def found(group: str, name: str) -> Sequence[EntryPoint]:
        return [here] if (group, name) == (here.group, here.name) else []

    monkeypatch.setattr(EntryPoint, "load", lambda _: Clumsy)
    monkeypatch.setattr(schemes, "entry_points", found)


@pytest.mark.parametrize(
    ("scheme", "error", "where"),
    [
        ("nobodys", BadSetting, "on the way in"),
        ("clumsy", ValueError, "on the way out"),
    ],
)
async def test_presence_ends_whatever_fails(
    database_uri: str,
    test_graphs: GraphCatalogue,
    scheme: str,
    error: type[Exception],
    where: str,
) -> None:
    settings = Settings(database_uri=SecretStr(database_uri))
    member = new_member(settings, test_graphs, "worker")
    reached = "on the way in"
    async with open_core(settings, test_graphs, member) as core:
        uri = SecretStr(f"{scheme}://host")
        everybody = cast("PostgresHints", core.hints)
        hints = BrokerHints(cast("Broker", None), everybody)
        changed = settings.model_copy(update={"broker_uri": uri})
        with_broker = replace(core, settings=changed, hints=hints)
        worker = build_worker(with_broker)
        others = _renewals()
        with pytest.raises(error):
            async with in_fleet(with_broker, [worker], worker):
                reached = "on the way out"
        assert reached == where
        assert _renewals() == others
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert names.isdisjoint({"sweep", "listener", "hint-feed"})


async def test_who_works_is_seen_from_the_first_moment_on(
    database_uri: str, test_graphs: GraphCatalogue
) -> None:
    """Else one that dies of its first node is found by its leases only."""
    settings = Settings(database_uri=SecretStr(database_uri))
    member = new_member(settings, test_graphs, "worker")
    asked = "SELECT lock_key FROM threadmill.worker WHERE worker_id = %s"
    async with open_core(settings, test_graphs, member) as core:
        worker = build_worker(core)
        async with in_fleet(core, [worker], worker):
            with psycopg.connect(database_uri) as connection:
                row = connection.execute(asked, [member.worker_id]).fetchone()
            assert core.lock_key is not None
            assert row == (core.lock_key,)


def _renewals() -> set[threading.Thread]:
    """Those of this test process, which may have a server that tests share."""
    return {t for t in threading.enumerate() if t.name == "lease-renewal"}
