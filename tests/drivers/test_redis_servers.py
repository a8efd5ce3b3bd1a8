"""The servers that tests of Redis start: they are real, and leave nothing behind."""

from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest
import redis

from tests.fixtures.redis import RedisServer

_RUN = """
import os, sys
from tests.fixtures.redis import RedisServer, redis_program
server = RedisServer(redis_program()).start()
print(server.pid, flush=True)
sys.stdin.read()
"""


def test_each_kind_answers(each_redis_uri: str) -> None:
    with redis.Redis.from_url(each_redis_uri) as connection:
        assert connection.dbsize() == 0


def test_what_was_answered_outlives_a_crash(private_redis: RedisServer) -> None:
    with redis.Redis.from_url(private_redis.uri) as connection:
        connection.set("kept", "42")
        private_redis.kill()
        with pytest.raises(redis.ConnectionError):
            connection.ping()
        private_redis.start()
        assert connection.get("kept") == b"42"


def test_a_server_ends_with_a_run_that_is_killed() -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", _RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert run.stdout is not None
    server = os.pidfd_open(int(run.stdout.readline()))
    run.kill()
    run.communicate()
    assert select.select([server], [], [], 30)[0], "still runs"
    os.close(server)
