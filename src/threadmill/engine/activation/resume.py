"""What a run enters its graph with, the first time and after a loss.

A first entry gets the run's input or command. Once the run has committed a checkpoint
it goes on with no input. In between lies a redelivery: the run was begun, perhaps
wrote pending writes, and died before its first checkpoint. Then only what has not been
applied yet may be passed again:

* a command's update and goto are saved as pending writes of the null task; if this run
  stored such writes, they are in;
* an answer to an interrupt is passed by the interrupt's id, and dropped once the
  question is no longer pending, or is a new question that this run's own task has
  asked: a plain answer would else answer that one too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from langgraph.types import Command, Interrupt, Send

from threadmill.checkpoints.base import Checkpoints, Stored
from threadmill.domain.fence import Fence
from threadmill.engine.values import CONTROL, INTERRUPT, NULL_TASK, finished_tasks

_RESUME: Final = "__resume__"
_ERROR: Final = "__error__"
_SOURCE: Final = "__error_source_node__"
_ID: Final = re.compile(r"[0-9a-f]{32}")


def is_reentry(head: Stored | None, run_id: UUID) -> bool:
    """Whether this run has already committed the thread's head."""
    return head is not None and head.run_id == run_id


def entry_input(kwargs: Mapping[str, Any], head: Stored | None, run_id: UUID) -> Any:
    """What to pass to the graph.

    Args:
        kwargs: the run's wire form.
        head: the thread's head checkpoint.
        run_id: the run that enters.

    Returns:
        LangGraph's input: a value, a Command, or None to go on.
    """
    if is_reentry(head, run_id):
        return None
    command = kwargs.get("command")
    if not command:
        return kwargs.get("input")
    if head is None:
        return _command(command)
    answers = _answers(command.get("resume"), head, run_id)
    applied = any(
        task == NULL_TASK and by == run_id
        for (task, _, _), by in zip(head.writes, head.write_runs, strict=True)
    )
    if applied:
        # A plain answer to no pending interrupt was saved along with the rest.
        return Command(resume=answers) if isinstance(answers, _Answers) else None
    return _command({**command, "resume": answers})


async def replay_before(
    kwargs: Mapping[str, Any], store: Checkpoints, fence: Fence
) -> str | None:
    """Where the history of a forking run's subgraphs ends: before this checkpoint.

    The run has forked off and is entered again. LangGraph lets a subgraph that keeps
    its history begin at what there was before the checkpoint it forked from; if that
    one was made by hand, before its parent.
    """
    checkpoint_id = (kwargs.get("checkpoint") or {}).get("checkpoint_id")
    if not checkpoint_id:
        return None
    thread = str(fence.thread_id)
    origin = await store.get(fence.tenant, thread, "", checkpoint_id)
    if origin is not None and origin.metadata.get("source") in {"update", "fork"}:
        return origin.parent_id or checkpoint_id
    return str(checkpoint_id)


def is_question(writes: Sequence[tuple[str, Any]]) -> bool:
    """Whether these are the writes of a task that waits for a human."""
    return any(channel == INTERRUPT for channel, _ in writes)


def is_result(writes: Sequence[tuple[str, Any]]) -> bool:
    """Whether these are the writes of a task that ended well."""
    channels = {channel for channel, _ in writes}
    return bool(channels - CONTROL) and channels.isdisjoint(CONTROL - {_RESUME})


def results(stored: Stored) -> dict[str, list[tuple[str, Any]]]:
    """What the tasks have written whose results are stored with a checkpoint."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for task, channel, value in stored.writes:
        if channel not in CONTROL and task != NULL_TASK:
            found.setdefault(task, []).append((channel, value))
    return found


def questions(stored: Stored, run_id: UUID | None) -> dict[str, tuple[Interrupt, ...]]:
    """What tasks have asked in this run that have not finished, by task id."""
    done = finished_tasks(stored.writes)
    return {
        task: tuple(_interrupts(value))
        for (task, channel, value), by in zip(
            stored.writes, stored.write_runs, strict=True
        )
        if channel == INTERRUPT and by == run_id and task not in done
    }


def errors(stored: Stored) -> dict[str, BaseException]:
    """What tasks have failed with that a handler has taken over, by task id."""
    handled = {task for task, channel, _ in stored.writes if channel == _SOURCE}
    return {
        task: value if isinstance(value, BaseException) else RuntimeError(str(value))
        for task, channel, value in stored.writes
        if channel == _ERROR and task in handled
    }


def pending_interrupts(head: Stored) -> dict[str, set[UUID | None]]:
    """Ids of interrupts that wait for an answer, with the runs that asked.

    A task that has taken an answer and then asks the very same again leaves the
    question as it was; but its answers have grown.
    """
    done = finished_tasks(head.writes)
    questions: dict[str, str] = {}
    runs: dict[str, set[UUID | None]] = {}
    for (task, channel, value), by in zip(head.writes, head.write_runs, strict=True):
        if task in done or channel not in {INTERRUPT, _RESUME}:
            continue
        runs.setdefault(task, set()).add(by)
        if channel == INTERRUPT:
            questions |= {interrupt.id: task for interrupt in _interrupts(value)}
    return {question: runs[task] for question, task in questions.items()}


class _Answers(dict[str, Any]):
    """Answers by interrupt id."""


def _answers(resume: Any, head: Stored, run_id: UUID) -> Any:
    if resume is None:
        return None
    pending = pending_interrupts(head)
    mine = {i for i, runs in pending.items() if run_id in runs}
    if _is_by_id(resume):
        if run_id not in head.write_runs:
            return _Answers(resume)
        left = {i: a for i, a in resume.items() if i in pending and i not in mine}
        return _Answers(left) if left else None
    theirs = set(pending) - mine
    if len(theirs) == 1 and not mine:
        return _Answers({theirs.pop(): resume})
    return None if mine else resume


def _is_by_id(resume: Any) -> bool:
    """Whether LangGraph reads it as answers by id: every key is a hash."""
    return isinstance(resume, Mapping) and all(
        isinstance(key, str) and _ID.fullmatch(key) for key in resume
    )


def _interrupts(value: Any) -> Sequence[Interrupt]:
    values = value if isinstance(value, Sequence) else (value,)
    return [v for v in values if isinstance(v, Interrupt)]


def _command(wire: Mapping[str, Any]) -> Command[Any] | None:
    update, goto = wire.get("update"), wire.get("goto")
    resume = wire.get("resume")
    if update is None and not goto and resume is None:
        return None
    if isinstance(update, list):
        update = [tuple(pair) for pair in update]
    return Command(update=update, goto=_goto(goto), resume=_plain(resume))


def _plain(answers: Any) -> Any:
    return dict(answers) if isinstance(answers, _Answers) else answers


def _goto(wire: Any) -> Any:
    if not wire:
        return ()
    if isinstance(wire, list):
        return [_target(target) for target in wire]
    return _target(wire)


def _target(wire: Any) -> Any:
    if isinstance(wire, Mapping):
        return Send(wire["node"], wire.get("input"))
    return wire
