"""Rows of the database as the records of the port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from threadmill.domain.retention import Strategy, Ttl
from threadmill.domain.run import RunStatus, ThreadStatus
from threadmill.stores.records import Claim, Run, Thread

if TYPE_CHECKING:
    from threadmill.drivers.postgres.connection import Row

PAYLOAD = frozenset({"input", "command", "context"})
"""The part of a run's kwargs that is kept as JSON text."""


def run_of(row: Row) -> Run:
    """A row of threadmill.run."""
    return Run(
        run_id=row["run_id"],
        thread_id=row["thread_id"],
        assistant_id=row["assistant_id"],
        graph_id=row["graph_id"],
        seq=row["seq"],
        status=RunStatus(row["status"]),
        multitask_strategy=row["multitask_strategy"],
        metadata=row["metadata"],
        kwargs={**row["kwargs"], **orjson.loads(row["payload"])},
        attempt=row["attempt"],
        start_checkpoint=row["start_checkpoint"],
        end_checkpoint=row["end_checkpoint"],
        start_step=row["start_step"],
        error=row["error"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        running_seconds=row.get("running_seconds", 0.0),
        labels=tuple(row["labels"]),
        lost_by=row.get("lost_by"),
    )


def thread_of(row: Row) -> Thread:
    """A row of threadmill.thread."""
    return Thread(
        thread_id=row["thread_id"],
        status=ThreadStatus(row["status"]),
        metadata=row["metadata"],
        config=row["config"],
        error=row["error"],
        temporary=row["temporary"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        state_updated_at=row["state_updated_at"],
        ttl=ttl_of(row),
    )


def ttl_of(row: Row, strategy: str = "ttl_strategy") -> Ttl | None:
    """The rule of how long to keep something in a row's columns, if there is one."""
    if row["ttl_minutes"] is None:
        return None
    return Ttl(row["ttl_minutes"], Strategy(row[strategy]))


def claim_of(row: Row) -> Claim:
    """What the dispatcher's functions return."""
    return Claim(
        tenant=row["tenant_id"],
        activation_id=row["activation_id"],
        thread_id=row["thread_id"],
        run_id=row["run_id"],
        token=row["token"],
        attempt=row["attempt"],
        kind=row.get("kind", "step"),
        task_id=row.get("task_id"),
        task_path=row.get("task_path"),
        node=row.get("node"),
    )
