"""Keeps a process's leases and its presence, from a thread of its own.

The thread has nothing to do with any event loop: a node that blocks the loop must not
lose its lease. It holds one direct session; the session's advisory lock says "this
process lives", and the database frees it a few milliseconds after the process is
killed.

A session that breaks is noticed at once and made anew. Where the way to it is not the
pool's, leases are renewed over the pool's while it is broken. The others learn the
lock's key only from a session that holds it, and a renewal without the lock takes the
key back: a process without its session is judged by its leases, never by a free lock.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
import structlog
from psycopg.abc import RV, PQGen
from psycopg.rows import dict_row

from threadmill.drivers.postgres.connection import Row
from threadmill.drivers.postgres.reach import Outage
from threadmill.drivers.postgres.sql import Queries
from threadmill.faults import Faults
from threadmill.stores.postgres.rows import claim_of
from threadmill.stores.records import Claim, OwnSession

if TYPE_CHECKING:
    from datetime import datetime

    from threadmill.domain.lease import LeaseTimes
    from threadmill.stores.records import Member

_log = structlog.get_logger(__name__)

RENEWAL = Queries(__package__, "renewal.sql")
_RECONNECT_SECONDS: Final = 0.1
_STOP_SECONDS: Final = 5.0
_KEPT_WAITING: Final = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.QueryCanceled,
)

OnRenewed = Callable[[float, Sequence[Claim]], None]


class RenewalThread:
    """Renews every lease of one member.

    Args:
        conninfo: of the session; a direct one if `lock_key` is given.
        member: whose leases.
        lock_key: its presence lock, None where sessions are not its own.
        detour: another way to the same database, for leases alone, while the session
            is broken; None if there is none.
        times: how long leases hold and how often they are renewed.
        on_renewed: called from the thread with the monotonic time just before the
            renewal was sent, and every claim that the database says is held.
        on_drain: called from the thread, once, when somebody has asked the member to
            drain.
        faults: what tests make happen around each renewal.
    """

    def __init__(
        self,
        conninfo: str,
        member: Member,
        lock_key: int | None,
        *,
        detour: str | None = None,
        times: LeaseTimes,
        on_renewed: OnRenewed,
        on_drain: Callable[[], None] = lambda: None,
        faults: Faults | None = None,
    ) -> None:
        self._conninfo = conninfo
        self._detour = detour
        self._member = member
        self._lock_key = lock_key
        self._times = times
        self._on_renewed = on_renewed
        self._on_drain = on_drain
        self._faults = faults or Faults()
        self._drains = False
        self._outage = Outage(_log, "renewal", first_pause_seconds=_RECONNECT_SECONDS)
        self._own_session: OwnSession | None = None
        self._sessions = 0
        self._begun = threading.Event()
        self._ended = threading.Event()
        self._wakes, self._woken = socket.socketpair()
        self._thread = threading.Thread(
            target=self._run, name="lease-renewal", daemon=True
        )

    def start(self) -> None:
        """Begins to renew."""
        self._thread.start()

    def wait_until_begun(self, seconds: float) -> None:
        """Returns when it shows itself, cannot at present, or so much later.

        Whoever works before would die unseen, and be found by its leases only.
        """
        self._begun.wait(seconds)

    def stop(self) -> None:
        """Ends the session, and with it the presence."""
        self._ended.set()
        self._begun.set()
        self._wakes.close()
        self._thread.join(_STOP_SECONDS)

    @property
    def own_session(self) -> OwnSession | None:
        """The session that stands now; to be read from any thread."""
        return self._own_session

    def _run(self) -> None:
        with self._woken:
            while not self._ended.is_set():
                try:
                    self._hold_session()
                except psycopg.Error as error:
                    self._broke()
                    pause = self._outage.broke(error)
                    self._renew_otherwise()
                    self._ended.wait(min(pause, self._times.renew_seconds))
                except Exception:  # noqa: BLE001 - it would end the thread
                    # A process that no longer renews would go on claiming.
                    _log.exception("renewal.crashed")
                    self._broke()
                    self._ended.wait(_RECONNECT_SECONDS)

    def _broke(self) -> None:
        self._own_session = None
        self._begun.set()
        # Whose first attempt fails has not only just come: something is broken.
        self._sessions = max(self._sessions, 1)

    def _hold_session(self) -> None:
        present = False
        with (
            self._session(self._conninfo) as connection,
            self._news(connection) as news,
        ):
            while not self._ended.is_set():
                present = present or self._take_lock(connection)
                try:
                    seen = self._renew(connection, self._lock_key if present else None)
                except _KEPT_WAITING as error:
                    # The session stands, and with it the lock.
                    news.select(self._outage.broke(error))
                    continue
                self._outage.over()
                if present and self._own_session is None:
                    self._sessions += 1
                    self._own_session = OwnSession(
                        self._member.worker_id,
                        self._sessions,
                        since=time.monotonic(),
                        **seen,
                    )
                settled = present or self._lock_key is None
                if settled:
                    self._begun.set()
                news.select(
                    self._times.renew_seconds if settled else _RECONNECT_SECONDS
                )

    def _session(self, conninfo: str) -> _Session:
        session = _Session.connect(
            conninfo,
            autocommit=True,
            # A transaction pooler, if there is one, may not keep prepared statements.
            prepare_threshold=None,
            row_factory=dict_row,
        )
        # After a renewal that did not work, another way must still be tried in time.
        session.answer_seconds = self._times.lease_seconds / 3
        return session

    @contextmanager
    def _news(
        self, connection: psycopg.Connection[Row]
    ) -> Iterator[selectors.BaseSelector]:
        """Ready when this thread is to end, or when the session has: read at once."""
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            yield selector

    def _renew_otherwise(self) -> None:
        if self._detour is None:
            return
        try:
            with self._session(self._detour) as connection:
                self._renew(connection, None)
        except psycopg.Error as error:
            _log.debug("renewal.no_detour", cause=type(error).__name__)

    def _take_lock(self, connection: psycopg.Connection[Row]) -> bool:
        if self._lock_key is None:
            return False
        taken = connection.execute(
            RENEWAL.hold_presence.text, {"lock_key": self._lock_key}
        ).fetchone()
        return taken is not None and bool(taken["pg_try_advisory_lock"])

    def _renew(
        self, connection: psycopg.Connection[Row], lock_key: int | None
    ) -> Mapping[str, datetime]:
        """Renews every lease and tells the others the lock that is held, if any.

        Returns:
            When that was, by the database, and since when there is this database.
        """
        member, asked_at = self._member, time.monotonic()
        self._faults.at_blocking("renew.before")
        with connection.transaction():
            connection.execute(
                RENEWAL.enter.text, {"lease_seconds": self._times.lease_seconds}
            )
            seen = connection.execute(
                RENEWAL.see.text,
                {
                    "worker_id": member.worker_id,
                    "name": member.name,
                    "role": member.role,
                    "version": member.version,
                    "graphs": list(member.graphs),
                    "labels": list(member.labels),
                    "slots": member.slots,
                    "lock_key": lock_key,
                },
                # Text would be in whatever form the server is set to.
                binary=True,
            ).fetchone()
            self._faults.at_blocking("extend.before")
            held = connection.execute(
                RENEWAL.renew.text,
                {
                    "worker_id": member.worker_id,
                    "lease_seconds": self._times.lease_seconds,
                },
            ).fetchall()
            self._faults.at_blocking("extend.after")
        self._faults.at_blocking("renew.after")
        self._on_renewed(asked_at, [claim_of(row) for row in held])
        assert seen is not None  # noqa: S101 - what is inserted is returned
        if seen["drain"] and not self._drains:
            self._drains = True
            _log.info("process.told_to_drain")
            self._on_drain()
        return {
            "renewed_at": seen["seen_at"],
            "database_since": seen["database_since"],
        }


class _Session(psycopg.Connection[Row]):
    """A session that is given up when an answer takes too long.

    Leases must be renewed in time; a broken network is noticed by the system, a proxy
    that keeps silent only here.
    """

    answer_seconds: float = 5.0

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """See `psycopg.Connection.wait`."""
        return super().wait(self._in_time(gen), *args, **kwargs)

    def _in_time(self, gen: PQGen[RV]) -> PQGen[RV]:
        give_up_at = time.monotonic() + self.answer_seconds
        try:
            wanted = next(gen)
            while True:
                # Psycopg comes back every tenth of a second, ready or not.
                ready = yield wanted
                if time.monotonic() > give_up_at:
                    self.pgconn.finish()
                    raise psycopg.OperationalError("no answer in time")
                wanted = gen.send(ready)
        except StopIteration as end:
            value: RV = end.value
            return value
