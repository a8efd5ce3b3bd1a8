"""A connection that sends a whole transaction at once and waits once for its answer.

psycopg's own pipelines look at the network after each statement: a system call and a
turn of the event loop for each, on both sides. Here all statements go out together,
by libpq's pipeline mode (PostgreSQL documentation, "Pipeline Mode"); values are
converted by psycopg's adapters as everywhere.

Every statement is prepared at its first use, once for each combination of parameter
types, and only then counts as prepared when the server has said so: what stands behind
an error in a pipeline is skipped.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg import abc
    from psycopg.abc import Buffer
    from psycopg.pq.abc import PGresult

    from threadmill.drivers.postgres.sql import Query

Row = dict[str, Any]
Statement = tuple["Query", "Mapping[str, object]"]

_CANCEL_SECONDS: Final = 2.0
_DONE: Final = frozenset({pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK})
_Converted = tuple[
    "Sequence[Buffer | None]", tuple[int, ...], "Sequence[pq.Format] | None"
]
_PreparedKey = tuple["Query", tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class _Preparing:
    """A result to come that says whether a statement is prepared now."""

    key: _PreparedKey


class Connection(psycopg.AsyncConnection[Row]):
    """An autocommit connection of one pool; used by one task at a time.

    `may_prepare` is False behind a transaction pooler that does not track prepared
    statements.
    """

    may_prepare: bool = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._statement_names: dict[_PreparedKey, bytes] = {}
        self._statements_named = 0

    async def send(self, statements: Sequence[Statement]) -> list[list[Row]]:
        """Sends statements as one implicit transaction; returns the rows of each.

        Raises:
            psycopg.Error: the first statement that failed; nothing was committed. For
                `OperationalError` the outcome is open.

        Cancellation asks the server to give up, and closes the connection; the outcome
        is open.
        """
        # All are converted before any is sent: a value that cannot be leaves nothing.
        adapt = Transformer(self)
        converted = [(query, _convert(adapt, query, p)) for query, p in statements]
        complete = False
        try:
            self.pgconn.enter_pipeline_mode()
            awaited = self._queue(converted)
            await self._flush()
            results = await self._results()
            self.pgconn.exit_pipeline_mode()
            complete = True
        except asyncio.CancelledError:
            with suppress(psycopg.Error):
                await self.cancel_safe(timeout=_CANCEL_SECONDS)
            raise
        finally:
            if not complete:
                # What is still under way must not meet the next transaction.
                self.pgconn.finish()
        return self._rows(awaited, results)

    # --- sending --------------------------------------------------------------------

    def _queue(
        self, converted: Sequence[tuple[Query, _Converted]]
    ) -> list[Query | _Preparing]:
        """Hands statements to libpq; returns what each result will be of."""
        awaited: list[Query | _Preparing] = []
        for query, (values, types, formats) in converted:
            if self.may_prepare:
                key = (query, types)
                if key not in self._statement_names:
                    self._prepare(key)
                    awaited.append(_Preparing(key))
                self.pgconn.send_query_prepared(
                    self._statement_names[key], values, formats, pq.Format.BINARY
                )
            else:
                self.pgconn.send_query_params(
                    query.positional, values, types, formats, pq.Format.BINARY
                )
            awaited.append(query)
        self.pgconn.pipeline_sync()
        return awaited

    def _prepare(self, key: _PreparedKey) -> None:
        query, types = key
        self._statements_named += 1
        name = b"threadmill_%d" % self._statements_named
        self.pgconn.send_prepare(name, query.positional, types)
        self._statement_names[key] = name

    async def _flush(self) -> None:
        while self.pgconn.flush():
            # The server may be unable to read on before we read its answers.
            await self._ready(writing=True)
            self.pgconn.consume_input()

    # --- receiving ------------------------------------------------------------------

    async def _results(self) -> list[PGresult]:
        results: list[PGresult] = []
        while True:
            while self.pgconn.is_busy():
                await self._ready()
                self.pgconn.consume_input()
            result = self.pgconn.get_result()
            if result is None:  # the end of one statement
                if self.pgconn.status == pq.ConnStatus.BAD:
                    raise psycopg.OperationalError("the connection is lost")
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                return results
            else:
                results.append(result)

    async def _ready(self, *, writing: bool = False) -> None:
        """Returns when the socket may be read, or written if that is waited for."""
        loop, socket = asyncio.get_running_loop(), self.pgconn.socket
        ready = loop.create_future()
        loop.add_reader(socket, _wake, ready)
        if writing:
            loop.add_writer(socket, _wake, ready)
        try:
            await ready
        finally:
            loop.remove_reader(socket)
            if writing:
                loop.remove_writer(socket)

    def _rows(
        self, awaited: Sequence[Query | _Preparing], results: Sequence[PGresult]
    ) -> list[list[Row]]:
        """The rows of each statement; raises for the first that failed."""
        rows, failed = [], None
        adapt = Transformer(self)
        for of, result in zip(awaited, results, strict=False):
            if result.status in _DONE:
                if not isinstance(of, _Preparing):
                    rows.append(_load(adapt, result))
                continue
            if isinstance(of, _Preparing):
                del self._statement_names[of.key]
            failed = failed or result
        # One result more is what the commit itself has failed with.
        failed = failed or next(iter(results[len(awaited) :]), None)
        if failed is not None:
            raise error_from_result(failed)
        return rows


def _convert(
    adapt: abc.Transformer, query: Query, params: Mapping[str, object]
) -> _Converted:
    values = adapt.dump_sequence([params[name] for name in query.names], query.formats)
    return values, adapt.types or (), adapt.formats


def _load(adapt: abc.Transformer, result: PGresult) -> list[Row]:
    if not result.ntuples:
        return []
    names = [(result.fname(i) or b"").decode() for i in range(result.nfields)]
    adapt.set_pgresult(result)
    return adapt.load_rows(
        0, result.ntuples, lambda values: dict(zip(names, values, strict=True))
    )


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
