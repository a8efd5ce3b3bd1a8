"""Claiming, beginning, ending, re-opening, timers; and many of them at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from uuid import UUID, uuid4

import pytest

from tests.stores.run_store import GRAPH, TENANT, RunStore, contract, put
from threadmill.checkpoints.base import Commit
from threadmill.domain.run import TERMINAL, RunEvent, RunStatus, ThreadStatus
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.engine.attempt import fence_of
from threadmill.errors import LeaseLost, NotFound
from threadmill.stores.records import Claim
from threadmill.streams.base import NewEvent

# --------------------------------------------------------------------------- claiming


@contract
async def test_only_graphs_that_are_loaded_are_claimed(store: RunStore) -> None:
    await store.accept(await store.thread())
    worker = uuid4()
    assert await store.dispatcher.claim(worker, ["other"], 10, 60.0) == []
    assert await store.dispatcher.claim(worker, [], 10, 60.0) == []
    (claim,) = await store.dispatcher.claim(worker, ["other", GRAPH], 10, 60.0)
    assert claim.attempt == 1
    (activation,) = await store.activations(claim.thread_id)
    assert activation["worker_id"] == worker
    assert activation["state"] == "leased"


@contract
async def test_no_more_than_asked_for(store: RunStore) -> None:
    for _ in range(5):
        await store.accept(await store.thread())
    assert len(await store.claim(2)) == 2
    assert len(await store.claim(10)) == 3
    assert await store.claim(10) == []


@contract
async def test_several_claimers_take_everything_once(store: RunStore) -> None:
    for _ in range(30):
        await store.accept(await store.thread())
    batches = await asyncio.gather(*(store.claim(5) for _ in range(8)))
    claimed = [claim.activation_id for batch in batches for claim in batch]
    claimed += [claim.activation_id for claim in await store.claim(30)]
    assert sorted(Counter(claimed).values()) == [1] * 30


@contract
async def test_of_what_was_lost_twice_a_worker_holds_one_at_a_time(
    store: RunStore,
) -> None:
    """It may be what kills its workers; whatever else was lost with it is spared."""
    runs = [await store.accept(await store.thread()) for _ in range(3)]
    for _ in range(2):
        await _lose_all(store)
    fresh = await store.accept(await store.thread())
    one, other = uuid4(), uuid4()
    first = await store.claim(10, one)
    assert sorted(claim.attempt for claim in first) == [1, 3]
    assert fresh.run_id in {claim.run_id for claim in first}
    assert await store.claim(10, one) == []
    assert [claim.attempt for claim in await store.claim(10, other)] == [3]
    (suspect,) = [claim for claim in first if claim.attempt == 3]
    await store.dispatcher.begin(suspect)
    await store.finish(fence_of(suspect))
    (last,) = await store.claim(10, one)
    assert last.run_id in {run.run_id for run in runs}


@contract
async def test_what_got_on_is_no_suspect_any_more(store: RunStore) -> None:
    for _ in range(2):
        await store.accept(await store.thread())
    for _ in range(2):
        await _lose_all(store)
    worker = uuid4()
    (claim,) = await store.claim(10, worker)
    await store.dispatcher.begin(claim)
    await store.checkpoints.commit(
        TENANT, str(claim.thread_id), Commit(progress=True), fence_of(claim)
    )
    assert len(await store.claim(10, worker)) == 1


async def _lose_all(store: RunStore) -> None:
    """A worker claims what there is, and dies."""
    dead = uuid4()
    await store.claim(10, dead)
    await store.dispatcher.reopen([dead], backoff_seconds=0, limit=10)


@contract
async def test_tokens_rise_along_a_thread(store: RunStore) -> None:
    thread_id = await store.thread()
    tokens = []
    for _ in range(3):
        await store.accept(thread_id)
        fence, _ = await store.begin()
        tokens.append(fence.token)
        await store.dispatcher.release(fence, count_attempt=True)
        fence, _ = await store.begin()
        tokens.append(fence.token)
        await store.finish(fence)
    assert all(a < b for a, b in pairwise(tokens))


# -------------------------------------------------------------------------- beginning


@contract
async def test_a_begun_run_is_running(store: RunStore) -> None:
    await store.accept(await store.thread())
    _, run = await store.begin()
    assert run.status is RunStatus.RUNNING
    assert run.attempt == 1
    assert run.started_at is not None
    assert (run.start_checkpoint, run.start_step) == (None, -2)


@contract
async def test_beginning_after_a_loss_is_another_attempt(store: RunStore) -> None:
    await store.accept(await store.thread())
    worker = uuid4()
    _, first = await store.begin(worker)
    await store.dispatcher.reopen([worker], backoff_seconds=0, limit=10)
    fence, second = await store.begin()
    assert (second.attempt, fence.attempt) == (2, 2)
    assert second.started_at == first.started_at


@contract
async def test_beginning_needs_the_claim(store: RunStore) -> None:
    thread_id = await store.thread()
    run = await store.accept(thread_id)
    (claim,) = await store.claim()
    with pytest.raises(LeaseLost):
        await store.dispatcher.begin(replace(claim, token=claim.token - 1))
    await store.runs.cancel(TENANT, thread_id, run.run_id)
    with pytest.raises(LeaseLost):
        await store.dispatcher.begin(claim)
    assert await store.statuses(thread_id) == ["interrupted"]


@contract
async def test_a_run_starts_at_the_head_or_where_it_forks_off(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id)
    fence, _ = await store.begin()
    one = await put(store, fence, 5, None)
    two = await put(store, fence, 6, one)
    await store.finish(fence)

    await store.accept(thread_id)
    fence, run = await store.begin()
    assert (run.start_checkpoint, run.start_step) == (two, 6)
    await store.finish(fence)

    await store.accept(thread_id, kwargs={"checkpoint": {"checkpoint_id": one}})
    _, run = await store.begin()
    assert (run.start_checkpoint, run.start_step) == (two, 5)


@contract
async def test_a_run_ends_at_its_own_last_checkpoint(store: RunStore) -> None:
    thread_id = await store.thread()
    first = await store.accept(thread_id)
    second = await store.accept(thread_id)
    third = await store.accept(thread_id)
    fence, _ = await store.begin()
    one = await put(store, fence, 0, None)
    await store.finish(fence)
    fence, _ = await store.begin()
    two = await put(store, fence, 1, one)
    await store.finish(fence, RunEvent.FAIL, error={"error": "E", "message": "m"})
    await store.runs.cancel(TENANT, thread_id, third.run_id)
    ends = [
        (await store.runs.get(TENANT, run.run_id)).end_checkpoint
        for run in (first, second, third)
    ]
    assert ends == [one, two, None]


# ----------------------------------------------------------------------------- ending


@contract
@pytest.mark.parametrize(
    ("event", "status", "thread_status"),
    [
        (RunEvent.SUCCEED, RunStatus.SUCCESS, ThreadStatus.IDLE),
        (RunEvent.PAUSE, RunStatus.SUCCESS, ThreadStatus.INTERRUPTED),
        (RunEvent.FAIL, RunStatus.ERROR, ThreadStatus.ERROR),
        (RunEvent.EXPIRE, RunStatus.TIMEOUT, ThreadStatus.ERROR),
    ],
)
async def test_an_ending_shows_in_run_thread_and_stream(
    store: RunStore,
    event: RunEvent,
    status: RunStatus,
    thread_status: ThreadStatus,
) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id)
    fence, run = await store.begin()
    error = {"error": "E", "message": "m"} if status is not RunStatus.SUCCESS else None
    following = await store.finish(
        fence, event, error=error, events=[NewEvent("last", "{}")]
    )
    assert following is None
    run = await store.runs.get(TENANT, run.run_id)
    assert (run.status, run.error) == (status, error)
    assert run.finished_at is not None
    thread = await store.threads.get(TENANT, thread_id)
    assert (thread.status, thread.error) == (thread_status, error)
    (last,) = await store.stream.read(TENANT, thread_id, after=0, limit=10)
    assert (last.event, last.run_id, last.seq) == ("last", run.run_id, 1)
    assert await store.activations() == []


@contract
async def test_the_next_run_clears_the_threads_error(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id)
    fence, _ = await store.begin()
    await store.finish(fence, RunEvent.FAIL, error={"error": "E", "message": "m"})
    await store.accept(thread_id)
    fence, _ = await store.begin()
    await store.finish(fence)
    thread = await store.threads.get(TENANT, thread_id)
    assert (thread.status, thread.error) == (ThreadStatus.IDLE, None)


@contract
async def test_a_stale_token_ends_nothing(store: RunStore) -> None:
    thread_id = await store.thread()
    await store.accept(thread_id)
    worker = uuid4()
    stale, _ = await store.begin(worker)
    await store.dispatcher.reopen([worker], backoff_seconds=0, limit=10)
    fence, _ = await store.begin()
    with pytest.raises(LeaseLost):
        await store.finish(stale, events=[NewEvent("last", "{}")])
    assert await store.statuses(thread_id) == ["running"]
    assert await store.stream.end(TENANT, thread_id) == 0
    await store.finish(fence)
    with pytest.raises(LeaseLost):
        await store.finish(fence)


# ------------------------------------------------------------------------- giving back


@contract
async def test_what_is_given_back_uncounted_is_a_first_attempt(store: RunStore) -> None:
    await store.accept(await store.thread())
    for _ in range(3):
        (claim,) = await store.claim()
        assert claim.attempt == 1
        await store.dispatcher.release(fence_of(claim), count_attempt=False)
    for attempt in (1, 2, 3):
        (claim,) = await store.claim()
        assert claim.attempt == attempt
        await store.dispatcher.release(fence_of(claim), count_attempt=True)


@contract
async def test_what_is_given_back_with_a_pause_waits(store: RunStore) -> None:
    await store.accept(await store.thread())
    (claim,) = await store.claim()
    await store.dispatcher.release(
        fence_of(claim), count_attempt=False, delay_seconds=3600
    )
    assert await store.claim() == []


@contract
async def test_only_the_holder_gives_back(store: RunStore) -> None:
    await store.accept(await store.thread())
    worker = uuid4()
    (stale,) = await store.claim(worker_id=worker)
    await store.dispatcher.reopen([worker], backoff_seconds=0, limit=10)
    (claim,) = await store.claim()
    await store.dispatcher.release(fence_of(stale), count_attempt=False)
    (activation,) = await store.activations()
    assert (activation["state"], activation["token"]) == ("leased", claim.token)


# ------------------------------------------------------------------------- re-opening


@contract
async def test_the_dead_are_reopened_and_nobody_else(store: RunStore) -> None:
    dead, alive = uuid4(), uuid4()
    for _ in range(2):
        await store.accept(await store.thread())
    (lost_claim,) = await store.claim(worker_id=dead)
    await store.claim(worker_id=alive)
    (lost,) = await store.dispatcher.reopen([dead], backoff_seconds=0, limit=10)
    assert (lost.activation_id, lost.token) == lost_claim.key
    assert (lost.attempt, lost.kind) == (1, "step")
    assert await store.dispatcher.reopen([dead], backoff_seconds=0, limit=10) == []
    (again,) = await store.claim(10)
    assert again.activation_id == lost.activation_id
    assert again.token > lost.token


@contract
async def test_expired_leases_are_reopened(store: RunStore) -> None:
    await store.accept(await store.thread())
    await store.claim()
    assert await store.dispatcher.reopen([], backoff_seconds=0, limit=10) == []
    await store.let_leases_expire()
    assert len(await store.dispatcher.reopen([], backoff_seconds=0, limit=10)) == 1


@contract
async def test_several_sweeps_at_once_reopen_once(store: RunStore) -> None:
    for _ in range(12):
        await store.accept(await store.thread())
    await store.claim(12)
    await store.let_leases_expire()
    sweeps = await asyncio.gather(
        *(store.dispatcher.reopen([], backoff_seconds=0, limit=100) for _ in range(6))
    )
    reopened = [lost.activation_id for sweep in sweeps for lost in sweep]
    assert sorted(Counter(reopened).values()) == [1] * 12


@contract
async def test_the_first_loss_is_repeated_at_once_later_ones_after_a_pause(
    store: RunStore,
) -> None:
    await store.accept(await store.thread())
    worker = uuid4()
    for loss in range(2):
        claims = await store.claim(worker_id=worker)
        assert len(claims) == 1, f"loss {loss}"
        await store.dispatcher.reopen([worker], backoff_seconds=3600, limit=10)
    assert await store.claim() == []


@contract
async def test_an_update_whose_caller_is_gone_is_held_to_be_ended(
    store: RunStore,
) -> None:
    thread_id, server = await store.thread(), uuid4()
    fence = await store.threads.begin_update(
        TENANT, thread_id, worker_id=server, lease_seconds=60, graph_id=GRAPH
    )
    (lost,) = await store.dispatcher.reopen([server], backoff_seconds=0, limit=10)
    assert (lost.kind, lost.run_id, lost.token) == ("update", None, fence.token)
    assert await store.claim() == []
    await store.threads.end_update(fence, status=None)
    await store.accept(thread_id)
    assert len(await store.claim()) == 1


# ------------------------------------------------------------------------ many at once


@contract
async def test_of_cancel_and_finish_at_once_one_wins(store: RunStore) -> None:
    for _ in range(25):
        thread_id = await store.thread()
        run = await store.accept(thread_id)
        following = await store.accept(thread_id)
        fence, _ = await store.begin()
        ended, cancelled = await asyncio.gather(
            store.finish(fence),
            store.runs.cancel(TENANT, thread_id, run.run_id),
            return_exceptions=True,
        )
        first, second = await store.statuses(thread_id)
        assert second == "pending"
        if isinstance(ended, LeaseLost):
            assert first == "interrupted"
            assert not isinstance(cancelled, BaseException)
        else:
            assert first == "success"
            assert isinstance(cancelled, NotFound)
        assert await store.holder(thread_id) == following.run_id
        assert len(await store.activations(thread_id)) == 1
        await store.runs.cancel(TENANT, thread_id, following.run_id)


@contract
async def test_of_two_owners_at_once_one_ends_the_run(store: RunStore) -> None:
    for _ in range(15):
        worker = uuid4()
        await store.accept(await store.thread())
        fence, _ = await store.begin(worker)
        reopening = store.dispatcher.reopen([worker], backoff_seconds=0, limit=10)
        results = await asyncio.gather(
            store.finish(fence), reopening, return_exceptions=True
        )
        assert not isinstance(results[1], BaseException)
        if claims := await store.claim():
            assert isinstance(results[0], LeaseLost)
            await store.dispatcher.begin(claims[0])
            await store.finish(fence_of(claims[0]))
        assert await store.activations() == []


class Storm:
    """Many clients and workers over a few threads.

    Args:
        store: with connections of its own, so that many are at work at once.
        threads: what they all work on.
    """

    def __init__(self, store: RunStore, threads: list[UUID]) -> None:
        self._store = store
        self._threads = threads
        self._random = random.Random(20_061)
        self._over = False

    async def run(self) -> None:
        """Ends when all that was accepted has ended."""
        async with asyncio.TaskGroup() as group:
            for _ in range(6):
                group.create_task(self._work(uuid4()))
            async with asyncio.TaskGroup() as clients:
                for _ in range(4):
                    clients.create_task(self._accept())
                for _ in range(3):
                    clients.create_task(self._cancel())
            self._over = True

    async def _accept(self) -> None:
        for _ in range(25):
            await self._store.accept(self._random.choice(self._threads))

    async def _cancel(self) -> None:
        for _ in range(20):
            thread_id = self._random.choice(self._threads)
            runs = await self._store.runs.list(TENANT, thread_id, limit=5, offset=0)
            for run in runs:
                if run.status not in TERMINAL and self._random.random() < 0.5:
                    with suppress(NotFound):
                        await self._store.runs.cancel(TENANT, thread_id, run.run_id)

    async def _work(self, worker_id: UUID) -> None:
        while True:
            claims = await self._store.claim(2, worker_id)
            for claim in claims:
                with suppress(LeaseLost):
                    await self._carry_out(claim)
            if not claims and self._over:
                return

    async def _carry_out(self, claim: Claim) -> None:
        run = await self._store.dispatcher.begin(claim)
        fence = replace(fence_of(claim), attempt=run.attempt)
        if self._random.random() < 0.2:
            await self._store.dispatcher.release(fence, count_attempt=False)
        else:
            await self._store.finish(fence, events=[NewEvent("last", "{}")])


async def test_a_storm_over_few_threads_ends_in_order(
    store: RunStore, database_uri: str
) -> None:
    """Accepting, working and cancelling at once: no deadlock, no run stuck."""
    threads = [await store.thread() for _ in range(3)]
    database = Database(database_uri, name="storm", limits=Limits(pool_max=16))
    await database.open()
    await Storm(RunStore(database), threads).run()
    await database.close()
    for thread_id in threads:
        runs = await store.runs.list(TENANT, thread_id, limit=1000, offset=0)
        assert all(run.status in TERMINAL for run in runs)
        in_order = sorted(runs, key=lambda run: run.seq)
        assert [run.seq for run in in_order] == list(range(1, len(runs) + 1))
        starts = [run.started_at for run in in_order if run.started_at is not None]
        assert starts == sorted(starts)
        assert await store.holder(thread_id) is None
    assert await store.activations() == []
