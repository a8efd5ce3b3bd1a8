"""One transaction is one pipeline, whole or not at all."""

from __future__ import annotations

import asyncio
import re

import psycopg
import pytest

from threadmill.drivers.postgres.database import Database, Limits, connection_info
from threadmill.drivers.postgres.sql import Query
from threadmill.errors import (
    Error,
    InvariantViolated,
    LeaseLost,
    SetupError,
    StoreReadOnly,
    StoreUnavailable,
    Unavailable,
)

INSERT = Query(
    "insert",
    b"INSERT INTO threadmill.idempotency (tenant_id, key, body_hash, run_id) "
    b"VALUES (threadmill.tenant(), %(key)s, '', gen_random_uuid())",
)
COUNT = Query("count", b"SELECT count(*)::integer AS n FROM threadmill.idempotency")
REFUSE = Query("refuse", b"SELECT threadmill.require(false, 'lease_lost', 'gone')")
_DEFERRED = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN RAISE EXCEPTION ''too late'' USING ERRCODE = ''40001''; END';
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON threadmill.idempotency
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""
SWALLOW = Query("swallow", b"SELECT length(%(text)s)")
SETTINGS = Query(
    "settings",
    b"SELECT current_setting('threadmill.tenant', true) AS tenant, "
    b"current_user::text AS role",
)


async def count(database: Database, tenant: str) -> int:
    async with database.tenant_tx(tenant, read_only=True) as tx:
        counted = tx.add(COUNT)
    return int(counted.rows[0]["n"])


async def test_an_error_undoes_what_came_before_it(database: Database) -> None:
    """Nothing of a refused transaction stays, though no BEGIN was sent."""
    with pytest.raises(LeaseLost, match="gone"):
        async with database.tenant_tx("acme") as tx:
            tx.add(INSERT, key="one")
            tx.add(REFUSE)
            tx.add(INSERT, key="two")
    assert await count(database, "acme") == 0


async def test_an_exception_in_the_block_sends_nothing(database: Database) -> None:
    with pytest.raises(KeyError):
        async with database.tenant_tx("acme") as tx:
            tx.add(INSERT, key="one")
            raise KeyError
    assert await count(database, "acme") == 0


async def test_a_value_that_cannot_be_sent_leaves_nothing(database: Database) -> None:
    with pytest.raises(InvariantViolated):
        async with database.tenant_tx("acme") as tx:
            tx.add(INSERT, key="one")
            tx.add(INSERT, key=object())
    assert await count(database, "acme") == 0


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_transaction_is_whole_or_nothing(
    database: Database, turns: int
) -> None:
    """Wherever it is cut: while it is sent, while it runs, while it is answered."""

    async def work() -> None:
        async with database.tenant_tx("acme") as tx:
            tx.add(INSERT, key="one")
            tx.add(SWALLOW, text="x" * 8_000_000)
            tx.add(INSERT, key="two")

    before = await count(database, "acme")
    working = asyncio.create_task(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    working.cancel()
    await asyncio.wait({working})
    assert await count(database, "acme") - before in {0, 2}


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancellation_is_not_lost_while_the_pool_hands_over(
    database_uri: str, turns: int
) -> None:
    """A loop that waits for a connection ends, whenever it is told to."""
    database = Database(database_uri, name="test", limits=Limits(pool_max=1))
    await database.open()

    async def work() -> None:
        while True:
            async with database.system_tx() as tx:
                tx.add(SETTINGS)

    try:
        pool = database._pool
        taken = await pool.getconn()
        working = asyncio.create_task(work())
        while not database.statistics().get("requests_waiting"):  # noqa: ASYNC110
            await asyncio.sleep(0)
        returning = asyncio.create_task(pool.putconn(taken))
        for _ in range(turns):
            await asyncio.sleep(0)
        working.cancel()
        await asyncio.wait({working}, timeout=2)
        assert working.done(), "it goes on"
        assert working.cancelled()
        await returning
        async with database.system_tx() as tx:
            tx.add(SETTINGS)
    finally:
        working.cancel()
        await database.close()


def _raising(sqlstate: str) -> Query:
    return Query(
        "raise",
        f"DO $$ BEGIN RAISE EXCEPTION 'too bad' USING ERRCODE = '{sqlstate}',"
        " DETAIL = 'a row'; END $$".encode(),
    )


@pytest.mark.parametrize(
    ("sqlstate", "error", "said"),
    [
        ("53100", StoreReadOnly, "disk is full"),
        ("25006", StoreUnavailable, "takes no writes"),
        ("40P01", Unavailable, "DeadlockDetected.*a retry is safe"),
        ("57014", Unavailable, "THREADMILL_STATEMENT_TIMEOUT_SECONDS"),
        ("25P04", Unavailable, "took longer"),
        ("23514", InvariantViolated, r"^unexpected database error: too bad \(23514\)$"),
    ],
)
async def test_what_the_server_refuses_by_is_told(
    database: Database, sqlstate: str, error: type[Error], said: str
) -> None:
    """Without details: they may hold what users have said."""
    with pytest.raises(error, match=said):
        async with database.tenant_tx("acme") as tx:
            tx.add(INSERT, key="one")
            tx.add(_raising(sqlstate))
    assert await count(database, "acme") == 0


@pytest.mark.parametrize(
    ("sqlstate", "looks"),
    [("57014", 0), ("55P03", 0), ("40P01", 0), ("57P01", 1)],
)
async def test_the_pool_is_looked_at_when_a_connection_has_ended(
    database: Database, sqlstate: str, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when a statement took too long: that happens under load, and often."""
    looked = asyncio.Event()

    async def check() -> None:
        looked.set()

    monkeypatch.setattr(database._pool, "check", check)
    with pytest.raises(Unavailable):
        async with database.tenant_tx("acme") as tx:
            tx.add(_raising(sqlstate))
    await asyncio.sleep(0)
    assert looked.is_set() == looks


async def test_a_full_pool_is_not_taken_for_a_database_that_is_away(
    database_uri: str,
) -> None:
    limits = Limits(pool_max=1, pool_timeout_seconds=0.1)
    database = Database(database_uri, name="test", limits=limits)
    sleep = Query("sleep", b"SELECT pg_sleep(1)")
    await database.open()

    async def transact() -> None:
        async with database.tenant_tx("acme") as tx:
            tx.add(sleep)

    sleeping = asyncio.create_task(transact())
    try:
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match=r"all 1 .*THREADMILL_POOL_MAX"):
            await transact()
    finally:
        sleeping.cancel()
        await asyncio.wait({sleeping})
        await database.close()


async def test_a_right_that_is_missing_is_the_operators_to_mend(
    database: Database,
) -> None:
    with pytest.raises(SetupError, match=r"permission denied.*threadmill doctor"):
        async with database.tenant_tx("acme") as tx:
            tx.add(Query("secrets", b"SELECT rolpassword FROM pg_authid"))


async def test_a_row_of_another_tenant_is_our_bug(database: Database) -> None:
    """It has the code of a missing right, which somebody else would have to mend."""
    text = INSERT.text.replace(b"threadmill.tenant()", b"'somebody'")
    theirs = Query("theirs", text)
    with pytest.raises(InvariantViolated, match="42501"):
        async with database.tenant_tx("acme") as tx:
            tx.add(theirs, key="one")


async def test_a_server_that_became_a_standby_is_left(fresh_database_uri: str) -> None:
    """What is connected to it afterwards may be another one."""
    demote = b"SELECT set_config('default_transaction_read_only', 'on', false)"
    database = Database(fresh_database_uri, name="test", limits=Limits(pool_max=1))
    await database.open()
    try:
        async with database.tenant_tx("acme") as tx:
            tx.add(Query("demote", demote))
        with pytest.raises(StoreUnavailable, match="takes no writes"):
            async with database.tenant_tx("acme") as tx:
                tx.add(INSERT, key="one")
        async with database.tenant_tx("acme") as tx:
            tx.add(INSERT, key="two")
        assert await count(database, "acme") == 1
    finally:
        await database.close()


async def test_an_error_of_the_commit_itself_is_told(fresh_database_uri: str) -> None:
    """It comes as one answer more than there were statements."""
    with psycopg.connect(fresh_database_uri, autocommit=True) as admin:
        admin.execute(_DEFERRED)
    database = Database(fresh_database_uri, name="test", limits=Limits(pool_max=1))
    await database.open()
    try:
        with pytest.raises(Unavailable, match="SerializationFailure"):
            async with database.tenant_tx("acme") as tx:
                tx.add(INSERT, key="one")
        assert await count(database, "acme") == 0
    finally:
        await database.close()


async def test_role_and_tenant_end_with_the_transaction(database: Database) -> None:
    """What follows on the same connection is nobody's."""
    async with database.tenant_tx("acme") as tx:
        inside = tx.add(SETTINGS)
    assert inside.one == {"tenant": "acme", "role": "threadmill_app"}
    async with database._pool.connection() as connection:
        outside = await (await connection.execute(SETTINGS.text)).fetchone()
    assert outside is not None
    assert not outside["tenant"]
    assert outside["role"] != "threadmill_app"


async def test_a_tenant_is_needed(database: Database) -> None:
    with pytest.raises(InvariantViolated, match="tenant"):
        async with database.tenant_tx("") as tx:
            tx.add(COUNT)


async def test_a_result_is_not_read_before_its_commit(database: Database) -> None:
    with pytest.raises(InvariantViolated, match="inside"):
        async with database.tenant_tx("acme") as tx:
            _ = tx.add(COUNT).rows


async def test_a_session_goes_by_indexes(database: Database) -> None:
    names = ["enable_seqscan", "jit"]
    query = b"SELECT current_setting(n) AS v FROM unnest(%(names)s::text[]) AS n"
    async with database.tenant_tx("acme") as tx:
        shown = tx.add(Query("shown", query), names=names)
    assert [row["v"] for row in shown.rows] == ["off", "off"]


def test_a_server_gives_a_client_up_within_its_lease() -> None:
    """Till then it holds the locks of a commit that was cut in half."""
    limits = Limits(lease_seconds=5)
    info = connection_info("host=h", name="", limits=limits, session_settings=True)
    assert "tcp_user_timeout=5000" in info
    probes = re.findall(r"tcp_keepalives_(?:idle|count)=(\d+)", info)
    assert sum(map(int, probes)) == 5
