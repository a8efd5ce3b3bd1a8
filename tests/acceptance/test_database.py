"""The database goes away and comes back; what was accepted is applied."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.acceptance.verify import verify
from tests.fixtures.cluster import Cluster, send_somewhere
from tests.fixtures.nursery import Nursery
from threadmill.drivers.embedded import EmbeddedPostgres
from threadmill.drivers.postgres.migrate import migrate

pytestmark = pytest.mark.timeout(240)

GRAPHS = Path(__file__).parent / "graphs" / "langgraph.json"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_postgresql_restarts_under_load(
    private_postgres: EmbeddedPostgres,
    tmp_path: Path,
    nursery: Nursery,
    how: signal.Signals,
) -> None:
    """Fast (SIGINT) and immediate (SIGQUIT): nothing lost, nobody taken for dead."""
    uri = private_postgres.tcp_uri
    await migrate(uri)
    cluster = Cluster(uri, GRAPHS, tmp_path, nursery)
    try:
        await asyncio.gather(
            *(cluster.start_server() for _ in range(2)),
            *(cluster.start_worker() for _ in range(2)),
        )
        sent: dict[str, list[str]] = {}
        stop = asyncio.Event()

        async def client(number: int) -> None:
            thread = str(uuid4())
            sent[thread] = []
            while not stop.is_set():
                message = f"c{number}-{len(sent[thread])}"
                await send_somewhere(cluster, thread, message)
                sent[thread].append(message)

        clients = [asyncio.create_task(client(number)) for number in range(4)]
        for _ in range(2):
            await _until_more(sent, 20)
            os.kill(await _postmaster(uri), how)
            await _until_more(sent, 20)
        stop.set()
        await asyncio.gather(*clients)
        await verify(cluster, sent)
        executions = len(cluster.begun())
        nodes = 3 * sum(map(len, sent.values()))
        assert executions <= nodes + 2 * 2 * 10, "more repeated than was in work"
    finally:
        await cluster.close()


async def _until_more(sent: dict[str, list[str]], more: int) -> None:
    start = sum(map(len, sent.values()))
    async with asyncio.timeout(60):
        while sum(map(len, sent.values())) < start + more:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def _postmaster(uri: str) -> int:
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as admin:
        row = await (await admin.execute("SHOW data_directory")).fetchone()
    assert row is not None
    return _pid_in(Path(row[0], "postmaster.pid"))


def _pid_in(file: Path) -> int:
    return int(file.read_text(encoding="utf-8").split()[0])
