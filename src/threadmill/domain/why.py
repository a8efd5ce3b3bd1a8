"""Why a run is not moving: one answer, from the facts of one moment.

A pure rule. The order of its questions is that of a run's life, from its end backwards:
has it ended, does its thread let it, is its work claimed, and if not, who could claim
it? The first that has an answer gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from threadmill.domain.lease import is_suspect
from threadmill.domain.run import TERMINAL

if TYPE_CHECKING:
    from threadmill.domain.facts import Facts, WorkerFacts, WorkFacts

_NAMED_MAX: Final = 5


class Reason(StrEnum):
    """What keeps a run from moving, or that nothing does."""

    ENDED = "ended"
    DEAD_LETTER = "dead_letter"
    WAITS_FOR_HUMAN = "waits_for_human"
    DELAYED = "delayed"
    QUEUED = "queued"
    THREAD_UPDATING = "thread_updating"
    NOT_PROMOTED = "not_promoted"
    NO_WORK = "no_work"
    BACKING_OFF = "backing_off"
    NO_GRAPH = "no_graph"
    NO_LABEL = "no_label"
    AVOIDING = "avoiding"
    NO_SLOT = "no_slot"
    ALONE = "alone"
    READY = "ready"
    RUNNING = "running"
    LEASE_OVER = "lease_over"
    TASKS = "tasks"
    MAX_CONCURRENCY = "max_concurrency"


@dataclass(frozen=True, slots=True)
class Answer:
    """Why a run is not moving.

    Args:
        reason: what it is, for programs.
        sentence: the same for people.
        details: what the sentence names, as JSON values.
    """

    reason: Reason
    sentence: str
    details: Mapping[str, Any] = field(default_factory=dict)


def why(facts: Facts, *, silent_seconds: float) -> Answer:
    """Why the run is not moving.

    Args:
        facts: of one moment.
        silent_seconds: a worker that was not seen for so long does not count.
    """
    if facts.run.status in TERMINAL:
        return _ended(facts)
    if facts.thread.holder != facts.run.run_id:
        return _waits_for_thread(facts)
    alive = _alive(facts, silent_seconds)
    tasks = [work for work in facts.work if work.kind == "task"]
    if tasks:
        return _tasks(facts, tasks, alive)
    if not facts.work:
        return Answer(
            Reason.NO_WORK,
            "the run holds its thread and has no activation; that should not be: "
            "please report it",
        )
    return _of_work(facts, facts.work[0], alive)


def _ended(facts: Facts) -> Answer:
    run, dead = facts.run, facts.dead
    if dead is not None:
        details = {
            "cause": dict(dead.cause),
            "attempts": dead.attempts,
            "died_at": _at(dead.died_at),
            "checkpoint_id": dead.checkpoint_id,
        }
        return Answer(
            Reason.DEAD_LETTER,
            f"the run is a dead letter since {_at(dead.died_at)}, after "
            f"{_count(dead.attempts, 'attempt')}: {_error(dead.cause)}; redrive or "
            "discard it",
            details,
        )
    ended = {"status": run.status.value, "finished_at": _at(run.finished_at)}
    if run.waits:
        return Answer(
            Reason.WAITS_FOR_HUMAN,
            f"the run ended with {run.status} at {_at(run.finished_at)}, and its "
            "thread waits for a human: answer with a run whose command resumes it",
            ended,
        )
    because = f": {_error(run.error)}" if run.error else ""
    return Answer(
        Reason.ENDED,
        f"the run ended with {run.status} at {_at(run.finished_at)}{because}",
        {**ended, "error": None if run.error is None else dict(run.error)},
    )


def _waits_for_thread(facts: Facts) -> Answer:
    run, thread = facts.run, facts.thread
    if run.not_before > facts.now:
        return Answer(
            Reason.DELAYED,
            f"the run is delayed until {_at(run.not_before)} (after_seconds)",
            {"until": _at(run.not_before)},
        )
    if thread.holder is None:
        return Answer(
            Reason.NOT_PROMOTED,
            f"the run was due at {_at(run.not_before)} and its thread is free, but no "
            "process has started it: the next sweep does, if any process is alive",
            {"due_at": _at(run.not_before)},
        )
    place = {"position": thread.ahead + 1, "holder": str(thread.holder)}
    if thread.updating_until is not None:
        return Answer(
            Reason.THREAD_UPDATING,
            "the thread is held by a state update, until "
            f"{_at(thread.updating_until)} at the latest",
            {**place, "until": _at(thread.updating_until)},
        )
    return Answer(
        Reason.QUEUED,
        f"the run is queued behind run {thread.holder}, which holds the thread; it is "
        f"number {place['position']} in the queue",
        place,
    )


def _of_work(facts: Facts, work: WorkFacts, alive: Sequence[WorkerFacts]) -> Answer:
    """Why one activation is not moving."""
    if work.is_held:
        return _held(facts, work)
    if work.ready_at is None:
        return Answer(
            Reason.MAX_CONCURRENCY,
            "waits for other tasks of the superstep to end (max_concurrency)",
        )
    if work.ready_at > facts.now:
        lost = _count(max(work.attempt, 1), "attempt")
        because = f" (the last one: {work.cause})" if work.cause else ""
        return Answer(
            Reason.BACKING_OFF,
            f"backing off until {_at(work.ready_at)}, after {lost} without progress"
            f"{because}",
            {
                "until": _at(work.ready_at),
                "attempts": work.attempt,
                "cause": work.cause,
            },
        )
    return _unclaimed(facts, work, alive)


def _held(facts: Facts, work: WorkFacts) -> Answer:
    by = _name(facts, work.worker_id)
    seen = next(
        (w.seen_at for w in facts.workers if w.worker_id == work.worker_id), None
    )
    details = {
        "worker_id": str(work.worker_id),
        "worker": by,
        "attempt": work.attempt,
        "since": _at(work.claimed_at),
        "last_renewed_at": _at(seen),
        "lease_until": _at(work.lease_until),
    }
    since = f"since {_at(work.claimed_at)}"
    if work.lease_until is not None and work.lease_until < facts.now:
        return Answer(
            Reason.LEASE_OVER,
            f"worker {by} has it {since}, and its lease ended at "
            f"{_at(work.lease_until)}; the next sweep gives it to another one, if any "
            "process is alive",
            details,
        )
    renewed = "has not renewed yet" if seen is None else f"last renewed at {_at(seen)}"
    return Answer(
        Reason.RUNNING,
        f"worker {by} has it {since} (attempt {work.attempt} since it last got on), "
        f"{renewed}; its lease ends at {_at(work.lease_until)}",
        details,
    )


def _unclaimed(facts: Facts, work: WorkFacts, alive: Sequence[WorkerFacts]) -> Answer:
    """Why nobody takes what is ready: the first thing that no worker has."""
    since: dict[str, Any] = {
        "graph_id": work.graph_id,
        "labels": sorted(work.labels),
        "since": _at(work.ready_at),
    }
    ready = f"ready since {_at(work.ready_at)}"
    serving = [worker for worker in alive if work.graph_id in worker.graphs]
    if not serving:
        return Answer(
            Reason.NO_GRAPH,
            f"{ready}, but no live worker serves graph {work.graph_id}",
            since,
        )
    able = [worker for worker in serving if work.labels <= worker.labels]
    if not able:
        labels = ", ".join(sorted(work.labels))
        plural = "s" if len(work.labels) > 1 else ""
        return Answer(
            Reason.NO_LABEL,
            f"waiting for a worker with label{plural} {labels} since "
            f"{_at(work.ready_at)}; no live worker of graph {work.graph_id} has "
            f"{'them' if plural else 'it'}",
            since,
        )
    willing = [worker for worker in able if not _is_avoided(facts, work, worker)]
    if not willing:
        return Answer(
            Reason.AVOIDING,
            f"{ready}, and until {_at(work.avoid_until)} kept for another worker than "
            f"{_name(facts, work.avoid)}, which lost it; there is none",
            {**since, "until": _at(work.avoid_until), "avoid": str(work.avoid)},
        )
    if all(worker.taken >= worker.slots for worker in willing):
        names = [worker.name for worker in willing]
        return Answer(
            Reason.NO_SLOT,
            f"{ready}, waiting for a free slot: {_list(names)} "
            f"{'is' if len(names) == 1 else 'are'} full",
            {**since, "workers": names},
        )
    free = [worker.name for worker in willing if worker.taken < worker.slots]
    if is_suspect(work.attempt):
        return Answer(
            Reason.ALONE,
            f"{ready}; it was lost {_count(work.attempt, 'time')} without getting on, "
            "so a worker takes it only while it holds nothing else that was lost as "
            f"often: {_list(free)} may",
            {**since, "workers": free, "attempts": work.attempt},
        )
    return Answer(
        Reason.READY,
        f"{ready}; {_list(free)} can take it and should within seconds",
        {**since, "workers": free},
    )


def _tasks(
    facts: Facts, tasks: Sequence[WorkFacts], alive: Sequence[WorkerFacts]
) -> Answer:
    """Of a superstep that is spread over the workers: how far it is."""
    answers = [(task, _of_work(facts, task, alive)) for task in tasks]
    superstep = facts.superstep
    left = len(tasks) if superstep is None else superstep.remaining
    width = len(tasks) if superstep is None else superstep.width
    waits = [(t, a) for t, a in answers if a.reason is not Reason.RUNNING]
    parts = [
        f"{left} of {_count(width, 'task')} of the superstep left",
        f"{len(tasks) - len(waits)} running",
    ]
    parts += [f"{_task_name(task)}: {answer.sentence}" for task, answer in waits[:1]]
    if len(waits) > 1:
        parts.append(f"{len(waits) - 1} more waiting")
    return Answer(
        Reason.TASKS,
        "; ".join(parts),
        {
            "width": width,
            "remaining": left,
            "tasks": [
                {
                    "activation_id": str(task.activation_id),
                    "node": task.node,
                    "reason": answer.reason.value,
                    "sentence": answer.sentence,
                    **answer.details,
                }
                for task, answer in answers
            ],
        },
    )


def _alive(facts: Facts, silent_seconds: float) -> list[WorkerFacts]:
    """Who claims now: seen lately, and not going away."""
    oldest = facts.now - timedelta(seconds=silent_seconds)
    return [
        worker
        for worker in facts.workers
        if worker.slots > 0 and worker.seen_at >= oldest and not worker.draining
    ]


def _is_avoided(facts: Facts, work: WorkFacts, worker: WorkerFacts) -> bool:
    return (
        work.avoid == worker.worker_id
        and work.avoid_until is not None
        and work.avoid_until > facts.now
    )


def _name(facts: Facts, worker_id: UUID | None) -> str:
    """How people know a worker; its id when it is no longer on the list."""
    named = (w.name for w in facts.workers if w.worker_id == worker_id)
    return next(named, str(worker_id))


def _task_name(task: WorkFacts) -> str:
    return f"task {task.activation_id}" if task.node is None else f"node {task.node}"


def _error(error: Mapping[str, Any]) -> str:
    return f"{error.get('error', 'error')}: {error.get('message', '')}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_MAX])
    more = len(names) - _NAMED_MAX
    return f"{shown} and {more} more" if more > 0 else shown


def _at(instant: datetime | None) -> str | None:
    """An instant as people and programs read it."""
    return None if instant is None else instant.astimezone(UTC).isoformat()
