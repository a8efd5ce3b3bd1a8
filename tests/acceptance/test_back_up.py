"""docs/how-to/back-up.md: a dump of a working fleet, restored, goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from tests.acceptance.verify import settle, verify
from tests.fixtures.cluster import Cluster, send
from threadmill.drivers.embedded.binaries import find_binaries

pytestmark = pytest.mark.timeout(120)


async def _run(program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        find_binaries().folder / program,
        *arguments,
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert (process.returncode, told) == (0, b"")


async def test_a_conversation_goes_on_in_a_restored_database(
    cluster: Cluster, tmp_path: Path
) -> None:
    """One of them was in the middle of a node when the dump was made."""
    server, *_ = await asyncio.gather(cluster.start_server(), cluster.start_worker())
    ended, open_ = str(uuid4()), str(uuid4())
    await send(server.url, ended, "before", key=uuid4().hex)
    await settle(cluster)
    gate = tmp_path / "gate"
    held = {"config": {"configurable": {"hold": "process", "gate": str(gate)}}}
    await send(server.url, open_, "during", key=uuid4().hex, **held)
    await cluster.until_begun("process", 2)
    dump = str(tmp_path / "dump")
    await _run("pg_dump", "--format=custom", "--file", dump, cluster.uri)
    for process in cluster.processes:
        await process.kill()
    gate.touch()

    original = urlsplit(cluster.uri)
    restored = f"{original.path.removeprefix('/')}_restored"
    admin = original._replace(path="/postgres").geturl()
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(restored)))
    uri = original._replace(path=f"/{restored}").geturl()
    try:
        await _run("pg_restore", "--dbname", uri, dump)
        again = Cluster(uri, cluster.config, tmp_path)
        try:
            server, *_ = await asyncio.gather(
                again.start_server(), again.start_worker()
            )
            for thread in (ended, open_):
                await send(server.url, thread, "after", key=uuid4().hex)
            await verify(
                again, {ended: ["before", "after"], open_: ["during", "after"]}
            )
        finally:
            await again.close()
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            drop = SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(restored))
            connection.execute(drop)
