"""What no client should send is one readable refusal, never a 500."""

from __future__ import annotations

import base64
from typing import Any
from uuid import uuid4

import httpx
import pytest
from starlette.types import Message, Scope
from structlog.testing import capture_logs

from tests.fixtures.fleet import RunningServer
from threadmill.engine.cursors import cursor_of, digest_of
from threadmill.server.app import create_app
from threadmill.server.requests import DEPTH_MAX
from threadmill.stores.base import METADATA_BYTES_MAX, METADATA_KEYS_MAX

pytestmark = pytest.mark.asyncio(loop_scope="session")

RUN = {"assistant_id": "conversation", "input": {}}
NUL = "a\u0000b"
HUGE = "9" * 20


async def _thread(http: httpx.AsyncClient, **body: object) -> str:
    thread_id: str = (await http.post("/threads", json=body)).json()["thread_id"]
    return thread_id


async def _run(http: httpx.AsyncClient) -> str:
    thread_id = await _thread(http)
    run = (await http.post(f"/threads/{thread_id}/runs", json=RUN)).json()
    return f"/threads/{thread_id}/runs/{run['run_id']}"


def _told(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["detail"]


def _nested(depth: int) -> str:
    """A JSON object that is `depth` levels deep."""
    return '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


# --- nesting ------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [DEPTH_MAX, 600, 5000])
async def test_deep_nesting_is_refused(idle_server: RunningServer, depth: int) -> None:
    http = idle_server.http
    thread_id = await _thread(http, metadata={"graph_id": "conversation"})
    deep = _nested(depth)
    for method, path, body in (
        ("POST", "/threads", f'{{"metadata":{deep}}}'),
        ("PATCH", f"/threads/{thread_id}", f'{{"metadata":{deep}}}'),
        ("POST", "/threads/search", f'{{"metadata":{deep}}}'),
        ("POST", "/threads/count", f'{{"metadata":{deep}}}'),
        ("POST", "/assistants/search", f'{{"metadata":{deep}}}'),
        ("POST", f"/threads/{thread_id}/history", f'{{"metadata":{deep}}}'),
        ("POST", f"/threads/{thread_id}/state", f'{{"values":{deep}}}'),
        (
            "POST",
            f"/threads/{thread_id}/runs",
            f'{{"assistant_id":"conversation","input":{deep}}}',
        ),
        ("POST", "/runs/batch", f"[{deep}]"),
    ):
        response = await http.request(method, path, content=body)
        assert response.status_code == 422, (path, response.text)


async def test_what_may_be_nested_comes_back(idle_server: RunningServer) -> None:
    http = idle_server.http
    deep = _nested(DEPTH_MAX - 1)
    made = await http.post("/threads", content=f'{{"metadata":{deep}}}')
    assert made.status_code == 200
    run = await http.post(
        f"/threads/{made.json()['thread_id']}/runs",
        content=f'{{"assistant_id":"conversation","input":{deep}}}',
        headers={"Idempotency-Key": "deep"},
    )
    assert run.status_code == 200
    found = await http.post("/threads/search", content=f'{{"metadata":{deep}}}')
    assert [t["thread_id"] for t in found.json()] == [made.json()["thread_id"]]
    assert found.json()[0]["metadata"]["a"] == made.json()["metadata"]["a"]
    runs = await http.get(f"/threads/{made.json()['thread_id']}/runs")
    assert runs.json() == [run.json()]


# --- what the database cannot take --------------------------------------------------


async def test_what_the_database_cannot_take_is_refused(
    idle_server: RunningServer,
) -> None:
    http = idle_server.http
    thread_id = await _thread(http, metadata={"graph_id": "conversation"})
    runs, history = f"/threads/{thread_id}/runs", f"/threads/{thread_id}/history"
    surprises = []
    for method, path, body, said in (
        ("POST", "/assistants/search", {"name": NUL}, "NUL"),
        ("POST", "/assistants/search", {"graph_id": NUL}, "NUL"),
        ("POST", "/assistants/count", {"name": NUL}, "NUL"),
        ("POST", history, {"before": NUL}, "NUL"),
        ("GET", f"{history}?before=a%00", None, "NUL"),
        ("POST", runs, {**RUN, "checkpoint_id": NUL}, "NUL"),
        ("GET", f"{runs}?status=%00", None, "status"),
        ("GET", f"{runs}?offset={HUGE}", None, "offset"),
        ("POST", "/threads/search", {"offset": int(HUGE)}, "offset"),
    ):
        response = await http.request(method, path, json=body)
        status, detail = _told(response)
        if status != 422 or said not in detail:
            surprises.append((path, body, status, detail))
    assert surprises == []


@pytest.mark.parametrize("graph_id", [5, ["a"], {"a": 1}, True])
async def test_a_thread_names_its_graph_by_a_string(
    idle_server: RunningServer, graph_id: object
) -> None:
    http = idle_server.http
    body: Any = {"metadata": {"graph_id": graph_id}}
    status, detail = _told(await http.post("/threads", json=body))
    assert (status, detail) == (422, "metadata: graph_id must be a string")
    thread_id = await _thread(http)
    status, detail = _told(await http.patch(f"/threads/{thread_id}", json=body))
    assert (status, detail) == (422, "metadata: graph_id must be a string")


async def test_a_thread_that_names_none_has_no_graph(
    idle_server: RunningServer,
) -> None:
    """Also one whose metadata was written by somebody else."""
    thread = await idle_server.core.threads.create(
        "default",
        uuid4(),
        metadata={"graph_id": ["a"]},
        if_exists="raise",
    )
    path, http = f"/threads/{thread.thread_id}", idle_server.http
    assert (await http.get(path)).json()["values"] is None
    assert (await http.get(f"{path}/state")).json()["values"] == {}
    assert (await http.get(f"{path}/history")).json() == []
    status, detail = _told(await http.post(f"{path}/state", json={"values": {}}))
    assert (status, "has no graph" in detail) == (422, True)


@pytest.mark.parametrize(
    "command",
    [
        {"goto": 5},
        {"goto": {"input": 1}},
        {"goto": ["a", {"node": 7}]},
        {"update": 5},
        {"update": "x"},
        {"update": [1]},
        {"update": [["channel"]]},
    ],
)
async def test_a_command_of_the_wrong_shape_is_refused(
    idle_server: RunningServer, command: dict[str, object]
) -> None:
    thread_id = await _thread(idle_server.http)
    body = {"assistant_id": "conversation", "command": command}
    status, detail = _told(
        await idle_server.http.post(f"/threads/{thread_id}/runs", json=body)
    )
    assert (status, f"command.{next(iter(command))}" in detail) == (422, True)


# --- queries and headers ------------------------------------------------------------


@pytest.mark.parametrize(
    "last",
    [b"1-\xb2", b"\xb2-1", b"1-" + b"9" * 5000, b"1-" + b"9" * 19, b"1", b"1-2-3"],
)
async def test_what_is_no_event_id(idle_server: RunningServer, last: bytes) -> None:
    path = await _run(idle_server.http)
    response = await idle_server.http.get(
        f"{path}/stream", headers=[(b"Last-Event-ID", last)]
    )
    status, detail = _told(response)
    assert (status, "Last-Event-ID" in detail) == (422, True)


@pytest.mark.parametrize("xray", ["²", "³³", "٣", "1000", "-1"])
async def test_what_is_no_number_of_levels(
    idle_server: RunningServer, xray: str
) -> None:
    response = await idle_server.http.get(
        "/assistants/conversation/graph", params={"xray": xray}
    )
    status, detail = _told(response)
    assert (status, "xray" in detail) == (422, True)


async def test_unknown_statuses_and_modes_are_named(
    idle_server: RunningServer,
) -> None:
    http = idle_server.http
    path = await _run(http)
    status, detail = _told(await http.get(f"{path.rpartition('/')[0]}?status=zzz"))
    assert (status, "'interrupted'" in detail) == (422, True)
    for query in ("stream_mode=nope", 'stream_mode=["values","nope"]'):
        status, detail = _told(await http.get(f"{path}/stream?{query}"))
        assert (status, "stream_mode 'nope'" in detail) == (422, True)


async def test_feedback_keys_are_named(idle_server: RunningServer) -> None:
    body = {**RUN, "feedback_keys": ["stars"]}
    status, detail = _told(await idle_server.http.post("/runs", json=body))
    assert (status, "feedback_keys" in detail) == (422, True)


# --- batches ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"assistant_id": "nobody"}, "nobody"),
        ({"assistant_id": 5}, "1.assistant_id"),
        (7, "1: "),
        ({**RUN, "durability": "never"}, "durability"),
        ({**RUN, "metadata": {"a": NUL}}, "NUL"),
        ({**RUN, "metadata": {NUL: 1}}, "NUL"),
    ],
)
async def test_a_batch_is_accepted_whole_or_not(
    idle_server: RunningServer, wrong: object, said: str
) -> None:
    http = idle_server.http
    before = (await http.post("/threads/count", json={})).json()
    kept = {**RUN, "on_completion": "keep"}
    status, detail = _told(await http.post("/runs/batch", json=[kept, wrong]))
    assert (status, said in detail) == (422, True)
    assert (await http.post("/threads/count", json={})).json() == before


async def test_a_backslash_before_u0000_is_no_nul(idle_server: RunningServer) -> None:
    body = [{**RUN, "metadata": {"a": "\\u0000", "b": "\\\\u0000"}}]
    made = await idle_server.http.post("/runs/batch", json=body)
    assert made.status_code == 200
    assert made.json()[0]["metadata"]["a"] == "\\u0000"


# --- cursors ------------------------------------------------------------------------


async def test_a_forged_cursor_is_refused(idle_server: RunningServer) -> None:
    """Nothing in it reaches the database."""
    forged = cursor_of(("no date", "no id"), digest_of("default", "storage", None))
    deep = base64.urlsafe_b64encode(b"[" * 700).decode()
    for cursor in (forged, deep):
        with capture_logs() as logs:
            refused = await idle_server.http.get(
                "/threadmill/storage", params={"cursor": cursor}
            )
        assert refused.status_code == 422
        assert "cursor" in refused.json()["detail"]
        assert [line for line in logs if line["log_level"] == "error"] == []


# --- metadata -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fits", "too_much"),
    [
        ({f"k{n}": n for n in range(METADATA_KEYS_MAX)}, {"one": "more"}),
        ({"a": "x" * (METADATA_BYTES_MAX - 20)}, {"b": "y" * 40}),
    ],
    ids=["keys", "bytes"],
)
async def test_metadata_of_a_thread_is_bounded(
    idle_server: RunningServer, fits: dict[str, Any], too_much: dict[str, Any]
) -> None:
    """Each of its keys is a row in an index, and all are written with the thread."""
    http = idle_server.http
    refused = await http.post("/threads", json={"metadata": {**fits, **too_much}})
    assert refused.status_code == 422
    thread = f"/threads/{await _thread(http, metadata=fits)}"
    for metadata in ({**fits, **too_much}, too_much):  # also a little at a time
        status, said = _told(await http.patch(thread, json={"metadata": metadata}))
        assert status == 422
        assert f"{METADATA_KEYS_MAX} keys" in said
        assert f"{METADATA_BYTES_MAX} bytes" in said
    assert (await http.get(thread)).json()["metadata"] == fits
    changed = await http.patch(thread, json={"metadata": {next(iter(fits)): 1}})
    assert changed.status_code == 200


# --- clients that go ----------------------------------------------------------------


async def test_a_client_that_goes_while_it_sends_is_no_error(
    idle_server: RunningServer,
) -> None:
    app = create_app(idle_server.services, idle_server.core.settings)
    messages: list[Message] = [
        {"type": "http.request", "body": b"{", "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/threads",
        "query_string": b"",
        "headers": [(b"content-length", b"10")],
    }
    with capture_logs() as logs:
        await app(scope, receive, send)
    assert messages == []
    assert [line for line in logs if line["log_level"] == "error"] == []
    assert sent == []
