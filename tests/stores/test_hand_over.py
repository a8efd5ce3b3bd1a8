"""A commit that hands a run back may fill the slot that it empties."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from langgraph.checkpoint.base import CheckpointMetadata, empty_checkpoint

from tests.stores.run_store import GRAPH, TENANT, RunStore, contract, put
from threadmill.checkpoints.base import Commit, Committed, Plan, PlannedTask, Put
from threadmill.domain.fence import Fence
from threadmill.errors import LeaseLost
from threadmill.stores.records import FreeSlot

WORKER = uuid4()


def _slot(**changes: Any) -> FreeSlot:
    slot = FreeSlot(
        worker_id=WORKER, graphs=[GRAPH], labels=[], tasks=True, lease_seconds=60.0
    )
    return replace(slot, **changes)


async def _begun(store: RunStore) -> Fence:
    await store.accept(await store.thread())
    fence, _ = await store.begin(WORKER)
    return fence


async def _hand_over(
    store: RunStore, fence: Fence, slot: FreeSlot, labels: list[str] | None = None
) -> Committed:
    checkpoint = empty_checkpoint() | {"id": "c1"}
    first = Put("", checkpoint, CheckpointMetadata(step=0), None, expected_head=None)
    commit = Commit(puts=(first,), release=True, slot=slot, labels=labels or [])
    return await store.checkpoints.commit(TENANT, str(fence.thread_id), commit, fence)


@contract
async def test_the_run_itself_comes_back_with_its_state(store: RunStore) -> None:
    """Nobody waits: it is claimed anew, under a new token, and need not begin."""
    fence = await _begun(store)
    committed = await _hand_over(store, fence, _slot())
    claim, begun = committed.claimed, committed.begun
    assert claim is not None
    assert begun is not None
    assert claim.activation_id == fence.activation_id
    assert claim.token > fence.token
    assert (claim.kind, claim.attempt) == ("step", 1)
    assert begun.run.run_id == fence.run_id
    assert begun.at is not None
    assert begun.at.checkpoint["id"] == "c1"
    assert await store.claim() == []


@contract
async def test_whoever_waits_longer_comes_first(store: RunStore) -> None:
    fence = await _begun(store)
    waits = await store.accept(await store.thread())
    committed = await _hand_over(store, fence, _slot())
    assert committed.claimed is not None
    assert committed.claimed.run_id == waits.run_id
    assert committed.begun is None
    (left,) = await store.claim()
    assert left.run_id == fence.run_id


@contract
async def test_a_run_of_another_tenant_comes_first_as_well(store: RunStore) -> None:
    """The queue is one for all tenants; what it says of them is no more than ids."""
    fence = await _begun(store)
    thread_id = uuid4()
    waits = await store.accept_for("other", thread_id, create_thread=True)
    committed = await _hand_over(store, fence, _slot())
    assert committed.claimed is not None
    assert committed.claimed.tenant == "other"
    assert committed.claimed.run_id == waits.run_id
    assert committed.begun is None


@contract
async def test_a_slot_takes_only_what_it_may(store: RunStore) -> None:
    fence = await _begun(store)
    committed = await _hand_over(store, fence, _slot(), labels=["gpu"])
    assert committed.claimed is None
    fence = await _begun(store)
    committed = await _hand_over(store, fence, _slot(graphs=["another"]))
    assert committed.claimed is None


@contract
async def test_without_the_right_nothing_is_taken(store: RunStore) -> None:
    fence = await _begun(store)
    other = await store.accept(await store.thread())
    with pytest.raises(LeaseLost):
        await _hand_over(store, replace(fence, token=fence.token - 1), _slot())
    (claim,) = await store.claim()
    assert claim.run_id == other.run_id


@contract
async def test_who_hands_over_late_makes_up_for_no_loss(store: RunStore) -> None:
    """The activation was re-opened meanwhile: that loss counts."""
    fence = await _begun(store)
    await _lose(store)
    commit = Commit(release=True, labels=["gpu"])
    await store.checkpoints.commit(TENANT, str(fence.thread_id), commit, fence)
    (left,) = await store.activations(fence.thread_id)
    assert (left["attempt"], left["labels"]) == (1, ["gpu"])


@contract
async def test_tasks_begin_with_what_their_step_has_lost(store: RunStore) -> None:
    """Else who kills its workers kills as many again once its superstep is spread.

    Only who was lost itself repeats something, which counts for the run.
    """
    fence = await _begun(store)
    head = await put(store, fence, 0, None)
    await _lose(store)
    fence, _ = await store.begin(WORKER)
    tasks = [PlannedTask(f"t{n}", f"p{n}", "node", mine=n == 0) for n in range(2)]
    commit = Commit(plan=Plan(head, tasks, lease_seconds=60.0))
    await store.checkpoints.commit(TENANT, str(fence.thread_id), commit, fence)
    rows = await store.activations(fence.thread_id)
    counted = {(row["kind"], row["state"], row["attempt"]) for row in rows}
    assert counted == {("task", "leased", 2), ("task", "ready", 1)}
    (claim,) = await store.claim()
    run = await store.dispatcher.begin(claim)
    assert (claim.attempt, run.attempt, run.lost_by) == (2, 2, None)
    await _lose(store)
    (claim,) = await store.claim()
    run = await store.dispatcher.begin(claim)
    assert (claim.attempt, run.attempt) == (3, 3)
    assert run.lost_by is not None


async def _lose(store: RunStore) -> None:
    """Whoever holds anything is gone."""
    await store.let_leases_expire()
    await store.dispatcher.reopen([], backoff_seconds=0.0, shun_seconds=0.0, limit=9)
