"""A relay is never wrong, may lose everything, and holds nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import SecretStr
from redis import Redis

from tests.fixtures.redis import RedisServer
from threadmill.domain.run import TERMINAL, RunStatus
from threadmill.drivers.redis.database import RedisDatabase, RedisLimits
from threadmill.settings import Settings
from threadmill.streams.base import Event, Look, NewEvent
from threadmill.streams.configured import open_relay
from threadmill.streams.redis.relay import RedisRelay
from threadmill.streams.relay import Appended
from threadmill.streams.relayed import RelayedStream

TENANT, THREAD, RUN = "default", uuid4(), uuid4()
NEVER = 3600.0


class Log:
    """The log itself, which counts how often it is looked at."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.status = RunStatus.RUNNING
        self.looks = 0

    async def look(self, *_ids: object, after: int, limit: int) -> Look:
        self.looks += 1
        return Look(self.status, [e for e in self.events if e.seq > after][:limit])

    def append(self, *data: str, run_id: UUID = RUN) -> Appended:
        first = len(self.events) + 1
        new = [NewEvent("custom", each) for each in data]
        self.events += [
            Event(first + n, 7, run_id, 1, event.event, event.data)
            for n, event in enumerate(new)
        ]
        return Appended(
            tenant=TENANT,
            thread_id=THREAD,
            run_id=run_id,
            first=first,
            ms=7,
            events=new,
        )

    def end(self) -> Appended:
        self.status = RunStatus.SUCCESS
        return Appended(
            tenant=TENANT,
            thread_id=THREAD,
            run_id=RUN,
            status=self.status,
            last=len(self.events),
        )


@pytest.fixture
async def relay(redis_uri: str) -> AsyncIterator[RedisRelay]:
    made = RedisRelay(RedisDatabase(redis_uri), ttl_seconds=60)
    await made.open()
    yield made
    await made.close()


def _stream(
    log: Log, relay: Any, trust_seconds: float = NEVER, **clock: Any
) -> RelayedStream:
    stream: Any = log
    return RelayedStream(stream, relay, trust_seconds=trust_seconds, **clock)


async def _look(stream: RelayedStream, after: int = 0, run_id: UUID = RUN) -> Look:
    return await stream.look(TENANT, THREAD, run_id, after=after, limit=100)


def _data(look: Look) -> Sequence[str]:
    return [event.data for event in look.events]


async def test_whoever_follows_costs_the_log_two_looks(relay: RedisRelay) -> None:
    log = Log()
    stream = _stream(log, relay)
    await relay.tell(log.append("a"))
    assert _data(await _look(stream)) == ["a"]
    assert log.looks == 1
    for number in range(2, 20):
        await relay.tell(log.append(str(number)))
        look = await _look(stream, after=number - 1)
        assert (look.status, _data(look)) == (RunStatus.RUNNING, [str(number)])
        assert _data(await _look(stream, after=number)) == []
    await relay.tell(log.append("last"))
    await relay.tell(log.end())
    look = await _look(stream, after=19)
    assert (look.status, _data(look)) == (RunStatus.SUCCESS, ["last"])
    assert log.looks == 2, "and one for the end"


async def test_a_clock_that_has_just_begun_trusts_nothing(relay: RedisRelay) -> None:
    """A machine's begins when it starts."""
    log = Log()
    stream = _stream(log, relay, clock=lambda: 0.0)
    await relay.tell(log.append("a"))
    assert _data(await _look(stream)) == ["a"]
    assert log.looks == 1


async def test_a_copy_without_news_is_not_believed_for_long(relay: RedisRelay) -> None:
    """Whoever had to tell may have died, or Redis is not what it was."""
    log = Log()
    stream = _stream(log, relay, trust_seconds=0)
    await relay.tell(log.append("a"))
    await _look(stream)
    log.append("never told")
    assert _data(await _look(stream, after=1)) == ["never told"]


async def test_what_was_not_told_is_no_gap(relay: RedisRelay) -> None:
    log = Log()
    stream = _stream(log, relay)
    await relay.tell(log.append("a"))
    await _look(stream)
    log.append("never told")
    await relay.tell(log.append("c"))
    assert _data(await _look(stream, after=1)) == ["never told", "c"]
    assert log.looks == 2
    await relay.tell(log.append("d"))
    assert _data(await _look(stream, after=3)) == ["d"]
    assert log.looks == 2


async def test_told_twice_or_late_is_told_once(relay: RedisRelay) -> None:
    log = Log()
    stream = _stream(log, relay)
    first, second = log.append("a"), log.append("b", "c")
    await _look(stream)
    for appended in (second, first, second, first):
        await relay.tell(appended)
    assert _data(await _look(stream, after=1)) == ["b", "c"]


async def test_an_end_is_not_believed_before_the_last_event(relay: RedisRelay) -> None:
    """A server that cancels may be faster than the worker whose events these are."""
    log = Log()
    stream = _stream(log, relay)
    await relay.tell(log.append("a"))
    await _look(stream)
    await relay.tell(log.append("b"))
    late = log.append("c")
    await relay.tell(log.end())
    look = await _look(stream, after=1)
    assert (look.status, _data(look)) == (RunStatus.SUCCESS, ["b", "c"])
    await relay.tell(late)


async def test_the_end_of_an_earlier_life_is_not_believed(relay: RedisRelay) -> None:
    """A dead letter's run is redriven while its copy is still there."""
    log = Log()
    await relay.tell(log.append("a", "b", "c"))
    await relay.tell(log.end())
    log.status = RunStatus.PENDING
    stream = _stream(log, relay)
    look = await _look(stream, after=1)
    assert (look.status, _data(look)) == (RunStatus.PENDING, ["b", "c"])
    look = await _look(stream, after=1)
    assert (look.status, _data(look)) == (RunStatus.PENDING, ["b", "c"])
    log.status = RunStatus.RUNNING
    await relay.tell(log.append("d"))
    look = await _look(stream, after=3)
    assert (look.status, _data(look)) == (RunStatus.RUNNING, ["d"])
    looks = log.looks
    look = await _look(stream, after=4)
    assert (look.status, _data(look)) == (RunStatus.RUNNING, [])
    assert log.looks == looks, "the former end is forgotten"
    await relay.tell(log.append("e"))
    await relay.tell(log.end())
    look = await _look(stream, after=4)
    assert (look.status, _data(look)) == (RunStatus.SUCCESS, ["e"])


async def test_the_copy_holds_no_more_than_can_be_followed(redis_uri: str) -> None:
    """As the log itself, it lets go of what is older than events are kept."""
    database = RedisDatabase(redis_uri)
    relay = RedisRelay(database, ttl_seconds=60)
    await relay.open()
    for number in range(1, 301):
        told = Appended(
            tenant=TENANT,
            thread_id=THREAD,
            run_id=RUN,
            first=number,
            ms=number * 1000,
            events=[NewEvent("custom", "x" * 1000)],
        )
        await relay.tell(told)
    tail = await relay.tail(TENANT, THREAD, RUN, after=239, limit=100)
    assert [event.seq for event in tail.events] == list(range(240, 301))
    assert not (await relay.tail(TENANT, THREAD, RUN, after=238, limit=100)).reaches
    await relay.close()


async def test_ends_do_not_pile_up(redis_uri: str) -> None:
    relay = RedisRelay(RedisDatabase(redis_uri), ttl_seconds=60)
    await relay.open()
    for number in range(3000):
        await relay.tell(
            Appended(
                tenant=TENANT,
                thread_id=THREAD,
                run_id=UUID(int=number),
                status=RunStatus.SUCCESS,
                last=number,
            )
        )
    with Redis.from_url(redis_uri) as seen:
        (key,) = seen.keys("*:ends")
        assert seen.hlen(key) <= 1000
    await relay.close()


async def test_a_redis_that_evicts_will_do(redis_uri: str) -> None:
    """What it drops is read from the log."""
    with Redis.from_url(redis_uri) as server:
        server.config_set("maxmemory-policy", "allkeys-lru")
        try:
            settings = Settings(stream_uri=SecretStr(redis_uri))
            async with open_relay(settings) as relay:
                await relay.tell(Log().append("a"))
                tail = await relay.tail(TENANT, THREAD, RUN, after=0, limit=10)
                assert [event.data for event in tail.events] == ["a"]
        finally:
            server.config_set("maxmemory-policy", "noeviction")


async def test_a_thread_that_begins_anew_is_another_one(relay: RedisRelay) -> None:
    """Deleted and made again under its id: its numbers begin anew."""
    old = Log()
    await relay.tell(old.append("old", "old", "old"))
    new, run_id = Log(), uuid4()
    stream = _stream(new, relay)
    await relay.tell(new.append("a", run_id=run_id))
    await _look(stream, run_id=run_id)
    await relay.tell(new.append("b", run_id=run_id))
    look = await _look(stream, after=1, run_id=run_id)
    assert _data(look) == ["b"]
    assert new.looks == 1


async def test_a_redis_that_forgets_or_dies_loses_nobody_anything(
    private_redis: RedisServer,
) -> None:
    relay = RedisRelay(RedisDatabase(private_redis.uri), ttl_seconds=60)
    await relay.open()
    log = Log()
    stream = _stream(log, relay, trust_seconds=0.05)
    seen: list[str] = []

    async def follow() -> None:
        while True:
            look = await _look(stream, after=len(seen))
            seen.extend(_data(look))
            if look.status in TERMINAL and not look.events:
                return
            await asyncio.sleep(0)

    following = asyncio.create_task(follow())
    for number in range(300):
        await relay.tell(log.append(str(number)))
        if number == 100:
            with private_redis.connection() as connection:
                connection.flushall()
        if number == 200:
            await asyncio.to_thread(private_redis.kill)
    await relay.tell(log.end())
    await following
    await relay.close()
    assert seen == [str(number) for number in range(300)]


async def test_a_redis_that_is_not_there_yet_is_used_once_it_is(
    private_redis: RedisServer,
) -> None:
    private_redis.stop()
    now = 0.0
    limits = RedisLimits(connect_timeout_seconds=1)
    database = RedisDatabase(private_redis.uri, limits=limits)
    relay = RedisRelay(database, ttl_seconds=60, clock=lambda: now)
    await relay.open()
    log = Log()
    await relay.tell(log.append("a"))
    await asyncio.to_thread(private_redis.start)
    now = 10.0
    await relay.tell(log.append("b"))
    tail = await relay.tail(TENANT, THREAD, RUN, after=1, limit=10)
    assert [event.data for event in tail.events] == ["b"]
    await relay.close()


async def test_a_redis_that_hangs_holds_nobody_up(private_redis: RedisServer) -> None:
    """It is left alone for a while, and asked again."""
    now = 0.0
    relay = RedisRelay(
        RedisDatabase(private_redis.uri), ttl_seconds=60, clock=lambda: now
    )
    await relay.open()
    log = Log()
    with private_redis.frozen():
        await relay.tell(log.append("a"))
        async with asyncio.timeout(30):  # a hundred of them would take that thrice
            for _ in range(100):
                await relay.tell(log.append("more"))
    now = 10.0
    await relay.tell(log.append("again"))
    tail = await relay.tail(TENANT, THREAD, RUN, after=101, limit=10)
    assert [event.data for event in tail.events] == ["again"]
    await relay.close()
