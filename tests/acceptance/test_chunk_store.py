"""Redis keeps what checkpoints hold, dies, and forgets; processes are real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk.errors import APIStatusError

from chaos.fleet import POLL_SECONDS, READY_SECONDS
from tests.acceptance.verify import settle, verify
from tests.fixtures.cluster import Cluster, send, send_somewhere
from tests.fixtures.redis import RedisServer
from tests.fixtures.redis_topologies import Nodes

pytestmark = pytest.mark.timeout(400)

_COPIED_MILLISECONDS = 30_000


async def _start(cluster: Cluster, redis: RedisServer | Nodes, **env: str) -> None:
    cluster.env |= {"CHECKPOINT_URI": redis.uri, **env}
    await asyncio.gather(
        cluster.start_server(), *(cluster.start_worker() for _ in range(2))
    )


async def test_redis_and_a_worker_are_killed_under_load(
    cluster: Cluster, private_redis: RedisServer
) -> None:
    """What it has acknowledged it has (`appendfsync always`); all wait for it."""
    await _start(cluster, private_redis)
    sent: dict[str, list[str]] = {}
    stop = asyncio.Event()

    async def client(number: int) -> None:
        thread = str(uuid4())
        messages = sent.setdefault(thread, [])
        while not stop.is_set():
            message = f"c{number}-{len(messages)}"
            messages.append(message)
            await send_somewhere(cluster, thread, message)

    clients = [asyncio.create_task(client(number)) for number in range(3)]
    await _until_more(sent, 10)
    await asyncio.to_thread(private_redis.kill)
    await _until_more(sent, 5)
    await asyncio.to_thread(private_redis.start)
    await _until_more(sent, 10)
    await cluster.workers[0].kill()
    await cluster.start_worker()
    await _until_more(sent, 10)
    stop.set()
    await asyncio.gather(*clients)
    await verify(cluster, sent)
    bodies = await cluster.rows("SELECT DISTINCT body_type FROM threadmill.checkpoint")
    assert bodies == [{"body_type": "away"}]
    assert await cluster.rows("SELECT * FROM threadmill.chunk") == []


async def _until_more(sent: dict[str, list[str]], more: int) -> None:
    def count() -> int:
        return sum(map(len, sent.values()))

    wanted = count() + more
    async with asyncio.timeout(READY_SECONDS):
        while count() < wanted:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


async def test_a_thread_that_redis_has_forgotten_does_not_begin_anew(
    cluster: Cluster, private_redis: RedisServer
) -> None:
    """It is told to who asks and who writes; other threads go on."""
    await _start(cluster, private_redis)
    thread = str(uuid4())
    await _told(cluster, thread, "before")
    with private_redis.connection() as connection:
        connection.flushall()
    await _is_told_as_gone(cluster, thread)
    await _told(cluster, thread, "after")
    (run, lost) = await _runs(cluster, thread)
    assert (run["status"], lost["status"]) == ("success", "error")
    assert lost["error"]["error"] == "StateLost"
    letters = await cluster.rows("SELECT run_id FROM threadmill.dead_letter")
    assert [letter["run_id"] for letter in letters] == [lost["run_id"]]
    assert [line["node"] for line in cluster.begun()].count("receive") == 1
    other = str(uuid4())
    await _told(cluster, other, "hello")
    await verify(cluster, {other: ["hello"]})


async def test_a_failover_loses_what_the_replica_did_not_have_and_says_so(
    cluster: Cluster, redis_sentinel: Nodes
) -> None:
    """Runs wait for the new master; only what was not copied yet is missed."""
    await _start(cluster, redis_sentinel)
    copied, not_copied, later = (str(uuid4()) for _ in range(3))
    await _told(cluster, copied, "before")
    _stop_copying(redis_sentinel)
    await _told(cluster, not_copied, "before")
    await asyncio.to_thread(redis_sentinel.servers[0].kill)
    await _told(cluster, copied, "after")
    await _told(cluster, later, "hello")
    await verify(cluster, {copied: ["before", "after"], later: ["hello"]})
    await _is_told_as_gone(cluster, not_copied)
    await _told(cluster, not_copied, "after")
    (_, lost) = await _runs(cluster, not_copied)
    assert (lost["status"], lost["error"]["error"]) == ("error", "StateLost")


def _stop_copying(redis: Nodes) -> None:
    """The replica gets everything until now, and nothing from now on."""
    with redis.connection(0) as master, redis.connection(1) as replica:
        # WAIT counts from the last write of the connection that asks.
        master.set("mark", "1")
        assert master.wait(1, _COPIED_MILLISECONDS) == 1
        replica.config_set("masterauth", "another")
        master.client_kill_filter(_type="slave")


async def test_what_was_archived_outlives_redis(
    cluster: Cluster, private_redis: RedisServer
) -> None:
    await _start(cluster, private_redis, THREADMILL_CHECKPOINT_ARCHIVE="true")
    thread = str(uuid4())
    await _told(cluster, thread, "before")
    async with asyncio.timeout(READY_SECONDS):
        while await cluster.rows(  # noqa: ASYNC110
            "SELECT * FROM threadmill.chunk_chore WHERE kind = 'archive'"
        ):
            await asyncio.sleep(POLL_SECONDS)
    with private_redis.connection() as connection:
        connection.flushall()
    await _told(cluster, thread, "after")
    await verify(cluster, {thread: ["before", "after"]})
    async with httpx.AsyncClient() as client:
        metrics = await client.get(f"{cluster.servers[0].url}/metrics")
    assert "threadmill_archive_behind_seconds" in metrics.text


async def _is_told_as_gone(cluster: Cluster, thread: str) -> None:
    async with cluster.client() as client:
        with pytest.raises(APIStatusError) as refused:
            await client.threads.get_state(thread)
    assert refused.value.response.status_code == httpx.codes.GONE


async def _told(cluster: Cluster, thread: str, message: str) -> None:
    url = cluster.servers[0].url
    answer = await send(url, thread, message, key=uuid4().hex)
    assert answer.status_code == httpx.codes.OK
    await settle(cluster)


async def _runs(cluster: Cluster, thread: str) -> Sequence[dict[str, Any]]:
    return await cluster.rows(
        "SELECT run_id, status, error FROM threadmill.run"
        " WHERE thread_id = %s ORDER BY seq",
        thread,
    )
