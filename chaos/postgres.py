"""A PostgreSQL of the battery's own: restarted, filled up, failed over to a standby."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg

from chaos.fleet import free_port
from chaos.proxy import Target
from threadmill.drivers.embedded.account import (
    Account,
    choose_account,
    initdb_account,
)
from threadmill.drivers.embedded.binaries import runnable_binaries

_READY_SECONDS = 60.0
_POLL_SECONDS = 0.05
_CONNECTIONS_MAX = 80
_OPTIONS = {
    "fsync": "off",  # the machine does not crash, only its processes do
    "max_connections": str(_CONNECTIONS_MAX),
    "unix_socket_directories": "",
    "wal_receiver_status_interval": "100ms",
    "checkpoint_timeout": "30s",
}


class Server:
    """One data directory and the server on it, on a port of loopback.

    Args:
        folder: holds the data and the log; its owner may enter it.
        programs: PostgreSQL's.
        account: who runs them.
    """

    def __init__(self, folder: Path, programs: Path, account: Account) -> None:
        self.data = folder / "data"
        self.port = free_port()
        self._log = folder / "log"
        self._programs = programs
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The superuser's."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    async def initialize(self) -> None:
        """Makes an empty data directory."""
        options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C")
        await _carry_out(
            initdb_account(self._account),
            [self._programs / "initdb", "-D", self.data, *options, "--no-sync"],
        )

    async def copy(self, port: int) -> None:
        """Makes the data directory of a standby of the primary that is led to there."""
        connection = ("-h", "127.0.0.1", "-p", str(port), "-U", "postgres")
        program = self._programs / "pg_basebackup"
        options = ("-R", "-X", "stream", "-c", "fast", "--no-sync")
        await _carry_out(
            self._account, [program, "-D", self.data, *connection, *options]
        )

    async def start(self) -> None:
        """Starts the server; returns when it answers, also as a standby."""
        options = [part for k, v in _OPTIONS.items() for part in ("-c", f"{k}={v}")]
        with self._log.open("ab") as log:
            self._process = self._account.spawn(
                [
                    *(self._programs / "postgres", "-D", self.data),
                    *("-p", str(self.port)),
                    *options,
                ],
                death_signal=signal.SIGINT,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(_READY_SECONDS):
            while not await self._answers():  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)

    async def stop(self, how: signal.Signals) -> None:
        """SIGINT is fast, SIGQUIT immediate; returns when it has ended."""
        if self._process is not None:
            self._process.send_signal(how)
            await asyncio.to_thread(self._process.wait)

    async def execute(self, *statements: str) -> list[tuple[object, ...]]:
        """Runs statements as the superuser; returns the rows of the last one."""
        async with await psycopg.AsyncConnection.connect(
            self.uri, autocommit=True
        ) as admin:
            cursor = admin.cursor()
            for statement in statements:
                await cursor.execute(statement.encode())
            return await cursor.fetchall() if cursor.description else []

    async def _answers(self) -> bool:
        try:
            await self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


class Postgres:
    """The primary that all processes use, and its standby when there is one.

    Args:
        folder: open to others, since PostgreSQL does not run as root.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._account = choose_account(folder, folder / "none")
        self._programs = runnable_binaries(self._account, folder).folder
        self._servers = 0
        self.primary = self._server()
        self.target = Target("127.0.0.1", self.primary.port)

    @property
    def may_fail_over(self) -> bool:
        """Whether the programs can make a standby."""
        return (self._programs / "pg_basebackup").exists()

    async def start(self) -> None:
        """Makes and starts the primary."""
        await self.primary.initialize()
        await self.primary.start()

    async def close(self) -> None:
        """Stops it."""
        await self.primary.stop(signal.SIGQUIT)

    async def stand_by(self) -> Server:
        """Starts a standby and makes the primary wait for it with each commit."""
        standby = await self.follow(self.primary.port)
        await self.primary.execute(
            "ALTER SYSTEM SET synchronous_standby_names = '*'",
            "SELECT pg_reload_conf()",
        )
        async with asyncio.timeout(_READY_SECONDS):
            while not await self.primary.execute(  # noqa: ASYNC110
                "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
            ):
                await asyncio.sleep(_POLL_SECONDS)
        return standby

    async def follow(self, port: int) -> Server:
        """Starts a standby that the primary does not wait for.

        Args:
            port: of the primary, or of a way that leads there.
        """
        standby = self._server()
        await standby.copy(port)
        await standby.start()
        return standby

    async def caught_up(self, standby: Server) -> None:
        """Returns when the standby has what the primary has committed until now."""
        query = "SELECT pg_current_wal_lsn()::text"
        ((now,),) = await self.primary.execute(query)
        received = f"SELECT 1 WHERE pg_last_wal_receive_lsn() >= '{now}'"
        async with asyncio.timeout(_READY_SECONDS):
            while not await standby.execute(received):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_SECONDS)

    async def promote(self, standby: Server) -> None:
        """The primary has ended; the standby becomes what everybody is led to."""
        await standby.execute("SELECT pg_promote(true, 60)")
        lost, self.primary = self.primary, standby
        self.target.port = standby.port
        # Everybody's way leads through this process: it must not stand still.
        await asyncio.to_thread(shutil.rmtree, lost.data.parent)

    async def occupy(self, seconds: float) -> int:
        """Takes every connection that is left; returns how many those were."""
        async with AsyncExitStack() as taken:
            number = 0
            for _ in range(_CONNECTIONS_MAX):
                try:
                    opened = await psycopg.AsyncConnection.connect(self.primary.uri)
                except psycopg.OperationalError:
                    break
                taken.push_async_callback(opened.close)
                number += 1
            await asyncio.sleep(seconds)
        return number

    def _server(self) -> Server:
        self._servers += 1
        folder = self._folder / f"postgres-{self._servers}"
        folder.mkdir()
        self._account.own(folder)
        return Server(folder, self._programs, self._account)


async def _carry_out(account: Account, command: list[str | Path]) -> None:
    process = account.spawn(command, stderr=subprocess.PIPE)
    _, complaint = await asyncio.to_thread(process.communicate)
    if process.returncode != 0:
        msg = f"{command[0]} failed: {complaint.decode(errors='replace').strip()}"
        raise RuntimeError(msg)
