"""Connections to Redis: URIs, what is refused at the start, bounds, topologies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis as client
from structlog.testing import capture_logs

from tests.fixtures.redis import (
    EVERYSEC,
    NOTHING,
    RedisServer,
    free_port,
    redis_program,
    until,
    valkey_program,
)
from tests.fixtures.redis_topologies import Nodes
from threadmill import RedisSaver
from threadmill.checkpoints.base import Commit
from threadmill.checkpoints.redis.keys import thread_keys
from threadmill.checkpoints.redis.store import RedisCheckpoints
from threadmill.drivers.redis.database import RedisDatabase, RedisLimits
from threadmill.drivers.redis.scripts import Script, Scripts
from threadmill.drivers.redis.target import Target, target_of
from threadmill.errors import (
    BadSetting,
    InvariantViolated,
    SetupError,
    StoreReadOnly,
    StoreUnavailable,
)
from threadmill.testing.checkpoints import put

TENANT = "default"


@asynccontextmanager
async def _open(uri: str, **options: Any) -> AsyncIterator[RedisDatabase]:
    database = RedisDatabase(uri, **options)
    await database.open()
    yield database
    await database.close()


_SENTINEL = "redis+sentinel://u:secret@127.0.0.1:1/main?sentinel_password=secret"

# ------------------------------------------------------------------------------ URIs


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("redis://h", Target("server", (("h", 6379),))),
        (
            "rediss://u:p%40%2F%3A@h:1/2?ssl_ca_certs=/ca",
            Target(
                "server",
                (("h", 1),),
                tls=True,
                database=2,
                username="u",
                password="p@/:",
                files=(("ssl_ca_certs", "/ca"),),
            ),
        ),
        (
            "redis+sentinel://:p@a:1,[::1]/main/3?sentinel_password=s",
            Target(
                "sentinel",
                (("a", 1), ("::1", 26379)),
                database=3,
                master="main",
                password="p",
                sentinel_password="s",
            ),
        ),
        (
            "rediss+cluster://a,b:2",
            Target("cluster", (("a", 6379), ("b", 2)), tls=True),
        ),
    ],
)
def test_a_uri_tells_where_to_go(uri: str, target: Target) -> None:
    assert target_of(uri) == target


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://:secret@h",
        "redis://:secret@h/name",
        "redis://:secret@h/0/1",
        "redis://:secret@h:port",
        "redis://:sec@ret@h",
        "redis://:secret@",
        "redis://:secret@h?unknown=1",
        "redis+sentinel://:secret@h",
        "redis+cluster://:secret@h/1",
        "redis+other://:secret@h",
        "secret",
    ],
)
def test_one_that_cannot_be_read_is_not_shown(uri: str) -> None:
    with pytest.raises(BadSetting, match="percent-encoded") as refused:
        target_of(uri)
    assert "sec" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


async def test_no_error_shows_a_secret(redis_uri: str) -> None:
    wrong = redis_uri.replace("redis://:", "redis://:secret-")
    with pytest.raises(SetupError, match="refuses the login") as refused:
        await RedisDatabase(wrong).open()
    assert "secret" not in str(refused.value)
    unreachable = RedisDatabase("redis://u:secret@127.0.0.1:1")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1") as refused_too:
        await unreachable.open()
    assert "secret" not in str(refused_too.value)
    assert refused_too.value.shown == "Redis does not answer"
    for kind in ("redis+cluster://u:secret@127.0.0.1:1", _SENTINEL):
        with pytest.raises(StoreUnavailable, match="does not answer") as refused_too:
            await RedisDatabase(kind).open()
        assert "secret" not in str(refused_too.value)
    saver = RedisSaver.from_uri("redis://u:secret@127.0.0.1:1")
    assert "secret" not in f"{unreachable.target!r}{saver!r}{saver.__dict__}"


def test_without_the_client_library_one_line_says_what_to_install() -> None:
    program = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "redis" else found(name)
from threadmill.errors import SetupError
try:
    from threadmill import RedisSaver
except SetupError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install 'threadmill[redis]'" in said


def _certificate(folder: Path) -> tuple[Path, Path]:
    key, certificate = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost"
    subprocess.run(
        [
            *command.split(),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return key, certificate


async def test_tls_is_spoken_and_the_server_must_prove_itself(tmp_path: Path) -> None:
    key, certificate = _certificate(tmp_path)
    port = free_port()
    settings = {
        **EVERYSEC,
        "tls-port": str(port),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-ca-cert-file": str(certificate),
        "tls-auth-clients": "no",
    }
    with RedisServer(redis_program(), settings) as server:
        uri = f"rediss://:{server.password}@127.0.0.1:{port}/0"
        async with _open(f"{uri}?ssl_ca_certs={certificate}") as database:
            store = RedisCheckpoints(database)
            await store.commit(TENANT, "t", Commit(puts=(put("c1"),)))
            assert await store.get(TENANT, "t", "") is not None
        with pytest.raises(StoreUnavailable, match="certificate verify failed"):
            await RedisDatabase(uri).open()


# ------------------------------------------------------------- what is not trusted


@pytest.fixture(params=[redis_program, valkey_program])
def volatile_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with RedisServer(request.param(), NOTHING) as server:
        yield server


async def test_a_server_that_keeps_nothing_is_refused_unless_that_is_wanted(
    volatile_server: RedisServer,
) -> None:
    with pytest.raises(SetupError, match="keeps nothing over a restart"):
        await RedisDatabase(volatile_server.uri).open()
    saver = RedisSaver.from_uri(volatile_server.uri)
    with pytest.raises(SetupError, match="volatile=True"):
        await saver.aget_tuple({"configurable": {"thread_id": "t"}})
    async with _open(volatile_server.uri, volatile=True) as database:
        assert await RedisCheckpoints(database).get(TENANT, "t", "") is None


async def test_snapshots_alone_are_taken_with_a_warning(redis_uri: str) -> None:
    settings = {"appendonly": "no", "save": "3600 1"}
    with RedisServer(redis_program(), settings) as server, capture_logs() as logs:
        async with _open(server.uri):
            pass
    assert [line["event"] for line in logs] == ["redis.snapshots_only"]


async def test_a_server_that_drops_keys_is_refused() -> None:
    settings = {**EVERYSEC, "maxmemory-policy": "allkeys-lru"}
    with RedisServer(redis_program(), settings) as server:
        for volatile in (False, True):
            with pytest.raises(SetupError, match="is allkeys-lru"):
                await RedisDatabase(server.uri, volatile=volatile).open()


async def test_every_node_of_a_cluster_is_looked_at(redis_cluster: Nodes) -> None:
    with capture_logs() as logs:
        async with _open(redis_cluster.uri):
            pass
    assert logs == []
    with redis_cluster.connection(2) as node:
        node.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(SetupError, match="is allkeys-lru"):
                await RedisDatabase(redis_cluster.uri).open()
        finally:
            node.config_set("maxmemory-policy", "noeviction")


async def test_a_server_that_does_not_tell_is_trusted_with_a_warning() -> None:
    """As managed services are, which forbid such questions."""
    with RedisServer(redis_program(), NOTHING) as server:
        with client.Redis.from_url(server.uri) as operator:
            operator.acl_setuser(
                "app",
                enabled=True,
                passwords=["+word"],
                keys="*",
                commands=["+@all", "-config", "-info"],
            )
        uri = f"redis://app:word@127.0.0.1:{server.port}/0"
        with capture_logs() as logs:
            async with _open(uri) as database:
                await RedisCheckpoints(database).commit(
                    TENANT, "t", Commit(puts=(put("c1"),))
                )
    assert [line["event"] for line in logs] == [
        "redis.eviction_unknown",
        "redis.persistence_unknown",
    ]


# ---------------------------------------------------------------------------- bounds


async def test_who_finds_all_connections_in_use_waits(redis_uri: str) -> None:
    async with _open(redis_uri, limits=RedisLimits(pool_max=2)) as database:
        store = RedisCheckpoints(database)
        await asyncio.gather(
            *(
                store.commit(TENANT, f"t{n}", Commit(puts=(put("c1", n=n),)))
                for n in range(60)
            )
        )
        with client.Redis.from_url(redis_uri) as looking:
            mine = [c for c in looking.client_list() if c["name"] == "threadmill"]
            assert len(mine) <= 2
        assert len([s async for s in store.list(TENANT, None)]) == 60


async def test_every_wait_ends(redis_uri: str) -> None:
    """For a turn, and for an answer."""
    limits = RedisLimits(
        pool_max=1, pool_timeout_seconds=0.1, command_timeout_seconds=0.5
    )
    async with _open(redis_uri, limits=limits) as database:
        store = RedisCheckpoints(database)
        with client.Redis.from_url(redis_uri) as looking:
            looking.client_pause(60_000, all=False)
            commit = Commit(puts=(put("c1"),))
            first = asyncio.create_task(store.commit(TENANT, "t", commit))
            await until(lambda: looking.info("clients")["blocked_clients"])
            with pytest.raises(StoreUnavailable, match="were in use") as busy:
                await store.commit(TENANT, "t", commit)
            with pytest.raises(StoreUnavailable, match="does not answer"):
                await first
            looking.client_unpause()
        assert busy.value.shown == "all connections to Redis were in use"
        await store.commit(TENANT, "t", commit)


async def test_full_memory_refuses_puts_and_not_reads(redis_uri: str) -> None:
    settings = {**EVERYSEC, "maxmemory-policy": "noeviction"}
    with RedisServer(redis_program(), settings) as server:
        async with _open(server.uri) as database:
            store = RedisCheckpoints(database)
            await store.commit(TENANT, "t", Commit(puts=(put("c1", n=1),)))
            with client.Redis.from_url(server.uri) as operator:
                operator.config_set("maxmemory", "1mb")
                more = Commit(puts=(put("c2", "c1", expected="c1", n=2),))
                with pytest.raises(StoreReadOnly, match="no memory left") as full:
                    await store.commit(TENANT, "t", more)
                assert full.value.shown == "Redis has no memory left"
                found = await store.get(TENANT, "t", "")
                assert found is not None
                assert found.checkpoint["id"] == "c1"
                operator.config_set("maxmemory", "0")
            await store.commit(TENANT, "t", more)


class _Silent:
    """A client whose server does not let it go."""

    async def aclose(self) -> None:
        await asyncio.Event().wait()


async def test_closing_ends_also_where_a_server_does_not_answer(redis_uri: str) -> None:
    limits = RedisLimits(connect_timeout_seconds=0.05)
    database = RedisDatabase(redis_uri, limits=limits)
    await database.open()
    (whole,) = database._clients
    database._clients = [_Silent(), whole, _Silent()]
    with capture_logs() as logs:
        await database.close()
    assert [line["event"] for line in logs] == ["redis.not_closed"] * 2
    await database.close()


async def test_a_closed_database_says_so(redis_uri: str) -> None:
    async with _open(redis_uri) as database:
        pass
    with pytest.raises(SetupError, match="are not open"):
        await RedisCheckpoints(database).get(TENANT, "t", "")
    await database.close()


# --------------------------------------------------------------------------- scripts


async def test_a_script_may_not_touch_two_slots(redis_cluster: Nodes) -> None:
    """The server itself refuses: a mistake in a key's name cannot go unnoticed."""
    two = Script("two", "#!lua\nreturn redis.call('GET', '{other}:key')")
    async with _open(redis_cluster.uri) as database:
        with pytest.raises(InvariantViolated, match=r"slot|non local"):
            await database.call(two, ["{one}:key"])


def test_a_script_that_is_not_there_is_named() -> None:
    with pytest.raises(InvariantViolated, match="no script named nothing"):
        _ = Scripts("threadmill.checkpoints.redis").nothing


# ------------------------------------------------------------------------ topologies


async def test_keys_of_two_slots_are_our_mistake(redis_cluster: Nodes) -> None:
    """And no outage, which somebody would wait for the end of."""
    async with _open(redis_cluster.uri) as database:
        with pytest.raises(InvariantViolated, match="slot"):
            await database.call(Script("two", "#!lua\nreturn 1"), ["{one}", "{other}"])


async def test_threads_lie_on_all_nodes_of_a_cluster_each_on_one(
    redis_cluster: Nodes,
) -> None:
    async with _open(redis_cluster.uri) as database:
        store = RedisCheckpoints(database)
        threads = [str(uuid4()) for _ in range(30)]
        for thread in threads:
            await store.commit(TENANT, thread, Commit(puts=(put("c1"),)))
        found = [s.thread_id async for s in store.list(TENANT, None)]
        assert sorted(found) == sorted(threads)
    homes: list[int] = []
    for thread in threads:
        there = set()
        for place in range(3):
            with redis_cluster.connection(place) as node:
                keys = {key.decode() for key in node.keys("*")}
                if keys.intersection(thread_keys(TENANT, thread)):
                    there.add(place)
        assert len(there) == 1
        homes += there
    assert set(homes) == {0, 1, 2}


@pytest.mark.slow
async def test_behind_sentinels_work_goes_on_after_a_failover(
    redis_sentinel: Nodes,
) -> None:
    master = redis_sentinel.servers[0]
    async with _open(redis_sentinel.uri) as database:
        store = RedisCheckpoints(database)
        await store.commit(TENANT, "t", Commit(puts=(put("c1", expected=None),)))
        with redis_sentinel.connection(0) as node:
            assert node.wait(1, 30_000) == 1
        master.kill()
        following = Commit(puts=(put("c2", "c1", expected="c1"),))
        async with asyncio.timeout(90):
            while True:
                try:
                    await store.commit(TENANT, "t", following)
                except StoreUnavailable:
                    await asyncio.sleep(0.1)
                else:
                    break
        found = [s.checkpoint["id"] async for s in store.list(TENANT, "t")]
        assert found == ["c2", "c1"]
