"""What a client may send before anybody knows what it wants is bounded."""

from __future__ import annotations

import asyncio

import pytest

from tests.fixtures.fleet import Fleet, RunningServer
from threadmill.server.protocol import HEAD_BYTES_MAX

pytestmark = pytest.mark.asyncio(loop_scope="session")

_READ_MAX = 256 * 1024  # what asyncio reads at once


async def _sent(
    server: RunningServer, *parts: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_server.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    return reader, writer


async def _status(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readline()).split(b" ", 2)[1]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /ok HTTP/1.1\r\nx: ",
        b"GET /ok?",
        b"GET /ok HTTP/1.1\r\n" + b"a: b\r\n" * 9,
    ],
    ids=["one field", "the path", "many fields"],
)
async def test_a_head_that_does_not_end_is_refused(
    server: RunningServer, head: bytes
) -> None:
    reader, writer = await _sent(server, head)
    more = b"x" * 8192 if not head.endswith(b"\r\n") else b"name: value\r\n" * 600
    try:
        for _ in range((HEAD_BYTES_MAX + 3 * _READ_MAX) // len(more)):
            writer.write(more)
            await writer.drain()
    except ConnectionError:
        pass  # refused while it went on
    else:
        assert await _status(reader) == b"431"
    writer.close()


async def test_a_head_that_does_not_come_is_refused(fleet: Fleet) -> None:
    server = await fleet.server(request_seconds=0.2)
    for begun in (b"", b"GET /ok HTTP/1.1\r\nhost: a"):
        reader, writer = await _sent(server, begun)
        assert await _status(reader) == b"408"
        assert (await reader.read()).endswith(b"\r\n\r\n")
        writer.close()


async def test_a_body_that_stops_is_refused(fleet: Fleet) -> None:
    server = await fleet.server(request_seconds=0.2)
    head = b"POST /threads HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n"
    reader, writer = await _sent(server, head, b'{"metadata":')
    assert await _status(reader) == b"408"
    assert b"THREADMILL_REQUEST_SECONDS" in await reader.readuntil(b"}")
    writer.close()


async def test_an_answer_may_take_longer_than_a_request(fleet: Fleet) -> None:
    """Only what clients send is bounded, also on a connection that is used again."""
    server = await fleet.server(request_seconds=0.3)
    thread = (await server.http.post("/threads", json={})).json()["thread_id"]
    body = {"assistant_id": "conversation", "input": {"messages": []}}
    waits = server.http.post(f"/threads/{thread}/runs/wait", json=body)
    waiting = asyncio.create_task(waits)
    await asyncio.sleep(1)  # three times what a request may take
    assert not waiting.done()
    await fleet.worker()
    assert (await waiting).status_code == 200
    assert (await server.http.get("/ok")).status_code == 200
