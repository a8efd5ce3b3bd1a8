"""Counts round trips: a TCP proxy before the database that counts flights.

A flight is a run of bytes from the client after the server has answered. It changes
the timing, so nothing is timed while it is in use.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass


@dataclass
class Flights:
    """The count so far, and where to connect."""

    port: int = 0
    count: int = 0


@asynccontextmanager
async def counting_proxy(host: str, port: int) -> AsyncIterator[Flights]:
    """A proxy to host:port on a free loopback port."""
    flights = Flights()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, port)
        answered = True

        async def to_server() -> None:
            nonlocal answered
            while data := await reader.read(65536):
                if answered:
                    flights.count += 1
                    answered = False
                up_writer.write(data)
                await up_writer.drain()
            up_writer.close()

        async def to_client() -> None:
            nonlocal answered
            while data := await up_reader.read(65536):
                answered = True
                writer.write(data)
                await writer.drain()
            writer.close()

        with suppress(asyncio.CancelledError):  # the proxy ends before its clients
            await asyncio.gather(to_server(), to_client(), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    flights.port = server.sockets[0].getsockname()[1]
    async with server:
        yield flights
