"""The health port of a worker."""

from __future__ import annotations

import httpx

from threadmill.errors import StoreUnavailable
from threadmill.server.health import health_app


def client(*, reachable: bool) -> httpx.AsyncClient:
    async def ping() -> None:
        if not reachable:
            raise StoreUnavailable

    app = health_app(ping, lambda: {"slots": 3, "activations_claimed_total": 7})
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://worker")


async def test_ok_tells_that_the_database_answers_and_what_is_done() -> None:
    async with client(reachable=True) as http:
        response = await http.get("/ok")
    assert response.status_code == 200
    numbers = {"slots": 3, "activations_claimed_total": 7}
    assert response.json() == {"ok": True, **numbers}


async def test_ok_fails_while_the_database_is_away_unless_it_is_left_out() -> None:
    async with client(reachable=False) as http:
        assert (await http.get("/ok")).status_code == 500
        assert (await http.get("/ok?check_db=0")).status_code == 200


async def test_metrics_need_no_database() -> None:
    async with client(reachable=False) as http:
        response = await http.get("/metrics")
    lines = response.text.splitlines()
    assert "# TYPE threadmill_worker_slots gauge" in lines
    assert "threadmill_worker_slots 3.0" in lines
    # What only counts up is a counter, so that rate() sees a restart.
    claimed = "threadmill_worker_activations_claimed_total"
    assert f"# HELP {claimed} Activations that this worker has claimed." in lines
    assert f"# TYPE {claimed} counter" in lines
    assert f"{claimed} 7.0" in lines
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
