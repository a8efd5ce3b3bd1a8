"""Reads the database's half of a history: what it holds of the threads in the log.

Reads as the application does, in the role `threadmill_app` and within one tenant, so
that any login that may serve may also check. It holds no transaction open between
threads: the load must be over, and `settle` waits for that.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from threadmill.checkpoints.away import Away, bring
from threadmill.checkpoints.codec import Codec
from threadmill.checkpoints.compression import Blob
from threadmill.domain.idempotency import stored_key
from threadmill.drivers.postgres.connection import Row
from threadmill.drivers.postgres.database import Database, Result
from threadmill.drivers.postgres.sql import Queries
from threadmill.errors import SetupError
from threadmill.testing.history.channel import Channel
from threadmill.testing.history.facts import (
    Checkpoint,
    Event,
    History,
    Leftover,
    Message,
    Read,
    Reader,
    Run,
    Thread,
)
from threadmill.testing.history.facts import Result as Committed

SQL: Final = Queries(__package__, "history.sql")

# States are read whole and may be large.
_PAGE: Final = 20
_POLL_SECONDS: Final = 0.2


async def settle(
    database: Database, tenants: Mapping[str, Iterable[str]], *, seconds: float
) -> bool:
    """Waits until no run is open on these threads; returns whether that has happened.

    Args:
        database: opened.
        tenants: the threads of each tenant.
        seconds: how long to wait at most.
    """
    try:
        async with asyncio.timeout(seconds):
            for tenant, threads in tenants.items():
                for page in _pages(threads):
                    while await _open_runs(database, tenant, page):  # noqa: ASYNC110
                        await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        return False
    return True


async def _open_runs(database: Database, tenant: str, threads: Sequence[str]) -> int:
    async with database.tenant_tx(tenant, read_only=True) as tx:
        found = tx.add(SQL.open_runs, tenant=tenant, threads=list(map(UUID, threads)))
    return int(found.rows[0]["n"])


async def with_database(
    history: History,
    database: Database,
    channel: Channel,
    *,
    codec: Codec,
    away: Away | None = None,
) -> History:
    """The history, with what the database holds of its threads.

    Args:
        history: from `read_logs`.
        database: opened.
        channel: where messages are found in the state.
        codec: reads states.
        away: what of them lies elsewhere.

    Raises:
        SetupError: a thread's id in the log is none of a server's.
        StateLost: what lies elsewhere is not there any more.
        StoreUnavailable: the database does not answer.
    """
    threads: list[Thread] = []
    for tenant, ids in tenants_of(history).items():
        for page in _pages(ids):
            heads = await _heads(database, away, tenant, page)
            threads += await _threads(
                history, database, channel, codec, tenant, page, heads
            )
    return replace(history, threads=tuple(threads))


def tenants_of(history: History) -> Mapping[str, Sequence[str]]:
    """The threads that the log names, by tenant: each under every tenant of the log.

    So a row that has come under another tenant is found.

    Raises:
        SetupError: an id is no UUID.
    """
    facts: Sequence[Message | Read | Reader]
    facts = [*history.messages, *history.reads, *history.readers]
    threads = sorted({fact.thread for fact in facts})
    for thread in threads:
        try:
            UUID(thread)
        except ValueError:
            msg = f"thread '{thread[:64]}' of the log is no id of a server (a UUID)"
            raise SetupError(msg) from None
    return dict.fromkeys(sorted({fact.tenant for fact in facts}), threads)


async def _heads(
    database: Database, away: Away | None, tenant: str, threads: Sequence[str]
) -> Mapping[str, Sequence[Row]]:
    """The heads of some threads with what they hold, and the chunks of these."""
    async with database.tenant_tx(tenant, read_only=True) as tx:
        heads = tx.add(SQL.heads, tenant=tenant, threads=threads)
        chunks = tx.add(SQL.chunks, tenant=tenant, threads=threads)
    brought = await bring(away, database, tenant, heads.rows)
    return {
        "heads": [row for row in brought if "head" in row],
        "chunks": [
            *chunks.rows,
            *(
                {**row, "thread": row["thread_id"]}
                for row in brought
                if "head" not in row
            ),
        ],
    }


async def _threads(
    history: History,
    database: Database,
    channel: Channel,
    codec: Codec,
    tenant: str,
    threads: Sequence[str],
    heads: Mapping[str, Sequence[Row]],
) -> list[Thread]:
    wanted = set(threads)
    mine = [m for m in history.messages if m.tenant == tenant and m.thread in wanted]
    uuids = list(map(UUID, threads))
    keys = {stored_key(message.key): message.key for message in mine if message.key}
    found: dict[str, Result] = {}
    async with database.tenant_tx(tenant, read_only=True) as tx:
        found["checkpoints"] = tx.add(SQL.checkpoints, tenant=tenant, threads=threads)
        found["results"] = tx.add(SQL.results, tenant=tenant, threads=threads)
        found["events"] = tx.add(SQL.events, tenant=tenant, threads=uuids)
        found["streams"] = tx.add(SQL.streams, tenant=tenant, threads=uuids)
        found["runs"] = tx.add(SQL.runs, tenant=tenant, threads=uuids)
        found["claimed"] = tx.add(SQL.claimed, tenant=tenant, keys=list(keys))
        found["threads"] = tx.add(SQL.threads, tenant=tenant, threads=uuids)
        found["leftovers"] = tx.add(SQL.leftovers, tenant=tenant, threads=uuids)
    read = {**{name: result.rows for name, result in found.items()}, **heads}
    # As the log has them.
    read["claimed"] = [{**row, "key": keys[row["key"]]} for row in read["claimed"]]
    rows = {name: _by_thread(of_all) for name, of_all in read.items()}
    known: defaultdict[str, set[str]] = defaultdict(set)
    for message in mine:
        known[message.thread].add(message.id)
    present = [t for t in threads if known[t] or any(rows[name][t] for name in rows)]
    made = []
    for thread in present:
        own = {name: found_rows[thread] for name, found_rows in rows.items()}
        values = _values(own["heads"], own["chunks"], codec)
        made.append(
            replace(
                _thread(tenant, thread, own),
                state=None
                if values is None
                else channel.messages(values, known[thread]),
                results=channel.marks(values or {}),
            )
        )
    return made


def _thread(
    tenant: str, thread: str, rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Thread:
    row = next(iter(rows["threads"]), None)
    head = next(iter(rows["heads"]), None)
    stream = next(iter(rows["streams"]), None)
    return Thread(
        tenant=tenant,
        id=thread,
        exists=row is not None,
        status=row["status"] if row else "idle",
        holder=row["holder"] if row else None,
        head=head["head"] if head else None,
        last_event=stream["last_event"] if stream else 0,
        runs=tuple(Run(**_but_thread(r)) for r in rows["runs"]),
        checkpoints=tuple(Checkpoint(**_but_thread(r)) for r in rows["checkpoints"]),
        committed=tuple(
            Committed(**{**_but_thread(r), "runs": frozenset(r["runs"])})
            for r in rows["results"]
        ),
        events=tuple(Event(**_but_thread(r)) for r in rows["events"]),
        leftovers=tuple(Leftover(**_but_thread(r)) for r in rows["leftovers"]),
        claimed={r["key"]: r["run"] for r in rows["claimed"]},
    )


def _values(
    heads: Sequence[Mapping[str, Any]],
    chunks: Sequence[Mapping[str, Any]],
    codec: Codec,
) -> Mapping[str, Any] | None:
    found = {
        chunk["name"]: codec.chunk(Blob(chunk["type"], chunk["value"]))
        for chunk in chunks
    }
    for row in heads:
        if row["value"] is not None:
            body = Blob(row["type"], row["value"])
            state, _ = codec.unpack(row["format"], body, row["chunks"], found)
            return state["channel_values"]
    return None


def _but_thread(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "thread"}


def _by_thread(
    rows: Iterable[Mapping[str, Any]],
) -> defaultdict[str, list[Mapping[str, Any]]]:
    groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["thread"]].append(row)
    return groups


def _pages(threads: Iterable[str]) -> Iterable[list[str]]:
    every = list(threads)
    return (every[i : i + _PAGE] for i in range(0, len(every), _PAGE))
