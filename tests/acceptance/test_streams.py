"""What a client is told, when the worker that told it dies."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from langgraph_sdk.client import LangGraphClient

from tests.fixtures.cluster import Cluster

pytestmark = pytest.mark.timeout(120)


async def test_a_worker_killed_after_an_answer_tells_no_state_twice(
    cluster: Cluster,
) -> None:
    """The resumed node begins elsewhere; the state that it resumes from is told once.

    The node after it blocks in a subgraph of its own.
    """
    await asyncio.gather(cluster.start_server(), cluster.start_worker())
    gate = cluster.folder / "gate-ask"
    async with cluster.client() as client:
        thread = (await client.threads.create())["thread_id"]
        asked = await client.runs.wait(thread, "nested", input={"steps": []})
        assert [i["value"] for i in cast("Any", asked)["__interrupt__"]] == ["go on?"]
        following = _Following()
        task = asyncio.create_task(following.resume(client, thread, str(gate)))
        victim = await cluster.until_begun("ask")
        await following.begun.wait()
        survivor, _ = await asyncio.gather(
            cluster.start_worker(), cluster.worker_of(victim["pid"]).kill()
        )
        again = await cluster.until_begun("ask", 2)
        assert again["pid"] == survivor.pid
        gate.touch()
        told = await task
        state = await client.threads.get_state(thread)
    assert [name for name, _ in told if name == "metadata"] == ["metadata"] * 2
    updates = [data for name, data in told if name == "updates"]
    assert [[*update] for update in updates] == [["ask"], ["call"]]
    values = [data["steps"] for name, data in told if name == "values"]
    assert values == [[], ["ask"], ["ask", "inner"]]
    assert cast("Any", state["values"])["steps"] == ["ask", "inner"]


class _Following:
    """A client that answers the question and is told until the end of the run."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()

    async def resume(
        self, client: LangGraphClient, thread: str, gate: str
    ) -> list[tuple[str, Any]]:
        told = []
        async for part in client.runs.stream(
            thread,
            "nested",
            command={"resume": "yes"},
            config={"configurable": {"hold": "ask", "gate": gate}},
            stream_mode=["values", "updates"],
        ):
            told.append((part.event, part.data))
            if part.event == "values":
                self.begun.set()
        return told
