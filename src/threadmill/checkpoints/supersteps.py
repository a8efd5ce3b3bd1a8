"""What a commit does to activations and supersteps, beside storing state.

Each function adds statements to the commit's transaction; `supersteps.sql` has them,
and the reasons for their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.checkpoints.base import Committed
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import InvariantViolated

if TYPE_CHECKING:
    from threadmill.checkpoints.base import Commit, EndOfTasks, Plan
    from threadmill.domain.fence import Fence
    from threadmill.drivers.postgres.database import Result, Transaction

SQL = Queries(__package__, "supersteps.sql")

# Between the labels of one task; no label has one.
_LABELS = ","


def add_fence(
    tx: Transaction, tenant: str, thread_id: str, fence: Fence, commit: Commit
) -> None:
    """Adds the locks of a commit, and what becomes of the activation that it holds.

    Raises:
        InvariantViolated: the fence is another thread's.
    """
    if fence.tenant != tenant or str(fence.thread_id) != thread_id:
        msg = f"the fence of thread {fence.thread_id} does not cover {thread_id}"
        raise InvariantViolated(msg)
    run = {"tenant": tenant, "thread_id": fence.thread_id}
    if commit.plan:
        tx.add(SQL.lock_run, tenant=tenant, run_id=fence.run_id)
    if commit.ended:
        tx.add(SQL.lock_superstep, tenant=tenant, run_id=fence.run_id)
    if fence.also:
        ids, tokens = zip(*fence.rights, strict=True)
        tx.add(SQL.fence_all, ids=list(ids), tokens=list(tokens), **run)
        return
    claimed = {**run, "activation_id": fence.activation_id, "token": fence.token}
    if commit.release:
        labels = list(commit.labels)
        released = {**claimed, "labels": labels, "progress": commit.progress}
        tx.add(SQL.fence_and_release, **released)
    elif commit.progress:
        tx.add(SQL.fence_and_progress, labels=list(commit.labels), **claimed)
    else:
        tx.add(SQL.fence, **claimed)


def add_plan(tx: Transaction, fence: Fence, plan: Plan) -> Result:
    """Adds the tasks of a superstep in the place of their step; see `committed`."""
    return tx.add(
        SQL.plan,
        tenant=tx.tenant,
        activation_id=fence.activation_id,
        checkpoint_id=plan.checkpoint_id,
        lease_seconds=plan.lease_seconds,
        width=len(plan.tasks),
        task_ids=[task.task_id for task in plan.tasks],
        task_paths=[task.task_path for task in plan.tasks],
        nodes=[task.node for task in plan.tasks],
        labels=[_LABELS.join(task.labels) for task in plan.tasks],
        mine=[task.mine for task in plan.tasks],
        waits=[task.waits for task in plan.tasks],
    )


def add_end_of_tasks(tx: Transaction, fence: Fence, ended: EndOfTasks) -> Result:
    """Adds the end of tasks, and of their superstep with the last; see `committed`."""
    return tx.add(
        SQL.end_tasks,
        tenant=tx.tenant,
        run_id=fence.run_id,
        ended=list(ended.activations),
        bounded=ended.bounded,
        lease_seconds=ended.lease_seconds,
        labels=list(ended.labels),
    )


def committed(planned: Result | None, ended: Result | None) -> Committed:
    """What both have brought about."""
    row = ended.one if ended is not None else None
    return Committed(
        planned={
            row["task_path"]: (row["activation_id"], row["token"])
            for row in (planned.rows if planned is not None else ())
        },
        remaining=row["remaining"] if row is not None else None,
        join=(row["activation_id"], row["token"])
        if row is not None and row["taken"]
        else None,
    )
