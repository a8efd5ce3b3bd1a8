"""A superstep that is spread, in memory: planning its tasks, and ending them."""

from __future__ import annotations

import math

from tests.simulation.store.tables import ActivationRow, SuperstepRow, Tables
from threadmill.checkpoints.base import Committed, EndOfTasks, Plan, PlannedTask
from threadmill.stores.records import Superstep


def plan(tables: Tables, step: ActivationRow, planned: Plan) -> Committed:
    """Replaces a step by its tasks; the planner's own are leased anew."""
    assert step.run_id is not None
    del tables.activations[step.activation_id]
    width = len(planned.tasks)
    superstep = SuperstepRow(planned.checkpoint_id, width)
    tables.supersteps[step.tenant, step.run_id] = superstep
    rows = [_task(tables, step, planned, task) for task in planned.tasks]
    return Committed(
        planned={
            task.task_path: (row.activation_id, row.token)
            for task, row in zip(planned.tasks, rows, strict=True)
            if task.mine
        }
    )


def _task(
    tables: Tables, step: ActivationRow, planned: Plan, task: PlannedTask
) -> ActivationRow:
    assert step.run_id is not None
    row = ActivationRow(
        step.tenant,
        tables.ids(),
        step.thread_id,
        step.run_id,
        "task",
        step.graph_id,
        math.inf if task.waits else tables.clock(),
        attempt=step.attempt - 1,
        task=task,
        superstep=Superstep(step.run_id, planned.checkpoint_id),
        labels=task.labels,
    )
    if task.mine:
        until = tables.clock() + planned.lease_seconds
        row.lease(tables.draw_token(), step.worker_id, until)
    tables.activations[row.activation_id] = row
    return row


def end_tasks(tables: Tables, held: ActivationRow, ended: EndOfTasks) -> Committed:
    """Ends tasks; who ends the last one adds what goes on after the superstep."""
    assert held.run_id is not None
    run = (held.tenant, held.run_id)
    gone = [
        row for row in tables.of_run(*run) if row.activation_id in ended.activations
    ]
    for row in gone:
        del tables.activations[row.activation_id]
    if ended.bounded:
        waiting = [r for r in tables.of_run(*run) if r.not_before == math.inf]
        for row in waiting[: len(gone)]:
            row.not_before = tables.clock()
    superstep = tables.supersteps.get(run)
    if superstep is None or not gone:
        return Committed()
    superstep.remaining -= len(gone)
    if superstep.remaining > 0:
        return Committed(remaining=superstep.remaining)
    del tables.supersteps[run]
    return _join(tables, gone[0], ended)


def _join(tables: Tables, last: ActivationRow, ended: EndOfTasks) -> Committed:
    join = ActivationRow(
        last.tenant,
        tables.ids(),
        last.thread_id,
        last.run_id,
        "join",
        last.graph_id,
        tables.clock(),
        labels=ended.labels,
    )
    tables.activations[join.activation_id] = join
    if ended.lease_seconds is None or last.state != "leased":
        return Committed(remaining=0)
    until = tables.clock() + ended.lease_seconds
    join.lease(tables.draw_token(), last.worker_id, until)
    return Committed(remaining=0, join=(join.activation_id, join.token))
