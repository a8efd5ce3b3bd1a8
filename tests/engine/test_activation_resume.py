"""What a run enters its graph with, for every moment at which it may be delivered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import pytest
from langgraph.types import Command, Interrupt, Send

from threadmill.checkpoints.base import Stored
from threadmill.engine.activation.resume import (
    entry_input,
    is_reentry,
    is_result,
    pending_interrupts,
)
from threadmill.engine.values import finished_tasks

NULL = "00000000-0000-0000-0000-000000000000"
BEFORE, ME = uuid4(), uuid4()
Q1, Q2, Q3 = (f"{n}" * 32 for n in "abc")

Write = tuple[str, str, Any, UUID]


def _head(*writes: Write, run_id: UUID = BEFORE) -> Stored:
    checkpoint: Any = {"id": "head"}
    return Stored(
        thread_id="thread",
        ns="",
        checkpoint=checkpoint,
        metadata={"step": 1},
        parent_id=None,
        ordinal=1,
        run_id=run_id,
        writes=[write[:3] for write in writes],
        write_runs=[write[3] for write in writes],
    )


def _asks(task: str, question: str, by: UUID = BEFORE) -> Write:
    return task, "__interrupt__", [Interrupt(value="?", id=question)], by


def _answered(task: str, by: UUID = ME) -> Write:
    return task, "channel", "result", by


def _given(command: dict[str, Any] | None, *writes: Write) -> Any:
    return entry_input({"command": command, "input": None}, _head(*writes), ME)


def _resume(command: Any) -> Any:
    assert isinstance(command, Command)
    return command.resume


def test_a_first_delivery_passes_the_input() -> None:
    assert entry_input({"input": {"n": 1}}, None, ME) == {"n": 1}
    assert entry_input({"input": {"n": 1}}, _head(), ME) == {"n": 1}


def test_after_its_first_checkpoint_a_run_goes_on_without_input() -> None:
    head = _head(run_id=ME)
    assert is_reentry(head, ME)
    assert entry_input({"input": {"n": 1}}, head, ME) is None
    assert entry_input({"command": {"resume": "x"}}, head, ME) is None


def test_a_plain_answer_is_passed_to_the_one_question() -> None:
    assert _resume(_given({"resume": "x"}, _asks("t", Q1))) == {Q1: "x"}


def test_a_plain_answer_to_no_or_many_questions_is_langgraphs_business() -> None:
    assert _resume(_given({"resume": "x"})) == "x"
    assert _resume(_given({"resume": "x"}, _asks("t", Q1), _asks("u", Q2))) == "x"


def test_a_plain_answer_is_not_given_to_a_second_question() -> None:
    """The task took the answer and asked again; then its worker died."""
    assert _given({"resume": "x"}, _asks("t", Q2, by=ME)) is None


def test_a_plain_answer_is_not_given_to_the_same_question_again() -> None:
    """An equal write stays the earlier run's; the answers that were taken tell."""
    taken = ("t", "__resume__", ["x"], ME)
    assert _given({"resume": "x"}, _asks("t", Q1), taken) is None
    earlier = ("t", "__resume__", ["w"], BEFORE)
    assert _resume(_given({"resume": "x"}, _asks("t", Q1), earlier)) == {Q1: "x"}


def test_a_plain_answer_is_not_given_twice() -> None:
    given = _given({"resume": "x"}, _asks("t", Q1), _answered("t"))
    # The question is answered: the graph goes on by what is stored.
    assert given is None or _resume(given) != {Q1: "x"}


def test_answers_by_id_lose_those_that_were_taken() -> None:
    command = {"resume": {Q1: "x", Q2: "y"}}
    asked = [_asks("t", Q1), _asks("u", Q2)]
    assert _resume(_given(command, *asked)) == {Q1: "x", Q2: "y"}
    assert _resume(_given(command, *asked, _answered("t"))) == {Q2: "y"}
    assert _given(command, *asked, _answered("t"), _answered("u")) is None
    again = [_asks("t", Q3, by=ME), _asks("u", Q2)]
    assert _resume(_given(command, *again)) == {Q2: "y"}


def test_an_answer_that_is_a_mapping_is_no_list_of_ids() -> None:
    assert _resume(_given({"resume": {"ok": True}}, _asks("t", Q1))) == {
        Q1: {"ok": True}
    }


def test_a_commands_update_is_applied_once() -> None:
    command = {"update": {"n": 1}, "goto": "node"}
    first = _given(command)
    assert isinstance(first, Command)
    assert first.update == {"n": 1}
    assert first.goto == "node"
    assert _given(command, (NULL, "n", 1, ME)) is None
    # Another run's update of the same checkpoint does not count.
    assert isinstance(_given(command, (NULL, "n", 1, BEFORE)), Command)


def test_an_answer_outlives_an_update_that_was_applied() -> None:
    command = {"update": {"n": 1}, "resume": "x"}
    given = _given(command, _asks("t", Q1), (NULL, "n", 1, ME))
    assert isinstance(given, Command)
    assert given.resume == {Q1: "x"}
    assert given.update is None


@pytest.mark.parametrize(
    ("wire", "goto"),
    [
        ("node", "node"),
        (["a", "b"], ["a", "b"]),
        ({"node": "a", "input": {"n": 1}}, Send("a", {"n": 1})),
        ([{"node": "a", "input": 1}, "b"], [Send("a", 1), "b"]),
    ],
)
def test_goto_in_every_form(wire: Any, goto: Any) -> None:
    given = entry_input({"command": {"goto": wire}}, None, ME)
    assert given.goto == goto


def test_updates_may_be_pairs() -> None:
    given = entry_input({"command": {"update": [["n", 1], ["n", 2]]}}, None, ME)
    assert given.update == [("n", 1), ("n", 2)]


def test_an_empty_command_goes_on() -> None:
    assert entry_input({"command": {"update": None}}, _head(), ME) is None


def _ids(found: Any) -> Sequence[str]:
    return sorted(found)


def test_questions_are_pending_until_their_task_is_done() -> None:
    head = _head(_asks("t", Q1), _asks("u", Q2), _answered("u"))
    assert _ids(pending_interrupts(head)) == [Q1]
    assert _ids(finished_tasks(head.writes)) == ["u"]


@pytest.mark.parametrize(
    ("channels", "result"),
    [
        (["n"], True),
        (["__no_writes__"], True),
        (["n", "__resume__"], True),
        (["__resume__"], False),
        (["__interrupt__", "__resume__"], False),
        (["__error__"], False),
        (["n", "__error__"], False),
        (["__error__", "__error_source_node__"], False),
        ([], False),
    ],
)
def test_what_counts_as_a_result(channels: Sequence[str], *, result: bool) -> None:
    assert is_result([(channel, None) for channel in channels]) is result
