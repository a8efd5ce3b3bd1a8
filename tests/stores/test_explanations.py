"""What the database says about a run that does not move."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.stores.run_store import GRAPH, TENANT, RunStore, put
from threadmill.domain.run import RunEvent
from threadmill.domain.why import Answer, Reason
from threadmill.engine.explain import Explain
from threadmill.errors import NotFound
from threadmill.stores.postgres.explanations import PostgresExplanations
from threadmill.stores.postgres.fleet import PostgresFleet
from threadmill.stores.postgres.members import PostgresMembers
from threadmill.stores.records import Member, NewDeadLetter


class Asking:
    """One database, a fleet that is only announced, and the question."""

    def __init__(self, store: RunStore) -> None:
        self.store = store
        self.fleet = PostgresFleet(store.database)
        self._members = PostgresMembers(store.database, present=False)
        self._explain = Explain(PostgresExplanations(store.database), silent_seconds=60)

    async def worker(self, **changes: Any) -> UUID:
        offered: dict[str, Any] = {"graphs": [GRAPH], "slots": 1, **changes}
        member = Member(uuid4(), f"worker {uuid4()}", "worker", "0", **offered)
        await self._members.join(member)
        return member.worker_id

    async def why(self, run_id: UUID, tenant: str = TENANT) -> Answer:
        return (await self._explain(tenant, run_id)).answer


@pytest.fixture
def asking(store: RunStore) -> Asking:
    return Asking(store)


async def test_a_run_of_nobody_or_of_another_tenant_is_not_found(
    asking: Asking,
) -> None:
    run = await asking.store.accept(await asking.store.thread())
    for run_id, tenant in ((uuid4(), TENANT), (run.run_id, "somebody")):
        with pytest.raises(NotFound):
            await asking.why(run_id, tenant)


async def test_a_delayed_run(asking: Asking) -> None:
    run = await asking.store.accept(await asking.store.thread(), after_seconds=3600)
    answer = await asking.why(run.run_id)
    assert answer.reason is Reason.DELAYED


async def test_queued_runs_know_their_place(asking: Asking) -> None:
    thread_id = await asking.store.thread()
    first = await asking.store.accept(thread_id)
    await asking.store.accept(thread_id, after_seconds=3600)
    second, third = [await asking.store.accept(thread_id) for _ in range(2)]
    await asking.store.begin()
    for run, position in ((second, 1), (third, 2)):
        answer = await asking.why(run.run_id)
        assert answer.reason is Reason.QUEUED
        assert answer.details == {"position": position, "holder": str(first.run_id)}


async def test_a_state_update_that_holds_the_thread(asking: Asking) -> None:
    thread_id = await asking.store.thread()
    fence = await asking.store.threads.begin_update(
        TENANT, thread_id, worker_id=uuid4(), lease_seconds=60, graph_id=GRAPH
    )
    run = await asking.store.accept(thread_id)
    answer = await asking.why(run.run_id)
    assert answer.reason is Reason.THREAD_UPDATING
    assert answer.details["holder"] == str(fence.activation_id)
    assert answer.details["until"] is not None


async def test_work_that_nobody_takes(asking: Asking) -> None:
    run = await asking.store.accept(await asking.store.thread())
    other = await asking.store.accept(await asking.store.thread())
    reasons = [(await asking.why(run.run_id)).reason]
    await asking.worker(graphs=["another"])
    reasons.append((await asking.why(run.run_id)).reason)
    worker = await asking.worker()
    reasons.append((await asking.why(run.run_id)).reason)
    (claim,) = await asking.store.claim(1, worker)
    waits = ({run.run_id, other.run_id} - {claim.run_id}).pop()
    reasons.append((await asking.why(waits)).reason)
    assert reasons == [Reason.NO_GRAPH, Reason.NO_GRAPH, Reason.READY, Reason.NO_SLOT]
    await asking.fleet.drain(worker)
    assert (await asking.why(waits)).reason is Reason.NO_GRAPH


async def test_the_worker_that_has_it(asking: Asking) -> None:
    run = await asking.store.accept(await asking.store.thread())
    worker = await asking.worker()
    await asking.store.begin(worker)
    answer = await asking.why(run.run_id)
    assert answer.reason is Reason.RUNNING
    assert answer.details["worker_id"] == str(worker)
    assert answer.details["last_renewed_at"] is not None
    await asking.store.let_leases_expire()
    assert (await asking.why(run.run_id)).reason is Reason.LEASE_OVER
    await asking.store.dispatcher.reopen([], backoff_seconds=0, limit=10)
    await asking.store.begin(await asking.worker())
    again = await asking.why(run.run_id)
    assert again.details["since"] > answer.details["since"]


async def test_a_pause_after_a_loss(asking: Asking) -> None:
    run = await asking.store.accept(await asking.store.thread())
    worker = await asking.worker()
    for seconds in (0.0, 3600.0):
        await asking.store.begin(worker)
        await asking.store.let_leases_expire()
        await asking.store.dispatcher.reopen([], backoff_seconds=seconds, limit=10)
    answer = await asking.why(run.run_id)
    assert answer.reason is Reason.BACKING_OFF
    assert answer.details["attempts"] == 2
    assert answer.details["cause"].startswith(f"worker {worker} lost its lease")


async def test_what_an_attempt_came_to_nothing_of_is_kept(asking: Asking) -> None:
    run = await asking.store.accept(await asking.store.thread())
    fence, _ = await asking.store.begin()
    await asking.store.dispatcher.release(
        fence, count_attempt=True, delay_seconds=3600, cause="a bug"
    )
    answer = await asking.why(run.run_id)
    assert (answer.reason, answer.details["cause"]) == (Reason.BACKING_OFF, "a bug")


async def test_a_dead_letter(asking: Asking) -> None:
    await asking.store.accept(await asking.store.thread())
    fence, run = await asking.store.begin()
    cause = {"error": "RuntimeError", "message": "gave up"}
    dead = NewDeadLetter(cause=cause, attempts=5)
    await asking.store.finish(fence, RunEvent.FAIL, error=cause, dead=dead)
    answer = await asking.why(run.run_id)
    assert answer.reason is Reason.DEAD_LETTER
    assert (answer.details["cause"], answer.details["attempts"]) == (cause, 5)


async def test_a_question_waits_until_something_comes_after_it(asking: Asking) -> None:
    thread_id = await asking.store.thread()
    await asking.store.accept(thread_id)
    fence, run = await asking.store.begin()
    await put(asking.store, fence, 0, None)
    await asking.store.finish(fence, RunEvent.PAUSE)
    assert (await asking.why(run.run_id)).reason is Reason.WAITS_FOR_HUMAN
    following = await asking.store.accept(thread_id)
    await asking.store.runs.cancel(TENANT, thread_id, following.run_id)
    assert (await asking.why(run.run_id)).reason is Reason.ENDED


async def test_tasks_that_are_spread(asking: Asking) -> None:
    run = await asking.store.accept(await asking.store.thread())
    worker = await asking.worker(slots=9)
    await asking.store.spread(run.run_id, worker)
    answer = await asking.why(run.run_id)
    assert answer.reason is Reason.TASKS
    assert (answer.details["width"], answer.details["remaining"]) == (5, 3)
    told = {task["node"]: task["reason"] for task in answer.details["tasks"]}
    assert told == {
        "a": "running",
        "a2": "running",
        "b": "no_label",
        "c": "ready",
        "d": "max_concurrency",
    }
    # Tasks of one run share a slot.
    assert [member.taken for member in await asking.fleet.list()] == [1]


async def test_what_a_worker_has_taken_counts_over_all_tenants(asking: Asking) -> None:
    worker = await asking.worker(slots=9)
    for tenant in (TENANT, "somebody"):
        thread = uuid4()
        await asking.store.threads.create(
            tenant, thread, metadata={}, if_exists="raise"
        )
        await asking.store.accept_for(tenant, thread)
    await asking.store.claim(9, worker)
    (member,) = await asking.fleet.list()
    assert (member.worker_id, member.slots, member.taken) == (worker, 9, 2)
    assert not member.draining
    assert (await asking.fleet.drain(worker)).draining
    with pytest.raises(NotFound):
        await asking.fleet.drain(uuid4())
