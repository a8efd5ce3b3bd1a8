"""What a client is told in the end, also when something went wrong on the way."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from structlog.testing import capture_logs

from tests.fixtures.database import allow_connections
from tests.fixtures.fleet import Fleet, RunningServer
from threadmill.errors import Unavailable

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELLO = {"messages": [{"role": "user", "content": "Hello"}], "user_id": "u"}
RUN = {"assistant_id": "conversation", "input": HELLO}


async def _execute(uri: str, statement: str, *params: object) -> None:
    async with await psycopg.AsyncConnection.connect(uri, autocommit=True) as c:
        await c.execute(statement.encode(), params)


# --- keys of runs that are gone -----------------------------------------------------


@pytest.mark.parametrize("gone", ["run", "thread"])
async def test_a_key_whose_run_was_deleted_says_so(
    server: RunningServer, gone: str
) -> None:
    """Another run under it would be the second that the client asked for once."""
    client, key = server.client, {"Idempotency-Key": str(uuid4())}
    thread_id = (await client.threads.create())["thread_id"]
    path = f"/threads/{thread_id}/runs"
    run = (await server.http.post(path, json=RUN, headers=key)).json()
    await client.runs.join(thread_id, run["run_id"])
    if gone == "run":
        await client.runs.delete(thread_id, run["run_id"])
    else:
        await client.threads.delete(thread_id)
    again = await server.http.post(path, json=RUN, headers=key)
    assert again.status_code == 409
    assert again.json()["detail"] == (
        "the run that the Idempotency-Key was used for was deleted"
    )


# --- errors that are not the client's -----------------------------------------------


async def test_a_graph_that_does_not_load_tells_no_paths(fleet: Fleet) -> None:
    await fleet.worker()
    server = await fleet.server()
    thread_id = (await server.client.threads.create())["thread_id"]
    await server.client.runs.wait(thread_id, "conversation", input=HELLO)
    (run,) = await server.client.runs.list(thread_id)
    uri = fleet.settings.database_uri
    assert uri is not None
    await _execute(
        uri.get_secret_value(),
        "UPDATE threadmill.run SET graph_id = 'broken' WHERE thread_id = %s",
        thread_id,
    )
    joined = await server.http.get(f"/threads/{thread_id}/runs/{run['run_id']}/join")
    shown = joined.json()["__error__"]
    assert shown == {
        "error": "GraphLoadFailed",
        "message": "graph 'broken' does not load (ModuleNotFoundError); the server's"
        " log has the cause",
    }


async def test_waiting_answers_tell_nothing_of_our_bugs(
    fleet: Fleet, fresh_database_uri: str
) -> None:
    server = await fleet.server(poll_seconds=0.2)
    thread_id = (await server.client.threads.create())["thread_id"]
    with capture_logs() as logs:
        async with server.http.stream(
            "POST", f"/threads/{thread_id}/runs/wait", json=RUN
        ) as response:
            await _execute(
                fresh_database_uri,
                "ALTER TABLE threadmill.run RENAME COLUMN run_id TO other",
            )
            body = await response.aread()
    shown: Any = json.loads(body)["__error__"]
    assert shown["message"] == "internal error; the server's log has the cause"
    assert "server.invariant_violated" in [line["event"] for line in logs]


async def test_an_answer_outlasts_a_short_outage(
    fleet: Fleet, fresh_database_uri: str
) -> None:
    """Also when the run was seen ended, and its outcome is still to be read."""
    quick = {"pool_timeout_seconds": 0.3, "poll_seconds": 0.3}
    await fleet.worker()
    server = await fleet.server(**quick)
    client, services = server.client, server.services
    thread_id = (await client.threads.create())["thread_id"]
    asked = await client.runs.wait(thread_id, "approval", input={"request": "pay"})
    (first,) = await client.runs.list(thread_id)
    # What the second run adds to the first one's end is told apart by a look at it.
    await client.runs.wait(thread_id, "approval", command={"resume": "yes"})
    run = await services.runs.get("default", UUID(first["run_id"]))
    ended = await services.wait("default", run)
    await allow_connections(fresh_database_uri, allowed=False)
    try:
        answering = asyncio.create_task(services.answers("default", ended))
        # Connections are handed out in turn, so the answer fails before this.
        with pytest.raises(Unavailable):
            while True:
                await services.runs.get("default", run.run_id)
    finally:
        await allow_connections(fresh_database_uri, allowed=True)
    answer = await answering
    assert answer["__interrupt__"][0]["value"] == asked["__interrupt__"][0]["value"]


# --- shapes -------------------------------------------------------------------------


async def test_questions_look_the_same_everywhere(client: Any) -> None:
    thread_id = (await client.threads.create())["thread_id"]
    parts = [
        part
        async for part in client.runs.stream(
            thread_id, "approval", input={"request": "pay"}, stream_mode="values"
        )
    ]
    questions = parts[-1].data["__interrupt__"]
    (run,) = await client.runs.list(thread_id)
    joined = await client.runs.join(thread_id, run["run_id"])
    assert joined["__interrupt__"] == questions
    shown = await client.threads.get(thread_id)
    assert list(shown["interrupts"].values()) == [questions]
    state = await client.threads.get_state(thread_id)
    assert state["interrupts"] == questions


async def test_probes_may_ask_for_the_head_only(idle_server: RunningServer) -> None:
    response = await idle_server.http.head("/ok")
    assert (response.status_code, response.content) == (200, b"")
