"""Which threads a tenant has, and which of them a run has put to.

These lie on other keys than the threads, in a Cluster on other nodes, so no script can
keep both in step. A thread is announced before the first put to it: what is announced
and never came, or has gone, costs a look. Putting announces again only now and then.

Threads that have gone by themselves, by their time to live, are taken out a few at a
time, by those who announce others.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from threadmill.checkpoints.redis.keys import index_key, run_key, thread_keys
from threadmill.drivers.redis.database import Call
from threadmill.drivers.redis.scripts import Scripts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from threadmill.drivers.redis.database import RedisDatabase

SCRIPTS: Final = Scripts("threadmill.checkpoints.redis")

# How old the time may be that the index gives for a thread.
STALE_SECONDS: Final = 60
_REMEMBERED_MAX: Final = 10_000
_PAGE: Final = 256

# Threads that an announcement may find to be gone.
_SWEPT_MAX: Final = 16


class Directory:
    """The threads of all tenants.

    Args:
        database: where they are.
        ttl_milliseconds: after which a thread is gone, unless it is put to; 0 is never.
    """

    def __init__(self, database: RedisDatabase, ttl_milliseconds: int) -> None:
        self._database = database
        self._ttl = ttl_milliseconds
        self._announced: OrderedDict[tuple[str, str, str], float] = OrderedDict()

    def calls(self, tenant: str, thread_id: str, runs: set[str]) -> list[Call]:
        """What a put to a thread has to do first, if anything.

        Args:
            tenant: whose.
            thread_id: the thread.
            runs: those that put.
        """
        due = [run for run in ("", *sorted(runs)) if self._due(tenant, thread_id, run)]
        return [
            Call(
                SCRIPTS.announce,
                [run_key(tenant, run) if run else index_key(tenant)],
                [thread_id, self._ttl, _SWEPT_MAX],
            )
            for run in due
        ]

    async def announced(
        self, tenant: str, thread_id: str, runs: set[str], gone: Sequence[Any]
    ) -> None:
        """The calls were answered; looks after threads that may be gone.

        Args:
            tenant: whose.
            thread_id: the thread.
            runs: those that put.
            gone: the answers.
        """
        now = time.monotonic()
        for run in ("", *runs):
            self._announced[tenant, thread_id, run] = now
            self._announced.move_to_end((tenant, thread_id, run))
        while len(self._announced) > _REMEMBERED_MAX:
            self._announced.popitem(last=False)
        old = [id_.decode() for answer in gone for id_ in answer]
        if old:
            await self.sweep(tenant, old)

    def _due(self, tenant: str, thread_id: str, run: str) -> bool:
        last = self._announced.get((tenant, thread_id, run))
        return last is None or time.monotonic() - last > STALE_SECONDS / 2

    async def sweep(self, tenant: str, thread_ids: Sequence[str]) -> None:
        """Takes out those of these threads that are not there.

        One that was announced a moment ago stays: somebody may be about to put to it.
        """
        heads = [("EXISTS", thread_keys(tenant, id_)[0]) for id_ in thread_ids]
        there = await self._database.commands(*heads)
        lost = [id_ for id_, found in zip(thread_ids, there, strict=True) if not found]
        if lost:
            key = index_key(tenant)
            await self._database.call(SCRIPTS.forget, [key], STALE_SECONDS, *lost)

    async def threads(self, tenant: str) -> AsyncIterator[tuple[str, int]]:
        """Every thread, the one that was put to last first.

        Each with the time of that in microseconds, which may be `STALE_SECONDS` old.
        A thread may come twice if it is put to meanwhile.
        """
        key, start = index_key(tenant), 0
        while True:
            (found,) = await self._database.commands(
                ("ZREVRANGE", key, start, start + _PAGE - 1, "WITHSCORES")
            )
            for thread_id, at in _pairs(found):
                yield thread_id.decode(), int(float(at))
            if len(found) < _PAGE:
                return
            start += _PAGE

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
        if runs:
            await self._database.run(
                *(
                    Call(
                        SCRIPTS.forget,
                        [run_key(tenant, run)],
                        [STALE_SECONDS, thread_id],
                    )
                    for run in runs
                )
            )


def _pairs(found: Sequence[Any]) -> list[tuple[bytes, Any]]:
    """Members with scores, as either protocol of Redis gives them."""
    if found and isinstance(found[0], list | tuple):
        return [(member, score) for member, score in found]
    return list(zip(found[::2], found[1::2], strict=True))
