"""Checkpoints in Redis: an operation is one script, so one round trip and one commit.

A script runs alone, so nothing comes between the fence, the head's compare and the
writes. It is not undone when it stops in the middle; so everything that may refuse
comes before its first write (`commit.lua`).

Values that grow are stored as chunks, as in PostgreSQL. A put that leaves out chunks is
refused if one of them is not there, and done once more with all of them.

Fences are for whoever gives out leases, and makes each known here before it reads
(`install`, `raise_floor`); `RedisSaver` has none. Events, releases, plans and the ends
of tasks are PostgreSQL's: a commit that has any is refused here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from threadmill.checkpoints.base import ANY_HEAD, Committed
from threadmill.checkpoints.codec import Codec, encode_json
from threadmill.checkpoints.known import Memory
from threadmill.checkpoints.redis import records
from threadmill.checkpoints.redis.directory import SCRIPTS, Directory
from threadmill.checkpoints.redis.keys import thread_keys
from threadmill.checkpoints.redis.listing import PAGE, listed
from threadmill.checkpoints.sending import Sending
from threadmill.drivers.redis.database import Call
from threadmill.errors import ChunksDropped, InvariantViolated

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence

    from threadmill.checkpoints.base import Commit, Put, Stored, Writes
    from threadmill.domain.fence import Fence
    from threadmill.drivers.redis.database import RedisDatabase, Text
    from threadmill.drivers.redis.scripts import Script


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long a thread stays that nobody goes on with.

    Args:
        ttl_seconds: counted from the last put; None keeps it for ever.
        refresh_on_read: reading one of its checkpoints counts as well.
    """

    ttl_seconds: float | None = None
    refresh_on_read: bool = False

    @property
    def milliseconds(self) -> int:
        """As scripts take it; 0 is for ever."""
        return max(1, round(self.ttl_seconds * 1000)) if self.ttl_seconds else 0

    @property
    def refreshes(self) -> bool:
        """Whether reads have to do anything about it."""
        return self.refresh_on_read and self.milliseconds > 0


class RedisCheckpoints:
    """The checkpoint part of the `Checkpoints` port, and what savers need beyond it.

    Args:
        database: where they are.
        codec: how values are laid out; its serializer is LangGraph's default.
        memory: what is known to be stored; shared by all who write here.
        keeping: how long threads stay.
    """

    def __init__(
        self,
        database: RedisDatabase,
        codec: Codec | None = None,
        memory: Memory | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self.database = database
        self.codec = codec or Codec()
        self.memory = memory or Memory()
        self.keeping = keeping or Keeping()
        self.directory = Directory(database, self.keeping.milliseconds)

    def with_codec(self, codec: Codec) -> RedisCheckpoints:
        """The same storage, read and written with another codec."""
        return RedisCheckpoints(self.database, codec, self.memory, self.keeping)

    # ---------------------------------------------------------------------- writing

    async def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> Committed:
        """See `Checkpoints.commit`."""
        _require_storable(tenant, thread_id, commit, fence)
        for whole in (False, True):
            sending = Sending(
                self.memory, tenant=tenant, thread_id=thread_id, whole=whole
            )
            args = list(self._commit_args(thread_id, commit, fence, sending))
            try:
                await self._commit(tenant, thread_id, commit, fence, args)
            except ChunksDropped:
                if whole:
                    raise
                continue
            for put in commit.puts:
                sending.remember(put, records.EPOCH)
            break
        return Committed()

    async def _commit(
        self,
        tenant: str,
        thread_id: str,
        commit: Commit,
        fence: Fence | None,
        args: Sequence[Text],
    ) -> None:
        runs = {run for put in commit.puts if (run := _run_of(put, fence))}
        if fence is not None and fence.run_id is not None:
            runs.add(str(fence.run_id))
        due = self.directory.due(tenant, thread_id, runs)
        call = Call(SCRIPTS.commit, thread_keys(tenant, thread_id), args)
        *gone, _ = await self.database.run(*self.directory.calls(due), call)
        await self.directory.announced(due, gone)

    def _commit_args(
        self, thread_id: str, commit: Commit, fence: Fence | None, sending: Sending
    ) -> Iterator[Text]:
        """In the order in which `commit.lua` takes them."""
        packed = [sending.pack(self.codec, put) for put in commit.puts]
        yield self.keeping.milliseconds
        yield thread_id
        yield str(fence.run_id) if fence is not None and fence.run_id else ""
        rights = fence.rights if fence is not None else []
        yield len(rights)
        for activation, token in rights:
            yield str(activation)
            yield token
        yield len(sending.chunks)
        for name, blob in sending.chunks.items():
            yield name
            yield records.chunk_of(blob)
        yield from self._results(commit, fence)
        yield len(commit.puts)
        for put, sent in zip(commit.puts, packed, strict=True):
            yield put.ns
            yield put.checkpoint["id"]
            yield from _expected(put)
            yield put.parent_id or ""
            yield _run_of(put, fence)
            yield b"".join(sent.names)
            yield encode_json(put.metadata, "metadata").encode()
            yield records.rest_of(sent, fence)

    def _results(self, commit: Commit, fence: Fence | None) -> Iterator[Text]:
        results: list[tuple[Writes, Any]] = [
            (writes, rows)
            for writes in commit.writes
            if (rows := self.codec.writes(writes.writes)) or fence is not None
        ]
        yield len(results)
        for writes, rows in results:
            yield writes.ns
            yield writes.checkpoint_id
            yield writes.task_id
            yield writes.task_path
            yield from records.write_args(rows)

    # ------------------------------------------------------------------- the fence

    async def install(self, fence: Fence) -> None:
        """Gives a claim the right to write; whoever had it before has lost it.

        Comes before the first read under that claim: what is read then is final, but
        for what the claim itself does. Safe to repeat.

        Raises:
            LeaseLost: a later claim, or the end of the run, was first.
        """
        rights = fence.rights
        await self.database.call(
            SCRIPTS.install,
            thread_keys(fence.tenant, str(fence.thread_id)),
            self.keeping.milliseconds,
            len(rights),
            *(part for id_, token in rights for part in (str(id_), token)),
        )

    async def raise_floor(self, tenant: str, thread_id: str, token: int) -> None:
        """Takes the right to write from every claim up to this token; may be repeated.

        Args:
            tenant: whose.
            thread_id: the thread.
            token: drawn after all that are meant.
        """
        keys = thread_keys(tenant, thread_id)
        await self.database.call(
            SCRIPTS.raise_floor, keys, self.keeping.milliseconds, token
        )

    # ---------------------------------------------------------------------- reading

    async def get(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None = None
    ) -> Stored | None:
        """See `Checkpoints.get`. Checkpoint and writes are of one moment."""
        keys = thread_keys(tenant, thread_id)
        calls = [Call(SCRIPTS.get, keys, [ns, checkpoint_id or ""])]
        if self.keeping.refreshes:
            calls.append(Call(SCRIPTS.touch, keys, [self.keeping.milliseconds]))
        found, *_ = await self.database.run(*calls)
        seen = next(records.seen_of(self.codec, thread_id, found), None)
        if seen is None:
            return None
        if seen.known.manifest.names:
            self.memory.remember(tenant, thread_id, seen.known)
        if self.keeping.refreshes:
            await self.directory.announce(tenant, thread_id)
        return seen.stored

    def list(
        self,
        tenant: str,
        thread_id: str | None,
        *,
        ns: str | None = None,
        before: str | None = None,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - LangGraph's word
        limit: int | None = None,
        checkpoint_id: str | None = None,
    ) -> AsyncGenerator[Stored, None]:
        """See `Checkpoints.list`; `checkpoint_id` narrows it to one checkpoint."""
        return listed(
            self,
            tenant,
            thread_id,
            ns=ns,
            before=before,
            matching=filter,
            limit=limit,
            checkpoint_id=checkpoint_id,
        )

    async def ancestors(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None
    ) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Ids and channel values of up to `PAGE` ancestors, the parent first.

        Without an id, those of the head.
        """
        keys = thread_keys(tenant, thread_id)
        rows, found = await self.database.call(
            SCRIPTS.ancestors, keys, ns, checkpoint_id or "", PAGE
        )
        chunks = records.chunks_of(self.codec, found)
        ancestors = []
        for _, id_, data, _ in rows:
            _, checkpoint, _ = records.checkpoint_of(self.codec, data, chunks)
            ancestors.append((id_.decode(), checkpoint["channel_values"]))
        return ancestors

    async def channel_writes(
        self,
        tenant: str,
        thread_id: str,
        ns: str,
        checkpoint_ids: Sequence[str],
        channels: Sequence[str],
    ) -> Mapping[str, Sequence[tuple[str, str, Any]]]:
        """Writes to some channels by checkpoint, in LangGraph's order."""
        found = await self.database.call(
            SCRIPTS.channel_writes,
            thread_keys(tenant, thread_id),
            ns,
            len(channels),
            *channels,
            len(checkpoint_ids),
            *checkpoint_ids,
        )
        writes: defaultdict[str, list[tuple[str, str, Any]]] = defaultdict(list)
        for id_, flat in zip(checkpoint_ids, found, strict=True):
            for write in records.writes_of(flat):
                writes[id_].append(write.loaded(self.codec))
        return writes

    # --------------------------------------------------------------------- deleting

    async def delete_thread(self, tenant: str, thread_id: str) -> None:
        """See `Checkpoints.delete_thread`. Rights to write stay with who has them."""
        await self.remove(SCRIPTS.delete_thread, tenant, thread_id)
        await self.directory.sweep(tenant, [thread_id])

    async def remove(
        self, script: Script, tenant: str, thread_id: str, *args: Text
    ) -> None:
        """Runs a script that removes some of a thread.

        What it answers with, runs that have nothing there any more, is taken out of the
        directory.
        """
        keys = thread_keys(tenant, thread_id)
        gone = await self.database.call(script, keys, *args)
        await self.directory.forget_runs(
            tenant, thread_id, [run.decode() for run in gone]
        )


def run_name(run: str) -> str:
    """A run as it is stored: one that is an id has one spelling."""
    try:
        return str(UUID(run))
    except ValueError:
        return run


def _run_of(put: Put, fence: Fence | None) -> str:
    if fence is not None:
        return str(fence.run_id or "")
    metadata: Mapping[str, Any] = put.metadata
    return run_name(str(metadata.get("run_id") or ""))


def _expected(put: Put) -> tuple[str, str]:
    if put.expected_head is None:
        return "none", ""
    if put.expected_head == ANY_HEAD:
        return "any", ""
    return "this", put.expected_head


def _require_storable(
    tenant: str, thread_id: str, commit: Commit, fence: Fence | None
) -> None:
    if fence is not None and (fence.tenant, str(fence.thread_id)) != (
        tenant,
        thread_id,
    ):
        msg = f"the fence of thread {fence.thread_id} does not cover {thread_id}"
        raise InvariantViolated(msg)
    if (
        commit.events
        or commit.release
        or commit.progress
        or commit.plan
        or commit.ended
    ):
        msg = "Redis stores checkpoints only; activations and events are PostgreSQL's"
        raise InvariantViolated(msg)
