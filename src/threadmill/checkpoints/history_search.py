"""Searches histories: along an index of values, or by reading checkpoints.

Values lie in bodies that PostgreSQL cannot read. Paths that a graph declares have rows
of their own (`projection`), and are found along an index. For any other question the
checkpoints of a narrowed set of threads are read, a page at a time and no more than the
caller allows; of a state no more than the channel that is asked for.
"""

from __future__ import annotations

from asyncio import to_thread
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from threadmill.checkpoints.codec import encode_json
from threadmill.checkpoints.compression import Blob, expanded
from threadmill.checkpoints.packing import (
    FORMAT,
    chunks_of_entry,
    entries_of,
    value_of_entry,
)
from threadmill.checkpoints.projection import SQL
from threadmill.domain.history import Found, Moment, is_meant
from threadmill.domain.paths import Scalar, scalar_at

if TYPE_CHECKING:
    from threadmill.checkpoints.postgres import PostgresCheckpoints
    from threadmill.domain.history import HistoryQuery, ValueMatch
    from threadmill.drivers.postgres.connection import Row

# Rows per statement.
PAGE: Final = 100
_THREADS: Final = 50
_EARLY: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LATE: Final = datetime(9999, 1, 1, tzinfo=UTC)
_NO_BOUND: Final = 2**63 - 1
_PULLED: Final = "~__pregel_pull, "
_PUSHED: Final = "~__pregel_push, "

_Key = tuple[str, str]
# What a body says of one channel, with the names that the checkpoint gives; chunks of
# each thread by name.
_Entries = Mapping[_Key, tuple[Any, Sequence[bytes]]]
_Chunks = Mapping[str, Mapping[bytes, Blob]]


@dataclass(slots=True)
class _Page:
    """What a search has come to."""

    limit: int
    scan: int
    moments: list[Moment] = field(default_factory=list)
    scanned: int = 0

    @property
    def is_over(self) -> bool:
        return len(self.moments) >= self.limit or self.scanned >= self.scan

    def found(self, place: Sequence[Any] | None) -> Found:
        return Found(self.moments, self.scanned, place)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A checkpoint that may be meant, and the place behind it."""

    key: _Key
    place: Sequence[Any]
    value: str | None = None


class PostgresHistories:
    """The `Histories` port.

    Args:
        checkpoints: where state lies, in the database that has threads and runs.
    """

    def __init__(self, checkpoints: PostgresCheckpoints) -> None:
        self._checkpoints = checkpoints
        self._database = checkpoints.database
        self._serde = checkpoints.codec.serde

    async def search(
        self,
        tenant: str,
        query: HistoryQuery,
        *,
        after: Sequence[Any] | None = None,
        limit: int,
        scan: int,
        by_index: bool,
    ) -> Found:
        """See `Histories.search`."""
        page = _Page(limit, scan)
        if by_index and query.value is not None:
            return await self._along_values(tenant, query, query.value, after, page)
        return await self._along_threads(tenant, query, after, page)

    # ------------------------------------------------------------------ by the index

    async def _along_values(
        self,
        tenant: str,
        query: HistoryQuery,
        value: ValueMatch,
        after: Sequence[Any] | None,
        page: _Page,
    ) -> Found:
        at, thread, checkpoint_id = after or (query.until or _LATE, "", "")
        equal = value.operand.text if value.operand else None
        exact = value.comparison == "equals"
        while not page.is_over:
            size = min(PAGE, page.scan - page.scanned)
            async with self._database.tenant_tx(tenant, read_only=True) as tx:
                found = tx.add(
                    SQL.by_value if exact else SQL.by_path,
                    tenant=tenant,
                    graph_id=query.graph_id,
                    path=value.path,
                    **({"value": equal} if exact else {}),
                    since=query.since or _EARLY,
                    at=at,
                    thread=thread,
                    checkpoint_id=checkpoint_id,
                    limit=size,
                )
            meant = [
                _Candidate(_key(row), _place(row), row["value"])
                for row in found.rows
                if value.fits(Scalar(row["value"], row["number"]))
                and (row["changed"] or not value.changed)
            ]
            stopped = await self._take(tenant, query, meant, page)
            page.scanned += len(found.rows)
            if stopped is not None:
                return page.found(stopped)
            if len(found.rows) < size:
                return page.found(None)
            at, thread, checkpoint_id = _place(found.rows[-1])
        return page.found((at, thread, checkpoint_id))

    # ---------------------------------------------------------------- by the threads

    async def _along_threads(
        self,
        tenant: str,
        query: HistoryQuery,
        after: Sequence[Any] | None,
        page: _Page,
    ) -> Found:
        at, thread, below = after or (query.until or _LATE, UUID(int=0), _NO_BOUND)
        ids = await self._named(tenant, query)
        while not page.is_over:
            threads = await self._threads(tenant, query, ids, at, thread)
            fitting = {str(t["thread_id"]): t for t in threads if t["fits"]}
            async with self._database.tenant_tx(tenant, read_only=True) as tx:
                found = tx.add(
                    SQL.newest,
                    tenant=tenant,
                    threads=list(fitting),
                    belows=[
                        below if t["thread_id"] == thread else _NO_BOUND
                        for t in fitting.values()
                    ],
                    limit=PAGE,
                )
            candidates = [
                _Candidate(
                    _key(row),
                    (
                        fitting[row["thread_id"]]["created_at"],
                        UUID(row["thread_id"]),
                        row["ordinal"],
                    ),
                )
                for row in found.rows
            ]
            stopped = await self._take(tenant, query, candidates, page)
            page.scanned += len(candidates)
            if stopped is not None:
                return page.found(stopped)
            if len(candidates) == PAGE:
                at, thread, below = candidates[-1].place
                continue
            page.scanned += len(threads)
            if len(threads) < _THREADS:
                return page.found(None)
            last = threads[-1]
            at, thread, below = last["created_at"], last["thread_id"], 0
        return page.found((at, thread, below))

    async def _named(self, tenant: str, query: HistoryQuery) -> list[UUID] | None:
        """The threads that a query names, by themselves or by a run; None for all."""
        named = None if query.thread_ids is None else list(query.thread_ids)
        if query.run_id is None:
            return named
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(SQL.thread_of_run, tenant=tenant, run_id=query.run_id)
        of_run = [row["thread_id"] for row in found.rows]
        return of_run if named is None else [id_ for id_ in of_run if id_ in named]

    async def _threads(
        self,
        tenant: str,
        query: HistoryQuery,
        ids: list[UUID] | None,
        at: datetime,
        thread: UUID,
    ) -> Sequence[Row]:
        narrowed: dict[str, object]
        facet = _facet(query)
        if ids is not None:
            walk, narrowed = SQL.threads_named, {"ids": ids}
        elif facet is not None:
            walk, narrowed = SQL.threads_by_facet, {"facet": facet}
        else:
            walk, narrowed = SQL.threads_by_creation, {}
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                walk,
                tenant=tenant,
                at=at,
                thread=thread,
                since=query.since or _EARLY,
                graph_id=query.graph_id,
                metadata=_contained(query),
                limit=_THREADS,
                **narrowed,
            )
        return found.rows

    # ---------------------------------------------------------- what a checkpoint is

    async def _take(
        self,
        tenant: str,
        query: HistoryQuery,
        candidates: Sequence[_Candidate],
        page: _Page,
    ) -> Sequence[Any] | None:
        """Adds the candidates that are meant; the place to go on, once it is full."""
        meant = await self._meant(tenant, query, candidates)
        for candidate in candidates:
            if candidate.key in meant:
                page.moments.append(meant[candidate.key])
                if len(page.moments) >= page.limit:
                    return candidate.place
        return None

    async def _meant(
        self, tenant: str, query: HistoryQuery, candidates: Sequence[_Candidate]
    ) -> Mapping[_Key, Moment]:
        if not candidates:
            return {}
        values = {c.key: c.value for c in candidates}
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                SQL.moments,
                tenant=tenant,
                threads=[c.key[0] for c in candidates],
                ids=[UUID(c.key[0]) for c in candidates],
                checkpoints=[c.key[1] for c in candidates],
                metadata=_contained(query),
            )
        rows = {_key(row): row for row in found.rows if row["fits"]}
        moments = {
            key: self._moment(row, values[key])
            for key, row in rows.items()
            if query.thread_ids is None or UUID(key[0]) in query.thread_ids
        }
        if query.node is not None:
            moments = await self._with_sends(tenant, rows, moments)
        moments = {k: m for k, m in moments.items() if is_meant(m, query)}
        if query.value is None or not moments:
            return moments
        known = {key: m for key, m in moments.items() if m.value is not None}
        if known:
            return known
        return await self._by_value(tenant, moments, query.value)

    def _moment(self, row: Row, value: str | None) -> Moment:
        paths: Sequence[str] = row["task_paths"]
        pulled = {p.removeprefix(_PULLED) for p in paths if p.startswith(_PULLED)}
        return Moment(
            thread_id=UUID(row["thread_id"]),
            checkpoint_id=row["checkpoint_id"],
            parent_id=row["parent_id"],
            run_id=row["run_id"],
            graph_id=row["graph_id"],
            source=row["source"],
            step=row["step"],
            created_at=row["created_at"],
            nodes=sorted(pulled),
            error=self._error(row),
            value=value,
        )

    def _error(self, row: Row) -> str | None:
        if (error := row["run_error"]) is not None:
            return f"{error.get('error')}: {error.get('message')}"
        if row["failure_type"] is None:
            return None
        stored = Blob(row["failure_type"], row["failure"])
        return str(self._checkpoints.codec.load_value(stored))

    async def _with_sends(
        self, tenant: str, rows: Mapping[_Key, Row], moments: Mapping[_Key, Moment]
    ) -> dict[_Key, Moment]:
        """With the nodes of tasks that were sent: the state before says which."""
        parents = {
            key: (key[0], row["parent_id"])
            for key, row in rows.items()
            if key in moments and any(p.startswith(_PUSHED) for p in row["task_paths"])
        }
        sent = await self._channel(tenant, set(parents.values()), "__pregel_tasks")
        named = dict(moments)
        for key, parent in parents.items():
            sends = sent.get(parent) or ()
            names = {getattr(send, "node", None) for send in sends}
            pushed = {name for name in names if isinstance(name, str)}
            nodes = sorted({*moments[key].nodes, *pushed})
            named[key] = replace(moments[key], nodes=nodes)
        return named

    async def _by_value(
        self, tenant: str, moments: Mapping[_Key, Moment], value: ValueMatch
    ) -> dict[_Key, Moment]:
        """Those whose state holds what is asked for; read from their bodies."""
        channel = value.path.partition(".")[0]
        parents = {
            key: (key[0], moment.parent_id)
            for key, moment in moments.items()
            if value.changed and moment.parent_id is not None
        }
        states = await self._channel(tenant, {*moments, *parents.values()}, channel)

        def at(key: _Key | None) -> Scalar | None:
            if key is None or key not in states:
                return None
            return scalar_at({channel: states[key]}, value.path)

        meant = {}
        for key, moment in moments.items():
            now = at(key)
            was = at(parents.get(key)) if value.changed else None
            if now is not None and value.fits(now) and now != was:
                meant[key] = replace(moment, value=now.text)
        return meant

    async def _channel(
        self, tenant: str, keys: set[_Key], channel: str
    ) -> Mapping[_Key, Any]:
        """One channel of some checkpoints; a checkpoint without it is left out."""
        if not keys:
            return {}
        pairs = sorted(keys)
        async with self._database.tenant_tx(tenant, read_only=True) as tx:
            found = tx.add(
                SQL.bodies,
                tenant=tenant,
                threads=[thread for thread, _ in pairs],
                checkpoints=[id_ for _, id_ in pairs],
            )
        # What is lost is as if it had never been found, as what was pruned.
        rows = await self._checkpoints.bring(tenant, found.rows, leave_lost=True)
        # Hundreds of states are looked into: streams and probes go on meanwhile.
        values, entries, brought = await to_thread(self._opened, rows, channel)
        chunks = await self._chunks(tenant, entries)
        return values | await to_thread(self._held, entries, chunks, brought)

    def _opened(
        self, rows: Sequence[Row], channel: str
    ) -> tuple[dict[_Key, Any], _Entries, _Chunks]:
        """The channel where a body has it whole, its entries otherwise, and chunks."""
        values: dict[_Key, Any] = {}
        entries: dict[_Key, tuple[Any, Sequence[bytes]]] = {}
        brought: defaultdict[str, dict[bytes, Blob]] = defaultdict(dict)
        for row in rows:
            body = Blob(row["type"], row["value"])
            if row.get("name") is not None:
                brought[row["thread_id"]][row["name"]] = expanded(body)
            elif row["format"] != FORMAT:
                checkpoint, _ = self._checkpoints.codec.unpack(row["format"], body)
                if channel in checkpoint["channel_values"]:
                    values[_key(row)] = checkpoint["channel_values"][channel]
            elif (entry := entries_of(body).get(channel)) is not None:
                entries[_key(row)] = (entry, row["chunks"])
        return values, entries, brought

    def _held(
        self, entries: _Entries, chunks: _Chunks, brought: _Chunks
    ) -> dict[_Key, Any]:
        """What entries stand for, as far as all of it is there."""
        values: dict[_Key, Any] = {}
        for key, (entry, names) in entries.items():
            held = {**chunks.get(key[0], {}), **brought.get(key[0], {})}
            # Pruned since its body was read: it is as if it had never been found.
            if all(name in held for name in chunks_of_entry(entry, names)):
                values[key] = value_of_entry(self._serde, entry, names, held)
        return values

    async def _chunks(self, tenant: str, entries: _Entries) -> _Chunks:
        wanted = {
            (thread, name)
            for (thread, _), (entry, names) in entries.items()
            for name in chunks_of_entry(entry, names)
        }
        chunks: defaultdict[str, dict[bytes, Blob]] = defaultdict(dict)
        if wanted:
            async with self._database.tenant_tx(tenant, read_only=True) as tx:
                found = tx.add(
                    SQL.chunks,
                    tenant=tenant,
                    threads=[thread for thread, _ in wanted],
                    names=[name for _, name in wanted],
                )
            for row in found.rows:
                stored = expanded(Blob(row["type"], row["data"]))
                chunks[row["thread_id"]][row["name"]] = stored
        return chunks


def _key(row: Row) -> _Key:
    return row["thread_id"], row["checkpoint_id"]


def _place(row: Row) -> tuple[datetime, str, str]:
    return row["created_at"], row["thread_id"], row["checkpoint_id"]


def _facet(query: HistoryQuery) -> str | None:
    """The entry of the metadata that threads are walked along by, if there is one."""
    for key, value in sorted((query.metadata or {}).items()):
        return encode_json({key: value}, "metadata")
    if query.graph_id is not None:
        return encode_json({"graph_id": query.graph_id}, "graph_id")
    return None


def _contained(query: HistoryQuery) -> str | None:
    return encode_json(query.metadata, "metadata") if query.metadata else None
