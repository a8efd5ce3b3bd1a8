"""Conversations outlive their servers."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.acceptance.verify import settle, verify
from tests.fixtures.cluster import Cluster, Process, send, send_somewhere

pytestmark = pytest.mark.timeout(240)


async def test_200_turns_survive_20_server_kills(cluster: Cluster) -> None:
    """Every acknowledged turn is applied once and in order, whoever died meanwhile."""
    chooser = random.Random(7)
    await asyncio.gather(
        *(cluster.start_server() for _ in range(3)),
        *(cluster.start_worker() for _ in range(2)),
    )
    threads = [str(uuid4()) for _ in range(20)]
    sent: dict[str, list[str]] = defaultdict(list)
    restarts: list[asyncio.Task[Process]] = []
    for turn in range(200):
        if turn % 10 == 5:
            # Somebody must be left to talk to.
            while len(cluster.servers) == 1:
                await asyncio.wait(
                    {r for r in restarts if not r.done()},
                    return_when=asyncio.FIRST_COMPLETED,
                )
            victim = chooser.choice(cluster.servers)
            cluster.servers.remove(victim)
            await victim.kill()
            restarts.append(asyncio.create_task(cluster.start_server()))
        thread = threads[turn % len(threads)]
        message = f"m{turn}"
        await send_somewhere(cluster, thread, message)
        sent[thread].append(message)
    await asyncio.gather(*restarts)
    assert len(restarts) == 20
    await verify(cluster, sent)


async def test_50_concurrent_messages_of_impatient_clients(cluster: Cluster) -> None:
    """Two servers, every message sent twice at once under one key: applied once."""
    one, two, _ = await asyncio.gather(
        cluster.start_server(), cluster.start_server(), cluster.start_worker()
    )
    thread = str(uuid4())
    first = await send(one.url, thread, "first", key=uuid4().hex)
    assert first.status_code == 200

    async def twice(message: str) -> str:
        key = uuid4().hex
        answers = await asyncio.gather(
            send(one.url, thread, message, key=key),
            send(two.url, thread, message, key=key),
        )
        runs = {answer.json()["run_id"] for answer in answers}
        assert {answer.status_code for answer in answers} == {200}
        assert len(runs) == 1, "one key gave two runs"
        return message

    messages = await asyncio.gather(*(twice(f"m{n}") for n in range(50)))
    await verify(cluster, {thread: ["first", *messages]})


async def test_a_server_dies_right_after_its_commit_while_clients_wait_for_it(
    cluster: Cluster,
) -> None:
    """The retry finds the very same run; who followed another one goes on elsewhere."""
    dying, living, _ = await asyncio.gather(
        cluster.start_server(THREADMILL_FAULTS="accept.after=kill"),
        cluster.start_server(),
        cluster.start_worker(),
    )
    cluster.servers.reverse()
    followed = await _Followed.begin(cluster, living)
    waiting = [
        asyncio.create_task(followed.listen(dying)),
        asyncio.create_task(followed.join(dying)),
    ]
    await followed.told.wait()
    thread, key = str(uuid4()), uuid4().hex
    with pytest.raises(httpx.TransportError):
        await send(dying.url, thread, "once", key=key)
    await dying.ended()
    for broken in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(broken, httpx.TransportError), broken
    answer = await send(living.url, thread, "once", key=key)
    assert answer.status_code == 200
    cluster.servers.remove(dying)
    before = list(followed.seen)
    (cluster.folder / "gate-process").touch()
    await followed.listen(living)
    assert len(followed.seen) > len(before)
    again = replace(followed, seen=[])
    await again.listen(living)
    assert followed.seen == again.seen, "the stream has a gap, or tells something twice"
    assert (await followed.join(living))["messages"] == ["followed"]
    await verify(cluster, {thread: ["once"], followed.thread: ["followed"]})


@dataclass(frozen=True)
class _Followed:
    """A run that is held in its second node, and what a client has seen of it."""

    thread: str
    run: str
    seen: list[str] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def begin(cls, cluster: Cluster, server: Process) -> _Followed:
        thread = str(uuid4())
        options = {"stream_mode": ["updates"], "stream_resumable": True}
        held = cluster.held("process") | options
        answer = await send(server.url, thread, "followed", key=uuid4().hex, **held)
        await cluster.until_begun("process")
        return cls(thread, answer.json()["run_id"])

    async def listen(self, server: Process) -> None:
        """Follows the stream after what was seen; returns when it ends in order."""
        headers = {"Last-Event-ID": self.seen[-1] if self.seen else "-1"}
        path = f"{server.url}/threads/{self.thread}/runs/{self.run}/stream"
        async with (
            httpx.AsyncClient(timeout=60) as http,
            http.stream("GET", path, headers=headers) as told,
        ):
            async for line in told.aiter_lines():
                if line.startswith("id: "):
                    self.seen.append(line.removeprefix("id: "))
                    self.told.set()

    async def join(self, server: Process) -> Any:
        """Waits for the run's state."""
        path = f"{server.url}/threads/{self.thread}/runs/{self.run}/join"
        async with httpx.AsyncClient(timeout=60) as http:
            return (await http.get(path)).json()


async def test_a_server_dies_right_before_its_commit(cluster: Cluster) -> None:
    """Nothing was accepted; the retry is."""
    dying, living, _ = await asyncio.gather(
        cluster.start_server(THREADMILL_FAULTS="accept.before=kill"),
        cluster.start_server(),
        cluster.start_worker(),
    )
    thread, key = str(uuid4()), uuid4().hex
    with pytest.raises(httpx.TransportError):
        await send(dying.url, thread, "once", key=key)
    await dying.ended()
    cluster.servers.remove(dying)
    assert await cluster.rows("SELECT * FROM threadmill.run") == []
    answer = await send(living.url, thread, "once", key=key)
    assert answer.status_code == 200
    await settle(cluster)
    await verify(cluster, {thread: ["once"]})
