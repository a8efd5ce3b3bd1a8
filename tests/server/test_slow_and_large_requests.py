"""What a client may send before anybody knows what it wants is bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from tests.fixtures.fleet import Fleet, RunningServer
from threadmill.server.live import Drain, LiveResponse
from threadmill.server.process import HttpServer
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


async def _flood(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, more: bytes
) -> bytes:
    """Sends until the server has had enough; what it says."""
    try:
        for _ in range((HEAD_BYTES_MAX + 3 * _READ_MAX) // len(more)):
            writer.write(more)
            await writer.drain()
    except ConnectionError:
        pass  # its answer may lie there all the same
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("head", "more"),
    [
        (b"GET /ok HTTP/1.1\r\nx: ", b"x" * 8192),
        (b"GET /ok?", b"x" * 8192),
        (b"GET /ok HTTP/1.1\r\n", b"name: value\r\n" * 600),
        (b"", b"\r\n" * 4096),
    ],
    ids=["one field", "the path", "many fields", "empty lines"],
)
async def test_a_head_that_does_not_end_is_refused(
    server: RunningServer, head: bytes, more: bytes
) -> None:
    with capture_logs() as logs:
        said = await _flood(*await _sent(server, head), more)
    assert said.startswith(b"HTTP/1.1 431 ") or not said  # cut before it was read
    (refused,) = [log for log in logs if log["event"] == "request.head_refused"]
    assert refused["status"].startswith("431")


async def test_what_follows_a_body_in_chunks_is_bounded(server: RunningServer) -> None:
    head = b"POST /threads HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    reader, writer = await _sent(server, head, b"2\r\n{}\r\n0\r\nx: ")
    with capture_logs() as logs:
        await _flood(reader, writer, b"x" * 8192)
    assert "request.head_refused" in [log["event"] for log in logs]


@pytest.mark.parametrize("begun", [b"GET /ok HTTP/1.1\r\nhost: a", b"\r\n"])
async def test_a_head_that_does_not_come_is_refused(fleet: Fleet, begun: bytes) -> None:
    server = await fleet.server(request_seconds=0.2)
    reader, writer = await _sent(server, begun)
    assert await _status(reader) == b"408"
    assert (await reader.read()).endswith(b"\r\n\r\n")
    writer.close()


async def test_the_second_head_of_a_connection_is_awaited_in_the_same_way(
    fleet: Fleet,
) -> None:
    server = await fleet.server(request_seconds=0.2)
    reader, writer = await _sent(server, b"GET /ok HTTP/1.1\r\nhost: a\r\n\r\n")
    assert await _status(reader) == b"200"
    await reader.readuntil(b"}")
    writer.write(b"GET /ok HTTP/1.1\r\n")
    rest = await reader.read()
    assert rest.endswith(b"\r\n\r\n")
    assert b"408" in rest
    writer.close()


async def test_an_answer_on_its_way_is_not_written_into(fleet: Fleet) -> None:
    """The client has sent a part of its next request already."""
    server = await fleet.server(request_seconds=0.2)
    thread = (await server.http.post("/threads", json={})).json()["thread_id"]
    said_by_user = b'{"messages": [{"role": "user", "content": "a"}], "user_id": "u"}'
    body = b'{"assistant_id": "conversation", "input": ' + said_by_user + b"}"
    head = (
        f"POST /threads/{thread}/runs/wait HTTP/1.1\r\nhost: a\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    reader, writer = await _sent(server, head.encode(), body, b"GET /ok HT")
    await asyncio.sleep(1)  # five times what a head may take
    await fleet.worker()
    assert await _status(reader) == b"200"
    said = await reader.read()  # then the next one is waited for
    before, _, after = said.partition(b"HTTP/1.1 ")
    assert b"turn_count" in before
    assert after.startswith(b"408 ")
    writer.close()


async def test_a_body_that_stops_is_refused(fleet: Fleet) -> None:
    server = await fleet.server(request_seconds=0.2)
    head = b"POST /threads HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n"
    reader, writer = await _sent(server, head, b'{"metadata":')
    assert await _status(reader) == b"408"
    assert b"THREADMILL_REQUEST_SECONDS" in await reader.readuntil(b"}")
    writer.write(b"1")  # too late, and a little at a time
    assert b"408" in await reader.read()
    writer.close()


async def test_a_body_that_trickles_is_refused(fleet: Fleet) -> None:
    """No pause is too long, and yet it does not end."""
    server = await fleet.server(request_seconds=0.05)
    head = b"POST /threads HTTP/1.1\r\nhost: a\r\ncontent-length: 9999\r\n\r\n"
    reader, writer = await _sent(server, head)

    async def trickle() -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b"1")
                await writer.drain()
                await asyncio.sleep(0.01)

    trickling = asyncio.create_task(trickle())
    async with asyncio.timeout(5):
        assert await _status(reader) == b"408"
    trickling.cancel()
    writer.close()


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel does not tell"
)
async def test_a_client_that_stops_reading_is_cut_off() -> None:
    """What was held for it is let go, as if it had gone."""
    gone, closed = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x" * 65536
                await asyncio.sleep(0)  # what is sent to nobody waits for nobody
        finally:
            closed.set()

    async def told() -> None:
        gone.set()

    drain = Drain()
    response = LiveResponse(
        body(),
        beat=b"\n",
        beat_seconds=1,
        drain=drain,
        media_type="text/plain",
        headers={},
        on_gone=told,
    )
    server = HttpServer(response, drain=drain, grace_seconds=1, request_seconds=0.2)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.run())
        await server.started()
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            try:
                async with asyncio.timeout(5):
                    await gone.wait()
                    await closed.wait()
            finally:
                server.stop()


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
