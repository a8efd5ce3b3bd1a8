"""Whoever renews, takes back or promotes dies of it; somebody else goes on."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.acceptance.verify import settle, verify
from tests.fixtures.cluster import Cluster, Process, send

pytestmark = pytest.mark.timeout(180)

# Of processes that take nothing back: the test's own has it to itself.
_LOOKS_AWAY = {
    "THREADMILL_SWEEP_SECONDS": "3600",
    "THREADMILL_PRESENCE_SECONDS": "3600",
}


@pytest.mark.parametrize("side", ["before", "after"])
async def test_killed_at_a_renewal(cluster: Cluster, side: str) -> None:
    """The run that it held goes on elsewhere, from the node that was lost."""
    # That a process is gone is seen, and not waited for.
    cluster.env["THREADMILL_LEASE_SECONDS"] = "300"
    # The first renewal is at the start: by the second one a node holds the lease.
    point = {"THREADMILL_FAULTS": f"renew.{side}=kill@2"}
    server, standby, victim = await asyncio.gather(
        cluster.start_server(),
        cluster.start_standby(),
        cluster.start_worker(THREADMILL_RENEW_SECONDS="6", **point),
    )
    thread = await _held_in_process(cluster, server, victim)
    assert await victim.ended() == -signal.SIGKILL
    standby.send(signal.SIGCONT)
    await _goes_on(cluster, standby, thread)


@pytest.mark.parametrize("point", ["sweep.before=kill@2", "sweep.after=kill@1"])
async def test_killed_while_it_takes_back_what_another_one_left(
    cluster: Cluster, point: str
) -> None:
    """The run loses one node, with the first worker, and nothing with the second."""
    server, standby, victim = await _one_holds(cluster)
    thread = await _held_in_process(cluster, server, victim)
    doomed = await _sees_it_die(cluster, victim, point)
    assert await doomed.ended() == -signal.SIGKILL
    left = await cluster.rows("SELECT state, attempt FROM threadmill.activation")
    taken_back = point.startswith("sweep.after")
    assert [row["state"] for row in left] == ["ready" if taken_back else "leased"]
    standby.send(signal.SIGCONT)
    await _goes_on(cluster, standby, thread)


@pytest.mark.parametrize("point", ["sweep.after", "finish.before", "finish.after"])
async def test_killed_while_it_gives_up_what_another_one_left(
    cluster: Cluster, point: str
) -> None:
    """The run ends once, and the one that waited behind it has its turn, once."""
    cluster.env["THREADMILL_ATTEMPTS_MAX"] = "1"
    server, standby, victim = await _one_holds(cluster)
    thread = await _held_in_process(cluster, server, victim)
    await send(server.url, thread, "next", key=uuid4().hex)
    doomed = await _sees_it_die(cluster, victim, f"{point}=kill@1")
    assert await doomed.ended() == -signal.SIGKILL
    standby.send(signal.SIGCONT)
    await settle(cluster)
    runs = await cluster.rows("SELECT run_id, status FROM threadmill.run ORDER BY seq")
    assert [run["status"] for run in runs] == ["error", "success"]
    letters = await cluster.rows("SELECT run_id, attempts FROM threadmill.dead_letter")
    assert letters == [{"run_id": runs[0]["run_id"], "attempts": 1}]
    nodes = [(str(line["run"]), line["node"]) for line in cluster.begun()]
    lost, done = (str(run["run_id"]) for run in runs)
    assert nodes == [
        *((lost, node) for node in ("receive", "process")),
        *((done, node) for node in ("receive", "process", "save")),
    ]


@pytest.mark.parametrize("side", ["before", "after"])
async def test_killed_while_it_promotes_a_run_whose_time_has_come(
    cluster: Cluster, side: str
) -> None:
    """The run begins once, wherever somebody next sees that it is due."""
    server, standby = await asyncio.gather(
        cluster.start_server(**_LOOKS_AWAY), cluster.start_standby()
    )
    doomed = await cluster.start_worker(THREADMILL_FAULTS=f"timer.{side}=kill")
    thread = str(uuid4())
    later: dict[str, Any] = {"after_seconds": 0.5}
    await send(server.url, thread, "later", key=uuid4().hex, **later)
    assert await doomed.ended() == -signal.SIGKILL
    timers = "FROM threadmill.timer WHERE kind = 'promote'"
    held = "due_at BETWEEN now() AND now() + interval '30 seconds'"
    left = await cluster.rows(f"SELECT {held} AS held {timers}")
    assert left == ([{"held": True}] if side == "before" else [])
    # Whoever took it is waited for so long; the test does not wait.
    await cluster.rows(
        "WITH u AS (UPDATE threadmill.timer SET due_at = now() "
        "WHERE kind = 'promote' RETURNING 1) SELECT * FROM u"
    )
    standby.send(signal.SIGCONT)
    await verify(cluster, {thread: ["later"]})
    assert [line["node"] for line in cluster.begun()] == ["receive", "process", "save"]


async def _one_holds(cluster: Cluster) -> tuple[Process, Process, Process]:
    """A server, a worker for later, and one for now; none of the others looks."""
    cluster.env["THREADMILL_LEASE_SECONDS"] = "300"
    return await asyncio.gather(
        cluster.start_server(**_LOOKS_AWAY),
        cluster.start_standby(),
        cluster.start_worker(**_LOOKS_AWAY),
    )


async def _held_in_process(cluster: Cluster, server: Process, victim: Process) -> str:
    """A run whose second node waits in the victim; returns its thread."""
    thread = str(uuid4())
    held = cluster.held("process")
    answer = await send(server.url, thread, "held", key=uuid4().hex, **held)
    assert answer.status_code == httpx.codes.OK
    assert (await cluster.until_begun("process"))["pid"] == victim.pid
    return thread


async def _sees_it_die(cluster: Cluster, victim: Process, point: str) -> Process:
    """A worker that will die at a point, once it takes back what the victim leaves."""
    # Its first look is at its start; the next one is for the sake of who is dead.
    looks = {"THREADMILL_SWEEP_SECONDS": "3600"}
    doomed = await cluster.start_worker(THREADMILL_FAULTS=point, **looks)
    await victim.kill()
    return doomed


async def _goes_on(cluster: Cluster, worker: Process, thread: str) -> None:
    """The node that was lost begins once more, in this worker, and no other node."""
    again = await cluster.until_begun("process", 2)
    assert again["pid"] == worker.pid
    (cluster.folder / "gate-process").touch()
    await verify(cluster, {thread: ["held"]})
    executed = Counter(line["node"] for line in cluster.begun())
    assert executed == {"receive": 1, "process": 2, "save": 1}
