"""Dead letters, explanations and the fleet over HTTP."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from tests.fixtures.fleet import Fleet, RunningServer
from tests.stores.run_store import RunStore, put
from threadmill.config import load_config
from threadmill.domain.run import RunEvent
from threadmill.engine.attempt import fence_of
from threadmill.engine.graphs import default_assistant_id, load_graphs
from threadmill.errors import NotFound
from threadmill.server.services import TENANT
from threadmill.stores.records import Ending, NewDeadLetter

pytestmark = pytest.mark.asyncio(loop_scope="session")

CAUSE = {"error": "RuntimeError", "message": "gave up"}
GRAPHS = Path(__file__).parent / "graphs"
RUN = {"assistant_id": "conversation", "input": {"messages": [], "user_id": "u"}}


async def dead_run(
    server: RunningServer, *, checkpoint: bool = False
) -> dict[str, Any]:
    """A run on a thread of its own that was given up; nobody else works here."""
    thread = (await server.http.post("/threads", json={})).json()["thread_id"]
    run: dict[str, Any] = (
        await server.http.post(f"/threads/{thread}/runs", json=RUN)
    ).json()
    dispatcher = server.core.dispatcher
    while True:
        (claim,) = await dispatcher.claim(uuid4(), ["conversation"], 1, 60)
        if claim.run_id == UUID(run["run_id"]):
            break
    begun = await dispatcher.begin(claim)
    fence = replace(fence_of(claim), attempt=begun.attempt)
    if checkpoint:
        await put(cast("RunStore", server.core), fence, 0, None)
    dead = NewDeadLetter(cause=CAUSE, attempts=5)
    await dispatcher.finish(fence, Ending(RunEvent.FAIL, error=CAUSE, dead=dead))
    return run


async def test_dead_letters_are_listed_in_pages(fleet: Fleet) -> None:
    server = await fleet.server()
    http = server.http
    runs = [await dead_run(server) for _ in range(3)]
    path = "/threadmill/dead-letters"
    first = await http.get(path, params={"limit": 2, "graph_id": "conversation"})
    assert first.headers["x-pagination-total"] == "3"
    second = await http.get(
        path, params={"limit": 2, "offset": first.headers["x-pagination-next"]}
    )
    assert "x-pagination-next" not in second.headers
    found = [letter["run_id"] for letter in [*first.json(), *second.json()]]
    assert found == [run["run_id"] for run in reversed(runs)]
    assert first.json()[0]["cause"] == CAUSE
    of_one = await http.get(path, params={"thread_id": runs[0]["thread_id"]})
    assert [letter["run_id"] for letter in of_one.json()] == [runs[0]["run_id"]]
    none = await http.get(path, params={"graph_id": "another"})
    assert none.json() == []
    assert (await http.get(path, params={"limit": 0})).status_code == 422


async def test_one_is_shown_redriven_or_discarded(idle_server: RunningServer) -> None:
    http = idle_server.http
    one, other = await dead_run(idle_server), await dead_run(idle_server)
    path = f"/threadmill/dead-letters/{one['run_id']}"
    assert (await http.get(path)).json()["attempts"] == 5
    redriven = await http.post(f"{path}/redrive")
    assert redriven.status_code == 200
    assert (redriven.json()["run_id"], redriven.json()["status"]) == (
        one["run_id"],
        "pending",
    )
    assert (await http.get(path)).status_code == 404
    assert (await http.post(f"{path}/redrive")).status_code == 404
    path = f"/threadmill/dead-letters/{other['run_id']}"
    assert (await http.delete(path)).status_code == 204
    assert (await http.delete(path)).status_code == 404


async def test_a_run_whose_thread_has_gone_on_is_refused(
    idle_server: RunningServer,
) -> None:
    http = idle_server.http
    run = await dead_run(idle_server, checkpoint=True)
    await http.post(
        f"/threads/{run['thread_id']}/state",
        json={"values": {"user_id": "x"}, "as_node": "__start__"},
    )
    redriven = await http.post(f"/threadmill/dead-letters/{run['run_id']}/redrive")
    assert redriven.status_code == 409
    assert "start a run from checkpoint" in redriven.json()["detail"]


async def test_why(idle_server: RunningServer) -> None:
    http = idle_server.http
    run = await dead_run(idle_server)
    why = (await http.get(f"/threadmill/runs/{run['run_id']}/why")).json()
    assert (why["reason"], why["status"]) == ("dead_letter", "error")
    assert why["details"]["cause"] == CAUSE
    assert "gave up" in why["sentence"]
    nobody = await http.get(f"/threadmill/runs/{uuid4()}/why")
    assert nobody.status_code == 404
    assert (await http.get("/threadmill/runs/x/why")).status_code == 422


async def test_the_fleet(server: RunningServer) -> None:
    members = (await server.http.get("/threadmill/workers")).json()
    assert [member["role"] for member in members] == ["worker", "server"]
    me = server.core.member
    assert members[1]["worker_id"] == str(me.worker_id)
    assert members[1]["name"] == me.name
    assert "conversation" in members[0]["graphs"]


async def test_queues_and_metrics(fleet: Fleet) -> None:
    server = await fleet.server()
    http = server.http
    await dead_run(server)
    (queue,) = (await http.get("/threadmill/queues")).json()
    assert (queue["labels"], queue["runnable"], queue["dead_letters"]) == ([], 0, 1)
    of_gpu = await http.get("/threadmill/queues", params={"labels": "gpu,eu"})
    assert [(q["labels"], q["runnable"]) for q in of_gpu.json()] == [(["eu", "gpu"], 0)]
    plain = await http.get("/threadmill/queues", params={"labels": ""})
    assert plain.json() == [queue]
    metrics = await http.get("/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'threadmill_queue_dead_letters{labels=""} 1.0' in metrics.text
    assert 'threadmill_queue_oldest_runnable_seconds{labels=""} 0.0' in metrics.text
    as_json = await http.get("/metrics", params={"format": "json"})
    assert as_json.json() == {"queues": [queue]}
    assert (await http.get("/metrics", params={"format": "x"})).status_code == 422


async def test_a_worker_is_asked_to_drain(fleet: Fleet) -> None:
    await fleet.worker()
    server = await fleet.server()
    path = "/threadmill/workers"
    (worker, _) = (await server.http.get(path)).json()
    asked = await server.http.post(f"{path}/{worker['worker_id']}/drain")
    assert (asked.status_code, asked.json()["draining"]) == (202, True)
    drains = {m["role"]: m["draining"] for m in (await server.http.get(path)).json()}
    assert drains == {"worker": True, "server": False}
    nobody = await server.http.post(f"{path}/{uuid4()}/drain")
    assert nobody.status_code == 404


async def test_another_tenants_dead_letters_are_not_seen(
    idle_server: RunningServer,
) -> None:
    run = await dead_run(idle_server)
    letters = idle_server.core.operations.dead_letters
    assert (await letters.get(TENANT, UUID(run["run_id"]))).attempts == 5
    with pytest.raises(NotFound):
        await letters.get("somebody", UUID(run["run_id"]))


async def test_runs_need_the_labels_of_their_graph_and_of_their_assistant(
    fleet: Fleet, tmp_path: Path
) -> None:
    """So they say while they wait, and a worker without them leaves them."""
    path = f"{GRAPHS}/conversation.py:graph"
    assistant = default_assistant_id("conversation")
    ours = {
        "graphs": {name: {"labels": ["eu"]} for name in ("conversation", "talk")},
        "assistants": {str(assistant): {"labels": ["gpu", "eu"]}},
    }
    asked = {"graphs": {"conversation": path, "talk": path}, "threadmill": ours}
    (tmp_path / "langgraph.json").write_text(json.dumps(asked))
    fleet.graphs = load_graphs(load_config(tmp_path))
    assert fleet.graphs.run_labels == [("eu",), ("eu",), ("eu", "gpu")]
    server = await fleet.server()
    for name in ("conversation", "talk"):
        made = await server.http.post("/runs", json=RUN | {"assistant_id": name})
        assert made.status_code == 200, made.text
    queues = (await server.http.get("/threadmill/queues")).json()
    waiting = {tuple(queue["labels"]): queue["runnable"] for queue in queues}
    assert waiting == {(): 0, ("eu",): 1, ("eu", "gpu"): 1}
    (claim,) = await server.core.dispatcher.claim(
        uuid4(), ["conversation", "talk"], 9, 60, labels=["eu"]
    )
    assert (await server.core.dispatcher.begin(claim)).graph_id == "talk"
