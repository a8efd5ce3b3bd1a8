"""The health port of a worker."""

from __future__ import annotations

import httpx

from threadmill.errors import StoreUnavailable
from threadmill.server.health import health_app


def client(*, reachable: bool) -> httpx.AsyncClient:
    async def ping() -> None:
        if not reachable:
            raise StoreUnavailable

    app = health_app(ping, lambda: {"slots": 3})
    transport = httpx.ASGITransport(app)
    return httpx.AsyncClient(transport=transport, base_url="http://worker")


async def test_ok_tells_that_the_database_answers_and_what_is_done() -> None:
    async with client(reachable=True) as http:
        response = await http.get("/ok")
    assert response.status_code == 200
    assert response.json() == {"ok": True, "slots": 3}


async def test_ok_fails_while_the_database_is_away_unless_it_is_left_out() -> None:
    async with client(reachable=False) as http:
        assert (await http.get("/ok")).status_code == 500
        assert (await http.get("/ok?check_db=0")).status_code == 200


async def test_metrics_need_no_database() -> None:
    async with client(reachable=False) as http:
        response = await http.get("/metrics")
    assert "threadmill_worker_slots 3.0" in response.text.splitlines()
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
