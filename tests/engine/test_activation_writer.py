"""The writer batches, keeps order, and writes nothing more after a failure.

Its store here keeps commits in a list and can be held: what matters is which calls
share a commit, not what a database makes of it.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from threadmill.checkpoints.base import Commit, Put, Writes
from threadmill.domain.fence import Fence
from threadmill.engine.activation.tap import Tap
from threadmill.engine.activation.told import Told
from threadmill.engine.activation.writer import Until, Writer
from threadmill.errors import LeaseLost, StoreUnavailable
from threadmill.faults import Faults
from threadmill.streams.base import NewEvent


class Store:
    """Commits in memory, one at a time, when it is let."""

    def __init__(self) -> None:
        self.commits: list[Commit] = []
        self.error: BaseException | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def commit(self, *args: Any) -> None:
        commit: Commit = args[2]
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.commits.append(commit)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def tap() -> Tap:
    return Tap(
        ["values", "updates", "custom"],
        subgraphs=True,
        told=Told(),
        on_loose=lambda: None,
    )


def _writer(store: Store, tap: Tap, **changes: Any) -> Writer:
    options: dict[str, Any] = {
        "store": store,
        "blocking": None,
        "fence": Fence("default", uuid4(), uuid4(), 1, uuid4()),
        "tap": tap,
        "progressed": True,
        "run": SimpleNamespace(labels=(), graph_id="graph"),
        "on_events": lambda: None,
        "faults": Faults(),
    }
    return Writer(**{**options, **changes})


def _put(step: int = 0, ns: str = "", source: str = "loop") -> Put:
    checkpoint: Any = {"id": str(uuid4())}
    metadata: Any = {"step": step, "source": source}
    return Put(ns=ns, checkpoint=checkpoint, metadata=metadata, parent_id=None)


def _writes(task_id: str, ns: str = "") -> Writes:
    return Writes(ns, "checkpoint", task_id, "", [("channel", task_id)])


def _chunk(tap: Tap, mode: str, payload: Any, *path: str) -> None:
    tell: Any = tap.protocol()
    tell((path, mode, payload))


def _result(tap: Tap, task_id: str, *path: str) -> None:
    """What LangGraph tells of a task that ends."""
    _chunk(tap, "updates", {task_id: 1}, *path)
    _chunk(tap, "tasks", {"id": task_id, "name": task_id, "result": {}}, *path)


def _told(commit: Commit) -> list[str]:
    return [f"{event.event} {event.data}" for event in commit.events]


async def test_what_waits_shares_the_next_commit(store: Store, tap: Tap) -> None:
    writer = _writer(store, tap)
    store.open.clear()
    tap.announce(NewEvent("metadata", "{}"))
    first = asyncio.create_task(writer.flush())
    await asyncio.sleep(0)
    others = [
        asyncio.create_task(writer.commit(_writes(name))) for name in ("a", "b", "c")
    ]
    await asyncio.sleep(0)
    store.open.set()
    await asyncio.gather(first, *others)
    assert [[w.task_id for w in c.writes] for c in store.commits] == [
        [],
        ["a", "b", "c"],
    ]


async def test_what_spreads_the_input_goes_with_its_checkpoint_only(
    store: Store, tap: Tap
) -> None:
    writer = _writer(store, tap)
    writer.hold(_put(source="input"))
    writer.hold(_writes("start"), Until.CHECKPOINT)
    await writer.flush()
    writer.hold(_put())
    await writer.flush()
    assert [(len(c.puts), len(c.writes)) for c in store.commits] == [(1, 0), (1, 1)]


async def test_what_would_run_again_waits_for_the_checkpoint_or_the_end(
    store: Store, tap: Tap
) -> None:
    writer = _writer(store, tap)
    writer.hold(_writes("a"), Until.CHECKPOINT_OR_END)
    await writer.commit(_put(ns="inner"))
    await writer.commit(_writes("question"))
    writer.hold(_put())
    writer.hold(_writes("b"), Until.CHECKPOINT_OR_END)
    await writer.flush()
    rest = await writer.rest()
    told = [[w.task_id for w in c.writes] for c in (*store.commits, rest)]
    assert told == [[], ["question"], ["a"], ["b"]]


async def test_a_held_result_rides_with_the_checkpoint(store: Store, tap: Tap) -> None:
    writer = _writer(store, tap)
    writer.hold(_writes("a"))
    assert store.commits == []
    await writer.commit(_put())
    (commit,) = store.commits
    assert [w.task_id for w in commit.writes] == ["a"]
    assert len(commit.puts) == 1


async def test_nobody_takes_along_what_waits_for_leaving(
    store: Store, tap: Tap
) -> None:
    """Whether the run goes on is not known yet, and a release is for one that does."""
    writer = _writer(store, tap)
    store.open.clear()
    first = asyncio.create_task(writer.commit(_writes("a")))
    await asyncio.sleep(0)
    second = asyncio.create_task(writer.commit(_writes("b")))
    await asyncio.sleep(0)
    tap.mark()
    writer.hold(_put(), Until.LEAVING)
    tap.announce(NewEvent("checkpoints", "{}"))
    store.open.set()
    await asyncio.gather(first, second)
    await writer.flush()
    assert [len(commit.puts) for commit in store.commits] == [0, 0]
    assert [_told(commit) for commit in store.commits] == [[], []]
    await writer.hand_over([])
    assert [commit.release for commit in store.commits] == [False, False, True]
    assert len(store.commits[-1].puts) == 1


async def test_nothing_is_told_after_a_release(store: Store, tap: Tap) -> None:
    """The next entry tells it; a late flush of tokens must not tell it twice."""
    writer = _writer(store, tap)
    tap.mark()
    writer.hold(_put(), Until.LEAVING)
    await writer.hand_over([])
    tap.announce(NewEvent("checkpoints", "{}"))
    await writer.flush()
    assert len(store.commits) == 1


async def test_events_go_with_what_they_describe(store: Store, tap: Tap) -> None:
    writer = _writer(store, tap)
    _result(tap, "a")
    _result(tap, "b")
    _chunk(tap, "values", {"n": 1})
    await writer.commit(_writes("a"))
    await writer.commit(_writes("b"))
    put = _put()
    tap.end_superstep("", put.checkpoint["id"])
    await writer.commit(put)
    assert [_told(commit) for commit in store.commits] == [
        ['updates {"a":1}'],
        ['updates {"b":1}'],
        ['values {"n":1}'],
    ]


async def test_an_inputs_checkpoint_does_not_take_the_first_state(
    store: Store, tap: Tap
) -> None:
    """LangGraph may tell it before the input's commit begins."""
    writer = _writer(store, tap)
    _chunk(tap, "values", {"n": 0})
    tap.end_superstep("", None)
    await writer.commit(_put(step=-1, source="input"))
    put = _put(step=0)
    tap.end_superstep("", put.checkpoint["id"])
    await writer.commit(put)
    assert [_told(commit) for commit in store.commits] == [[], ['values {"n":0}']]


async def test_a_subgraph_that_waits_does_not_hold_back_others(
    store: Store, tap: Tap
) -> None:
    writer = _writer(store, tap)
    tap.keep("sub")
    _chunk(tap, "values", {"inner": 1}, "sub")
    _result(tap, "a")
    await writer.commit(_writes("a"))
    put = _put(ns="sub")
    tap.end_superstep("sub", put.checkpoint["id"])
    await writer.commit(put)
    assert [_told(commit) for commit in store.commits] == [
        ['updates {"a":1}'],
        ['values|sub {"inner":1}'],
    ]


async def test_a_loose_event_does_not_overtake_a_state_that_waits(
    store: Store, tap: Tap
) -> None:
    writer = _writer(store, tap)
    _chunk(tap, "values", {"n": 1})
    tap.announce(NewEvent("custom", "1"))
    await writer.flush()
    assert store.commits == []
    put = _put()
    tap.end_superstep("", put.checkpoint["id"])
    await writer.commit(put)
    assert [_told(commit) for commit in store.commits] == [
        ['values {"n":1}', "custom 1"]
    ]


async def test_what_is_told_while_leaving_is_left_to_the_next_entry(
    store: Store, tap: Tap
) -> None:
    writer = _writer(store, tap)
    _chunk(tap, "values", {"n": 1})
    put = _put()
    tap.end_superstep("", put.checkpoint["id"])
    tap.mark()
    writer.hold(put, Until.LEAVING)
    tap.announce(NewEvent("checkpoints", "{}"))
    await writer.hand_over([])
    assert [_told(commit) for commit in store.commits] == [['values {"n":1}']]
    assert writer.released


async def test_a_checkpoint_that_waits_keeps_what_describes_it(
    store: Store, tap: Tap
) -> None:
    """The one before it may be committed later than this one is made."""
    writer = _writer(store, tap)
    for step in (0, 1):
        put = _put(step=step)
        _chunk(tap, "values", {"n": step})
        tap.end_superstep("", put.checkpoint["id"])
        writer.hold(put, Until.LEAVING if step == 1 else Until.ANYTHING)
    await writer.flush()
    await writer.hand_over([])
    assert [_told(commit) for commit in store.commits] == [
        ['values {"n":0}'],
        ['values {"n":1}'],
    ]


async def test_a_run_that_ends_instead_of_leaving_tells_it_all(
    store: Store, tap: Tap
) -> None:
    writer = _writer(store, tap)
    _chunk(tap, "values", {"n": 1})
    put = _put()
    tap.end_superstep("", put.checkpoint["id"])
    tap.mark()
    writer.hold(put, Until.LEAVING)
    tap.announce(NewEvent("checkpoints", "{}"))
    rest = await writer.rest()
    assert store.commits == []
    assert _told(rest) == ['values {"n":1}', "checkpoints {}"]
    assert len(rest.puts) == 1
    assert not rest.release


async def test_a_subgraph_without_checkpoints_is_told_at_once(
    store: Store, tap: Tap
) -> None:
    writer = _writer(store, tap)
    _result(tap, "x", "sub:1")
    _chunk(tap, "values", {"inner": 1}, "sub:1")
    await writer.flush()
    assert _told(store.commits[0]) == [
        'updates|sub:1 {"x":1}',
        'values|sub:1 {"inner":1}',
    ]


async def test_after_a_failure_nothing_is_written(store: Store, tap: Tap) -> None:
    writer = _writer(store, tap)
    store.error = StoreUnavailable("away")
    with pytest.raises(StoreUnavailable):
        await writer.commit(_writes("a"))
    await asyncio.wait_for(writer.failed.wait(), 1)
    store.error = None
    with pytest.raises(LeaseLost):
        await writer.commit(_writes("b"))
    with pytest.raises(LeaseLost):
        await writer.flush()
    assert store.commits == []
    assert isinstance(writer.failure, StoreUnavailable)


async def test_a_commit_outlives_whoever_waits_for_it(store: Store, tap: Tap) -> None:
    """LangGraph commits in a node's task, which a timeout or a sibling may cancel."""
    writer = _writer(store, tap)
    store.open.clear()
    committing = asyncio.create_task(writer.commit(_writes("a")))
    sibling = asyncio.create_task(writer.commit(_writes("b")))
    await asyncio.sleep(0)
    for _ in range(2):
        committing.cancel()
        await asyncio.sleep(0)
    assert not committing.done()
    store.open.set()
    await asyncio.wait({committing})
    assert committing.cancelled()
    await sibling
    assert writer.failure is None
    assert [w.task_id for c in store.commits for w in c.writes] == ["a", "b"]


async def test_a_commit_that_is_cancelled_itself_may_have_happened(
    store: Store, tap: Tap
) -> None:
    writer = _writer(store, tap)
    store.error = asyncio.CancelledError()
    with pytest.raises(asyncio.CancelledError):
        await writer.commit(_writes("a"))
    assert isinstance(writer.failure, StoreUnavailable)


async def test_the_first_root_checkpoint_of_a_later_attempt_is_progress(
    store: Store, tap: Tap
) -> None:
    writer = _writer(store, tap, progressed=False)
    await writer.commit(_writes("a"))
    put = _put(ns="sub")
    tap.end_superstep("sub", put.checkpoint["id"])
    await writer.commit(put)
    await writer.commit(_put())
    await writer.commit(_put())
    assert [commit.progress for commit in store.commits] == [False, False, True, False]


async def test_a_commit_that_blocks_passes_its_points(store: Store, tap: Tap) -> None:
    """On the thread that blocks, the store in between."""
    passed: list[str] = []

    class Noted(Faults):
        def at_blocking(self, point: str) -> None:
            passed.append(point)

    blocking = SimpleNamespace(commit=lambda *_: passed.append("stored"))
    writer = _writer(store, tap, blocking=blocking, faults=Noted())
    await asyncio.to_thread(writer.commit_blocking, _put(ns="inner:1"), writer.fence)
    assert passed == ["commit.before", "stored", "commit.after"]
