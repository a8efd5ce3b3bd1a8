"""docs/how-to/back-up.md: a dump of a working fleet goes on in another cluster."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest

from tests.acceptance.verify import settle, verify
from tests.fixtures.cluster import Cluster, send
from threadmill.drivers.embedded import EmbeddedPostgres
from threadmill.drivers.embedded.binaries import find_binaries
from threadmill.drivers.postgres.migrate import migrate

pytestmark = pytest.mark.timeout(180)

DOCS = Path(__file__).parents[2] / "docs" / "how-to"
GRAPHS = Path(__file__).parent / "graphs" / "langgraph.json"


def _statements(page: str, first: str) -> Sequence[str]:
    """The SQL of the block of a page that begins with these words."""
    blocks = re.findall(
        r"```sql\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL
    )
    (block,) = [block for block in blocks if block.startswith(first)]
    return [s for s in block.split(";\n") if s.strip()]


def _as_superuser(uri: str, statements: Sequence[str]) -> None:
    with psycopg.connect(uri, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def _of(superuser: str, login: str = "") -> str:
    """The database of the pages, as one of their logins or as the superuser."""
    parts = urlsplit(superuser)._replace(path="/threadmill")
    if login:
        parts = parts._replace(netloc=f"{login}:...@127.0.0.1:{parts.port}")
    return parts.geturl()


def _cluster(superuser: str, folder: Path) -> Cluster:
    folder.mkdir()
    cluster = Cluster(_of(superuser), GRAPHS, folder)
    cluster.env["DATABASE_URI"] = _of(superuser, "threadmill_service")
    return cluster


async def _run(program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        find_binaries().folder / program, *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    assert (process.returncode, told) == (0, b"")


async def test_a_conversation_goes_on_in_another_cluster(
    private_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    """One of them was in the middle of a node when the dump was made."""
    here = private_postgres.tcp_uri
    _as_superuser(here, _statements("deploy.md", "CREATE ROLE"))
    await migrate(_of(here, "threadmill_owner"))
    _as_superuser(_of(here), _statements("deploy.md", "GRANT threadmill_app TO"))
    cluster = _cluster(here, tmp_path / "here")
    ended, open_ = str(uuid4()), str(uuid4())
    gate, dump = tmp_path / "gate", str(tmp_path / "dump")
    try:
        server, *_ = await asyncio.gather(
            cluster.start_server(), cluster.start_worker()
        )
        await send(server.url, ended, "before", key=uuid4().hex)
        await settle(cluster)
        held = {"config": {"configurable": {"hold": "process", "gate": str(gate)}}}
        await send(server.url, open_, "during", key=uuid4().hex, **held)
        await cluster.until_begun("process", 2)
        await _run("pg_dump", "--format=custom", "--file", dump, _of(here))
    finally:
        await cluster.close()
    gate.touch()

    with EmbeddedPostgres(tmp_path / "other", fsync=False) as other:
        there = other.tcp_uri
        _as_superuser(there, _statements("deploy.md", "CREATE ROLE"))
        _as_superuser(there, _statements("back-up.md", "CREATE ROLE"))
        await _run("pg_restore", "--exit-on-error", "--dbname", _of(there), dump)
        await migrate(_of(there, "threadmill_owner"))
        again = _cluster(there, tmp_path / "there")
        try:
            server, *_ = await asyncio.gather(
                again.start_server(), again.start_worker()
            )
            for thread in (ended, open_):
                await send(server.url, thread, "after", key=uuid4().hex)
            said = {ended: ["before", "after"], open_: ["during", "after"]}
            await verify(again, said)
        finally:
            await again.close()
