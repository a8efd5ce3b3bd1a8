"""What must hold after any fault, read from the database itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tests.fixtures.cluster import Cluster

_NODES = ("receive", "process", "save")
_SETTLE_SECONDS = 60.0
_POLL_SECONDS = 0.05


async def settle(cluster: Cluster) -> None:
    """Waits until no run is pending or running; a stuck one fails the test."""
    open_runs: list[dict[str, Any]] = []
    try:
        async with asyncio.timeout(_SETTLE_SECONDS):
            while open_runs := await cluster.rows(  # noqa: ASYNC110
                "SELECT run_id, thread_id, status FROM threadmill.run "
                "WHERE status IN ('pending', 'running')"
            ):
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"stuck runs: {open_runs}") from None
    left = await cluster.rows("SELECT * FROM threadmill.activation")
    assert left == [], "a run ended and its activation stayed"


async def verify(cluster: Cluster, sent: Mapping[str, Sequence[str]]) -> None:
    """Checks every thread against what its clients were promised.

    Args:
        cluster: has at least one server.
        sent: per thread, every acknowledged message. In the state each must stand
            exactly once, in the order in which the runs were accepted.
    """
    await settle(cluster)
    for thread_id, messages in sent.items():
        runs = await cluster.rows(
            "SELECT run_id, status, "
            "payload::jsonb -> 'input' -> 'messages' ->> 0 AS message "
            "FROM threadmill.run WHERE thread_id = %s ORDER BY seq",
            thread_id,
        )
        accepted = [run["message"] for run in runs]
        assert sorted(accepted) == sorted(messages), "accepted is not what was sent"
        assert {run["status"] for run in runs} <= {"success"}, runs
        async with cluster.client() as client:
            state = await client.threads.get_state(thread_id)
        values = cast("dict[str, Any]", state["values"])
        assert values["messages"] == accepted, "applied differs from accepted"
        assert values["steps"] == [f"{n} {m}" for m in accepted for n in _NODES]
        await _is_one_path(cluster, thread_id)


async def _is_one_path(cluster: Cluster, thread_id: str) -> None:
    """The thread's checkpoints form one chain, along which tokens never fall."""
    found: list[dict[str, Any]] = await cluster.rows(
        "SELECT checkpoint_id, parent_id, ordinal, token FROM threadmill.checkpoint "
        "WHERE thread_id = %s AND ns = '' ORDER BY ordinal",
        thread_id,
    )
    parents = [None, *(row["checkpoint_id"] for row in found[:-1])]
    assert [row["parent_id"] for row in found] == parents, "the history forks"
    tokens = [row["token"] for row in found]
    assert tokens == sorted(tokens), "a token fell along the history"
