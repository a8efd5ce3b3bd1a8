"""Keeps a process's leases and its presence, from a thread of its own.

The thread has nothing to do with any event loop: a node that blocks the loop must not
lose its lease. It holds one direct session; the session's advisory lock says "this
process lives", and the database frees it a few milliseconds after the process is
killed. A broken session is made anew, and the lock taken again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import psycopg
import structlog
from psycopg.rows import dict_row

from threadmill.drivers.postgres.sql import Queries
from threadmill.stores.postgres.rows import claim_of
from threadmill.stores.records import Claim

if TYPE_CHECKING:
    from threadmill.domain.lease import LeaseTimes
    from threadmill.drivers.postgres.connection import Row
    from threadmill.stores.records import Member

_log = structlog.get_logger(__name__)

RENEWAL = Queries(__package__, "renewal.sql")
_RECONNECT_SECONDS: Final = 0.1
_STOP_SECONDS: Final = 5.0

OnRenewed = Callable[[float, Sequence[Claim]], None]


class RenewalThread:
    """Renews every lease of one member.

    Args:
        conninfo: of the session; a direct one if `lock_key` is given.
        member: whose leases.
        lock_key: its presence lock, None where sessions are not its own.
        times: how long leases hold and how often they are renewed.
        on_renewed: called from the thread with the monotonic time just before the
            renewal was sent, and every claim that the database says is held.
    """

    def __init__(
        self,
        conninfo: str,
        member: Member,
        lock_key: int | None,
        *,
        times: LeaseTimes,
        on_renewed: OnRenewed,
    ) -> None:
        self._conninfo = conninfo
        self._member = member
        self._lock_key = lock_key
        self._times = times
        self._on_renewed = on_renewed
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name="lease-renewal", daemon=True
        )

    def start(self) -> None:
        """Begins to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the session, and with it the presence."""
        self._ended.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self._hold_session()
            except psycopg.Error as error:
                _log.warning("renewal.broken", cause=type(error).__name__)
                self._ended.wait(_RECONNECT_SECONDS)

    def _hold_session(self) -> None:
        present = self._lock_key is None
        with psycopg.connect(
            self._conninfo, autocommit=True, row_factory=dict_row
        ) as connection:
            while not self._ended.is_set():
                present = present or self._take_lock(connection)
                asked_at = time.monotonic()
                self._on_renewed(asked_at, self._renew(connection))
                self._ended.wait(
                    self._times.renew_seconds if present else _RECONNECT_SECONDS
                )

    def _take_lock(self, connection: psycopg.Connection[Row]) -> bool:
        taken = connection.execute(
            RENEWAL.hold_presence.text, {"lock_key": self._lock_key}
        ).fetchone()
        return taken is not None and bool(taken["pg_try_advisory_lock"])

    def _renew(self, connection: psycopg.Connection[Row]) -> list[Claim]:
        member = self._member
        with connection.transaction():
            connection.execute(RENEWAL.enter.text)
            connection.execute(
                RENEWAL.see.text,
                {
                    "worker_id": member.worker_id,
                    "name": member.name,
                    "role": member.role,
                    "version": member.version,
                    "graphs": list(member.graphs),
                    "labels": list(member.labels),
                    "slots": member.slots,
                    "lock_key": self._lock_key,
                },
            )
            held = connection.execute(
                RENEWAL.renew.text,
                {
                    "worker_id": member.worker_id,
                    "lease_seconds": self._times.lease_seconds,
                },
            ).fetchall()
        return [claim_of(row) for row in held]
