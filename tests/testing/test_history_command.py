"""The checker on a real deployment: it passes, and a tampered database does not."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from tests.acceptance.verify import settle
from tests.fixtures.cluster import Cluster, send
from threadmill.testing.history import HistoryLog

pytestmark = pytest.mark.timeout(120)

# Each is what a bug would leave behind, and the invariant that it breaks.
TAMPERED = {
    "I1": "DELETE FROM threadmill.head",
    "I3": "UPDATE threadmill.checkpoint SET parent_id = NULL",
    "I4": "UPDATE threadmill.checkpoint SET token = 1000000 - ordinal",
    "I7": "DELETE FROM threadmill.event WHERE seq = 2",
    "I8": "UPDATE threadmill.thread SET status = 'busy', holder = thread_id",
    "I9": "DELETE FROM threadmill.run WHERE seq = 1",
    "I10": "UPDATE threadmill.event SET tenant_id = 'other'",
}


async def _check(cluster: Cluster, log: Path, *options: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "threadmill.testing.history", "--log", str(log)),
        *("--settle", "0.2", *options),
        env={**os.environ, "DATABASE_URI": cluster.uri, "COLUMNS": "120"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def _talk(cluster: Cluster, log: HistoryLog) -> None:
    server, _ = await asyncio.gather(cluster.start_server(), cluster.start_worker())
    thread = str(uuid4())
    for message in ("one", "two"):
        log.invoke(message, thread=thread, key=message)
        answer = await send(server.url, thread, message, key=message)
        log.ok(message, thread=thread, run=answer.json()["run_id"])
    await settle(cluster)
    async with cluster.client() as client:
        began = log.now()
        state = await client.threads.get_state(thread)
        log.read(thread, began_at=began, messages=state["values"]["messages"])  # type: ignore[call-overload]


async def test_a_small_run_passes_and_tampering_is_found(
    cluster: Cluster, tmp_path: Path
) -> None:
    path, other = tmp_path / "log.jsonl", tmp_path / "other.jsonl"
    with HistoryLog(path) as log:
        await _talk(cluster, log)
    with HistoryLog(other, tenant="other") as log:
        log.invoke("x", thread=str(uuid4()))
    code, output = await _check(cluster, path, "--log", str(other))
    assert code == 0, output
    assert "no violation" in output
    for process in (*cluster.servers, *cluster.workers):
        await process.kill()
    for invariant, tampering in TAMPERED.items():
        async with _copy(cluster.uri) as uri:
            async with await psycopg.AsyncConnection.connect(uri) as admin:
                await admin.execute(tampering.encode())
            options = ("--log", str(other), "--database-uri", uri)
            code, output = await _check(cluster, path, *options)
        assert code == 1, (invariant, output)
        assert f"{invariant} on thread" in output, (invariant, output)


async def test_a_message_whose_answer_was_lost_is_known_by_its_key(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Its client saw no answer, or a refusal: what it came to is asked of the key."""
    server, _ = await asyncio.gather(cluster.start_server(), cluster.start_worker())
    thread = str(uuid4())
    await send(server.url, thread, "one", key="first")
    await settle(cluster)
    unknown, refused = tmp_path / "unknown.jsonl", tmp_path / "refused.jsonl"
    with HistoryLog(unknown) as log:
        log.invoke("one", thread=thread, key="first")
    with HistoryLog(refused) as log:
        log.invoke("one", thread=thread, key="first")
        log.fail("one", thread=thread)
    code, output = await _check(cluster, unknown)
    assert code == 0, output
    code, output = await _check(cluster, refused)
    assert (code, "I9 on thread" in output) == (1, True), output
    await cluster.rows("DELETE FROM threadmill.head RETURNING *")
    code, output = await _check(cluster, unknown)
    assert (code, "I1 on thread" in output) == (1, True), output


@asynccontextmanager
async def _copy(uri: str) -> AsyncIterator[str]:
    """A copy of a database that nobody uses."""
    original = urlsplit(uri).path.removeprefix("/")
    copy = f"{original}_copy"
    server = urlsplit(uri)._replace(path="/postgres").geturl()
    create = SQL("CREATE DATABASE {} TEMPLATE {}")
    drop = SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(copy))
    async with await psycopg.AsyncConnection.connect(server, autocommit=True) as admin:
        await admin.execute(create.format(Identifier(copy), Identifier(original)))
        yield urlsplit(uri)._replace(path=f"/{copy}").geturl()
        await admin.execute(drop)


async def test_what_cannot_be_told_is_no_verdict(
    cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    code, output = await _check(cluster, path)
    assert (code, "cannot be read" in output) == (2, True), output
    path.write_text("")
    code, output = await _check(cluster, path)
    assert (code, "nothing to check" in output) == (2, True), output
    with HistoryLog(path) as log:
        log.invoke("a", thread="no uuid")
    code, output = await _check(cluster, path)
    assert (code, "no id of a server" in output) == (2, True), output
