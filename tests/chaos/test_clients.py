"""What the battery's clients take for an end."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from chaos.clients import Clients
from chaos.fleet import Process
from threadmill.testing.history import HistoryLog

pytestmark = pytest.mark.timeout(60)

_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def _knows_nothing(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(_NOT_FOUND)
    await writer.drain()
    writer.close()


@asynccontextmanager
async def _forgetful_server(folder: Path) -> AsyncIterator[Process]:
    """A process that lives, and at its address somebody who has no run of anybody."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "input()"), stdin=asyncio.subprocess.PIPE
    )
    listener = await asyncio.start_server(_knows_nothing, "127.0.0.1", 0)
    server = Process("server", process, folder / "log")
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        process.kill()
        await process.wait()


async def test_a_run_is_gone_only_where_something_may_be_lost(tmp_path: Path) -> None:
    """Without a loss the client goes on asking, and the verdict tells what is wrong."""
    with HistoryLog(tmp_path / "clients.jsonl") as log:
        async with _forgetful_server(tmp_path) as server, httpx.AsyncClient() as http:
            clients = Clients([server], log, random.Random(1))
            assert await clients._status(http, "thread", "run") is None
            clients.may_lose = True
            assert await clients._status(http, "thread", "run") == "gone"
