"""Checkpoints for threads that block: a few connections on an event loop of their own.

An activation's connections belong to its event loop. A node that calls a subgraph by
`invoke` blocks its thread, which may be the thread of that very loop; whoever answers
must live elsewhere. Most graphs never do this, so everything here starts with the first
call.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from threadmill.checkpoints.history import delta_history
from threadmill.checkpoints.home import BackgroundLoop, Home
from threadmill.checkpoints.postgres import PostgresCheckpoints

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from langgraph.checkpoint.base import DeltaChannelHistory

    from threadmill.checkpoints.base import Commit, Stored
    from threadmill.checkpoints.configs import Address
    from threadmill.domain.fence import Fence
    from threadmill.drivers.postgres.database import Database

T = TypeVar("T")


class PostgresSyncCheckpoints:
    """The `SyncCheckpoints` port; safe to call from any thread.

    Args:
        make: makes the storage, over a database that is not open yet. Two connections
            are plenty: blocked threads are few.
        wait_seconds: how long a thread waits; longer than the limits of the database
            and of a chunk store together.
    """

    def __init__(
        self, make: Callable[[], PostgresCheckpoints], *, wait_seconds: float = 100.0
    ) -> None:
        self._make = make
        self._wait_seconds = wait_seconds
        self._starting = threading.Lock()
        self._running: tuple[PostgresCheckpoints, Home, BackgroundLoop] | None = None

    def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> None:
        """See `SyncCheckpoints.commit`."""
        self._call(lambda store: store.commit(tenant, thread_id, commit, fence))

    def get(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None = None
    ) -> Stored | None:
        """See `SyncCheckpoints.get`."""
        return self._call(lambda store: store.get(tenant, thread_id, ns, checkpoint_id))

    def list(
        self,
        tenant: str,
        thread_id: str,
        *,
        ns: str | None = None,
        before: str | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's word
        limit: int | None = None,
    ) -> Sequence[Stored]:
        """See `SyncCheckpoints.list`."""
        return self._call(
            lambda store: _all_of(
                store.list(
                    tenant, thread_id, ns=ns, before=before, filter=filter, limit=limit
                )
            )
        )

    def delta_history(
        self, tenant: str, at: Address, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """See `SyncCheckpoints.delta_history`."""
        return self._call(lambda store: delta_history(store, tenant, at, channels))

    def on_database(self, ask: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
        """Blocks until `ask` has its answer from the same few connections.

        Raises:
            Error: whatever `ask` raises; StoreUnavailable when it takes too long.
        """
        return self._call(lambda store: ask(store.database))

    def close(self) -> None:
        """Closes the connections and ends the thread; safe to call twice.

        Blocks for as long as closing takes: on an event loop, use `to_thread`.
        """
        with self._starting:
            if self._running is None:
                return
            store, home, background = self._running
            self._running = None
        try:
            home.call(store.close())
        finally:
            background.stop()

    def _call(self, ask: Callable[[PostgresCheckpoints], Coroutine[Any, Any, T]]) -> T:
        store, home = self._started()
        return home.call(ask(store))

    def _started(self) -> tuple[PostgresCheckpoints, Home]:
        with self._starting:
            if self._running is None:
                self._running = self._start()
            store, home, _ = self._running
        return store, home

    def _start(self) -> tuple[PostgresCheckpoints, Home, BackgroundLoop]:
        background = BackgroundLoop()
        home = Home(wait_seconds=self._wait_seconds)
        home.move_in(background.loop)
        try:
            return home.call(_opened(self._make)), home, background
        except BaseException:
            background.stop()
            raise


async def _opened(make: Callable[[], PostgresCheckpoints]) -> PostgresCheckpoints:
    store = make()
    await store.open()
    return store


async def _all_of(stored: AsyncIterator[Stored]) -> Sequence[Stored]:
    return [one async for one in stored]
