"""A real worker is killed in the middle of effects; nothing is called twice unasked."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from itertools import product
from typing import Any, NamedTuple

import pytest

from tests.acceptance.verify import settle
from tests.fixtures.cluster import Cluster, Process, until_stopped

pytestmark = pytest.mark.timeout(180)


async def test_killed_in_the_middle_of_an_effect(cluster: Cluster) -> None:
    """The calls have begun, their outcomes are not recorded, the process is gone."""
    _, worker = await asyncio.gather(cluster.start_server(), cluster.start_worker())
    async with cluster.client() as client:
        await _story(cluster, client, worker)


async def _story(cluster: Cluster, client: Any, worker: Process) -> None:
    runs = {
        choice: await _begin(cluster, client, choice, f"pay {choice}")
        for choice in _CHOICES
    }
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
    state = await _answered(cluster, client, thread_id)
    assert state["steps"][0] == "paid by hand"

    called = Counter(line["node"] for line in cluster.begun())
    assert called == {"pay fail": 1, "pay retry": 2, "pay ask": 1, "tell": 2}


@pytest.mark.parametrize("choice", ["fail", "retry", "ask"])
async def test_killed_around_each_step_of_an_effect(
    cluster: Cluster, choice: str
) -> None:
    """Of two effects, one blocking and one awaited: around intent and outcome."""
    _, standby = await asyncio.gather(cluster.start_server(), cluster.start_standby())
    async with cluster.client() as client:
        for effect, (side, step) in product(_EFFECTS, _MOMENTS):
            nth = 2 * _EFFECTS.index(effect) + _STEPS.index(step) + 1
            fault = f"effect.{side}=kill@{nth}"
            doomed = await cluster.start_worker(THREADMILL_FAULTS=fault)
            earlier = len(cluster.begun())
            thread_id, _ = await _begin(cluster, client, choice)
            assert await doomed.ended() == -signal.SIGKILL
            assert _calls(cluster, earlier)[effect] == (step == "outcome"), fault
            standby.send(signal.SIGCONT)
            await settle(cluster)
            expected = _expected(choice, side, step, doomed, standby)
            thread = await client.threads.get(thread_id)
            assert thread["status"] == expected.status, fault
            assert _calls(cluster, earlier)[effect] == expected.calls, fault
            if expected.status == "error":
                standby.send(signal.SIGSTOP)
                continue
            if expected.status == "interrupted":
                await _answered(cluster, client, thread_id)
            state: Any = await client.threads.get_state(thread_id)
            told = state["values"]["steps"]
            assert told[_EFFECTS.index(effect)].endswith(f"by {expected.by}"), fault
            other = next(name for name in _EFFECTS if name != effect)
            once = {effect: expected.calls, other: 1}
            assert _calls(cluster, earlier) == Counter(once), fault
            standby.send(signal.SIGSTOP)


class Expected(NamedTuple):
    """The thread's status after a run, its calls, and whose outcome the state holds."""

    status: str
    calls: int
    by: int | str | None = None


def _expected(
    choice: str, side: str, step: str, doomed: Process, standby: Process
) -> Expected:
    called = int(step == "outcome")
    if (side, step) == ("before", "intent"):
        return Expected("idle", 1, standby.pid)
    if (side, step) == ("after", "outcome"):
        return Expected("idle", 1, doomed.pid)
    # It was to be called, and what came of it is not recorded.
    if choice == "fail":
        return Expected("error", called)
    if choice == "retry":
        return Expected("idle", called + 1, standby.pid)
    return Expected("interrupted", called, "hand")


@pytest.mark.parametrize(
    "faults",
    [
        "effect.before=freeze@2",
        # The thread that has called waits; meanwhile another one's renewal is due.
        "effect.before=pause:9s@2,renew.before=freeze@12",
    ],
)
async def test_a_worker_that_wakes_before_it_records_an_outcome_has_it_refused(
    cluster: Cluster, faults: str
) -> None:
    cluster.env.update(THREADMILL_LEASE_SECONDS="2", THREADMILL_RENEW_SECONDS="0.5")
    # It takes nothing else before its thread has come to an end.
    cluster.env.update(THREADMILL_SLOTS="1")
    _, first = await asyncio.gather(
        cluster.start_server(), cluster.start_worker(THREADMILL_FAULTS=faults)
    )
    async with cluster.client() as client:
        thread_id, _ = await _begin(cluster, client, "ask")
        await until_stopped(first)
        second = await cluster.start_worker()
        await settle(cluster)
        assert (await client.threads.get(thread_id))["status"] == "interrupted"
        await second.kill()
        first.send(signal.SIGCONT)
        values = await _answered(cluster, client, thread_id)
    assert values["steps"][0] == "paid by hand"
    assert _calls(cluster) == {"pay": 1, "tell": 1}


_CHOICES = ("fail", "retry", "ask")
_EFFECTS = ("pay", "tell")
_STEPS = ("intent", "outcome")
_MOMENTS = tuple(product(("before", "after"), _STEPS))


def _calls(cluster: Cluster, earlier: int = 0) -> Counter[str]:
    """How often each effect was called since."""
    return Counter(line["node"].split()[0] for line in cluster.begun()[earlier:])


async def _answered(cluster: Cluster, client: Any, thread_id: str) -> Any:
    """The state when a human has said what an effect has led to."""
    return await client.runs.wait(
        thread_id,
        "paying",
        command={"resume": {"outcome": "paid by hand"}},
        config=_config(cluster, "ask"),
    )


async def _begin(
    cluster: Cluster, client: Any, choice: str, hold: str | None = None
) -> tuple[str, str]:
    """A run, which waits in its first effect if that is held; its thread and its id."""
    thread = await client.threads.create()
    run = await client.runs.create(
        thread["thread_id"],
        "paying",
        input={"messages": ["one"]},
        config=_config(cluster, choice, hold),
    )
    return thread["thread_id"], run["run_id"]


def _config(cluster: Cluster, choice: str, hold: str | None = None) -> Any:
    gate = {"hold": hold, "gate": str(_gate(cluster))}
    return {"configurable": {"on_unknown": choice, **gate}}


def _gate(cluster: Cluster) -> Any:
    return cluster.folder / "gate"
