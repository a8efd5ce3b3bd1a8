"""Searching histories: by the index and by reading states, with the same answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio

from tests.stores.run_store import TENANT, RunStore
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.history_search import PostgresHistories
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.pruning import PostgresPruning
from threadmill.checkpoints.upkeep import Upkeep
from threadmill.domain.history import HistoryQuery, Moment, ValueMatch
from threadmill.domain.paths import scalar
from threadmill.domain.retention import Strategy
from threadmill.domain.run import RunEvent
from threadmill.drivers.postgres.database import Database
from threadmill.engine.search_histories import HistoryPage, SearchHistories
from threadmill.errors import InvalidRequest
from threadmill.testing.checkpoints import put, writes

GRAPH, PATHS = "shop", {"shop": ("order.status", "total")}
WAYS = pytest.mark.parametrize("read_states", [False, True], ids=["index", "states"])


@dataclass
class Shop:
    """Threads whose orders have a history."""

    store: RunStore
    checkpoints: PostgresCheckpoints
    uri: str
    threads: list[UUID] = field(default_factory=list)

    async def thread(
        self, *statuses: object, tenant: str = TENANT, **metadata: Any
    ) -> UUID:
        """One with a checkpoint for each status of its order: c0, c1, ..."""
        thread_id = uuid4()
        await self.store.threads.create(
            tenant,
            thread_id,
            metadata={"graph_id": GRAPH, **metadata},
            if_exists="raise",
        )
        for n, status in enumerate(statuses):
            await self.add(thread_id, n, status, tenant=tenant)
        self.threads.append(thread_id)
        return thread_id

    async def add(
        self, thread_id: UUID, n: int, status: object, tenant: str = TENANT
    ) -> None:
        # The order is stored in the body, the text in a chunk.
        values: dict[str, Any] = {
            "order": {"status": status},
            "text": "x" * 1000,
            "total": n,
        }
        new = put(
            f"c{n}",
            f"c{n - 1}" if n else None,
            metadata={"graph_id": GRAPH, "step": n},
            **values,
        )
        await self.checkpoints.commit(tenant, str(thread_id), Commit(puts=(new,)))

    async def search(
        self,
        *,
        tenant: str = TENANT,
        read_states: bool = False,
        limit: int = 100,
        scan: int = 1000,
        cursor: str | None = None,
        **query: Any,
    ) -> HistoryPage:
        search = SearchHistories(PostgresHistories(self.checkpoints), PATHS)
        return await search(
            tenant,
            HistoryQuery(graph_id=query.pop("graph_id", GRAPH), **query),
            cursor=cursor,
            limit=limit,
            scan=scan,
            read_states=read_states,
        )

    async def found(self, **query: Any) -> list[tuple[int, str]]:
        """Which threads, by number, and which checkpoints."""
        return self.named((await self.search(**query)).found.moments)

    def named(self, moments: Sequence[Moment]) -> list[tuple[int, str]]:
        return [
            (self.threads.index(moment.thread_id), moment.checkpoint_id)
            for moment in moments
        ]

    async def sql(self, statement: str, *params: Any) -> None:
        async with await psycopg.AsyncConnection.connect(
            self.uri, autocommit=True
        ) as connection:
            await connection.execute(statement.encode(), params)


def match(path: str, *, changed: bool = False, **comparison: Any) -> ValueMatch:
    ((name, value),) = comparison.items() or [(None, None)]
    operand = None if name is None else scalar(value)
    return ValueMatch(path=path, comparison=name, operand=operand, changed=changed)


@pytest_asyncio.fixture
async def shop(database: Database, database_uri: str) -> AsyncIterator[Shop]:
    yield Shop(
        RunStore(database), PostgresCheckpoints(database, indexed=PATHS), database_uri
    )


# ------------------------------------------------------------------------- values


@WAYS
async def test_where_a_value_became_what_is_asked_for(
    shop: Shop, *, read_states: bool
) -> None:
    await shop.thread("paid", "paid", "refunded", "refunded")
    await shop.thread("refunded", "paid", "refunded")
    await shop.thread("paid")
    refunded = match("order.status", equals="refunded", changed=True)
    page = await shop.search(value=refunded, read_states=read_states)
    assert page.by_index is not read_states
    found = shop.named(page.found.moments)
    assert found == [(1, "c2"), (1, "c0"), (0, "c2")]
    assert {moment.value for moment in page.found.moments} == {'"refunded"'}
    assert page.cursor is None
    everywhere = match("order.status", equals="refunded")
    found = await shop.found(value=everywhere, read_states=read_states)
    assert found == [(1, "c2"), (1, "c0"), (0, "c3"), (0, "c2")]


@WAYS
@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        ({"above": 1}, ["c2"]),
        ({"at_least": 1}, ["c2", "c1"]),
        ({"below": 1}, ["c0"]),
        ({"at_most": 1.0}, ["c1", "c0"]),
        ({"equals": 1.0}, ["c1"]),
        ({"equals": "1"}, []),
        ({"above": "a"}, []),
        ({}, ["c2", "c1", "c0"]),
    ],
)
async def test_comparisons(
    shop: Shop, *, read_states: bool, comparison: dict[str, Any], expected: list[str]
) -> None:
    await shop.thread("a", "b", "c")
    value = match("total", **comparison)
    found = await shop.found(value=value, read_states=read_states)
    assert [checkpoint for _, checkpoint in found] == expected


@WAYS
@pytest.mark.parametrize(
    "status", [True, None, 5, 2.5, "", "\0\ud800", "ä" * 400, 2**62]
)
async def test_every_value_that_can_be_compared_is_found(
    shop: Shop, *, read_states: bool, status: Any
) -> None:
    await shop.thread("other", status)
    value = match("order.status", equals=status, changed=True)
    assert await shop.found(value=value, read_states=read_states) == [(0, "c1")]


@WAYS
async def test_what_cannot_be_compared_is_not_found(
    shop: Shop, *, read_states: bool
) -> None:
    await shop.thread({"a": 1}, ["b"], "x" * 501, float("nan"))
    value = match("order.status")
    assert await shop.found(value=value, read_states=read_states) == []
    assert await shop.found(value=match("nothing.at"), read_states=read_states) == []


async def test_a_path_that_is_not_declared_is_answered_from_the_states(
    shop: Shop,
) -> None:
    await shop.thread("a")
    page = await shop.search(value=match("text", equals="x"))
    assert (page.by_index, page.found.moments) == (False, [])
    long = await shop.search(value=match("order.status", equals="a"), graph_id=None)
    assert not long.by_index
    assert shop.named(long.found.moments) == [(0, "c0")]


async def test_a_graph_that_declares_nothing_writes_nothing(
    shop: Shop, database: Database
) -> None:
    thread_id = uuid4()
    silent = PostgresCheckpoints(database, indexed=PATHS)
    new = put("c0", metadata={"graph_id": "other"}, order={"status": "a"})
    await silent.commit(TENANT, str(thread_id), Commit(puts=(new,)))
    inner = put("c0", ns="sub:1", metadata={"graph_id": GRAPH}, order={"status": "a"})
    await silent.commit(TENANT, str(thread_id), Commit(puts=(inner,)))
    async with await psycopg.AsyncConnection.connect(shop.uri) as connection:
        cursor = await connection.execute("SELECT FROM threadmill.history_value")
        assert cursor.rowcount == 0


async def test_what_is_pruned_or_deleted_is_not_found_any_more(shop: Shop) -> None:
    thread_id = await shop.thread("a", "a", "a")
    other = await shop.thread("a", "a")
    value = match("order.status", equals="a")
    pruning = PostgresPruning(shop.checkpoints)
    await pruning.prune(TENANT, thread_id, Strategy.KEEP_LATEST)
    assert await shop.found(value=value) == [(1, "c1"), (1, "c0"), (0, "c2")]
    await pruning.prune(TENANT, thread_id, Strategy.DELETE)
    assert await shop.found(value=value) == [(1, "c1"), (1, "c0")]
    await shop.checkpoints.delete_thread(TENANT, str(other))
    async with await psycopg.AsyncConnection.connect(shop.uri) as connection:
        cursor = await connection.execute("SELECT FROM threadmill.history_value")
        assert cursor.rowcount == 0


async def test_a_copied_thread_is_found_too(shop: Shop) -> None:
    thread_id = await shop.thread("a", "b")
    copy = await shop.thread()
    await Upkeep(shop.checkpoints).copy_thread(TENANT, str(thread_id), str(copy))
    value = match("order.status", equals="b", changed=True)
    assert sorted(await shop.found(value=value)) == [(0, "c1"), (1, "c1")]


# ------------------------------------------------------------------ other filters


async def test_threads_by_metadata_ids_and_graph(shop: Shop) -> None:
    await shop.thread("a", customer="mine", vip=True)
    await shop.thread("a", customer="theirs")
    assert await shop.found(metadata={"customer": "mine"}) == [(0, "c0")]
    assert await shop.found(metadata={"customer": "mine", "vip": False}) == []
    assert await shop.found(thread_ids=[shop.threads[1]]) == [(1, "c0")]
    assert await shop.found(graph_id="another") == []
    value = match("order.status", equals="a")
    assert await shop.found(value=value, metadata={"vip": True}) == [(0, "c0")]
    assert await shop.found(value=value, thread_ids=[shop.threads[1]]) == [(1, "c0")]


@WAYS
async def test_a_range_of_time(shop: Shop, *, read_states: bool) -> None:
    await shop.thread("a", "b", "c")
    now = datetime.now(UTC)
    for table in ("checkpoint", "history_value"):
        for n, days in ((0, 9), (1, 5), (2, 1)):
            await shop.sql(
                f"UPDATE threadmill.{table} SET created_at = %s"  # noqa: S608
                " WHERE checkpoint_id = %s",
                now - timedelta(days=days),
                f"c{n}",
            )
    for table in ("thread", "facet"):
        await shop.sql(
            f"UPDATE threadmill.{table}"  # noqa: S608
            " SET created_at = now() - interval '9 d'"
        )
    week = {"since": now - timedelta(days=7), "until": now - timedelta(days=1)}
    value = match("order.status")
    assert await shop.found(value=value, read_states=read_states, **week) == [(0, "c1")]
    assert await shop.found(**week) == [(0, "c1")]


async def test_a_thread_whose_run_goes_on_is_looked_into(shop: Shop) -> None:
    """Its row is not touched by commits: it is as old as the run's acceptance."""
    thread_id = await shop.thread()
    await shop.store.accept(thread_id, graph_id="graph")
    fence, _ = await shop.store.begin()
    await shop.sql(
        "UPDATE threadmill.thread SET updated_at = now() - interval '1 d'"
        " WHERE thread_id = %s",
        thread_id,
    )
    new = Commit(puts=(put("c0", metadata={"source": "loop"}),))
    await shop.checkpoints.commit(TENANT, str(thread_id), new, fence)
    hour = {"since": datetime.now(UTC) - timedelta(hours=1), "graph_id": None}
    assert await shop.found(**hour) == [(0, "c0")]
    assert await shop.found(thread_ids=[thread_id], **hour) == [(0, "c0")]


async def test_runs_their_errors_and_failed_tasks(shop: Shop) -> None:
    thread_id = await shop.thread()
    run = await shop.store.accept(thread_id, graph_id="graph")
    fence, _ = await shop.store.begin()
    for n in range(2):
        before = f"c{n - 1}" if n else None
        new = put(f"c{n}", before, expected=before, metadata={"source": "loop"})
        commit = Commit(puts=(new,))
        await shop.checkpoints.commit(TENANT, str(thread_id), commit, fence)
    error = {"error": "ValueError", "message": "No such Card"}
    await shop.store.finish(fence, RunEvent.FAIL, error=error)
    query: dict[str, Any] = {"graph_id": None}
    assert await shop.found(run_id=run.run_id, **query) == [(0, "c1"), (0, "c0")]
    assert await shop.found(run_id=uuid4(), **query) == []
    assert await shop.found(failed=True, **query) == [(0, "c1")]
    assert await shop.found(error="such card", **query) == [(0, "c1")]
    assert await shop.found(error="timeout", **query) == []
    assert await shop.found(source="input", **query) == []
    assert await shop.found(source="loop", **query) == [(0, "c1"), (0, "c0")]
    failed = writes("c0", "t1", ("__error__", "KeyError('lost')"), path="x")
    await shop.checkpoints.commit(TENANT, str(thread_id), Commit(writes=(failed,)))
    assert await shop.found(error="lost", **query) == [(0, "c0")]


async def test_the_node_whose_writes_led_there(shop: Shop) -> None:
    thread_id = await shop.thread("a", "b", "c")
    pulled = writes("c0", "t1", ("a", 1), path="~__pregel_pull, charge, card")
    pushed = writes("c1", "t2", ("a", 1), path="~__pregel_push, 0000000000, 0000000000")
    await shop.checkpoints.commit(
        TENANT, str(thread_id), Commit(writes=(pulled, pushed))
    )
    page = await shop.search(node="charge, card")
    assert shop.named(page.found.moments) == [(0, "c1")]
    assert page.found.moments[0].nodes == ["charge, card"]
    assert await shop.found(node="charge") == []


# -------------------------------------------------------------------------- pages


@WAYS
async def test_pages_are_whole_while_threads_and_checkpoints_are_added(
    shop: Shop, *, read_states: bool
) -> None:
    for _ in range(4):
        await shop.thread("a", "a", "a")
    before = await shop.search(
        value=match("order.status", equals="a"), read_states=read_states
    )
    seen: list[Moment] = []
    cursor = None
    while True:
        page = await shop.search(
            value=match("order.status", equals="a"),
            read_states=read_states,
            limit=2,
            cursor=cursor,
        )
        assert len(page.found.moments) <= 2
        seen += page.found.moments
        cursor = page.cursor
        if cursor is None:
            break
        await shop.thread("a")
        await shop.add(shop.threads[0], 3 + len(seen), "a")
    assert [m for m in seen if m in before.found.moments] == before.found.moments


async def test_a_page_looks_at_no_more_than_it_may(shop: Shop) -> None:
    for _ in range(6):
        await shop.thread(*(["a"] * 30))
    pages, found, cursor = 0, 0, None
    while True:
        page = await shop.search(
            value=match("text", equals="never"), scan=50, cursor=cursor
        )
        # A page of the database's rows may be begun before the bound is met.
        assert page.found.scanned < 50 + 150
        pages, found = pages + 1, found + page.found.scanned
        cursor = page.cursor
        if cursor is None:
            break
    assert pages > 1
    assert found >= 6 * 30


async def test_a_cursor_is_of_one_search_and_one_tenant(shop: Shop) -> None:
    mine = await shop.thread("a", "a", "a")
    await shop.thread("a", "a", tenant="somebody")
    value = match("order.status", equals="a")
    cursor = (await shop.search(value=value, limit=1)).cursor
    assert cursor is not None
    theirs = await shop.search(value=value, tenant="somebody", limit=1)
    assert theirs.cursor != cursor
    page = await shop.search(value=value, limit=1, cursor=cursor)
    assert [moment.thread_id for moment in page.found.moments] == [mine]
    for query in (
        {"tenant": "somebody", "value": value},
        {"value": match("order.status", equals="b")},
        {"value": value, "read_states": True},
    ):
        with pytest.raises(InvalidRequest, match="cursor"):
            await shop.search(cursor=cursor, **query)
    for nonsense in ("", "x", "bnVsbA==", cursor[:-4]):
        with pytest.raises(InvalidRequest, match="cursor"):
            await shop.search(value=value, cursor=nonsense)


async def test_another_tenants_history_is_not_found(shop: Shop) -> None:
    thread_id = await shop.thread("a", tenant="somebody")
    for query in ({}, {"value": match("order.status")}, {"thread_ids": [thread_id]}):
        assert await shop.found(**query) == []
    page = await shop.search(tenant="somebody")
    assert shop.named(page.found.moments) == [(0, "c0")]
