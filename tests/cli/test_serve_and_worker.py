"""`serve` and `worker`: they start or say why not, work together, and drain."""

from __future__ import annotations

import httpx
import pytest

from tests.cli.conftest import Project


def test_a_server_and_a_worker_carry_a_run_out_and_end_on_sigterm(
    served: Project,
) -> None:
    server = served.start("serve", "--port", "0")
    worker = served.start(
        "worker", "--slots", "3", "--labels", "gpu, eu", "--health-port", "0"
    )
    ready = worker.event("worker.ready")
    assert (ready["slots"], ready["graphs"]) == (3, ["agent"])
    assert ready["labels"] == ["gpu", "eu"]
    url = server.event("server.ready")["url"]
    body = {"assistant_id": "agent", "input": {"name": ""}}
    answer = httpx.post(f"{url}/runs/wait", json=body, timeout=60)
    assert answer.json() == {"name": "first"}
    assert worker.end() == 0
    assert server.end() == 0
    request = server.event("request")
    assert (request["method"], request["path"]) == ("POST", "/runs/wait")
    assert request["status"] == 200
