"""A real worker is killed in the middle of effects; nothing is called twice unasked."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.fixtures.cluster import Cluster, Process

pytestmark = pytest.mark.timeout(180)


async def test_killed_in_the_middle_of_an_effect(cluster: Cluster) -> None:
    """The calls have begun, their outcomes are not recorded, the process is gone."""
    _, worker = await asyncio.gather(cluster.start_server(), cluster.start_worker())
    async with cluster.client() as client:
        await _story(cluster, client, worker)


async def _story(cluster: Cluster, client: Any, worker: Process) -> None:
    runs = {choice: await _begin(cluster, client, choice) for choice in _CHOICES}
    for choice in _CHOICES:
        await cluster.until_begun(f"pay {choice}")
    await worker.kill()
    _gate(cluster).touch()
    await cluster.start_worker()
    for thread_id, run_id in runs.values():
        await client.runs.join(thread_id, run_id)

    thread_id, run_id = runs["fail"]
    assert (await client.runs.get(thread_id, run_id))["status"] == "error"

    state = await client.threads.get_state(runs["retry"][0])
    assert len(state["values"]["steps"]) == 2

    thread_id, _ = runs["ask"]
    (asked,) = (await client.threads.get_state(thread_id))["interrupts"]
    assert asked["value"]["effect"] == "pay"
    state = await client.runs.wait(
        thread_id,
        "paying",
        command={"resume": {"outcome": "paid by hand"}},
        config=_config(cluster, "ask"),
    )
    assert state["steps"][0] == "paid by hand"

    called = Counter(line["node"] for line in cluster.begun())
    assert called == {"pay fail": 1, "pay retry": 2, "pay ask": 1, "tell": 2}


_CHOICES = ("fail", "retry", "ask")


async def _begin(cluster: Cluster, client: Any, choice: str) -> tuple[str, str]:
    """A run that waits in its first effect; its thread and its id."""
    thread = await client.threads.create()
    run = await client.runs.create(
        thread["thread_id"],
        "paying",
        input={"messages": ["one"]},
        config=_config(cluster, choice),
    )
    return thread["thread_id"], run["run_id"]


def _config(cluster: Cluster, choice: str) -> Any:
    hold = {"hold": f"pay {choice}", "gate": str(_gate(cluster))}
    return {"configurable": {"on_unknown": choice, **hold}}


def _gate(cluster: Cluster) -> Any:
    return cluster.folder / "gate"
