"""What is logged is read again, also by many at once and after a death."""

from __future__ import annotations

import multiprocessing
from itertools import count
from pathlib import Path

import pytest

from threadmill.errors import SetupError
from threadmill.testing.history import HistoryLog, read_logs
from threadmill.testing.history.channel import Channel
from threadmill.testing.history.facts import Outcome


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def test_messages_and_what_became_of_them(path: Path) -> None:
    ticks = count()
    with HistoryLog(path, by="me", clock=lambda: float(next(ticks))) as log:
        log.invoke("a", thread="t", key="ka")
        log.invoke("b", thread="t")
        log.invoke("c", thread="t")
        log.invoke("d", thread="t")
        log.ok("a", thread="t", run="r")
        log.fail("b", thread="t", why="409")
        log.unknown("c", thread="t")
    a, b, c, d = read_logs([path]).messages
    assert (a.outcome, a.run, a.key) == (Outcome.OK, "r", "ka")
    assert (a.invoked_at, a.ended_at, a.by) == (0.0, 4.0, "me")
    assert [m.outcome for m in (b, c, d)] == ["fail", "unknown", "unknown"]


def test_reads_readers_nodes_and_faults(path: Path) -> None:
    with HistoryLog(path, tenant="x", clock=lambda: 7.0) as log:
        log.read("t", began_at=6.0, messages=["a"], checkpoint="c")
        log.reader("one", thread="t", run="r", events=["values"])
        log.reader("two", thread="t", run="r")
        log.seen("one", "1-1")
        log.seen("two", "1-1")
        log.seen("one", "1-2")
        log.end("one")
        log.node("n", thread="t", run="r", task="k")
        log.fault("kill", at=5.0, until=5.5, pid=3)
        log.loss(at=5.0, until=6.5)
    told = read_logs([path])
    (seen,) = told.reads
    assert (seen.tenant, seen.began_at, seen.ended_at) == ("x", 6.0, 7.0)
    assert (seen.messages, seen.checkpoint) == (("a",), "c")
    one, two = told.readers
    assert (one.seen, one.whole) == (("1-1", "1-2"), True)
    assert (two.seen, two.whole) == (("1-1",), False)
    assert (one.seen_at, one.ended_at, two.ended_at) == ((7.0, 7.0), 7.0, None)
    assert (one.events, two.events) == (frozenset({"values"}), None)
    assert [e.task for e in told.executions] == ["k"]
    assert [(f.at, f.until, f.pid, f.thread) for f in told.faults] == [
        (5.0, 5.5, 3, None)
    ]
    assert [(loss.at, loss.until) for loss in told.losses] == [(5.0, 6.5)]


def _write_many(path: Path, number: int) -> None:
    with HistoryLog(path) as log:
        for i in range(200):
            log.invoke(f"{number}-{i}", thread="t" * 500)


def test_several_processes_share_a_file(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=_write_many, args=(path, number)) for number in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert len(read_logs([path]).messages) == 600


def test_a_torn_last_line_is_skipped(path: Path) -> None:
    with HistoryLog(path) as log:
        log.invoke("a", thread="t")
    with path.open("a") as file:
        file.write('{"type": "ok", "mess')
    assert [m.id for m in read_logs([path]).messages] == ["a"]


@pytest.mark.parametrize(
    "line", ['{"type": "nothing"}', '{"type": "invoke"}', "{broken}", "[1]"]
)
def test_what_is_no_log_is_refused_by_line(path: Path, line: str) -> None:
    path.write_text(f"{line}\n")
    with pytest.raises(SetupError, match="line 1"):
        read_logs([path])


def test_a_missing_log_is_refused(path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        read_logs([path])


class _Object:
    def __init__(self, **values: object) -> None:
        vars(self).update(values)


def test_messages_are_found_in_a_channel() -> None:
    items = ["a", {"id": "b"}, _Object(id="?", content="c"), "answer", {"x": 1}, 5]
    known = {"a", "b", "c", "d"}
    assert Channel().messages({"messages": items}, known) == ("a", "b", "c")
    assert Channel("other").messages({"messages": items}, known) == ()


def test_a_path_leads_to_the_id() -> None:
    items = [_Object(kwargs={"key": "a"}), {"kwargs": {"key": "b"}}, {"kwargs": 1}]
    channel = Channel("log", "kwargs.key")
    assert channel.messages({"log": items}, {"a", "b"}) == ("a", "b")


def test_marks_of_nodes() -> None:
    assert Channel(results="done").marks({"done": ["k", 1]}) == ("k", "1")
    assert Channel().marks({"done": ["k"]}) == ()
