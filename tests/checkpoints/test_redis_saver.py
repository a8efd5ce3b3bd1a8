"""`RedisSaver` on threads, on event loops, and on none; opened or not."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any
from uuid import uuid4

import pytest

from tests.checkpoints import graphs
from threadmill import RedisSaver
from threadmill.checkpoints.redis.keys import thread_keys
from threadmill.drivers.redis.database import RedisLimits
from threadmill.errors import InvalidRequest, StoreUnavailable

pytestmark = pytest.mark.langgraph


def thread(name: str | None = None) -> Any:
    return {"configurable": {"thread_id": name or str(uuid4())}}


def said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_a_program_without_asyncio_need_not_open_anything(redis_uri: str) -> None:
    saver = RedisSaver.from_uri(redis_uri)
    graph = graphs.conversation().compile(checkpointer=saver)
    config = thread()
    graph.invoke({"messages": [said("Hello")], "user_id": "u"}, config)
    state = graph.get_state(config).values
    graph.invoke({"messages": [*state["messages"], said("Continue")]}, config)
    assert graph.get_state(config).values["turn_count"] == 2
    history = list(graph.get_state_history(config, limit=3))
    assert [s.metadata and s.metadata["step"] for s in history] == [8, 7, 6]
    name = config["configurable"]["thread_id"]
    saver.copy_thread(name, "copy")
    saver.prune([name])
    assert len(list(saver.list(config))) == 1
    for found in saver.list(thread("copy")):
        assert found.metadata["step"] == 8
        break
    saver.delete_for_runs([str(uuid4())])
    saver.delete_thread(name)
    assert saver.get_tuple(config) is None
    saver.close()
    saver.close()


def test_a_program_that_closes_nothing_ends_in_good_order(redis_uri: str) -> None:
    program = f"""
from threadmill import RedisSaver
saver = RedisSaver.from_uri({redis_uri!r})
print(saver.get_tuple({{"configurable": {{"thread_id": "t"}}}}))
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout, ended.stderr, ended.returncode) == ("None\n", "", 0)


def test_one_that_was_closed_opens_again_with_the_next_use(redis_uri: str) -> None:
    """Also from one event loop after the other."""
    saver = RedisSaver.from_uri(redis_uri)
    graph = graphs.conversation().compile(checkpointer=saver)
    config = thread()
    for turn in (1, 2):
        sent = {"messages": [said("Hello")], "user_id": "u"}
        state = asyncio.run(graph.ainvoke(sent, config))
        assert state["turn_count"] == turn
    with saver:
        assert saver.get_tuple(config) is not None
    assert saver.get_tuple(config) is not None
    saver.close()


async def test_calls_from_other_threads_are_served_by_the_loop_it_was_opened_on(
    redis_uri: str,
) -> None:
    async with RedisSaver.from_uri(redis_uri) as saver:
        graph = graphs.conversation().compile(checkpointer=saver)
        config = thread()
        sent = {"messages": [said("Hello")], "user_id": "u"}
        state = await asyncio.to_thread(graph.invoke, sent, config)
        assert state["turn_count"] == 1
        with pytest.raises(InvalidRequest, match="of RedisSaver was called on"):
            saver.get_tuple(config)


async def test_many_first_calls_open_it_once(redis_uri: str) -> None:
    saver = RedisSaver.from_uri(redis_uri, limits=RedisLimits(pool_max=3))
    graph = graphs.conversation().compile(checkpointer=saver)
    sent = {"messages": [said("Hello")], "user_id": "u"}
    states = await asyncio.gather(
        *(graph.ainvoke(sent, thread()) for _ in range(10)),
        *(asyncio.to_thread(graph.invoke, sent, thread()) for _ in range(4)),
    )
    assert [state["turn_count"] for state in states] == [1] * 14
    await asyncio.to_thread(saver.close)


def test_one_that_could_not_be_opened_tries_again() -> None:
    saver = RedisSaver.from_uri("redis://127.0.0.1:1")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1"):
            saver.get_tuple(thread())
    saver.close()


def test_a_time_to_live_ends_a_conversation(redis_uri: str, shared_redis: Any) -> None:
    with RedisSaver.from_uri(redis_uri, ttl_seconds=1000, refresh_on_read=True) as one:
        graph = graphs.conversation().compile(checkpointer=one)
        graph.invoke({"messages": [said("Hello")], "user_id": "u"}, thread("t"))
    with shared_redis.connection() as looking:
        left = {looking.pttl(key) for key in looking.scan_iter()}
        assert all(milliseconds > 990_000 for milliseconds in left), left
        # As its end does: all of it at once.
        looking.unlink(*thread_keys("default", "t"))
    with RedisSaver.from_uri(redis_uri) as other:
        assert other.get_tuple(thread("t")) is None
        assert list(other.list(None)) == []
