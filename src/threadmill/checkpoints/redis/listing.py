"""Checkpoints newest first, page by page.

Within a thread the ordinal decides, which rises over all its namespaces. Threads are
brought into one order by the time of each checkpoint. What somebody filters for is
found in the metadata first; only what fits is then read whole.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from threadmill.checkpoints.redis import records
from threadmill.checkpoints.redis.directory import SCRIPTS, STALE_SECONDS
from threadmill.checkpoints.redis.keys import thread_keys
from threadmill.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Mapping,
        Sequence,
    )

    from threadmill.checkpoints.base import Stored
    from threadmill.checkpoints.redis.records import Header
    from threadmill.checkpoints.redis.store import RedisCheckpoints

# Checkpoints per round trip of a list or a walk; each may be as large as the state.
PAGE: Final = 32
# The same where only metadata is read.
_SCANNED: Final = 256

_NO_BOUND: Final = 2**53

_STALE: Final = 2 * STALE_SECONDS * 1_000_000


@dataclass(frozen=True, slots=True)
class Place:
    """Where a checkpoint stands; `at` is in microseconds."""

    thread_id: str
    ns: str
    ordinal: int
    at: int


@dataclass(frozen=True, slots=True)
class Found:
    """A checkpoint that a scan has come by."""

    thread_id: str
    ns: str
    checkpoint_id: str
    header: Header


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a list is narrowed to."""

    ns: str | None
    matching: Mapping[str, Any] | None
    checkpoint_id: str | None
    below: int = _NO_BOUND
    # A bound in another namespace, as LangGraph uses it to find a subgraph's state
    # before a point of its parent.
    outer: Place | None = None

    @property
    def takes_all(self) -> bool:
        return not self.matching and self.checkpoint_id is None and self.outer is None

    def fits(self, found: Found) -> bool:
        if self.checkpoint_id not in {None, found.checkpoint_id}:
            return False
        return contains(found.header.metadata, self.matching or {})


async def listed(
    store: RedisCheckpoints,
    tenant: str,
    thread_id: str | None,
    *,
    ns: str | None,
    before: str | None,
    matching: Mapping[str, Any] | None,
    limit: int | None,
    checkpoint_id: str | None,
) -> AsyncGenerator[Stored, None]:
    """See `Checkpoints.list`, whose filter is `matching` here.

    What is put meanwhile is not listed.
    """
    left = limit if limit is not None else _NO_BOUND
    wanted = _Wanted(ns, matching, checkpoint_id)
    bound = await _bound(store, tenant, thread_id, ns, before) if before else None
    if thread_id is None:
        found = _over_threads(store, tenant, wanted, bound)
    else:
        found = _of_thread(store, tenant, thread_id, _bounded(wanted, bound), left)
    if left <= 0:
        return
    async for stored in found:
        yield stored
        left -= 1
        if left == 0:
            return


def _bounded(wanted: _Wanted, bound: Place | None) -> _Wanted:
    if bound is None:
        return wanted
    inner = wanted.ns is None or wanted.ns == bound.ns
    return _Wanted(
        wanted.ns,
        wanted.matching,
        wanted.checkpoint_id,
        below=bound.ordinal if inner else _NO_BOUND,
        outer=None if inner else bound,
    )


# ------------------------------------------------------------------------- one thread


async def _of_thread(
    store: RedisCheckpoints, tenant: str, thread_id: str, wanted: _Wanted, limit: int
) -> AsyncIterator[Stored]:
    if not wanted.takes_all:
        chosen: list[Found] = []
        async for found in _scan(store, tenant, thread_id, wanted):
            chosen.append(found)
            if len(chosen) >= min(PAGE, limit):
                for stored in await _read(store, tenant, thread_id, chosen):
                    yield stored
                chosen = []
        for stored in await _read(store, tenant, thread_id, chosen):
            yield stored
        return
    below = wanted.below
    while (size := min(PAGE, limit)) > 0:
        page = await store.database.call(
            SCRIPTS.page,
            thread_keys(tenant, thread_id),
            *_page("rows", wanted.ns, below, size),
        )
        for seen in records.seen_of(store.codec, thread_id, page):
            below = seen.stored.ordinal
            yield seen.stored
        if len(page[0]) < size:
            return
        limit -= size


async def _read(
    store: RedisCheckpoints, tenant: str, thread_id: str, chosen: Sequence[Found]
) -> list[Stored]:
    if not chosen:
        return []
    places = [part for one in chosen for part in (one.ns, one.checkpoint_id)]
    keys = thread_keys(tenant, thread_id)
    rows = await store.database.call(SCRIPTS.rows, keys, len(chosen), *places)
    return [seen.stored for seen in records.seen_of(store.codec, thread_id, rows)]


async def _scan(
    store: RedisCheckpoints, tenant: str, thread_id: str, wanted: _Wanted
) -> AsyncIterator[Found]:
    below, keys = wanted.below, thread_keys(tenant, thread_id)
    while True:
        page = await store.database.call(
            SCRIPTS.page, keys, *_page("scan", wanted.ns, below, _SCANNED)
        )
        found = [
            Found(thread_id, ns.decode(), id_.decode(), records.header_of(data))
            for ns, id_, data in page
        ]
        is_before = await _is_before(store, tenant, thread_id, wanted.outer, found)
        for one in found:
            below = one.header.ordinal
            if wanted.fits(one) and is_before(one):
                yield one
        if len(page) < _SCANNED:
            return


def _page(what: str, ns: str | None, below: int, limit: int) -> tuple[str | int, ...]:
    return what, "all" if ns is None else "one", ns or "", below, limit


async def _is_before(
    store: RedisCheckpoints,
    tenant: str,
    thread_id: str,
    outer: Place | None,
    page: Sequence[Found],
) -> Callable[[Found], bool]:
    """Whether a checkpoint was there before one of another namespace.

    It was when the checkpoint of that namespace which it was made under was. Where that
    is unknown, the order of commits decides.
    """
    if outer is None:
        return lambda _: True
    ids = sorted({under for one in page if (under := _under(one, outer))})
    found = await store.database.call(
        SCRIPTS.ordinals, thread_keys(tenant, thread_id), outer.ns, len(ids), *ids
    )
    ordinals = {id_: n for id_, n in zip(ids, found, strict=True) if n > 0}
    return lambda one: (
        ordinals.get(_under(one, outer), one.header.ordinal) < outer.ordinal
    )


def _under(one: Found, outer: Place) -> str:
    parents: Mapping[str, str] = one.header.metadata.get("parents") or {}
    return parents.get(outer.ns, "")


# ------------------------------------------------------------------------ all threads


@dataclass(order=True, slots=True)
class _Front:
    """The next checkpoint of one thread, in the order of all threads."""

    rank: tuple[int, int, str]
    found: Found = field(compare=False)
    rest: AsyncIterator[Found] = field(compare=False)


class _Fronts:
    """The next checkpoint of every thread that was opened so far.

    Args:
        below: only what was there before this one.
    """

    def __init__(self, below: Place | None) -> None:
        self._heap: list[_Front] = []
        self._below = (-below.at, -below.ordinal, below.thread_id) if below else None

    async def advance(self, rest: AsyncIterator[Found]) -> bool:
        """Goes on to the next checkpoint of a thread, if there is one."""
        async for found in rest:
            rank = (-found.header.at, -found.header.ordinal, found.thread_id)
            if self._below is None or rank > self._below:
                heapq.heappush(self._heap, _Front(rank, found, rest))
                return True
        return False

    async def above(self, at: int | None) -> AsyncIterator[Found]:
        """What is newer than this, or all, newest first."""
        while self._heap and (at is None or -self._heap[0].rank[0] > at):
            front = heapq.heappop(self._heap)
            await self.advance(front.rest)
            yield front.found


async def _over_threads(
    store: RedisCheckpoints, tenant: str, wanted: _Wanted, bound: Place | None
) -> AsyncIterator[Stored]:
    async for found in _all_found(store, tenant, wanted, bound):
        for stored in await _read(store, tenant, found.thread_id, [found]):
            yield stored


async def _all_found(
    store: RedisCheckpoints, tenant: str, wanted: _Wanted, bound: Place | None
) -> AsyncIterator[Found]:
    """Threads are opened when their latest checkpoint may be the next one."""
    fronts, empty = _Fronts(bound), []
    async for thread_id, at in store.directory.threads(tenant):
        async for found in fronts.above(at + _STALE):
            yield found
        if not await fronts.advance(_scan(store, tenant, thread_id, wanted)):
            empty.append(thread_id)
    async for found in fronts.above(None):
        yield found
    if empty:
        await store.directory.sweep(tenant, empty)


# -------------------------------------------------------------------------- the bound


async def _bound(
    store: RedisCheckpoints,
    tenant: str,
    thread_id: str | None,
    ns: str | None,
    checkpoint_id: str,
) -> Place:
    if thread_id is not None:
        found = await _place(store, tenant, thread_id, ns, checkpoint_id)
    else:
        found = None
        async for other, _ in store.directory.threads(tenant):
            found = await _place(store, tenant, other, ns, checkpoint_id)
            if found is not None:
                break
    if found is None:
        msg = f"there is no checkpoint {checkpoint_id} to list what was before it"
        raise NotFound(msg)
    return found


async def _place(
    store: RedisCheckpoints,
    tenant: str,
    thread_id: str,
    ns: str | None,
    checkpoint_id: str,
) -> Place | None:
    keys = thread_keys(tenant, thread_id)
    found = await store.database.call(SCRIPTS.place, keys, checkpoint_id, ns or "")
    if not found:
        return None
    return Place(thread_id, found[0].decode(), int(found[1]), int(found[2]))


def contains(value: Any, part: Any) -> bool:
    """Whether JSON holds other JSON: objects by key, lists by any of their items."""
    if isinstance(part, dict):
        return isinstance(value, dict) and all(
            key in value and contains(value[key], inner) for key, inner in part.items()
        )
    if isinstance(part, list | tuple):
        return isinstance(value, list) and all(
            any(contains(item, inner) for item in value) for inner in part
        )
    # JSON's true is not 1, as it is in Python.
    return isinstance(value, bool) == isinstance(part, bool) and bool(value == part)
