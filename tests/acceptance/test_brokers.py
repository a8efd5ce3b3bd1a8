"""Workers are woken through a message broker, and do without it when it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

import httpx
import pytest

from chaos.fleet import POLL_SECONDS, READY_SECONDS
from chaos.services import SERVICES, Service
from tests.acceptance.verify import settle, verify
from tests.fixtures.cluster import Cluster, send, send_somewhere

_CALM_SECONDS = 0.25

pytestmark = pytest.mark.timeout(400)

NewService = Callable[[str], Service]

# Longer than any test: whoever finds work was told of it.
NEVER_SECONDS = "3000"
_WIDTH = 12


async def _start(cluster: Cluster, service: Service, **env: str) -> None:
    cluster.env |= {**service.env(), **env}
    await asyncio.gather(
        cluster.start_server(), *(cluster.start_worker() for _ in range(2))
    )


@pytest.mark.parametrize("name", SERVICES)
async def test_work_is_found_through_the_broker_alone(
    cluster: Cluster, new_service: NewService, name: str
) -> None:
    """No poll is in reach, and no thread has a second message."""
    service = await asyncio.to_thread(new_service, name)
    await _start(cluster, service, THREADMILL_POLL_SECONDS=NEVER_SECONDS)
    sent: dict[str, list[str]] = {}
    for n in range(8):
        thread = str(uuid4())
        url = cluster.servers[0].url
        answer = await send(url, thread, f"m{n}", key=uuid4().hex)
        assert answer.status_code == httpx.codes.OK
        sent[thread] = [f"m{n}"]
        # One after the other: whoever is still at work would look by itself.
        await settle(cluster)
    await verify(cluster, sent)


@pytest.mark.parametrize("name", SERVICES)
async def test_a_broker_that_dies_in_mid_load_loses_nothing_and_is_found_again(
    cluster: Cluster, new_service: NewService, name: str
) -> None:
    """Killed, away, back, and emptied, while clients go on."""
    service = await asyncio.to_thread(new_service, name)
    await _start(cluster, service)
    sent: dict[str, list[str]] = {}
    stop = asyncio.Event()

    async def client(number: int) -> None:
        while not stop.is_set():
            thread, message = str(uuid4()), f"c{number}-{len(sent)}"
            sent[thread] = [message]
            await send_somewhere(cluster, thread, message)
            # Some services start slowly, and every message is verified.
            await asyncio.sleep(_CALM_SECONDS)

    clients = [asyncio.create_task(client(number)) for number in range(2)]
    await _until_more(sent, 10)
    await asyncio.to_thread(service.kill)
    await _until_more(sent, 10)
    await _until_said(cluster, "broker.publishing.broken", "broker.receiving.broken")
    await asyncio.to_thread(service.start)
    await _until_said(
        cluster, "broker.publishing.recovered", "broker.receiving.recovered"
    )
    await asyncio.to_thread(service.purge)
    await _until_more(sent, 10)
    stop.set()
    await asyncio.gather(*clients)
    await verify(cluster, sent)


async def test_labels_lead_to_the_workers_that_have_them(
    cluster: Cluster, new_service: NewService
) -> None:
    """Tasks that need a label are found by the one worker that has it, unpolled."""
    service = await asyncio.to_thread(new_service, "redis")
    cluster.env |= {**service.env(), "THREADMILL_POLL_SECONDS": NEVER_SECONDS}
    server, plain, labelled = await asyncio.gather(
        cluster.start_server(),
        cluster.start_worker(),
        cluster.start_worker(labels="gpu"),
    )
    async with httpx.AsyncClient(timeout=READY_SECONDS) as client:
        for on in ("embed", "work", "embed"):
            answer = await client.post(
                f"{server.url}/threads/{uuid4()}/runs/wait",
                json={
                    "assistant_id": "wide",
                    "input": {"n": _WIDTH, "on": on},
                    "if_not_exists": "create",
                },
            )
            state = answer.json()
            assert sorted(state["seen"]) == list(range(_WIDTH))
            assert state["joined"] == 1
    embedded = {line["pid"] for line in cluster.begun() if line["node"] == "embed"}
    assert embedded == {labelled.pid}
    assert plain.alive


async def _until_more(sent: Mapping[str, Sequence[str]], more: int) -> None:
    wanted = len(sent) + more
    async with asyncio.timeout(READY_SECONDS):
        while len(sent) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


async def _until_said(cluster: Cluster, server: str, worker: str) -> None:
    """Waits until each process has logged it."""
    async with asyncio.timeout(READY_SECONDS):
        while not (  # noqa: ASYNC110
            all(process.said(server) for process in cluster.servers)
            and all(process.said(worker) for process in cluster.workers)
        ):
            await asyncio.sleep(POLL_SECONDS)
