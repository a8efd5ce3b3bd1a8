"""What goes over the wire, byte by byte where clients depend on it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
from structlog.testing import capture_logs

from tests.fixtures.database import allow_connections
from tests.fixtures.fleet import Fleet, RunningServer
from threadmill import __version__

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "user_id": "u"}
RUN = {"assistant_id": "conversation", "input": HELLO}
NOBODY = "00000000-0000-4000-8000-000000000000"


async def _thread(http: httpx.AsyncClient) -> str:
    thread_id: str = (await http.post("/threads", json={})).json()["thread_id"]
    return thread_id


def _frames(response: httpx.Response) -> list[bytes]:
    """A stream's events; a machine that halts may put heartbeats between them."""
    assert response.content.endswith(b"\r\n\r\n")
    frames = response.content.split(b"\r\n\r\n")[:-1]
    return [frame for frame in frames if frame != b": heartbeat"]


# --- streams ------------------------------------------------------------------------


async def test_events_are_framed_with_crlf(server: RunningServer) -> None:
    thread_id = await _thread(server.http)
    response = await server.http.post(
        f"/threads/{thread_id}/runs/stream", json={**RUN, "stream_mode": "updates"}
    )
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    run_path = response.headers["content-location"]
    assert run_path.startswith(f"/threads/{thread_id}/runs/")
    assert response.headers["location"] == f"{run_path}/stream"
    assert "content-length" not in response.headers
    name, data = _frames(response)[0].split(b"\r\n")
    assert name == b"event: metadata"
    run_id = run_path.rpartition("/")[2]
    assert json.loads(data.removeprefix(b"data: ")) == {"run_id": run_id, "attempt": 1}
    assert b"id:" not in response.content
    assert b"\n\n" not in response.content


async def test_resumable_events_carry_ids(server: RunningServer) -> None:
    thread_id = await _thread(server.http)
    response = await server.http.post(
        f"/threads/{thread_id}/runs/stream", json={**RUN, "stream_resumable": True}
    )
    ids = []
    for frame in _frames(response):
        event, data, event_id = frame.split(b"\r\n")
        assert event.startswith(b"event: ")
        assert data.startswith(b"data: ")
        assert event_id.startswith(b"id: ")
        ms, _, seq = event_id.removeprefix(b"id: ").partition(b"-")
        ids.append((int(ms), int(seq)))
    assert ids == sorted(ids)
    assert [seq for _, seq in ids] == list(range(1, len(ids) + 1))


async def test_silent_streams_send_heartbeats(
    idle_server: RunningServer,
) -> None:
    thread_id = await _thread(idle_server.http)
    async with idle_server.http.stream(
        "POST", f"/threads/{thread_id}/runs/stream", json=RUN
    ) as response:
        assert (
            await _first_bytes(response, 30)
            == b": heartbeat\r\n\r\n: heartbeat\r\n\r\n"
        )


async def test_waiting_answers_send_blank_lines(
    idle_server: RunningServer,
) -> None:
    http = idle_server.http
    thread_id = await _thread(http)
    async with http.stream(
        "POST", f"/threads/{thread_id}/runs/wait", json=RUN
    ) as response:
        assert response.headers["content-type"] == "application/json"
        run_path = response.headers["content-location"]
        assert response.headers["location"] == f"{run_path}/join"
        assert await _first_bytes(response, 2) == b"\n\n"
        await http.post(f"{run_path}/cancel")


async def test_an_answer_after_blank_lines_is_json(fleet: Fleet) -> None:
    server = await fleet.server(keepalive_seconds=0.05)
    thread_id = await _thread(server.http)
    waiting = asyncio.create_task(
        server.http.post(f"/threads/{thread_id}/runs/wait", json=RUN)
    )
    await asyncio.sleep(0.2)
    await fleet.worker()
    response = await waiting
    assert response.content.startswith(b"\n")
    assert response.json()["turn_count"] == 1


async def test_a_draining_server_cuts_waiting_answers(fleet: Fleet) -> None:
    """Cut, not ended: half an answer must not look like a whole one."""
    server = await fleet.server()
    thread_id = await _thread(server.http)
    async with server.http.stream(
        "POST", f"/threads/{thread_id}/runs/wait", json=RUN
    ) as response:
        server.services.drain.begin()
        with pytest.raises(httpx.RemoteProtocolError):
            await response.aread()


async def test_a_draining_server_cuts_streams(fleet: Fleet) -> None:
    """Also of a run that has ended: its client would ask for that, and leave it so."""
    await fleet.worker()
    server = await fleet.server()
    thread_id = await _thread(server.http)
    run = {**RUN, "stream_mode": ["updates"], "stream_resumable": True}
    created = await server.http.post(f"/threads/{thread_id}/runs", json=run)
    path = created.headers["content-location"]
    await server.http.get(f"{path}/join")
    server.services.drain.begin()
    with pytest.raises(httpx.RemoteProtocolError):
        await server.http.get(f"{path}/stream", headers={"last-event-id": "0"})


async def test_create_tells_where_the_run_is(idle_server: RunningServer) -> None:
    http = idle_server.http
    thread_id = await _thread(http)
    response = await http.post(f"/threads/{thread_id}/runs", json=RUN)
    run_id = response.json()["run_id"]
    assert response.headers["content-location"] == f"/threads/{thread_id}/runs/{run_id}"
    stateless = await http.post("/runs", json=RUN)
    run_id = stateless.json()["run_id"]
    assert stateless.headers["content-location"] == f"/runs/{run_id}"


async def test_stateless_streams_can_be_found_again(server: RunningServer) -> None:
    response = await server.http.post("/runs/stream", json=RUN)
    run_id = response.headers["content-location"].removeprefix("/runs/")
    location = response.headers["location"]
    assert location.endswith(f"/runs/{run_id}/stream")
    again = await server.http.get(location, headers={"last-event-id": "-1"})
    assert again.content == response.content


async def test_stream_modes_in_a_query(server: RunningServer) -> None:
    thread_id = await _thread(server.http)
    both = {**RUN, "stream_mode": ["values", "updates", "tasks"]}
    created = await server.http.post(f"/threads/{thread_id}/runs/stream", json=both)
    path = created.headers["location"]
    for query in (
        "stream_mode=updates&stream_mode=tasks",
        "stream_mode=updates,tasks",
        'stream_mode=["updates","tasks"]',
    ):
        replayed = await server.http.get(
            f"{path}?{query}", headers={"last-event-id": "0"}
        )
        events = {
            line.removeprefix("event: ")
            for line in replayed.text.splitlines()
            if line.startswith("event: ")
        }
        assert events == {"metadata", "updates", "tasks"}


async def test_cancel_answers_at_once_or_with_the_outcome(
    idle_server: RunningServer,
) -> None:
    http = idle_server.http
    thread_id = await _thread(http)
    path = f"/threads/{thread_id}/runs"
    one = (await http.post(path, json=RUN)).json()["run_id"]
    two = (await http.post(path, json=RUN)).json()["run_id"]
    at_once = await http.post(f"{path}/{one}/cancel")
    assert (at_once.status_code, at_once.content) == (202, b"")
    waited = await http.post(f"{path}/{two}/cancel?wait=true")
    assert (waited.status_code, waited.json()) == (200, {})
    refused = await http.post(f"{path}/{one}/cancel")
    assert refused.status_code == 404
    rollback = await http.post(f"{path}/{one}/cancel?action=rollback")
    assert rollback.status_code == 422
    assert "rollback" in rollback.json()["detail"]


# --- errors -------------------------------------------------------------------------


REFUSALS: list[tuple[str, str, object, int, str]] = [
    ("GET", "/threads/not-a-uuid", None, 422, "thread_id"),
    ("GET", f"/threads/{NOBODY}", None, 404, "not found"),
    ("GET", f"/threads/{NOBODY}/runs", None, 404, "not found"),
    ("GET", f"/threads/{NOBODY}/runs/{NOBODY}", None, 404, "run"),
    ("GET", f"/threads/{NOBODY}/runs/{NOBODY}/join", None, 404, "run"),
    ("GET", f"/threads/{NOBODY}/runs/{NOBODY}/stream", None, 404, "run"),
    ("POST", f"/threads/{NOBODY}/runs", b'{"a', 422, "not JSON"),
    ("POST", f"/threads/{NOBODY}/runs", b'{"n": NaN}', 422, "not JSON"),
    ("POST", f"/threads/{NOBODY}/runs", b"[]", 422, "valid dictionary"),
    ("POST", f"/threads/{NOBODY}/runs", b"{}", 422, "assistant_id: Field"),
    (
        "POST",
        f"/threads/{NOBODY}/runs",
        b'{"assistant_id": "conversation", "metadata": 1}',
        422,
        "metadata",
    ),
    ("POST", f"/threads/{NOBODY}/runs", RUN, 404, "thread or assistant not found"),
    ("POST", "/threads", {"thread_id": 7}, 422, "thread_id"),
    ("POST", "/threads", {"if_exists": "maybe"}, 422, "if_exists"),
    ("POST", "/threads", {"metadata": {"a": "\x00"}}, 422, "NUL"),
    ("POST", "/threads/search", {"limit": 0}, 422, "limit"),
    ("POST", "/threads/search", {"limit": 1001}, 422, "limit"),
    ("POST", "/threads/search", {"sort_by": "holder"}, 422, "sort_by"),
    ("POST", "/runs/wait", {**RUN, "durability": "never"}, 422, "durability"),
    ("POST", "/runs/wait", {**RUN, "webhook": "http://x"}, 422, "webhook"),
    ("POST", "/runs/wait", {**RUN, "after_seconds": -1}, 422, "after_seconds"),
    ("POST", "/runs/wait", {**RUN, "if_not_exists": "x"}, 422, "if_not_exists"),
    ("POST", "/runs/wait", {**RUN, "config": {"tags": 1}}, 422, "tags"),
    (
        "POST",
        "/runs/wait",
        {**RUN, "config": {"recursion_limit": 0}},
        422,
        "recursion_limit",
    ),
    (
        "POST",
        "/runs",
        {**RUN, "config": {"recursion_limit": 100_001}},
        422,
        "THREADMILL_RECURSION_LIMIT_MAX",
    ),
    ("POST", "/runs/wait", {**RUN, "command": {"resume": 1}}, 400, "resume"),
    ("POST", "/runs/wait", {**RUN, "checkpoint_id": "c"}, 400, "checkpoint"),
    (
        "POST",
        "/runs/wait",
        {**RUN, "context": {"a": 1}, "config": {"configurable": {"b": 1}}},
        400,
        "context",
    ),
    ("POST", "/runs/cancel", {"status": "all"}, 422, "status"),
    ("POST", "/runs/cancel", {}, 422, "run_ids"),
    ("POST", "/runs/batch", {}, 422, "list"),
    ("GET", "/nowhere", None, 404, "Not Found"),
    ("PUT", "/threads", None, 405, "Method Not Allowed"),
]


async def test_refusals(idle_server: RunningServer) -> None:
    """Each is one readable line that names what is wrong."""
    surprises = []
    for method, path, body, status, said in REFUSALS:
        content = body if isinstance(body, bytes) else json.dumps(body or {})
        response = await idle_server.http.request(method, path, content=content)
        detail = response.json()["detail"]
        assert isinstance(detail, str)
        if response.status_code != status or said not in detail:
            surprises.append((method, path, body, response.status_code, detail))
    assert surprises == []


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_bad_idempotency_keys(idle_server: RunningServer, key: str) -> None:
    response = await idle_server.http.post(
        "/runs", json=RUN, headers={"Idempotency-Key": key}
    )
    assert response.status_code == 422
    assert "Idempotency-Key" in response.json()["detail"]


async def test_unexpected_errors_tell_nothing(fleet: Fleet) -> None:
    class Broken:
        async def get(self, *_: object) -> None:
            msg = "postgresql://user:secret@host"
            raise RuntimeError(msg)

    server = await fleet.server()
    object.__setattr__(server.services, "threads", Broken())  # it is frozen
    with capture_logs() as logs:
        response = await server.http.get(f"/threads/%30{NOBODY[1:]}")
    assert [line["event"] for line in logs] == ["request.failed"]
    # As it came: what is decoded could break out of its line.
    assert logs[0]["path"] == f"/threads/%30{NOBODY[1:]}"
    assert response.status_code == 500
    assert response.json() == {
        "detail": "internal error; the server's log has the cause"
    }
    assert response.headers["content-type"] == "application/json"


async def test_large_bodies(fleet: Fleet) -> None:
    server = await fleet.server(payload_bytes_max=2000)
    announced = await server.http.post("/threads", content=b" " * 2001)
    assert announced.status_code == 413
    assert "THREADMILL_PAYLOAD_BYTES_MAX" in announced.json()["detail"]

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 10

    streamed = await server.http.post("/threads", content=chunks())
    assert "content-length" not in streamed.request.headers
    assert streamed.status_code == 413
    fits = await server.http.post("/threads", json={"metadata": {"a": "x" * 1900}})
    assert fits.status_code == 200


async def test_too_many_waiting_runs(fleet: Fleet) -> None:
    server = await fleet.server(queue_per_thread_max=2)
    thread_id = await _thread(server.http)
    path = f"/threads/{thread_id}/runs"
    accepted = [(await server.http.post(path, json=RUN)).status_code for _ in range(2)]
    assert accepted == [200, 200]
    refused = await server.http.post(path, json=RUN)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert "THREADMILL_QUEUE_PER_THREAD_MAX" in refused.json()["detail"]


async def test_a_database_that_goes_and_comes_back(
    fleet: Fleet, fresh_database_uri: str
) -> None:
    """503 while it is away; whoever waited gets the answer all the same."""
    quick = {"pool_timeout_seconds": 0.3, "poll_seconds": 0.3}
    server = await fleet.server(**quick)
    thread_id = await _thread(server.http)
    waiting = asyncio.create_task(
        server.http.post(f"/threads/{thread_id}/runs/wait", json=RUN)
    )
    await _busy(server.http, thread_id)
    await allow_connections(fresh_database_uri, allowed=False)
    try:
        refused = await server.http.get(f"/threads/{thread_id}")
        unhealthy = await server.http.get("/ok")
        alive = await server.http.get("/ok?check_db=0")
    finally:
        await allow_connections(fresh_database_uri, allowed=True)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "DATABASE_URI" in refused.json()["detail"]
    assert unhealthy.status_code == 500
    assert alive.json()["ok"] is True
    await fleet.worker(**quick)
    response = await waiting
    assert response.json()["turn_count"] == 1
    assert (await server.http.get("/ok")).status_code == 200


# --- browsers and probes --------------------------------------------------------------


async def test_browsers_may_call(idle_server: RunningServer) -> None:
    preflight = await idle_server.http.options(
        "/threads",
        headers={
            "Origin": "https://studio.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-api-key",
            "Access-Control-Request-Private-Network": "true",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-private-network"] == "true"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    response = await idle_server.http.get(
        f"/threads/{NOBODY}", headers={"Origin": "https://studio.example"}
    )
    assert response.status_code == 404
    assert response.headers["access-control-allow-origin"] == "*"
    exposed = response.headers["access-control-expose-headers"].split(", ")
    assert set(exposed) >= {
        "content-location",
        "location",
        "x-pagination-total",
        "x-pagination-next",
    }


async def test_only_named_origins(fleet: Fleet) -> None:
    server = await fleet.server(cors_allow_origins=("https://app.example",))
    for origin, allowed in (
        ("https://app.example", "https://app.example"),
        ("https://other.example", None),
    ):
        response = await server.http.get("/info", headers={"Origin": origin})
        assert response.headers.get("access-control-allow-origin") == allowed


async def test_pages_of_other_origins_change_nothing(fleet: Fleet) -> None:
    """What a form could send comes without a preflight, whatever CORS answers."""
    server = await fleet.server(cors_allow_origins=("https://app.example",))
    port = server.http_server.port
    for origin, status in (
        ("https://other.example", 403),
        ("null", 403),
        ("https://app.example", 200),
        (f"http://127.0.0.1:{port}", 200),
        (f"http://127.0.0.1:{port + 1}", 403),
        (None, 200),
    ):
        headers = {"Content-Type": "text/plain"} | (
            {"Origin": origin} if origin else {}
        )
        made = await server.http.post("/threads", content=b"{}", headers=headers)
        assert made.status_code == status, origin
    refused = await server.http.post("/threads", headers={"Origin": "null"})
    assert "CORS_ALLOW_ORIGINS" in refused.json()["detail"]
    read = await server.http.get("/info", headers={"Origin": "https://other.example"})
    assert read.status_code == 200


async def test_info_and_ok(idle_server: RunningServer) -> None:
    http = idle_server.http
    info = (await http.get("/info")).json()
    assert info["version"] == __version__
    assert info["langgraph_py_version"].startswith("1.2.")
    assert info["flags"]["assistants"] is True
    assert info["flags"]["crons"] is False
    assert info["host"]["kind"] == "self-hosted"
    for path in ("/ok", "/"):
        assert (await http.get(path)).json() == {
            "ok": True,
            "services": {"database": "ok"},
        }


async def test_the_description_is_complete(idle_server: RunningServer) -> None:
    document = (await idle_server.http.get("/openapi.json")).json()
    text = json.dumps(document)
    known = document["components"]["schemas"]
    referred = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert referred <= set(known)
    assert "/threads/{thread_id}/runs/wait" in document["paths"]


async def test_the_page_of_the_interface_loads_nothing_from_elsewhere(
    idle_server: RunningServer,
) -> None:
    page = await idle_server.http.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "/threads/{thread_id}/runs/wait" in page.text
    assert 'href="/openapi.json"' in page.text
    assert not re.search(r"<script|<link|<img|src=|//|@import|url\(", page.text[15:])


async def test_a_mount_prefix(fleet: Fleet) -> None:
    await fleet.worker()
    server = await fleet.server(mount_prefix="/api")
    assert (await server.http.get("/ok")).status_code == 404
    assert (await server.http.get("/api/ok")).status_code == 200
    thread_id = (await server.http.post("/api/threads", json={})).json()["thread_id"]
    response = await server.http.post(f"/api/threads/{thread_id}/runs/wait", json=RUN)
    assert response.json()["turn_count"] == 1
    assert response.headers["location"].startswith("/threads/")


async def _first_bytes(response: httpx.Response, count: int) -> bytes:
    read = b""
    async for chunk in response.aiter_bytes():
        read += chunk
        if len(read) >= count:
            break
    return read


async def _busy(http: httpx.AsyncClient, thread_id: str) -> None:
    async with asyncio.timeout(20):
        shown = {"status": "idle"}
        while shown["status"] != "busy":
            shown = (await http.get(f"/threads/{thread_id}")).json()
