"""One process's way to the database: a TCP proxy that can do harm.

Each process of the battery has its own, so that it is known whom a fault befalls. All
lead to one target, which a failover changes.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field

_CHUNK_BYTES = 65536
# Smaller flights write nothing: they claim, renew, look.
_FLIGHT_BYTES_MIN = 700
# So much of each answer comes byte by byte.
_SLOW_BYTES = 64
_RESET = struct.pack("ii", 1, 0)


@dataclass
class Target:
    """Where all ways lead."""

    host: str
    port: int


@dataclass(eq=False)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    answers_lost: bool = False

    def reset(self) -> None:
        """Ends both sides without a goodbye."""
        for writer in (self.client, self.server):
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, _RESET
                )
            writer.transport.abort()


@dataclass(eq=False)
class Proxy:
    """A way to the target.

    Args:
        target: where it leads now.
        chooser: decides between before and after a commit.
        latency_seconds: how late everything comes; 0 turns that off, and with it the
            chunks of one byte.
        resets: how many of the next writing transactions end with a reset.
    """

    target: Target
    chooser: random.Random
    port: int = 0
    latency_seconds: float = 0.0
    resets: int = 0
    _open: set[_Connection] = field(default_factory=set)
    _passing: asyncio.Event = field(default_factory=asyncio.Event)
    _server: asyncio.Server | None = None
    _refusing: bool = False

    async def open(self, host: str = "127.0.0.1") -> None:
        """Begins to lead there, from a free port of `host`."""
        self._passing.set()
        self._server = await asyncio.start_server(self._accept, host, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Resets every connection; new ones are let through."""
        for connection in list(self._open):
            connection.reset()

    def refuse(self) -> None:
        """Resets every connection, and each new one at once."""
        self._refusing = True
        self.cut()

    def hang(self) -> None:
        """From now on nothing passes, and nobody is told: a partition."""
        self._passing.clear()

    def mend(self) -> None:
        """Everything passes again, at once."""
        self.latency_seconds = 0.0
        self.resets = 0
        self._refusing = False
        self._passing.set()

    def close(self) -> None:
        """Ends everything."""
        if self._server is not None:
            self._server.close()
        self.cut()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._passing.wait()
            if self._refusing:
                writer.transport.abort()
                return
            there = await asyncio.open_connection(self.target.host, self.target.port)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, there[1])
        self._open.add(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._to_server(reader, connection))
                group.create_task(self._to_client(there[0], connection))
        finally:
            self._open.discard(connection)
            writer.close()
            there[1].close()

    async def _to_server(
        self, reader: asyncio.StreamReader, connection: _Connection
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._delay()
                if self.resets and len(data) > _FLIGHT_BYTES_MIN:
                    self.resets -= 1
                    if self.chooser.random() < 0.5:
                        connection.server.write(data[: len(data) // 2])
                        connection.reset()
                        return
                    connection.answers_lost = True
                connection.server.write(data)
                await connection.server.drain()
        connection.server.close()

    async def _to_client(
        self, reader: asyncio.StreamReader, connection: _Connection
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if connection.answers_lost:
                    connection.reset()
                    return
                await self._delay()
                if self.latency_seconds:
                    slow, data = data[:_SLOW_BYTES], data[_SLOW_BYTES:]
                    for byte in slow:
                        connection.client.write(bytes([byte]))
                        await asyncio.sleep(0)
                connection.client.write(data)
                await connection.client.drain()
        connection.client.close()

    async def _delay(self) -> None:
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        await self._passing.wait()
