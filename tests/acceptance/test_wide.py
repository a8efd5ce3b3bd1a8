"""One superstep on several workers: shared out, healed, joined once."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from typing import Any
from uuid import uuid4

from chaos.fleet import Process
from tests.acceptance.verify import settle
from tests.fixtures.cluster import Cluster

TASKS = 12
SLOTS = 4
# On a busy machine workers take long to start, and the load must not grow meanwhile.
RUNS_MAX = 40


async def _fleet(cluster: Cluster, workers: int = 3) -> None:
    cluster.env.update(THREADMILL_SLOTS=str(SLOTS))
    await asyncio.gather(
        cluster.start_server(), *(cluster.start_worker() for _ in range(workers))
    )


async def _submit(cluster: Cluster, *, hold: str | None = None, **state: Any) -> str:
    """A run of the wide graph on a new thread; returns the thread."""
    thread = str(uuid4())
    gate = str(cluster.folder / "gate")
    async with cluster.client() as client:
        await client.threads.create(thread_id=thread)
        await client.runs.create(
            thread,
            "wide",
            input={"n": TASKS, **state},
            config={"configurable": {"hold": hold, "gate": gate}},
        )
    return thread


async def _check(cluster: Cluster, *threads: str) -> None:
    """Every task's result is there once, in LangGraph's order, and joined once."""
    (cluster.folder / "gate").touch()
    await settle(cluster)
    left = await cluster.rows("SELECT * FROM threadmill.superstep")
    assert left == [], "a run ended and its superstep stayed"
    async with cluster.client() as client:
        for thread in threads:
            values: Any = (await client.threads.get_state(thread))["values"]
            assert values["seen"] == list(range(values["n"]))
            assert values["joined"] == 1


def _who(cluster: Cluster, node: str = "work") -> Counter[int]:
    return Counter(line["pid"] for line in cluster.begun() if line["node"] == node)


async def test_a_wide_superstep_runs_on_all_workers_at_once(cluster: Cluster) -> None:
    await _fleet(cluster)
    thread = await _submit(cluster, hold="work")
    await cluster.until_begun("work", TASKS)
    assert _who(cluster) == {worker.pid: SLOTS for worker in cluster.workers}
    await _check(cluster, thread)
    assert sum(_who(cluster).values()) == TASKS
    assert sum(_who(cluster, "join").values()) == 1


async def _spread(cluster: Cluster) -> tuple[str, Process]:
    """A superstep that fills two of three workers, and one of these."""
    await _fleet(cluster)
    thread = await _submit(cluster, hold="work", n=2 * SLOTS)
    await cluster.until_begun("work", 2 * SLOTS)
    return thread, cluster.worker_of(cluster.begun()[-1]["pid"])


async def test_a_worker_that_dies_takes_its_own_tasks_along_only(
    cluster: Cluster,
) -> None:
    thread, victim = await _spread(cluster)
    await victim.kill()
    lost = _who(cluster)[victim.pid]
    await cluster.until_begun("work", 2 * SLOTS + lost)
    await _check(cluster, thread)
    assert sum(_who(cluster).values()) == 2 * SLOTS + lost


async def test_a_frozen_workers_tasks_run_elsewhere_and_it_changes_nothing(
    cluster: Cluster,
) -> None:
    cluster.env.update(THREADMILL_LEASE_SECONDS="2", THREADMILL_RENEW_SECONDS="0.5")
    thread, frozen = await _spread(cluster)
    frozen.send(signal.SIGSTOP)
    await cluster.until_begun("work", 2 * SLOTS + _who(cluster)[frozen.pid])
    await _check(cluster, thread)
    frozen.send(signal.SIGCONT)
    after = await _submit(cluster)
    await _check(cluster, thread, after)
    assert sum(_who(cluster, "join").values()) == 2


async def test_only_who_has_the_label_runs_a_node_that_needs_it(
    cluster: Cluster,
) -> None:
    await _fleet(cluster, workers=2)
    thread = await _submit(cluster, on="embed")
    asked = "SELECT node FROM threadmill.activation WHERE labels = '{gpu}'"
    async with asyncio.timeout(30):
        while len(await cluster.rows(asked)) < TASKS:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    able = await cluster.start_worker(labels="gpu,eu")
    await _check(cluster, thread)
    assert _who(cluster, "embed") == {able.pid: TASKS}


async def test_a_rolling_restart_repeats_no_task(cluster: Cluster) -> None:
    await _fleet(cluster, workers=2)
    threads: list[str] = []
    stop = asyncio.Event()

    async def client() -> None:
        while not stop.is_set() and len(threads) < RUNS_MAX:
            threads.append(await _submit(cluster))
            await asyncio.sleep(0.05)

    sending = [asyncio.create_task(client()) for _ in range(3)]
    for worker in list(cluster.workers):
        await cluster.start_worker()
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0
        cluster.workers.remove(worker)
    stop.set()
    await asyncio.gather(*sending)
    await _check(cluster, *threads)
    runs = Counter((line["run"], line["node"]) for line in cluster.begun())
    assert {n for (_, node), n in runs.items() if node == "work"} == {TASKS}
    assert {n for (_, node), n in runs.items() if node == "join"} == {1}
