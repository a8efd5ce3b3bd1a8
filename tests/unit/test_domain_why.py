"""Why a run is not moving: one answer for each thing that may keep it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from threadmill.domain.facts import (
    DeadFacts,
    Facts,
    RunFacts,
    SuperstepFacts,
    ThreadFacts,
    WorkerFacts,
    WorkFacts,
)
from threadmill.domain.run import RunStatus, ThreadStatus
from threadmill.domain.why import Answer, Reason, why

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
AGO, SOON = NOW - timedelta(minutes=1), NOW + timedelta(minutes=1)
AGO_SHOWN, SOON_SHOWN = "2026-11-21T11:59:00+00:00", "2026-11-21T12:01:00+00:00"
RUN, OTHER, WORKER = (UUID(int=n) for n in (1, 2, 3))
LOST = {"error": "RuntimeError", "message": "gave up"}

A = WorkerFacts(
    worker_id=WORKER,
    name="a",
    graphs=frozenset({"graph"}),
    labels=frozenset(),
    slots=2,
    taken=0,
    seen_at=NOW,
)
B = replace(A, worker_id=uuid4(), name="b")
READY = WorkFacts(
    activation_id=uuid4(),
    kind="step",
    graph_id="graph",
    labels=frozenset(),
    ready_at=AGO,
    attempt=0,
)
HELD = replace(READY, worker_id=WORKER, claimed_at=AGO, lease_until=SOON, attempt=1)


def facts(**changes: Any) -> Facts:
    """A pending run that holds its thread, ready, with nobody there."""
    run = RunFacts(
        run_id=RUN,
        thread_id=UUID(int=9),
        graph_id="graph",
        status=RunStatus.PENDING,
        not_before=AGO,
    )
    thread = ThreadFacts(status=ThreadStatus.BUSY, holder=RUN)
    whole = Facts(now=NOW, run=run, thread=thread, work=[READY])
    for name in ("run", "thread"):
        whole = replace(
            whole, **{name: replace(getattr(whole, name), **changes.pop(name, {}))}
        )
    return replace(whole, **changes)


def ask(**changes: Any) -> Answer:
    return why(facts(**changes), silent_seconds=10)


ENDED = {"status": RunStatus.SUCCESS, "finished_at": AGO}
FAILED = {"status": RunStatus.ERROR, "finished_at": AGO, "error": LOST}
DEAD = DeadFacts(cause=LOST, attempts=5, died_at=AGO, checkpoint_id="c")
BEHIND = {"holder": OTHER, "ahead": 2}
GPU = replace(READY, labels=frozenset({"gpu"}))
BOTH = replace(READY, labels=frozenset({"gpu", "eu"}))
WAITING = replace(READY, ready_at=SOON, attempt=2, cause="worker x ended")
SHUNNED = replace(READY, avoid=WORKER, avoid_until=SOON)
FULL = [replace(A, taken=2), replace(B, taken=2)]


@pytest.mark.parametrize(
    ("reason", "said", "changes"),
    [
        (Reason.ENDED, f"ended with success at {AGO_SHOWN}", {"run": ENDED}),
        (Reason.ENDED, f"error at {AGO_SHOWN}: RuntimeError: gave up", {"run": FAILED}),
        (
            Reason.DEAD_LETTER,
            f"a dead letter since {AGO_SHOWN}, after 5 attempts: RuntimeError: gave up",
            {"run": FAILED, "dead": DEAD},
        ),
        (
            Reason.WAITS_FOR_HUMAN,
            "its thread waits for a human",
            {"run": {**ENDED, "waits": True}},
        ),
        (
            Reason.DELAYED,
            f"delayed until {SOON_SHOWN}",
            {"run": {"not_before": SOON}, "thread": {"holder": None}},
        ),
        (
            Reason.QUEUED,
            f"queued behind run {OTHER}, which holds the thread; it is number 3",
            {"thread": BEHIND},
        ),
        (
            Reason.THREAD_UPDATING,
            f"held by a state update, until {SOON_SHOWN}",
            {"thread": {**BEHIND, "updating_until": SOON}},
        ),
        (
            Reason.NOT_PROMOTED,
            "no process has started it",
            {"thread": {"holder": None}},
        ),
        (Reason.NO_WORK, "please report it", {"work": []}),
        (
            Reason.BACKING_OFF,
            (
                f"backing off until {SOON_SHOWN}, after 2 attempts without progress "
                "(the last one: worker x ended)"
            ),
            {"work": [WAITING], "workers": [A]},
        ),
        (
            Reason.MAX_CONCURRENCY,
            "waits for other tasks of the superstep",
            {"work": [replace(READY, ready_at=None)], "workers": [A]},
        ),
        (Reason.NO_GRAPH, "no live worker serves graph graph", {}),
        (
            Reason.NO_GRAPH,
            "no live worker serves graph graph",
            {"workers": [replace(A, graphs=frozenset({"other"}))]},
        ),
        (
            Reason.NO_LABEL,
            (
                f"waiting for a worker with label gpu since {AGO_SHOWN}; no live "
                "worker of graph graph has it"
            ),
            {"work": [GPU], "workers": [A]},
        ),
        (
            Reason.NO_LABEL,
            "with labels eu, gpu since",
            {"work": [BOTH], "workers": [replace(A, labels=frozenset({"gpu"}))]},
        ),
        (
            Reason.AVOIDING,
            f"until {SOON_SHOWN} kept for another worker than a",
            {"work": [SHUNNED], "workers": [A]},
        ),
        (
            Reason.NO_SLOT,
            "waiting for a free slot: a, b are full",
            {"workers": FULL},
        ),
        (Reason.READY, "b can take it", {"workers": [replace(A, taken=2), B]}),
        (
            Reason.READY,
            "b can take it",
            {"work": [SHUNNED], "workers": [A, B]},
        ),
        (
            Reason.ALONE,
            "it was lost 2 times without getting on, so a worker takes it only while",
            {"work": [replace(READY, attempt=2)], "workers": [A]},
        ),
        (
            Reason.RUNNING,
            (
                f"worker a has it since {AGO_SHOWN} (attempt 1 since it last got on), "
                f"last renewed at {NOW.isoformat()}; its lease ends at {SOON_SHOWN}"
            ),
            {"work": [HELD], "workers": [A]},
        ),
        (Reason.RUNNING, f"worker {WORKER} has it since", {"work": [HELD]}),
        (
            Reason.LEASE_OVER,
            f"its lease ended at {AGO_SHOWN}",
            {"work": [replace(HELD, lease_until=AGO)], "workers": [A]},
        ),
    ],
)
def test_each_thing_that_may_keep_a_run_has_its_answer(
    reason: Reason, said: str, changes: dict[str, Any]
) -> None:
    answer = ask(**changes)
    assert answer.reason is reason
    assert said in answer.sentence


@pytest.mark.parametrize(
    "gone",
    [
        replace(A, seen_at=NOW - timedelta(seconds=11)),
        replace(A, draining=True),
        replace(A, slots=0),
    ],
    ids=["silent", "draining", "a server"],
)
def test_a_worker_that_claims_nothing_does_not_count(gone: WorkerFacts) -> None:
    assert ask(workers=[gone]).reason is Reason.NO_GRAPH


def test_a_run_that_waits_for_its_turn_is_not_asked_for_its_work() -> None:
    assert ask(thread=BEHIND, work=[], workers=[]).reason is Reason.QUEUED


def test_tasks_are_told_one_by_one() -> None:
    work = [
        replace(HELD, kind="task", node="fast"),
        replace(GPU, kind="task", node="embed"),
        replace(WAITING, kind="task", node="slow"),
    ]
    superstep = SuperstepFacts(width=5, remaining=3)
    answer = ask(work=work, superstep=superstep, workers=[A])
    assert answer.reason is Reason.TASKS
    assert answer.sentence.startswith("3 of 5 tasks of the superstep left; 1 running; ")
    assert "node embed: waiting for a worker with label gpu" in answer.sentence
    assert answer.sentence.endswith("1 more waiting")
    assert (answer.details["width"], answer.details["remaining"]) == (5, 3)
    told = {task["node"]: task["reason"] for task in answer.details["tasks"]}
    assert told == {"fast": "running", "embed": "no_label", "slow": "backing_off"}
    assert answer.details["tasks"][0]["worker"] == "a"


def test_what_joins_the_tasks_is_work_like_any_other() -> None:
    join = replace(READY, kind="join")
    answer = ask(
        work=[join], superstep=SuperstepFacts(width=5, remaining=0), workers=[B]
    )
    assert answer.reason is Reason.READY


def test_every_reason_has_its_answer_here() -> None:
    """A reason without a test above would be one that nobody has thought through."""
    marks = test_each_thing_that_may_keep_a_run_has_its_answer.pytestmark
    tried = {case[0] for mark in marks for case in mark.args[1]}
    assert tried | {Reason.TASKS} == set(Reason)
