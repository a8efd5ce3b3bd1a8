"""Checkpoints in PostgreSQL whose values lie in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.fixtures.claims import Claims
from tests.fixtures.redis import RedisServer
from threadmill.checkpoints.away import Away
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.chunk_upkeep import ChunkUpkeep
from threadmill.checkpoints.compression import Blob
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.pruning import PostgresPruning
from threadmill.checkpoints.redis.chunk_store import RedisChunks
from threadmill.checkpoints.saver import PostgresSaver
from threadmill.checkpoints.sizes import PostgresSizes
from threadmill.checkpoints.upkeep import Upkeep
from threadmill.domain.retention import Strategy
from threadmill.drivers.postgres.database import Database
from threadmill.drivers.redis.database import RedisDatabase
from threadmill.errors import HeadMoved, SetupError, StateLost, StoreUnavailable
from threadmill.stores.postgres.threads import PostgresThreads
from threadmill.stores.records import Timer
from threadmill.testing.checkpoints import put, writes

TENANT = "default"
# It hardly becomes shorter.
LONG = "".join(sha256(bytes([n])).hexdigest() for n in range(16))


@dataclass
class Place:
    """A thread, and both stores."""

    store: PostgresCheckpoints
    away: Away
    uri: str
    server: RedisServer
    claims: Claims
    thread_id: UUID

    @property
    def thread(self) -> str:
        return str(self.thread_id)

    @property
    def chores(self) -> ChunkUpkeep:
        return ChunkUpkeep(self.store.database, self.away)

    async def put(self, *puts: Any, store: PostgresCheckpoints | None = None) -> None:
        await (store or self.store).commit(TENANT, self.thread, Commit(puts=puts))

    async def values(self, at: str | None = None) -> Any:
        found = await self.store.get(TENANT, self.thread, "", at)
        assert found is not None
        return found.checkpoint["channel_values"]

    async def elsewhere(self) -> int:
        """How many chunks Redis has of the thread."""
        return len((await self.away.store.inventory(TENANT, self.thread)).sizes)

    def rows(self, query: str) -> list[Any]:
        with psycopg.connect(self.uri, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), {"thread": self.thread})
            return cursor.fetchall() if cursor.description else []

    def timers(self) -> list[str]:
        found = self.rows(
            "SELECT kind FROM threadmill.timer WHERE ref = %(thread)s ORDER BY kind"
        )
        return [kind for (kind,) in found]

    def archived(self) -> int:
        query = "SELECT count(*) FROM threadmill.chunk WHERE thread_id = %(thread)s"
        return int(self.rows(query)[0][0])

    async def carry_out(self, kind: str) -> None:
        await self.chores.carry_out(Timer(TENANT, kind, self.thread))

    def forget_everything(self) -> None:
        with self.server.connection() as connection:
            connection.flushall()


@pytest.fixture
async def place(
    database: Database, database_uri: str, shared_redis: RedisServer, redis_uri: str
) -> AsyncIterator[Place]:
    away = Away(RedisChunks(RedisDatabase(redis_uri)), archives=True)
    await away.store.open()
    claims = Claims(database_uri)
    fence = await claims.claim()
    yield Place(
        PostgresCheckpoints(database, away=replace(away, archives=False)),
        away,
        database_uri,
        shared_redis,
        claims,
        fence.thread_id,
    )
    await away.store.close()


def _with_archive(place: Place) -> PostgresCheckpoints:
    return PostgresCheckpoints(place.store.database, away=place.away)


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
    await place.carry_out("drop_chunks")
    found = [one async for one in place.store.list(TENANT, other)]
    texts = [one.checkpoint["channel_values"]["text"] for one in found]
    assert texts == [LONG * 2, LONG]


async def test_sizes_count_what_lies_elsewhere(place: Place) -> None:
    await place.put(put("c1", messages=[LONG] * 30, text=LONG))
    sizes = PostgresSizes(place.store.database, place.store.away)
    (size,) = await sizes.page(TENANT, thread_id=place.thread_id, limit=1)
    held = await place.away.store.inventory(TENANT, place.thread)
    assert size.parts.away == sum(held.sizes.values()) > 0
    channels = await sizes.channels(TENANT, place.thread_id, checkpoints=10)
    assert channels["messages"].chunks > 0
    assert channels["text"].chunks > 0


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


# ---------------------------------------------------------------------- what is dropped


async def test_pruned_chunks_go_and_the_others_stay(place: Place) -> None:
    for n in range(6):
        parent = f"c{n - 1}" if n else None
        await place.put(put(f"c{n}", parent, same=LONG, text=f"{n}{LONG}"))
    assert await place.elsewhere() == 6 * 2 + 1
    pruning = PostgresPruning(place.store)
    await _let_go(place)
    freed = await pruning.prune(TENANT, place.thread_id, Strategy.KEEP_LATEST)
    assert freed is not None
    assert freed.checkpoints == 5
    assert place.timers() == ["drop_chunks"]
    await place.carry_out("drop_chunks")
    assert await place.elsewhere() == 3
    assert place.timers() == []
    assert await place.values() == {"same": LONG, "text": f"5{LONG}"}


async def _let_go(place: Place) -> None:
    place.rows("DELETE FROM threadmill.activation WHERE thread_id = %(thread)s::uuid")
    place.rows(
        "UPDATE threadmill.thread SET holder = NULL WHERE thread_id = %(thread)s::uuid"
    )


async def test_an_erased_thread_leaves_nothing(place: Place) -> None:
    await place.put(put("c1", text=LONG))
    await _let_go(place)
    await PostgresThreads(place.store.database).delete(TENANT, place.thread_id)
    assert place.timers() == ["drop_chunks"]
    await place.carry_out("drop_chunks")
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
    place.rows(
        "INSERT INTO threadmill.timer"
        " VALUES ('default', 'drop_chunks', %(thread)s, now())"
    )
    await place.carry_out("drop_chunks")
    assert await place.away.store.find(TENANT, place.thread, sent) == sent
    assert place.timers() == ["drop_chunks"]


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


# ------------------------------------------------------------------------- the archive


async def test_what_is_archived_comes_back(place: Place) -> None:
    store = _with_archive(place)
    messages = [f"{n} {LONG}" for n in range(12)]
    result = writes("c1", "t1", ("a", LONG))
    await place.put(put("c1", messages=messages), store=store)
    await store.commit(TENANT, place.thread, Commit(writes=(result,)))
    assert place.timers() == ["archive_chunks"]
    lag = await place.chores.lag()
    assert lag.threads == 1
    await place.carry_out("archive_chunks")
    assert place.timers() == []
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
    store = _with_archive(place)
    for n in range(4):
        parent = f"c{n - 1}" if n else None
        await place.put(put(f"c{n}", parent, same=LONG, text=f"{n}{LONG}"), store=store)
    await place.carry_out("archive_chunks")
    await Upkeep(store).prune(TENANT, [place.thread])
    assert place.archived() == 3
    await _let_go(place)
    await place.carry_out("drop_chunks")
    place.forget_everything()
    assert await place.values() == {"same": LONG, "text": f"3{LONG}"}


async def test_a_commit_while_it_is_archived_is_archived_later(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _with_archive(place)
    await place.put(put("c1", text=LONG), store=store)
    chores = place.chores
    sent = chores._send

    async def late(*about: Any) -> None:
        await place.put(put("c2", "c1", text=LONG * 2), store=store)
        await sent(*about)

    monkeypatch.setattr(chores, "_send", late)
    timer = Timer(TENANT, "archive_chunks", place.thread)
    await chores.carry_out(timer)
    assert place.timers() == ["archive_chunks"]
    await place.carry_out("archive_chunks")
    assert place.archived() == await place.elsewhere()


async def test_a_saver_reads_them_as_any_others(place: Place) -> None:
    await place.put(put("c1", text=LONG), put("c2", "c1", text=LONG * 2))
    saver = PostgresSaver(place.store, tenant=TENANT)
    config: Any = {"configurable": {"thread_id": place.thread, "checkpoint_ns": ""}}
    found = [one.checkpoint["id"] async for one in saver.alist(config)]
    assert found == ["c2", "c1"]
