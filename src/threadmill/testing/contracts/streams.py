"""What every adapter of the `Stream` port must hold, with whatever appends to it.

An adapter's tests inherit `StreamsContract` and give it a fixture `harness`::

    class TestPostgresStream(StreamsContract):
        @pytest.fixture
        def harness(self, database): ...

The log has no gap and no duplicate, whoever reads while whoever writes; a stale worker
writes nothing; and who sees that a run has ended has seen all of it.
"""

# ruff: noqa: S101, D102 - tests: they assert, and their names are sentences

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol
from uuid import UUID, uuid4

import pytest

from threadmill.domain.run import TERMINAL, RunStatus
from threadmill.errors import LeaseLost, NotFound
from threadmill.streams.base import Event, NewEvent, cursor

if TYPE_CHECKING:
    from threadmill.domain.fence import Fence
    from threadmill.streams.base import Stream

TENANT = "default"


class StreamsHarness(Protocol):
    """A log, and runs that write to it."""

    @property
    def stream(self) -> Stream:
        """The adapter."""
        ...

    async def begin(
        self, thread_id: UUID | None = None, *, tenant: str = TENANT
    ) -> Fence:
        """A new run, claimed and begun, on this thread or on a new one."""
        ...

    async def take_over(self, fence: Fence) -> Fence:
        """The same run, claimed by another worker."""
        ...

    async def append(self, fence: Fence, events: Sequence[NewEvent]) -> None:
        """Appends events under the fence."""
        ...

    async def finish(self, fence: Fence, events: Sequence[NewEvent] = ()) -> None:
        """Ends the run with these events."""
        ...


class StreamsContract:
    """Inherit and provide `harness`."""

    # ------------------------------------------------------------------------ reading

    async def test_an_empty_log_reads_empty(self, harness: StreamsHarness) -> None:
        assert await harness.stream.end(TENANT, uuid4()) == 0
        assert await harness.stream.read(TENANT, uuid4(), after=0, limit=10) == []

    async def test_events_are_numbered_from_one_in_the_order_of_writing(
        self, harness: StreamsHarness
    ) -> None:
        first = await harness.begin()
        await harness.append(first, _events("a", "b"))
        await harness.append(first, _events("c"))
        await harness.finish(first, _events("d"))
        second = await harness.begin(first.thread_id)
        await harness.append(second, _events("e"))
        found = await _all(harness, first.thread_id)
        assert [event.seq for event in found] == [1, 2, 3, 4, 5]
        assert [event.data for event in found] == ['"a"', '"b"', '"c"', '"d"', '"e"']
        assert [e.run_id for e in found] == [first.run_id] * 4 + [second.run_id]
        assert await harness.stream.end(TENANT, first.thread_id) == 5

    async def test_an_event_reads_back_as_it_was_written(
        self, harness: StreamsHarness
    ) -> None:
        fence = await harness.begin()
        large = '"' + "x" * 1_000_000 + '"'
        written = [
            NewEvent("updates|sub:1234", '{"a":"\\u0000 é 漢 🎉"}'),
            NewEvent("messages/partial", large),
            NewEvent("values", "{}"),
        ]
        await harness.append(fence, written)
        found = await _all(harness, fence.thread_id)
        assert [NewEvent(event.event, event.data) for event in found] == written
        assert {event.attempt for event in found} == {1}

    async def test_reading_goes_on_after_a_number_as_far_as_is_wanted(
        self, harness: StreamsHarness
    ) -> None:
        fence = await harness.begin()
        await harness.append(fence, _events(*"abcdefgh"))
        read = harness.stream.read
        some = await read(TENANT, fence.thread_id, after=2, limit=3)
        assert [event.seq for event in some] == [3, 4, 5]
        assert await read(TENANT, fence.thread_id, after=8, limit=3) == []

    async def test_reading_may_be_of_one_run(self, harness: StreamsHarness) -> None:
        first = await harness.begin()
        await harness.append(first, _events("a"))
        await harness.finish(first)
        second = await harness.begin(first.thread_id)
        await harness.append(second, _events("b", "c"))
        found = await harness.stream.read(
            TENANT, first.thread_id, after=0, limit=10, run_id=second.run_id
        )
        assert [(event.seq, event.data) for event in found] == [(2, '"b"'), (3, '"c"')]

    async def test_ids_are_cursors_whose_clock_never_steps_back(
        self, harness: StreamsHarness
    ) -> None:
        fence = await harness.begin()
        for number in range(5):
            await harness.append(fence, _events(str(number)))
        found = await _all(harness, fence.thread_id)
        assert [cursor(event.id) for event in found] == [1, 2, 3, 4, 5]
        assert [e.ms for e in found] == sorted(e.ms for e in found)

    async def test_tenants_read_their_own(self, harness: StreamsHarness) -> None:
        fence = await harness.begin()
        await harness.append(fence, _events("secret"))
        found = await harness.stream.read("another", fence.thread_id, after=0, limit=10)
        assert found == []
        assert await harness.stream.end("another", fence.thread_id) == 0
        assert fence.run_id is not None
        with pytest.raises(NotFound):
            await harness.stream.look(
                "another", fence.thread_id, fence.run_id, after=0, limit=10
            )

    # ----------------------------------------------------------------- looking at a run

    async def test_a_look_tells_status_and_events(
        self, harness: StreamsHarness
    ) -> None:
        fence = await harness.begin()
        assert fence.run_id is not None
        await harness.append(fence, _events("a", "b"))
        look = harness.stream.look
        where = (TENANT, fence.thread_id, fence.run_id)
        running = await look(*where, after=1, limit=10)
        assert running.status is RunStatus.RUNNING
        assert [event.data for event in running.events] == ['"b"']
        await harness.finish(fence, _events("c"))
        ended = await look(*where, after=2, limit=10)
        assert ended.status is RunStatus.SUCCESS
        assert [event.data for event in ended.events] == ['"c"']

    async def test_there_is_no_look_at_a_run_of_another_thread(
        self, harness: StreamsHarness
    ) -> None:
        fence, other = await harness.begin(), await harness.begin()
        assert fence.run_id is not None
        for thread_id, run_id in (
            (other.thread_id, fence.run_id),
            (fence.thread_id, uuid4()),
        ):
            with pytest.raises(NotFound):
                await harness.stream.look(TENANT, thread_id, run_id, after=0, limit=1)

    async def test_who_sees_the_end_has_seen_everything(
        self, harness: StreamsHarness
    ) -> None:
        """However the looks fall between the commits of the writer."""
        fence = await harness.begin()
        readers = [asyncio.create_task(_follow(harness, fence)) for _ in range(4)]
        for number in range(40):
            await harness.append(fence, _events(str(number)))
        await harness.finish(fence, _events("last", "words"))
        for followed in await asyncio.gather(*readers):
            assert [event.seq for event in followed] == list(range(1, 43))
            assert followed[-1].data == '"words"'

    # ------------------------------------------------------------------------- writing

    async def test_who_writes_at_once_leaves_no_gap(
        self, harness: StreamsHarness
    ) -> None:
        """A number is visible only after all before it; each reader sees that."""
        fence = await harness.begin()
        readers = [asyncio.create_task(_follow(harness, fence)) for _ in range(3)]

        async def write(who: int) -> None:
            for number in range(15):
                await harness.append(fence, _events(f"{who}-{number}", "and"))

        await asyncio.gather(*(write(who) for who in range(4)))
        await harness.finish(fence)
        for followed in await asyncio.gather(*readers):
            assert [event.seq for event in followed] == list(range(1, 121))
        for who in range(4):
            mine = [e.data for e in followed if e.data.startswith(f'"{who}-')]
            assert mine == [f'"{who}-{number}"' for number in range(15)]

    async def test_a_stale_worker_writes_nothing(self, harness: StreamsHarness) -> None:
        stale = await harness.begin()
        await harness.append(stale, _events("a"))
        fresh = await harness.take_over(stale)
        with pytest.raises(LeaseLost):
            await harness.append(stale, _events("late"))
        await harness.append(fresh, _events("b"))
        with pytest.raises(LeaseLost):
            await harness.append(stale, _events("later"))
        found = await _all(harness, fresh.thread_id)
        assert [(e.seq, e.data, e.attempt) for e in found] == [
            (1, '"a"', 1),
            (2, '"b"', 2),
        ]

    async def test_a_run_that_has_ended_gets_no_more_events(
        self, harness: StreamsHarness
    ) -> None:
        fence = await harness.begin()
        await harness.finish(fence, _events("a"))
        with pytest.raises(LeaseLost):
            await harness.append(fence, _events("late"))
        assert len(await _all(harness, fence.thread_id)) == 1


def _events(*data: str) -> list[NewEvent]:
    return [NewEvent("custom", f'"{each}"') for each in data]


async def _all(harness: StreamsHarness, thread_id: UUID) -> Sequence[Event]:
    return await harness.stream.read(TENANT, thread_id, after=0, limit=1000)


async def _follow(harness: StreamsHarness, fence: Fence) -> list[Event]:
    """Reads as a client does, until it sees the end."""
    assert fence.run_id is not None
    seen: list[Event] = []
    while True:
        look = await harness.stream.look(
            TENANT,
            fence.thread_id,
            fence.run_id,
            after=seen[-1].seq if seen else 0,
            limit=7,
        )
        seen += look.events
        if not look.events and look.status in TERMINAL:
            return seen
        await asyncio.sleep(0)
