"""What is dropped from a chunk store, and what is copied to its archive."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from tests.fixtures.away import LONG, TENANT, Place
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.compression import Blob
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.pruning import PostgresPruning
from threadmill.checkpoints.upkeep import Upkeep
from threadmill.domain.retention import Strategy
from threadmill.errors import Error, LeaseLost, StoreReadOnly
from threadmill.stores.postgres.threads import PostgresThreads
from threadmill.streams.base import NewEvent
from threadmill.testing.checkpoints import put, writes

_DROP_NOW = """
INSERT INTO threadmill.chunk_chore (tenant_id, thread_id, kind, due_at)
VALUES ('default', %(thread)s, 'drop', now())
"""


# ---------------------------------------------------------------------- what is dropped


async def test_pruned_chunks_go_and_the_others_stay(place: Place) -> None:
    for n in range(6):
        parent = f"c{n - 1}" if n else None
        await place.put(put(f"c{n}", parent, same=LONG, text=f"{n}{LONG}"))
    assert await place.elsewhere() == 6 * 2 + 1
    pruning = PostgresPruning(place.store)
    place.let_go()
    freed = await pruning.prune(TENANT, place.thread_id, Strategy.KEEP_LATEST)
    assert freed is not None
    assert freed.checkpoints == 5
    assert place.to_do() == ["drop"]
    await place.carry_out("drop")
    assert await place.elsewhere() == 3
    assert place.to_do() == []
    assert await place.values() == {"same": LONG, "text": f"5{LONG}"}


async def test_an_erased_thread_leaves_no_result_that_was_away_alone(
    place: Place,
) -> None:
    """Its checkpoints were written before there was a chunk store."""
    inline = PostgresCheckpoints(place.store.database)
    await place.put(put("c1", text=LONG), store=inline)
    result = Commit(writes=(writes("c1", "t1", ("a", LONG)),))
    await place.store.commit(TENANT, place.thread, result)
    assert await place.elsewhere() == 1
    await PostgresThreads(place.store.database).delete(TENANT, place.thread_id)
    await place.carry_out("drop")
    assert await place.elsewhere() == 0
    assert place.to_do() == []


async def test_an_erased_thread_leaves_nothing(place: Place) -> None:
    await place.put(put("c1", text=LONG))
    place.let_go()
    await PostgresThreads(place.store.database).delete(TENANT, place.thread_id)
    assert place.to_do() == ["drop"]
    await place.carry_out("drop")
    assert await place.elsewhere() == 0
    with place.server.connection() as connection:
        assert connection.keys("*") == []


async def test_nothing_is_dropped_while_somebody_has_the_thread(place: Place) -> None:
    """He may have sent what he has not named yet."""
    await place.put(put("c1", text=LONG))
    place.rows(
        "UPDATE threadmill.thread SET holder = gen_random_uuid()"
        " WHERE thread_id = %(thread)s::uuid"
    )
    sent = {b"0" * 16: Blob("msgpack", b"on its way")}
    await place.away.store.keep(TENANT, place.thread, sent)
    place.rows(_DROP_NOW)
    await place.carry_out("drop")
    assert await place.away.store.find(TENANT, place.thread, sent) == sent
    assert place.to_do() == ["drop"]


async def test_nothing_is_dropped_if_something_came_meanwhile(place: Place) -> None:
    sent = {b"0" * 16: Blob("msgpack", b"an old one")}
    store = place.away.store
    await store.keep(TENANT, place.thread, sent)
    held = await store.inventory(TENANT, place.thread)
    # A run begins, and what it stores happens to be the same.
    await store.keep(TENANT, place.thread, sent)
    gone = await store.drop(
        TENANT, place.thread, held.sizes, generation=held.generation
    )
    assert not gone
    assert await store.find(TENANT, place.thread, sent) == sent


async def test_what_comes_while_it_is_judged_stays(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is read before PostgreSQL, so whatever it has then is judged rightly."""
    await place.put(put("c1", text=LONG))
    place.let_go()
    place.rows(_DROP_NOW)
    looked = place.away.store.inventory

    async def late(*about: Any) -> Any:
        monkeypatch.undo()
        await place.put(put("c2", "c1", text=LONG * 2))
        return await looked(*about)

    monkeypatch.setattr(place.away.store, "inventory", late)
    await place.carry_out("drop")
    assert await place.values() == {"text": LONG * 2}


async def test_what_a_stale_worker_sends_after_the_deletion_goes(place: Place) -> None:
    messages = [f"{n} {LONG}" for n in range(12)]
    first = Commit(puts=(put("c1", expected=None, messages=messages),))
    await place.store.commit(TENANT, place.thread, first, place.fence)
    await PostgresThreads(place.store.database).delete(TENANT, place.thread_id)
    await place.carry_out("drop")
    assert await place.elsewhere() == 0
    # It froze for more than a minute, and wakes up.
    late = Commit(puts=(put("c2", "c1", expected="c1", messages=[*messages, "x"]),))
    with pytest.raises(LeaseLost):
        await place.store.commit(TENANT, place.thread, late, place.fence)
    assert await place.elsewhere() > 0
    await place.carry_out("drop")
    assert await place.elsewhere() == 0


async def test_what_a_refused_first_commit_sent_goes(place: Place) -> None:
    commit = Commit(puts=(put("c1", expected="c0", text=LONG),))
    with pytest.raises(Error):
        await place.store.commit(TENANT, place.thread, commit, place.fence)
    assert await place.elsewhere() > 0
    place.let_go()
    await place.carry_out("drop")
    assert await place.elsewhere() == 0


async def test_a_full_redis_lets_chunks_be_dropped(place: Place) -> None:
    """It must not evict, so pruning is the only way to make room."""
    await place.put(put("c1", text=LONG))
    place.let_go()
    await PostgresThreads(place.store.database).delete(TENANT, place.thread_id)
    with place.server.connection() as connection:
        connection.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreReadOnly, match="memory"):
                await place.away.store.keep(
                    TENANT, place.thread, {b"1" * 16: Blob("msgpack", b"x")}
                )
            await place.carry_out("drop")
        finally:
            connection.config_set("maxmemory", "0")
    assert await place.elsewhere() == 0


async def test_a_thread_that_lost_its_state_is_not_pruned(place: Place) -> None:
    """Its head would have to be read; the threads behind it are not held up."""
    lost = str(uuid4())
    await PostgresThreads(place.store.database).create(
        TENANT, UUID(lost), metadata={}, if_exists="raise"
    )
    needed = {"counters_since_delta_snapshot": {"log": [1, 1]}}
    head = put("c1", metadata=needed, a=LONG)
    await place.store.commit(TENANT, lost, Commit(puts=(head,)))
    place.forget_everything()
    pruning = PostgresPruning(place.store)
    assert await pruning.prune(TENANT, UUID(lost), Strategy.KEEP_LATEST) is None


async def test_very_many_chunks(place: Place) -> None:
    """More than Lua passes to one function."""
    many = {n.to_bytes(16, "big"): Blob("msgpack", b"x" * 20) for n in range(30_000)}
    store = place.away.store
    await store.keep(TENANT, place.thread, many)
    assert await store.find(TENANT, place.thread, many.keys()) == many
    await store.keep(TENANT, place.thread, {b"0" * 16: Blob("a", b"")}, relied=many)
    held = await store.inventory(TENANT, place.thread)
    assert await store.drop(
        TENANT, place.thread, held.sizes, generation=held.generation
    )
    assert await place.elsewhere() == 0


# ------------------------------------------------------------------------- the archive


async def test_what_is_archived_comes_back(place: Place) -> None:
    store = place.archived_store
    messages = [f"{n} {LONG}" for n in range(12)]
    result = writes("c1", "t1", ("a", LONG))
    await place.put(put("c1", messages=messages), store=store)
    await store.commit(TENANT, place.thread, Commit(writes=(result,)))
    assert place.to_do() == ["archive"]
    lag = await place.chores.lag()
    assert lag.threads == 1
    await place.carry_out("archive")
    assert place.to_do() == []
    assert (await place.chores.lag()).threads == 0
    assert place.archived() == await place.elsewhere()
    place.forget_everything()
    found = await store.get(TENANT, place.thread, "")
    assert found is not None
    assert found.checkpoint["channel_values"] == {"messages": messages}
    assert [value for _, _, value in found.writes] == [LONG]
    # It is in Redis again.
    assert await place.elsewhere() == place.archived()


async def test_pruning_prunes_the_archive_as_well(place: Place) -> None:
    store = place.archived_store
    for n in range(4):
        parent = f"c{n - 1}" if n else None
        await place.put(put(f"c{n}", parent, same=LONG, text=f"{n}{LONG}"), store=store)
    await place.carry_out("archive")
    await Upkeep(store).prune(TENANT, [place.thread])
    assert place.archived() == 3
    place.let_go()
    await place.carry_out("drop")
    place.forget_everything()
    assert await place.values() == {"same": LONG, "text": f"3{LONG}"}


async def test_a_commit_while_it_is_archived_is_archived_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.archived_store
    await place.put(put("c1", text=LONG), store=store)
    chores = place.chores
    sent = chores._send

    async def late(*about: Any) -> None:
        await place.put(put("c2", "c1", text=LONG * 2), store=store)
        await sent(*about)

    monkeypatch.setattr(chores, "_send", late)
    place.rows(
        "UPDATE threadmill.chunk_chore SET since = now() - interval '1 hour'"
        " WHERE thread_id = %(thread)s"
    )
    for chore in place.take("archive"):
        await chores.carry_out(chore)
    assert place.to_do() == ["archive"]
    # Only that one is behind.
    assert (await place.chores.lag()).seconds < 3000
    await place.carry_out("archive")
    assert place.archived() == await place.elsewhere()


async def test_the_lag_grows_while_nothing_can_be_archived(place: Place) -> None:
    """As when Redis does not answer for an hour, and every process tries."""
    await place.put(put("c1", text=LONG), store=place.archived_store)
    place.rows(
        "UPDATE threadmill.chunk_chore SET since = now() - interval '1 hour'"
        " WHERE thread_id = %(thread)s"
    )
    (chore,) = await place.chores.due(hold_seconds=30, limit=20)
    assert (chore.thread_id, chore.kind) == (place.thread, "archive")
    assert await place.chores.due(hold_seconds=30, limit=20) == []
    lag = await place.chores.lag()
    assert (lag.threads, lag.seconds > 3000) == (1, True)


async def test_events_alone_archive_nothing(place: Place) -> None:
    """Tokens are flushed many times a second."""
    commit = Commit(events=(NewEvent("messages", "{}"),), graph_id="g")
    await place.archived_store.commit(TENANT, place.thread, commit, place.fence)
    assert place.to_do() == []


async def test_an_archive_under_way_leaves_nothing_of_a_deleted_thread(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.put(put("c1", text=LONG), store=place.archived_store)
    chores = place.chores
    sent = chores._send

    async def late(*about: Any) -> None:
        place.let_go()
        await PostgresThreads(place.store.database).delete(TENANT, place.thread_id)
        await sent(*about)

    monkeypatch.setattr(chores, "_send", late)
    for chore in place.take("archive"):
        await chores.carry_out(chore)
    assert place.archived() == 0
    for kind in ("drop", "archive"):  # which finds that there is nothing more
        await place.carry_out(kind)
    assert place.to_do() == []
    assert place.archived() == 0


async def test_what_is_pruned_under_way_is_not_archived(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = place.archived_store
    await place.put(put("c1", text=LONG), store=store)
    await place.put(put("c2", "c1", text=LONG * 2), store=store)
    chores = place.chores
    sent = chores._send

    async def late(*about: Any) -> None:
        await Upkeep(store).prune(TENANT, [place.thread])
        await sent(*about)

    monkeypatch.setattr(chores, "_send", late)
    for chore in place.take("archive"):
        await chores.carry_out(chore)
    assert (place.archived(), place.to_do()) == (0, ["archive", "drop"])
    await place.carry_out("archive")
    place.let_go()
    await place.carry_out("drop")
    assert place.archived() == await place.elsewhere()
    place.forget_everything()
    assert await place.values() == {"text": LONG * 2}


async def test_a_copy_is_archived(place: Place) -> None:
    await place.put(put("c1", text=LONG), store=place.archived_store)
    other = str(uuid4())
    await Upkeep(place.archived_store).copy_thread(TENANT, place.thread, other)
    for chore in await place.chores.due(hold_seconds=30, limit=20):
        await place.chores.carry_out(chore)
    place.forget_everything()
    assert await place.store.get(TENANT, other, "") is not None


async def test_a_dry_run_says_what_pruning_frees_of_an_archive(place: Place) -> None:
    for n in range(4):
        parent = f"c{n - 1}" if n else None
        one = put(f"c{n}", parent, same=LONG, text=f"{n}{LONG}")
        await place.put(one, store=place.archived_store)
    await place.carry_out("archive")
    place.let_go()
    pruning = PostgresPruning(place.archived_store)
    said = await pruning.weigh(TENANT, place.thread_id, Strategy.KEEP_LATEST)
    done = await pruning.prune(TENANT, place.thread_id, Strategy.KEEP_LATEST)
    assert said is not None
    assert done is not None
    assert said.bytes == done.bytes


async def test_a_loss_is_told_once(place: Place) -> None:
    await place.put(put("c1", text=LONG), store=place.archived_store)
    place.forget_everything()
    chores = place.chores
    with capture_logs() as logs:
        for n in range(2, 5):
            one = put(f"c{n}", f"c{n - 1}", text=LONG * n)
            await place.put(one, store=place.archived_store)
            for chore in place.take("archive"):
                await chores.carry_out(chore)
    assert [log["event"] for log in logs].count("chunks.lost_before_archived") == 1
