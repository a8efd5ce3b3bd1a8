"""The tables in docs/explanation/run-lifecycle.md are those of the code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from threadmill.domain.run import (
    ENDINGS,
    TRANSITIONS,
    RunEvent,
    RunStatus,
    ThreadStatus,
    thread_after,
)

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "run-lifecycle.md"
NEVER = "–"  # noqa: RUF001 - a dash, as it is printed


def rows(first_heading: str) -> Iterator[list[str]]:
    """The heading and the rows of the table whose first column has this heading."""
    inside = False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first_heading:
            inside = True
        if inside and set(cells[0]) != {"-"}:
            yield cells


def test_the_table_of_runs_is_that_of_the_code() -> None:
    heading, *drawn = rows("status")
    events = [RunEvent(name) for name in heading[1:]]
    assert events == list(RunEvent)
    assert [row[0] for row in drawn] == list(RunStatus)
    for status, *targets in drawn:
        for event, target in zip(events, targets, strict=True):
            real = TRANSITIONS.get((RunStatus(status), event), NEVER)
            assert target == real, f"{status} and {event}"


def test_the_table_of_threads_is_that_of_the_code() -> None:
    _, *drawn = rows("the run ended by")
    real = {event: thread_after(event, more=False) for event in ENDINGS}
    assert {RunEvent(event): ThreadStatus(status) for event, status in drawn} == real
    assert {thread_after(event, more=True) for event in real} == {ThreadStatus.BUSY}


def test_every_event_is_explained() -> None:
    _, *explained = rows("event")
    assert [event for event, _ in explained] == list(RunEvent)
