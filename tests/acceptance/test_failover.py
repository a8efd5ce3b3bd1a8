"""The database fails over to a standby that nobody waited for.

What the standby had received is what counts from then on: all of that is kept, and
nothing that came later is left by half.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from chaos.fleet import POLL_SECONDS, READY_SECONDS
from chaos.postgres import Postgres, Server
from chaos.proxy import Proxy
from tests.acceptance.verify import settle, verify
from tests.fixtures.cluster import Cluster, send
from tests.fixtures.nursery import Nursery
from tests.fixtures.postgres import open_folder
from threadmill.drivers.postgres.migrate import migrate

pytestmark = pytest.mark.timeout(240)

GRAPHS = Path(__file__).parent / "graphs" / "langgraph.json"


class Pair:
    """A primary, its standby, the link between them, and everybody's way to both."""

    def __init__(self, folder: Path) -> None:
        self.postgres = Postgres(folder)
        self.link = Proxy(self.postgres.target, random.Random(1))
        self.way = Proxy(self.postgres.target, random.Random(1))
        self._standby: Server | None = None

    async def start(self) -> None:
        """Returns when the standby streams."""
        await self.postgres.start()
        await migrate(self.postgres.primary.uri)
        for proxy in (self.link, self.way):
            await proxy.open()
        self._standby = await self.postgres.follow(self.link.port)

    @property
    def uri(self) -> str:
        """Of whichever is the primary."""
        return f"postgresql://postgres@127.0.0.1:{self.way.port}/postgres"

    async def lag(self) -> None:
        """The standby gets everything until now, and nothing from now on."""
        assert self._standby is not None
        await self.postgres.caught_up(self._standby)
        self.link.hang()

    async def fail_over(self) -> None:
        """The primary dies; the standby takes its place with what it has."""
        assert self._standby is not None
        await self.postgres.primary.stop(signal.SIGQUIT)
        self.link.cut()
        await self.postgres.promote(self._standby)

    async def close(self) -> None:
        """Stops everything."""
        self.link.mend()
        for proxy in (self.link, self.way):
            proxy.close()
        if self._standby is not None:
            await self._standby.stop(signal.SIGQUIT)
        await self.postgres.close()


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    """Yield a primary and an asynchronous standby, which has everything."""
    folder = open_folder("threadmill-failover-")
    made = Pair(folder)
    if not made.postgres.may_fail_over:
        pytest.skip("the PostgreSQL programs here have no pg_basebackup")
    try:
        await made.start()
        yield made
    finally:
        await made.close()
        shutil.rmtree(folder, ignore_errors=True)


async def test_an_asynchronous_failover_loses_its_window_and_nothing_else(
    pair: Pair, tmp_path: Path, nursery: Nursery
) -> None:
    """What had come to the standby is kept and ends; what had not never was."""
    cluster = Cluster(pair.uri, GRAPHS, tmp_path, nursery)
    try:
        await asyncio.gather(
            cluster.start_server(), *(cluster.start_worker() for _ in range(2))
        )
        ended, held, again, only_lost = (str(uuid4()) for _ in range(4))
        await _ended(cluster, await _sent(cluster, ended, "before"))
        run_held = await _sent(cluster, held, "before", **_hold(cluster, "held"))
        run_again = await _sent(cluster, again, "before", **_hold(cluster, "again"))
        await cluster.until_begun("process", times=3)

        await pair.lag()
        # All of this is acknowledged, and seen by its clients.
        key = uuid4().hex
        lost = await _sent(cluster, ended, "lost", key=key)
        lost_thread = await _sent(cluster, only_lost, "lost")
        _open(cluster, "again")
        for run in (lost, lost_thread, run_again):
            assert await _ended(cluster, run) == "success"
        assert await _messages(cluster, ended) == ["before", "lost"]

        await pair.fail_over()
        await _answers(cluster)
        assert await _status(cluster, lost) is None
        assert await _status(cluster, lost_thread) is None
        assert await _messages(cluster, ended) == ["before"]
        assert await _messages(cluster, only_lost) is None
        # What ended in the window runs on from what was there before.
        assert await _ended(cluster, run_again) == "success"
        _open(cluster, "held")
        assert await _ended(cluster, run_held) == "success"

        # Threads go on from what is there; what was lost may be sent again.
        await _sent(cluster, ended, "after")
        sent_again = await _sent(cluster, ended, "lost", key=key)
        assert sent_again != lost
        assert await _sent(cluster, ended, "lost", key=key) == sent_again
        assert await _ended(cluster, sent_again) == "success"
        await settle(cluster)
        await verify(
            cluster,
            {ended: ["before", "after", "lost"], held: ["before"], again: ["before"]},
        )
        assert await _messages(cluster, ended) == ["before", "after", "lost"]
    finally:
        await cluster.close()


Run = tuple[str, str]


def _hold(cluster: Cluster, gate: str) -> dict[str, Any]:
    """A run that waits in its second node until that gate is opened."""
    path = str(cluster.folder / f"gate-{gate}")
    return {"config": {"configurable": {"hold": "process", "gate": path}}}


def _open(cluster: Cluster, gate: str) -> None:
    (cluster.folder / f"gate-{gate}").touch()


async def _sent(
    cluster: Cluster, thread: str, message: str, *, key: str = "", **options: Any
) -> Run:
    url = cluster.servers[0].url
    answer = await send(url, thread, message, key=key or uuid4().hex, **options)
    assert answer.status_code == httpx.codes.OK, answer.text
    return thread, answer.json()["run_id"]


async def _get(cluster: Cluster, path: str) -> Any:
    """What is there; None if nothing is."""
    async with httpx.AsyncClient(base_url=cluster.servers[0].url) as client:
        answer = await client.get(path)
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    return answer.raise_for_status().json()


async def _status(cluster: Cluster, run: Run) -> str | None:
    found = await _get(cluster, f"/threads/{run[0]}/runs/{run[1]}")
    return None if found is None else str(found["status"])


async def _ended(cluster: Cluster, run: Run) -> str | None:
    async with asyncio.timeout(READY_SECONDS):
        while (  # noqa: ASYNC110
            status := await _status(cluster, run)
        ) in {"pending", "running"}:
            await asyncio.sleep(POLL_SECONDS)
    return status


async def _messages(cluster: Cluster, thread: str) -> list[str] | None:
    found = await _get(cluster, f"/threads/{thread}/state")
    return None if found is None else found["values"].get("messages", [])


async def _answers(cluster: Cluster) -> None:
    """Returns when the server has found the new primary; until then it says 503."""
    async with asyncio.timeout(READY_SECONDS):
        while True:
            with suppress(httpx.HTTPStatusError):
                await _get(cluster, f"/threads/{uuid4()}/state")
                return
            await asyncio.sleep(POLL_SECONDS)
