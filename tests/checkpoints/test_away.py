"""Checkpoints in PostgreSQL whose values lie in Redis."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.fixtures.away import LONG, TENANT, Place
from tests.stores.run_store import RunStore
from threadmill.checkpoints.away import Away
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.history_search import PostgresHistories
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.redis.chunk_store import RedisChunks
from threadmill.checkpoints.saver import PostgresSaver
from threadmill.checkpoints.sizes import PostgresSizes
from threadmill.checkpoints.sync import PostgresSyncCheckpoints
from threadmill.checkpoints.upkeep import Upkeep
from threadmill.domain.history import HistoryQuery, ValueMatch
from threadmill.domain.paths import scalar
from threadmill.domain.run import ThreadStatus
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.drivers.redis.database import RedisDatabase, RedisLimits
from threadmill.engine.states import States
from threadmill.errors import HeadMoved, SetupError, StateLost, StoreUnavailable
from threadmill.stores.postgres.threads import PostgresThreads
from threadmill.stores.records import FreeSlot, Thread
from threadmill.testing.checkpoints import put, writes

# ------------------------------------------------------------------------ where it lies


async def test_postgresql_has_names_only(place: Place) -> None:
    result = writes("c1", "t1", ("a", LONG), ("b", 1))
    commit = Commit(puts=(put("c1", messages=[LONG] * 30, text=LONG),))
    await place.store.commit(TENANT, place.thread, commit)
    await place.store.commit(TENANT, place.thread, Commit(writes=(result,)))
    assert place.archived() == 0
    found = place.rows(
        "SELECT body_type, octet_length(body) FROM threadmill.checkpoint"
        " WHERE thread_id = %(thread)s"
    )
    assert found == [("away", 16)]
    found = place.rows(
        "SELECT channel, value_type = 'away' FROM threadmill.checkpoint_write"
        " WHERE thread_id = %(thread)s ORDER BY channel"
    )
    # What is hardly longer than its name stays.
    assert found == [("a", True), ("b", False)]
    stored = await place.store.get(TENANT, place.thread, "")
    assert stored is not None
    assert stored.checkpoint["channel_values"]["messages"] == [LONG] * 30
    assert [value for _, _, value in stored.writes] == [LONG, 1]


async def test_a_commit_that_is_refused_leaves_no_name(place: Place) -> None:
    await place.put(put("c1", text=LONG))
    before = await place.elsewhere()
    with pytest.raises(HeadMoved):
        await place.put(replace(put("c3", "c2", text=LONG * 2), expected_head="c2"))
    assert await place.elsewhere() > before
    assert await place.values() == {"text": LONG}


async def test_what_redis_does_not_take_is_not_committed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No name is committed before what it stands for is there."""

    async def refuse(*_: Any, **__: Any) -> None:
        raise StoreUnavailable

    monkeypatch.setattr(place.away.store, "keep", refuse)
    with pytest.raises(StoreUnavailable):
        await place.put(put("c1", text=LONG))
    assert await place.store.get(TENANT, place.thread, "") is None


async def test_a_thread_may_have_some_here_and_some_there(place: Place) -> None:
    """Switching over converts nothing, and neither does switching back."""
    plain = PostgresCheckpoints(place.store.database, away=None)
    messages = [f"{n} {LONG}" for n in range(12)]
    await place.put(put("c1", messages=messages[:4]), store=plain)
    assert await place.values() == {"messages": messages[:4]}
    await place.put(put("c2", "c1", messages=messages[:8]))
    # It knows what PostgreSQL has, and must not rely on that in Redis.
    assert await place.values() == {"messages": messages[:8]}
    back = PostgresCheckpoints(
        place.store.database,
        memory=place.store.memory,
        away=replace(place.away, stay=frozenset({"g"})),
    )
    await back.get(TENANT, place.thread, "")
    commit = Commit(puts=(put("c3", "c2", messages=messages),), graph_id="g")
    await back.commit(TENANT, place.thread, commit)
    place.forget_everything()
    fresh = PostgresCheckpoints(place.store.database, away=place.store.away)
    head = await fresh.get(TENANT, place.thread, "")
    first = await fresh.get(TENANT, place.thread, "", "c1")
    assert head is not None
    assert head.checkpoint["channel_values"] == {"messages": messages}
    assert first is not None
    with pytest.raises(StateLost):
        await fresh.get(TENANT, place.thread, "", "c2")


async def test_whoever_knows_of_no_such_store_says_so(place: Place) -> None:
    await place.put(put("c1", text=LONG))
    plain = PostgresCheckpoints(place.store.database)
    with pytest.raises(SetupError, match="CHECKPOINT_URI"):
        await plain.get(TENANT, place.thread, "")


async def test_a_copy_is_complete(place: Place) -> None:
    await place.put(put("c1", text=LONG), put("c2", "c1", text=LONG * 2))
    other = str(uuid4())
    await Upkeep(place.store).copy_thread(TENANT, place.thread, other)
    await place.store.delete_thread(TENANT, place.thread)
    await place.carry_out("drop")
    found = [one async for one in place.store.list(TENANT, other)]
    texts = [one.checkpoint["channel_values"]["text"] for one in found]
    assert texts == [LONG * 2, LONG]


async def test_a_copy_by_who_knows_no_store_is_refused(place: Place) -> None:
    await place.put(put("c1", text=LONG))
    plain = PostgresCheckpoints(place.store.database)
    with pytest.raises(SetupError, match="CHECKPOINT_URI"):
        await Upkeep(plain).copy_thread(TENANT, place.thread, str(uuid4()))


async def test_a_copy_while_the_source_goes_on_is_complete(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.put(put("c1", text=LONG))
    other = str(uuid4())
    keep = place.away.store.keep

    async def late(*about: Any, **named: Any) -> None:
        monkeypatch.undo()
        await keep(*about, **named)
        await place.put(put("c2", "c1", text=LONG * 2))

    monkeypatch.setattr(place.away.store, "keep", late)
    await Upkeep(place.store).copy_thread(TENANT, place.thread, other)
    found = await place.store.get(TENANT, other, "")
    assert found is not None
    assert found.checkpoint["channel_values"] == {"text": LONG * 2}


async def test_sizes_count_what_lies_elsewhere(place: Place) -> None:
    await place.put(put("c1", messages=[LONG] * 30, text=LONG))
    sizes = PostgresSizes(place.store.database, place.store.away)
    (size,) = await sizes.page(TENANT, thread_id=place.thread_id, limit=1)
    held = await place.away.store.inventory(TENANT, place.thread)
    assert size.parts.away == sum(held.sizes.values()) > 0
    channels = await sizes.channels(TENANT, place.thread_id, checkpoints=10)
    assert channels.by_name["messages"].chunks > 0
    assert channels.by_name["text"].chunks > 0


# ----------------------------------------------------------------------- what gets lost


async def test_what_redis_has_lost_is_missed_never_made_up(place: Place) -> None:
    await place.put(put("c1", text=LONG))
    place.forget_everything()
    with pytest.raises(StateLost, match=place.thread):
        await place.store.get(TENANT, place.thread, "")
    with pytest.raises(StateLost):
        await anext(place.store.list(TENANT, place.thread))


async def test_a_put_relies_on_nothing_that_redis_has_lost(place: Place) -> None:
    """Who has the state in memory stores it whole once more."""
    messages = [f"{n} {LONG}" for n in range(12)]
    await place.put(put("c1", messages=messages))
    place.forget_everything()
    await place.put(put("c2", "c1", messages=[*messages, "one more"]))
    assert await place.values() == {"messages": [*messages, "one more"]}


async def test_a_saver_reads_them_as_any_others(place: Place) -> None:
    await place.put(put("c1", text=LONG), put("c2", "c1", text=LONG * 2))
    saver = PostgresSaver(place.store, tenant=TENANT)
    config: Any = {"configurable": {"thread_id": place.thread, "checkpoint_ns": ""}}
    found = [one.checkpoint["id"] async for one in saver.alist(config)]
    assert found == ["c2", "c1"]


# -------------------------------------------------------- one that is lost, and others


async def _other_thread(place: Place, **values: Any) -> str:
    other = str(uuid4())
    await PostgresThreads(place.store.database).create(
        TENANT, UUID(other), metadata={"graph_id": "g"}, if_exists="raise"
    )
    one = put("c1", metadata={"graph_id": "g", "step": 0}, **values)
    await place.store.commit(TENANT, other, Commit(puts=(one,)))
    return other


def _lose(place: Place, thread: str) -> None:
    with place.server.connection() as connection:
        connection.delete(f"{{{TENANT}:{thread}}}:value")


async def test_a_list_of_threads_survives_one_that_lost_its_state(place: Place) -> None:
    """A search of the SDK asks for values by default."""
    lost = await _other_thread(place, text=LONG)
    fine = await _other_thread(place, text=LONG * 2)
    _lose(place, lost)
    nothing: Any = None
    states = States(
        threads=nothing,
        graphs=nothing,
        checkpoints=place.store,
        saver=nothing,
        hints=nothing,
        member=uuid4(),
        lease_seconds=10,
    )
    now = datetime.now(UTC)
    threads = [
        Thread(
            thread_id=UUID(one),
            status=ThreadStatus.IDLE,
            metadata={},
            config={},
            error=None,
            temporary=False,
            created_at=now,
            updated_at=now,
            state_updated_at=now,
        )
        for one in (lost, fine)
    ]
    shown = [glance.values async for glance in states.glances(TENANT, threads)]
    assert shown == [None, {"text": LONG * 2}]


async def test_a_search_of_histories_survives_one_thread_that_lost_its_state(
    place: Place,
) -> None:
    lost = await _other_thread(place, text=LONG, total=7)
    fine = await _other_thread(place, text=LONG * 2, total=7)
    _lose(place, lost)
    query = HistoryQuery(
        value=ValueMatch(path="total", comparison="equals", operand=scalar(7))
    )
    histories = PostgresHistories(place.store)
    found = await histories.search(TENANT, query, limit=10, scan=100, by_index=False)
    assert [str(moment.thread_id) for moment in found.moments] == [fine]


# -------------------------------------------------------------- when Redis is not there


async def test_a_hand_over_that_has_committed_does_not_fail_by_its_read(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What its slot has claimed is leased; somebody must know of it."""
    runs = RunStore(place.store.database)
    place.let_go()
    run = await runs.accept(await runs.thread())
    fence, _ = await runs.begin()
    thread = str(run.thread_id)
    first = Commit(puts=(put("c1", expected=None, text=LONG),))
    await place.store.commit(TENANT, thread, first, fence)
    slot = FreeSlot(
        worker_id=uuid4(), graphs=["graph"], labels=[], tasks=True, lease_seconds=60
    )

    async def away(*_: Any) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr(place.away.store, "find", away)
    second = put("c2", "c1", expected="c1", text=LONG * 2)
    committed = await place.store.commit(
        TENANT, thread, Commit(puts=(second,), release=True, slot=slot), fence
    )
    assert committed.claimed is not None
    assert committed.begun is None


async def test_an_unreachable_redis_leaves_no_connection_to_postgresql(
    place: Place,
) -> None:
    name = f"leak {uuid4()}"

    def make() -> PostgresCheckpoints:
        nowhere = RedisDatabase(
            "redis://127.0.0.1:1/0", limits=RedisLimits(connect_timeout_seconds=1)
        )
        return PostgresCheckpoints(
            Database(place.uri, name=name, limits=Limits(pool_max=2)),
            away=Away(RedisChunks(nowhere)),
        )

    blocking = PostgresSyncCheckpoints(make)
    with pytest.raises(StoreUnavailable):
        await asyncio.to_thread(blocking.get, TENANT, place.thread, "")
    (found,) = place.rows(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %(name)s",
        name=f"%{name}%",
    )
    assert found == (0,)


_RIGHTS = Path(__file__).parents[2] / "docs" / "how-to" / "keep-values-in-redis.md"


@pytest.mark.parametrize("missing", ["", "hkeys"])
async def test_the_rights_that_the_page_lists_are_needed_and_enough(
    place: Place, missing: str
) -> None:
    listed = _RIGHTS.read_text().partition("A login needs, on all keys:")[2]
    names = {name.lower().replace(" ", "|") for name in re.findall("`(.+?)`", listed)}
    allowed = (f"+{name}" for name in names - {missing})
    with place.server.connection() as connection:
        connection.execute_command(
            *("ACL", "SETUSER", "app", "on", ">secret", "~*", "resetchannels"),
            *("-@all", *allowed),
        )
    uri = f"redis://app:secret@127.0.0.1:{place.server.port}/0"
    store = RedisChunks(RedisDatabase(uri))
    try:
        if missing:
            with pytest.raises(SetupError, match="refuses the login"):
                await store.open()
        else:
            await store.open()
    finally:
        await store.close()
        with place.server.connection() as connection:
            connection.execute_command("ACL", "DELUSER", "app")


# ------------------------------------------------------------------------------- sizes


async def test_a_thread_with_some_here_and_some_there_is_attributed(
    place: Place,
) -> None:
    plain = PostgresCheckpoints(place.store.database)
    await place.put(put("c1", old=LONG * 20), store=plain)
    await place.put(put("c2", "c1", messages=[LONG] * 30, text=LONG * 3))
    result = writes("c2", "t1", ("a", LONG))
    await place.store.commit(TENANT, place.thread, Commit(writes=(result,)))
    sizes = PostgresSizes(place.store.database, place.store.away)
    channels = await sizes.channels(TENANT, place.thread_id, checkpoints=10)
    assert channels.unattributed == 0
    assert channels.by_name["a"].writes > len(LONG) // 2
    with pytest.raises(SetupError, match="CHECKPOINT_URI"):
        await PostgresSizes(place.store.database).page(
            TENANT, thread_id=place.thread_id, limit=1
        )
