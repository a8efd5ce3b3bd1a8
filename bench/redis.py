"""What long conversations cost in Redis: memory, and bytes sent with each turn.

Beside it, what they cost PostgreSQL where Redis keeps the values, and where not.
"""

from __future__ import annotations

import shutil
import socket
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from rich.table import Table

from bench import storage
from threadmill import PostgresSaver, RedisSaver
from threadmill.checkpoints.away import Away
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.redis.chunk_store import RedisChunks
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.drivers.redis.database import RedisDatabase

NAME: Final = "Redis"
AWAY: Final = "values in Redis"

_MEGABYTE: Final = 1_000_000
_START_TRIES: Final = 100


@dataclass
class RedisContender(storage.Contender):
    """The same chat graph over our saver for Redis."""

    async def wal(self) -> int:
        """Bytes that were ever sent to the server."""
        async with Redis.from_url(self.uri) as server:
            return int((await server.info("stats"))["total_net_input_bytes"])

    async def size(self) -> int:
        """Bytes of memory that all keys take, each measured whole."""
        async with Redis.from_url(self.uri) as server:
            keys = [key async for key in server.scan_iter()]
            sizes = [await server.memory_usage(key, samples=0) for key in keys]
        return sum(size or 0 for size in sizes)


@asynccontextmanager
async def contenders(
    uris: Mapping[str, str],
) -> AsyncIterator[Mapping[str, storage.Contender]]:
    """Our savers: over Redis, over PostgreSQL with values in Redis, and without.

    Args:
        uris: of databases that have the schema, for the latter two.

    Raises:
        FileNotFoundError: no redis-server is installed.
    """
    async with AsyncExitStack() as stack:
        uri = await stack.enter_async_context(server())
        saver = await stack.enter_async_context(RedisSaver.from_uri(uri))
        found: dict[str, storage.Contender] = {}
        found[NAME] = RedisContender(NAME, storage.graph_over(saver), uri)
        away = Away(RedisChunks(RedisDatabase(uri)))
        for name, values in ((AWAY, away), (storage.OURS, None)):
            database = Database(uris[name], name="bench", limits=Limits(pool_max=4))
            checkpoints = PostgresCheckpoints(database, away=values)
            await checkpoints.open()
            stack.push_async_callback(checkpoints.close)
            graph = storage.graph_over(PostgresSaver(checkpoints))
            found[name] = storage.Contender(storage.OURS, graph, uris[name])
        yield found


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    """A server of its own, which writes all commands to disk.

    Raises:
        FileNotFoundError: no redis-server is installed.
    """
    program = shutil.which("redis-server")
    if program is None:
        msg = "redis-server is not installed; run `make services`"
        raise FileNotFoundError(msg)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = f"port {port}\nbind 127.0.0.1\ndir {folder}\nappendonly yes\n"
        config = Path(folder) / "redis.conf"
        config.write_text(settings)
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - found on PATH
            [program, str(config)], stdout=subprocess.DEVNULL
        )
        try:
            uri = f"redis://127.0.0.1:{port}/0"
            waiting = Retry(ConstantBackoff(0.05), _START_TRIES)
            async with Redis.from_url(uri, retry=waiting) as client:
                await client.ping()
            yield uri
        finally:
            process.terminate()
            process.wait()


def table(found: Mapping[str, storage.Stored]) -> Table:
    """What it comes to and what it should."""
    measured, away, ours = found[NAME], found[AWAY], found[storage.OURS]
    few, many = storage.BYTES_AT
    shown = Table(title="the same over Redis")
    for heading in ("", "comes to", "aim"):
        shown.add_column(heading, justify="right" if heading else "left")
    for messages in storage.BYTES_AT:
        sent = f"{measured.wal[messages] / 1024:.1f} KiB"
        shown.add_row(f"sent per turn, {messages} messages", sent, "")
    grown = measured.wal[many] / measured.wal[few]
    shown.add_row(f"sent at {many} against {few}", f"{grown:.2f}x", "<= 1.4x")
    median = statistics.median(measured.seconds) * 1e3
    shown.add_row(f"turn, {storage.TIMED_AT} messages (p50)", f"{median:.1f} ms", "")
    memory = f"{measured.size / _MEGABYTE:.1f} MB"
    shown.add_row("memory of a thread with all checkpoints", memory, "<= 8 MB")
    less = ours.wal[many] / away.wal[many]
    wal = f"{away.wal[many] / 1024:.1f} KiB, {less:.1f}x less"
    shown.add_row(f"WAL per turn with values in Redis, {many} messages", wal, "")
    medians = [statistics.median(stored.seconds) for stored in (away, ours)]
    slower = f"{medians[0] * 1e3:.1f} ms, {medians[0] / medians[1]:.2f}x"
    shown.add_row(f"its turn, {storage.TIMED_AT} messages (p50)", slower, "")
    rows = f"{away.size / _MEGABYTE:.1f} MB, {ours.size / away.size:.1f}x less"
    shown.add_row("PostgreSQL's part of that thread", rows, "")
    return shown
