"""Runs outlive their workers; stale workers change nothing."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from chaos.fleet import POLL_SECONDS, READY_SECONDS
from tests.acceptance.verify import settle, verify
from tests.fixtures.cluster import Cluster, Process, send, send_somewhere, until_stopped

pytestmark = pytest.mark.timeout(240)

NODES = ("receive", "process", "save")
# One before each node, with what the node builds on, and more if an event comes late.
# What the last node leaves is committed with the end of the run.
COMMITS_MIN = len(NODES)
_SECOND_ATTEMPT = 2
# Of a run of `nested`, for its own graph: the others are the subgraph's.
_COMMITS_ON_THE_LOOP = 5


@pytest.mark.parametrize("dispatch", ["burst", "node"])
async def test_killed_in_each_node(cluster: Cluster, dispatch: str) -> None:
    """The node begins elsewhere; the nodes before it are not run again."""
    cluster.env["THREADMILL_DISPATCH"] = dispatch
    # That a process is gone is seen, and not waited for.
    cluster.env["THREADMILL_LEASE_SECONDS"] = "300"
    server, *_ = await asyncio.gather(
        cluster.start_server(), *(cluster.start_worker() for _ in range(4))
    )
    sent = {}
    for node in NODES:
        before = len(cluster.begun())
        thread = str(uuid4())
        answer = await send(
            server.url, thread, node, key=uuid4().hex, **cluster.held(node)
        )
        run = answer.json()["run_id"]
        seen = len([line for line in cluster.begun() if line["node"] == node])
        victim = await cluster.until_begun(node, seen + 1)
        while victim["run"] != run:
            seen += 1
            victim = await cluster.until_begun(node, seen + 1)
        await cluster.worker_of(victim["pid"]).kill()
        again = await cluster.until_begun(node, seen + 2)
        assert again["run"] == run
        assert again["pid"] != victim["pid"]
        (cluster.folder / f"gate-{node}").touch()
        await settle(cluster)
        executed = [line["node"] for line in cluster.begun()[before:]]
        assert executed == [n for n in NODES for _ in range(2 if n == node else 1)], (
            "a committed node ran again, or the lost one did not"
        )
        sent[thread] = [node]
    await verify(cluster, sent)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("dispatch", ["burst", "node"])
async def test_killed_around_each_commit(
    cluster: Cluster, dispatch: str, moment: str
) -> None:
    """Whatever was durable stays, whatever was not is done again, once."""
    cluster.env["THREADMILL_DISPATCH"] = dispatch
    server, standby = await asyncio.gather(
        cluster.start_server(), cluster.start_standby(THREADMILL_DISPATCH="burst")
    )
    sent = {}

    async def dies_of(point: str, *, surely: bool) -> bool:
        async def turn() -> None:
            sent[await _send_anew(server, point)] = [point]

        return await _dies_of(cluster, standby, point, turn, surely=surely)

    claim = "claim.after" if moment == "after" else "load.after"
    steps = ("finish", "node", "put_writes", "put")
    others = [claim, *(f"{step}.{moment}" for step in steps)]
    for point in others:
        assert await dies_of(f"{point}=kill@1", surely=True)
    commits = 0
    while await dies_of(f"commit.{moment}=kill@{commits + 1}", surely=False):
        commits += 1
    assert commits >= COMMITS_MIN
    await verify(cluster, sent)
    executions = [(line["run"], line["node"]) for line in cluster.begun()]
    runs = {run for run, _ in executions}
    assert len(executions) <= len(NODES) * len(runs) + commits + len(others), (
        "more nodes were repeated than workers died"
    )


async def _dies_of(
    cluster: Cluster,
    standby: Process,
    point: str,
    turn: Callable[[], Awaitable[None]],
    *,
    surely: bool,
) -> bool:
    """A worker dies at a point of its run, or comes through without passing it."""
    victim = await cluster.start_worker(THREADMILL_FAULTS=point)
    await turn()
    dies = asyncio.create_task(victim.ended())
    waits = [dies] if surely else [dies, asyncio.create_task(settle(cluster))]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    died = dies.done()
    for waiting in waits:
        waiting.cancel()
    if died:
        assert dies.result() == -signal.SIGKILL
        standby.send(signal.SIGCONT)
        await settle(cluster)
        standby.send(signal.SIGSTOP)
    return died


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_killed_around_each_commit_of_a_subgraph_that_a_node_calls(
    cluster: Cluster, moment: str
) -> None:
    """They happen on the node's own thread, not on the loop."""
    server, standby = await asyncio.gather(
        cluster.start_server(), cluster.start_standby()
    )
    threads = []
    async with cluster.client(server) as client:

        async def turn() -> None:
            thread = str(uuid4())
            await client.threads.create(thread_id=thread)
            await client.runs.create(
                thread, "nested", input={"answer": "yes", "steps": []}
            )
            threads.append(thread)

        commits = 0
        while await _dies_of(
            cluster,
            standby,
            f"commit.{moment}=kill@{commits + 1}",
            turn,
            surely=False,
        ):
            commits += 1
        assert commits > _COMMITS_ON_THE_LOOP
        for thread in threads:
            state: Any = await client.threads.get_state(thread)
            assert state["values"]["steps"] == ["ask", "inner"]
    runs = {line["run"] for line in cluster.begun()}
    for run in runs:
        begun = Counter(line["node"] for line in cluster.begun() if line["run"] == run)
        # A node that is lost takes along what it has called, and nothing before it.
        assert sum(begun.values()) <= len(begun) + 2
        assert set(begun) == {"ask", "call", "inner"}
        assert min(begun["ask"], begun["call"]) == 1


async def _send_anew(server: Process, message: str) -> str:
    """Sends the first message of a new thread; returns the thread."""
    thread = str(uuid4())
    answer = await send(server.url, thread, message, key=uuid4().hex)
    assert answer.status_code == httpx.codes.OK
    return thread


async def test_a_frozen_worker_changes_nothing_when_it_wakes(cluster: Cluster) -> None:
    """Past its lease somebody else ends the run; its own late writes are refused."""
    cluster.env.update(THREADMILL_LEASE_SECONDS="2", THREADMILL_RENEW_SECONDS="0.5")
    server, first = await asyncio.gather(cluster.start_server(), cluster.start_worker())
    thread = str(uuid4())
    held = cluster.held("process")
    await send(server.url, thread, "frozen", key=uuid4().hex, **held)
    await cluster.until_begun("process")
    first.send(signal.SIGSTOP)
    second = await cluster.start_worker()
    taken = await cluster.until_begun("process", 2)
    assert taken["pid"] == second.pid
    (cluster.folder / "gate-process").touch()
    await _wakes_in_vain(cluster, first, second, thread)


async def test_a_worker_that_wakes_before_a_commit_has_it_refused(
    cluster: Cluster,
) -> None:
    """Frozen in a node it would learn first that it has lost, and send nothing."""
    cluster.env.update(THREADMILL_LEASE_SECONDS="2", THREADMILL_RENEW_SECONDS="0.5")
    server, first = await asyncio.gather(
        cluster.start_server(),
        cluster.start_worker(THREADMILL_FAULTS="commit.before=freeze@2"),
    )
    thread = str(uuid4())
    await send(server.url, thread, "frozen", key=uuid4().hex)
    await until_stopped(first)
    await _wakes_in_vain(cluster, first, await cluster.start_worker(), thread)


@pytest.mark.parametrize("point", ["renew.before", "extend.after"])
async def test_a_worker_that_wakes_in_a_renewal_leaves_the_others_alone(
    cluster: Cluster, point: str
) -> None:
    """Its late renewal is of nothing; and nothing that another one holds is told it.

    Before it is committed, the rows of its leases are locked: not for longer than a
    lease, however long the process stands still.
    """
    cluster.env.update(THREADMILL_LEASE_SECONDS="2", THREADMILL_RENEW_SECONDS="0.5")
    server, first = await asyncio.gather(
        cluster.start_server(),
        # Late enough for the node to have begun by then.
        cluster.start_worker(THREADMILL_FAULTS=f"{point}=freeze@12"),
    )
    thread = str(uuid4())
    held = cluster.held("process")
    await send(server.url, thread, "frozen", key=uuid4().hex, **held)
    assert (await cluster.until_begun("process"))["pid"] == first.pid
    await until_stopped(first)
    second = await cluster.start_worker()
    assert (await cluster.until_begun("process", 2))["pid"] == second.pid
    first.send(signal.SIGCONT)
    await _renews(cluster, first, 3)
    (cluster.folder / "gate-process").touch()
    await verify(cluster, {thread: ["frozen"]})
    executed = Counter(line["node"] for line in cluster.begun())
    assert executed == {"receive": 1, "process": 2, "save": 1}
    assert cluster.begun()[-1]["pid"] == second.pid
    (run,) = await cluster.rows("SELECT attempt FROM threadmill.run")
    assert run["attempt"] == _SECOND_ATTEMPT


async def _renews(cluster: Cluster, worker: Process, times: int) -> None:
    """Waits until a worker has renewed so often, from now on."""
    query = "SELECT seen_at FROM threadmill.worker WHERE name LIKE %s"
    seen: set[Any] = set()
    async with asyncio.timeout(READY_SECONDS):
        while len(seen) <= times:
            # It may have been taken for dead, and be on the list again.
            rows = await cluster.rows(query, f"%:{worker.pid}")
            seen |= {row["seen_at"] for row in rows}
            await asyncio.sleep(POLL_SECONDS)


async def _wakes_in_vain(
    cluster: Cluster, first: Process, second: Process, thread: str
) -> None:
    """The second worker ends the run; then the first one wakes, and is alone."""
    await settle(cluster)
    before = await _everything(cluster)
    first.send(signal.SIGCONT)
    # The woken worker proves that it acts again by serving a run of its own.
    await second.kill()
    other = str(uuid4())
    await send(cluster.servers[0].url, other, "next", key=uuid4().hex)
    await settle(cluster)
    assert cluster.begun()[-1]["pid"] == first.pid
    after = await _everything(cluster)
    assert after[: len(before)] == before, "the woken worker changed the thread"
    await verify(cluster, {thread: ["frozen"], other: ["next"]})


async def _everything(cluster: Cluster) -> list[Any]:
    """All that a run leaves behind, oldest thread first."""
    return await cluster.rows(
        "SELECT r.thread_id, r.status, r.attempt, c.checkpoint_id, c.token, c.body, "
        "c.created_at FROM threadmill.run r JOIN threadmill.checkpoint c "
        "ON c.thread_id = r.thread_id::text ORDER BY r.created_at, c.ordinal"
    )


async def test_what_was_read_of_a_run_that_is_cancelled_is_not_gone_later(
    cluster: Cluster,
) -> None:
    """The input has been spread, its checkpoint is on its way, and somebody reads."""
    server, _ = await asyncio.gather(
        cluster.start_server(),
        cluster.start_worker(THREADMILL_FAULTS="put.before=pause:9s@2"),
    )
    thread = str(uuid4())
    answer = await send(server.url, thread, "gone", key=uuid4().hex)
    stored = "SELECT 1 FROM threadmill.checkpoint WHERE thread_id = %s"
    async with asyncio.timeout(READY_SECONDS):
        while not await cluster.rows(stored, thread):  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)
    async with cluster.client() as client:
        await client.runs.cancel(thread, answer.json()["run_id"], wait=True)
        read: Any = (await client.threads.get_state(thread))["values"]
        await send(server.url, thread, "next", key=uuid4().hex)
        await settle(cluster)
        state: Any = (await client.threads.get_state(thread))["values"]
    assert read.get("messages", []) == []
    assert state["messages"] == ["next"]


async def test_sigterm_of_everything_in_turn_under_load(cluster: Cluster) -> None:
    """A rolling restart loses nothing and repeats no node."""
    await asyncio.gather(
        *(cluster.start_server() for _ in range(2)),
        *(cluster.start_worker() for _ in range(2)),
    )
    sent: dict[str, list[str]] = {}
    stop = asyncio.Event()

    async def client(number: int) -> None:
        thread = str(uuid4())
        sent[thread] = []
        turn = 0
        while not stop.is_set():
            message = f"c{number}-{turn}"
            await send_somewhere(cluster, thread, message)
            sent[thread].append(message)
            turn += 1
            await asyncio.sleep(0.02)

    clients = [asyncio.create_task(client(number)) for number in range(6)]
    for worker in list(cluster.workers):
        await cluster.start_worker()
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0
        cluster.workers.remove(worker)
    for server in list(cluster.servers):
        await cluster.start_server()
        cluster.servers.remove(server)
        server.send(signal.SIGTERM)
        assert await server.ended() == 0
    stop.set()
    await asyncio.gather(*clients)
    await verify(cluster, sent)
    executions = [(line["run"], line["node"]) for line in cluster.begun()]
    assert len(executions) == len(set(executions)), "a drain repeated a node"
