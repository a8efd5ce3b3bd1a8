"""Which threads a tenant has, and which of them a run has put to.

These lie on other keys than the threads, in a Cluster on other nodes, so no script can
keep both in step. A thread is announced before the first put to it: what is announced
and never came, or has gone, costs a look. Putting announces again only now and then.

Threads that have gone by themselves, by their time to live, are taken out a few at a
time, by those who announce others. So is, where nothing ends by itself, what could not
be taken out with the thread: somebody had announced it a moment before, and might have
been about to put.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from threadmill.checkpoints.redis.keys import (
    again_key,
    again_name,
    again_parts,
    index_key,
    run_key,
    thread_keys,
)
from threadmill.drivers.redis.database import Call
from threadmill.drivers.redis.scripts import Scripts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from threadmill.drivers.redis.database import RedisDatabase, Text

SCRIPTS: Final = Scripts("threadmill.checkpoints.redis")

# How old the time may be that the index gives for a thread.
STALE_SECONDS: Final = 60
_REMEMBERED_MAX: Final = 10_000
_PAGE: Final = 256

# Threads that an announcement may find to be gone.
_SWEPT_MAX: Final = 16


class Place(NamedTuple):
    """A thread in the index of its tenant, or in that of a run."""

    tenant: str
    thread_id: str
    run: str

    @property
    def key(self) -> str:
        """The index."""
        if self.run:
            return run_key(self.tenant, self.run)
        return index_key(self.tenant)


class Directory:
    """The threads of all tenants.

    Args:
        database: where they are.
        ttl_milliseconds: after which a thread is gone, unless it is put to; 0 is never.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        database: RedisDatabase,
        ttl_milliseconds: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._ttl = ttl_milliseconds
        self._clock = clock
        self._announced: OrderedDict[Place, float] = OrderedDict()

    async def announce(self, tenant: str, thread_id: str) -> None:
        """A thread is about to be put to, or is kept by a read."""
        if due := self.due(tenant, thread_id):
            gone = await self._database.run(*self.calls(due))
            await self.announced(due, gone)

    def due(self, tenant: str, thread_id: str, runs: Iterable[str] = ()) -> list[Place]:
        """Where a put of these runs to a thread must be announced first."""
        places = [Place(tenant, thread_id, run) for run in ("", *sorted(runs))]
        latest = self._clock() - STALE_SECONDS / 2
        return [p for p in places if self._announced.get(p, latest) <= latest]

    def calls(self, due: Sequence[Place]) -> list[Call]:
        """What announces; `announced` takes the answers."""
        args = [self._ttl, _SWEPT_MAX, STALE_SECONDS]
        return [
            Call(
                SCRIPTS.announce,
                [place.key] if place.run else [place.key, again_key(place.tenant)],
                [place.thread_id, *args],
            )
            for place in due
        ]

    async def announced(self, due: Sequence[Place], gone: Sequence[Any]) -> None:
        """Remembers what was announced, and looks after threads that may be gone."""
        for place in due:
            self._announced[place] = self._clock()
            self._announced.move_to_end(place)
        while len(self._announced) > _REMEMBERED_MAX:
            self._announced.popitem(last=False)
        for place, answer in zip(due, gone, strict=True):
            if answer and not place.run and self._ttl:
                await self.sweep(place.tenant, [id_.decode() for id_ in answer])
            elif answer and not place.run:
                await self._look_again(place.tenant, _pairs(answer))

    async def sweep(self, tenant: str, thread_ids: Sequence[str]) -> None:
        """Takes out those of these threads that are not there.

        One that was announced a moment ago stays: somebody may be about to put to it.
        """
        await self._forget(
            await self._empty([Place(tenant, t, "") for t in thread_ids])
        )

    async def _empty(self, places: Sequence[Place]) -> list[Place]:
        """Those that lead to nothing: no such thread, or nothing of the run in it."""
        threads = [place for place in places if not place.run]
        runs = [place for place in places if place.run]
        there, without = [], []
        if threads:
            heads = [("EXISTS", thread_keys(*place[:2])[0]) for place in threads]
            there = await self._database.commands(*heads)
        if runs:
            calls = [Call(SCRIPTS.without, thread_keys(*p[:2]), [p.run]) for p in runs]
            without = await self._database.run(*calls)
        return [
            *(
                place
                for place, is_there in zip(threads, there, strict=True)
                if not is_there
            ),
            *(place for place, gone in zip(runs, without, strict=True) if gone),
        ]

    async def _forget(self, places: Sequence[Place]) -> None:
        """Takes these out, but for those that were announced a moment ago."""
        if not places:
            return
        kept = await self._database.run(
            *(
                Call(SCRIPTS.forget, [p.key], [STALE_SECONDS, p.thread_id])
                for p in places
            )
        )
        if self._ttl:
            return  # they end by themselves
        names = [
            again_name(place.run, place.thread_id)
            for place, is_kept in zip(places, kept, strict=True)
            if is_kept
        ]
        if names:
            key = again_key(places[0].tenant)
            await self._database.call(SCRIPTS.look_again, [key], *names)

    async def _look_again(
        self, tenant: str, found: Sequence[tuple[bytes, Any]]
    ) -> None:
        """Takes out of the lists what leads to nothing still.

        Whoever dies on the way leaves it to the next.
        """
        places = []
        for name, _ in found:
            run, thread_id = again_parts(name.decode())
            places.append(Place(tenant, thread_id, run))
        await self._forget(await self._empty(places))
        args = [part for pair in found for part in pair]
        await self._database.call(SCRIPTS.looked_again, [again_key(tenant)], *args)

    async def threads(self, tenant: str) -> AsyncIterator[tuple[str, int]]:
        """Every thread once, the one that was put to last first.

        Each with the time of that in microseconds, which may be `STALE_SECONDS` old.
        Threads that are announced meanwhile move to the front; they come at the end.
        """
        seen: set[str] = set()
        first: int | None = None
        for _ in range(2):
            async for thread_id, at in self._from_the_top(tenant, down_to=first):
                first = at if first is None else first
                if thread_id not in seen:
                    seen.add(thread_id)
                    yield thread_id, at

    async def _from_the_top(
        self, tenant: str, down_to: int | None
    ) -> AsyncIterator[tuple[str, int]]:
        """By pages; where two meet, a thread may come twice."""
        highest: Text = "+inf"
        lowest: Text = "-inf" if down_to is None else down_to
        while True:
            (found,) = await self._database.commands(
                (
                    *("ZREVRANGEBYSCORE", index_key(tenant), highest, lowest),
                    *("WITHSCORES", "LIMIT", 0, _PAGE),
                )
            )
            page = _pairs(found)
            for thread_id, at in page:
                yield thread_id.decode(), int(float(at))
            # No more of one microsecond than fill a page.
            if len(page) < _PAGE or highest == int(float(page[-1][1])):
                return
            highest = int(float(page[-1][1]))

    async def threads_of(self, tenant: str, runs: Sequence[str]) -> Sequence[str]:
        """The threads that any of these runs has put to."""
        found = await self._database.commands(
            *(("ZRANGE", run_key(tenant, run), 0, -1) for run in runs)
        )
        return sorted({id_.decode() for ids in found for id_ in ids})

    async def forget_runs(
        self, tenant: str, thread_id: str, runs: Sequence[str]
    ) -> None:
        """These runs have nothing left in this thread; see `sweep`."""
        await self._forget([Place(tenant, thread_id, run) for run in runs])


def _pairs(found: Sequence[Any]) -> list[tuple[bytes, Any]]:
    """Members with scores, as either protocol of Redis gives them."""
    if found and isinstance(found[0], list | tuple):
        return [(member, score) for member, score in found]
    return list(zip(found[::2], found[1::2], strict=True))
