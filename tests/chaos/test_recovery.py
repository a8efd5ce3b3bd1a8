"""How long a recovery took is read from the right lines."""

from __future__ import annotations

from chaos.arena import Outage
from chaos.recovery import recoveries
from threadmill.testing.history import History
from threadmill.testing.history.facts import Execution, Fault, Message


def begun(task: str, pid: int, at: float) -> Execution:
    return Execution(thread="t", run="r", task=task, node="n", pid=pid, at=at)


def test_a_workers_tasks_begin_elsewhere() -> None:
    history = History(
        executions=[
            begun("k", 1, 1.0),
            begun("k", 2, 3.5),
            begun("l", 1, 1.0),  # had ended before the fault
            begun("m", 1, 4.0),  # another one, later
            begun("m", 2, 5.0),
        ],
        faults=[Fault(kind="kill", at=3.0, until=3.0, pid=1)],
    )
    assert recoveries(history, [], {1, 2}) == {"kill": [0.5]}


def test_what_two_faults_may_have_caused_counts_for_the_first() -> None:
    history = History(
        executions=[begun("k", 1, 1.0), begun("k", 2, 3.0)],
        faults=[
            Fault(kind="late", at=2.5, until=4.0, pid=1),
            Fault(kind="cut", at=2.0, until=2.0),
        ],
    )
    assert recoveries(history, [], {1, 2}) == {}


def test_a_server_is_replaced_by_the_next_answer() -> None:
    message = Message(
        id="a", tenant="x", thread="t", by="c", invoked_at=1.0, ended_at=2.25
    )
    fault = Fault(kind="kill server", at=2.0, until=2.0, pid=7)
    history = History(messages=[message], faults=[fault])
    assert recoveries(history, [], {1}) == {"kill server": [0.25]}


def test_without_a_database_nothing_begins() -> None:
    outage = Outage("restart", at=1.0, down_at=1.5)
    history = History(executions=[begun("k", 1, 1.25), begun("l", 1, 3.0)])
    assert recoveries(history, [outage], {1}) == {"restart": [2.0]}
