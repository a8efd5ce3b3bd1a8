"""Behind a pooler in transaction mode nothing of a session may be relied upon."""

from __future__ import annotations

import asyncio
import os
from uuid import uuid4

import pytest

from tests.acceptance.verify import verify
from tests.fixtures.cluster import PROGRAM, Cluster, send_somewhere

pytestmark = pytest.mark.timeout(240)

THREADS, MESSAGES = 4, 6


@pytest.mark.parametrize("direct", [True, False], ids=["direct way", "pooler only"])
async def test_a_worker_dies_behind_a_pooler(
    cluster: Cluster, pooler_uri: str, *, direct: bool
) -> None:
    """Nothing is lost or doubled, with a way around the pooler and without one."""
    cluster.env |= {
        "DATABASE_URI": pooler_uri,
        "THREADMILL_PREPARED_STATEMENTS": "false",
        "THREADMILL_POLL_SECONDS": "0.3",
        "THREADMILL_LEASE_SECONDS": "4",
        "THREADMILL_RENEW_SECONDS": "1",
    }
    if direct:
        cluster.env["DATABASE_URI_DIRECT"] = cluster.uri
    await asyncio.gather(
        *(cluster.start_server() for _ in range(2)),
        *(cluster.start_worker() for _ in range(2)),
    )
    sent = {str(uuid4()): [f"m{n}" for n in range(MESSAGES)] for _ in range(THREADS)}

    async def client(thread: str) -> None:
        for message in sent[thread]:
            await send_somewhere(cluster, thread, message)

    clients = [asyncio.create_task(client(thread)) for thread in sent]
    victim = await cluster.until_begun("process")
    await cluster.worker_of(victim["pid"]).kill()
    await asyncio.gather(*clients)
    await verify(cluster, sent)


async def _command(cluster: Cluster, uri: str, *command: str) -> tuple[int | None, str]:
    program = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        *command,
        env={
            **os.environ,
            "DATABASE_URI": uri,
            "DATABASE_URI_DIRECT": cluster.uri,
            "THREADMILL_PREPARED_STATEMENTS": "false",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asyncio.wait_for(program.communicate(), 60)
    return program.returncode, out.decode()


async def test_commands_work_through_a_pooler(
    cluster: Cluster, pooler_uri: str
) -> None:
    """The doctor sees the pooler, and the way around it."""
    code, said = await _command(cluster, pooler_uri, "migrate")
    assert code == 0, said
    config = str(cluster.config)
    _, said = await _command(cluster, pooler_uri, "doctor", "--config", config)
    assert "pooled, with a direct way" in said
