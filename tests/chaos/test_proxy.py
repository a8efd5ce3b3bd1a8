"""The proxy does the harm that it is told to, and no other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import psycopg
import pytest
import pytest_asyncio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from chaos.proxy import Proxy, Target
from threadmill.drivers.embedded import EmbeddedPostgres


class _Always(random.Random):
    """A chooser that always draws the same."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self._drawn = drawn

    def random(self) -> float:
        return self._drawn


@pytest_asyncio.fixture
async def proxy(private_postgres: EmbeddedPostgres) -> AsyncIterator[tuple[Proxy, str]]:
    uri = private_postgres.tcp_uri
    port = conninfo_to_dict(uri)["port"]
    way = Proxy(Target("127.0.0.1", int(str(port))), random.Random(1))
    await way.open()
    yield way, make_conninfo(uri, port=str(way.port))
    way.close()


async def _connect(uri: str) -> psycopg.AsyncConnection:
    return await psycopg.AsyncConnection.connect(uri, autocommit=True)


@pytest.mark.parametrize(("drawn", "committed"), [(0.0, 0), (1.0, 1)])
async def test_a_commit_is_cut_before_or_after(
    proxy: tuple[Proxy, str], drawn: float, committed: int
) -> None:
    way, uri = proxy
    async with await _connect(uri) as connection:
        await connection.execute("CREATE TABLE said (what text)")
    way.chooser = _Always(drawn)
    connection = await _connect(uri)
    way.resets = 1
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("INSERT INTO said VALUES (%s)", ["x" * 2000])
    assert way.resets == 0
    async with await _connect(uri) as again:
        row = await (await again.execute("SELECT count(*) FROM said")).fetchone()
    assert row == (committed,)


async def test_a_slow_way_passes_everything_on(proxy: tuple[Proxy, str]) -> None:
    way, uri = proxy
    async with await _connect(uri) as connection:
        way.latency_seconds = 0.001
        row = await (await connection.execute("SELECT repeat('x', 100000)")).fetchone()
    assert row == ("x" * 100_000,)


async def test_nothing_passes_a_partition_until_it_is_mended(
    proxy: tuple[Proxy, str],
) -> None:
    way, uri = proxy
    async with await _connect(uri) as connection:
        way.hang()
        asked = asyncio.create_task(connection.execute("SELECT 1"))
        done, _ = await asyncio.wait({asked}, timeout=0.2)
        assert not done
        way.mend()
        assert await (await asked).fetchone() == (1,)


async def test_a_cut_ends_connections_and_lets_new_ones_through(
    proxy: tuple[Proxy, str],
) -> None:
    way, uri = proxy
    connection = await _connect(uri)
    way.cut()
    with pytest.raises(psycopg.OperationalError):
        await connection.execute("SELECT 1")
    async with await _connect(uri) as again:
        assert await (await again.execute("SELECT 1")).fetchone() == (1,)
