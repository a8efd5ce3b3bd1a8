"""The working side in memory: `Dispatcher`, `Checkpoints`, `RunStates`, `Members`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID

from tests.simulation.store.tables import (
    ActivationRow,
    CheckpointRow,
    MemberRow,
    RunRow,
    Tables,
    moment,
)
from tests.simulation.store.tasks import end_tasks, plan
from threadmill.checkpoints.base import Commit, Committed, RunState, Stored
from threadmill.domain.fence import Fence
from threadmill.domain.lease import is_suspect
from threadmill.domain.run import (
    RunEvent,
    RunStatus,
    sources,
    target,
    thread_after,
)
from threadmill.errors import Conflict, InvariantViolated, LeaseLost
from threadmill.stores.records import (
    Claim,
    Ending,
    Finished,
    FreeSlot,
    Lost,
    Member,
    Next,
    Presence,
    Run,
    Superstep,
    Timer,
)
from threadmill.streams.base import Event

# Whoever asked for the dead holds their updates, to end them.
_NOBODY: Final = UUID(int=0)
_UPDATE_HOLD_SECONDS: Final = 30.0


class MemoryDispatcher:
    """See `Dispatcher`. Of timers there is the kind that promotes."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def claim(
        self,
        worker_id: UUID,
        graphs: Sequence[str],
        n: int,
        lease_seconds: float,
        *,
        labels: Sequence[str] = (),
        of: Superstep | None = None,
        tasks: bool = True,
    ) -> Sequence[Claim]:
        """See `Dispatcher.claim`."""
        slot = FreeSlot(
            worker_id=worker_id,
            graphs=graphs,
            labels=labels,
            tasks=tasks,
            lease_seconds=lease_seconds,
        )
        return _claim(self._tables, slot, n, of)

    async def begin(self, claim: Claim) -> Run:
        """See `Dispatcher.begin`."""
        tables = self._tables
        lost_by = tables.fenced(_fence_of(claim)).cause
        run = tables.runs[claim.tenant, claim.run_id]
        now = tables.clock()
        if run.status not in sources(RunEvent.CLAIM) or (
            claim.kind == "task" and not self._at_its_superstep(run)
        ):
            msg = f"run {claim.run_id} has an activation but cannot run"
            raise InvariantViolated(msg)
        if claim.kind == "task":
            run.attempt += claim.attempt > 1 and lost_by is not None
            return run.record(now, lost_by)
        if run.status is RunStatus.PENDING:
            where = (claim.tenant, str(claim.thread_id), "")
            head = tables.heads.get(where)
            forked = (run.new.kwargs.get("checkpoint") or {}).get("checkpoint_id")
            start = tables.checkpoints.get((*where, forked)) if forked else head
            if head is not None:
                run.start_checkpoint = head.put.checkpoint["id"]
            if start is not None:
                run.start_step = start.put.metadata["step"]
            run.started_at = now
        run.attempt += run.status is RunStatus.PENDING or claim.attempt > 1
        run.status, run.updated_at = target(RunEvent.CLAIM), now
        return run.record(now, lost_by)

    def _at_its_superstep(self, run: RunRow) -> bool:
        """The tasks of a run are those of the thread's head."""
        superstep = self._tables.supersteps.get((run.tenant, run.new.run_id))
        head = self._tables.heads.get((run.tenant, str(run.new.thread_id), ""))
        return (
            superstep is not None
            and head is not None
            and head.put.checkpoint["id"] == superstep.checkpoint_id
        )

    async def release(
        self,
        fence: Fence,
        *,
        count_attempt: bool,
        delay_seconds: float = 0.0,
        cause: str | None = None,
        shun_seconds: float = 0.0,
    ) -> None:
        """See `Dispatcher.release`."""
        now = self._tables.clock()
        for activation_id, token in fence.rights:
            row = self._tables.activations.get(activation_id)
            if row is None or (row.token, row.state) != (token, "leased"):
                continue
            if cause is not None:
                row.shun(now + shun_seconds)
                row.cause = cause
            row.open(now + delay_seconds)
            row.attempt = max(row.attempt - (not count_attempt), 0)
            if row.kind == "join":
                row.kind = "step"

    async def finish(self, fence: Fence, ending: Ending) -> Finished:
        """See `Dispatcher.finish`."""
        return finish(self._tables, fence, ending, Commit())

    async def reopen(
        self,
        dead: Sequence[UUID],
        *,
        backoff_seconds: float,
        limit: int,
        shun_seconds: float = 0.0,
    ) -> Sequence[Lost]:
        """See `Dispatcher.reopen`."""
        now = self._tables.clock()
        rows = [
            row
            for row in self._tables.activations.values()
            if row.state == "leased"
            and (row.lease_until < now or row.worker_id in dead)
            and not self._tables.locked()
        ][:limit]
        for row in rows:
            jitter = 0.5 + self._tables.chance.random()
            doubled = 2 ** min(max(row.attempt, 1) - 1, 8) - 1
            again_at = now + backoff_seconds * jitter * doubled
            row.cause = f"worker {row.worker_id} is gone"
            if row.kind == "update":
                row.worker_id = _NOBODY
                row.lease_until = now + _UPDATE_HOLD_SECONDS
            else:
                row.shun(again_at + shun_seconds)
                row.open(again_at)
        return [_lost(row) for row in rows]

    async def due(self, *, hold_seconds: float, limit: int) -> Sequence[Timer]:
        """See `Dispatcher.due`."""
        now = self._tables.clock()
        due = [t for t in self._tables.timers.values() if t.due_at <= now]
        for timer in due[:limit]:
            timer.due_at = now + hold_seconds
        return [Timer(timer.tenant, "promote", timer.ref) for timer in due[:limit]]

    async def carry_out(self, timers: Sequence[Timer]) -> Sequence[Next]:
        """See `Dispatcher.carry_out`."""
        goes_on = []
        for timer in timers:
            if timer.kind != "promote":
                msg = f"a timer of unknown kind {timer.kind}"
                raise InvariantViolated(msg)
            run = self._tables.runs.get((timer.tenant, UUID(timer.ref)))
            if run is not None:
                goes_on.append(
                    self._tables.promote(
                        timer.tenant, run.new.thread_id, holder=None, status=None
                    )
                )
            self._tables.timers.pop((timer.tenant, timer.ref), None)
        return [following for following in goes_on if following is not None]


class MemoryCheckpoints:
    """Of `Checkpoints` what coordination needs: commits, and reading one back."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def commit(
        self, tenant: str, thread_id: str, commit: Commit, fence: Fence | None = None
    ) -> Committed:
        """See `Checkpoints.commit`."""
        tables = self._tables
        row = None if fence is None else tables.fenced(fence)
        tables.check_heads(tenant, thread_id, commit.puts)
        if row is not None and commit.plan and row.state != "leased":
            raise LeaseLost
        # The fence of several tasks does nothing but look.
        if row is not None and fence is not None and not fence.also:
            if commit.progress:
                row.attempt = 1
                row.cause = None if row.state == "leased" else row.cause
            if commit.release:
                row.attempt -= row.state == "leased"
                row.open(tables.clock())
                row.kind, row.labels = "step", commit.labels
            if row.attempt == 0:
                row.cause = None
        tables.write(tenant, thread_id, commit, fence)
        if row is not None and commit.plan is not None:
            return plan(tables, row, commit.plan)
        if row is not None and commit.ended is not None:
            return end_tasks(tables, row, commit.ended)
        if row is not None and commit.slot is not None:
            return self._take(row, commit.slot)
        return Committed()

    def _take(self, released: ActivationRow, slot: FreeSlot) -> Committed:
        tables = self._tables
        claimed = next(iter(_claim(tables, slot, 1)), None)
        if claimed is None or claimed.activation_id != released.activation_id:
            return Committed(claimed=claimed)
        run = tables.runs[claimed.tenant, claimed.run_id].record(tables.clock(), None)
        thread_id = str(claimed.thread_id)
        head = tables.heads[claimed.tenant, thread_id, ""]
        at = _stored(tables, claimed.tenant, thread_id, head)
        return Committed(claimed=claimed, begun=RunState(run, at))

    async def get(
        self, tenant: str, thread_id: str, ns: str, checkpoint_id: str | None = None
    ) -> Stored | None:
        """See `Checkpoints.get`."""
        row = self._tables.heads.get((tenant, thread_id, ns))
        if checkpoint_id is not None:
            at = (tenant, thread_id, ns, checkpoint_id)
            row = self._tables.checkpoints.get(at)
        return None if row is None else _stored(self._tables, tenant, thread_id, row)


class MemoryRunStates:
    """Of `RunStates`: begin and finish."""

    def __init__(self, tables: Tables, dispatcher: MemoryDispatcher) -> None:
        self._tables = tables
        self._dispatcher = dispatcher

    async def begin(self, claim: Claim) -> RunState:
        """See `RunStates.begin`."""
        run = await self._dispatcher.begin(claim)
        thread_id = str(claim.thread_id)
        head = self._tables.heads.get((claim.tenant, thread_id, ""))
        if head is None:
            return RunState(run, None)
        return RunState(run, _stored(self._tables, claim.tenant, thread_id, head))

    async def finish(self, fence: Fence, ending: Ending, rest: Commit) -> Finished:
        """See `RunStates.finish`."""
        ending = replace(ending, events=[*rest.events, *ending.events])
        return finish(self._tables, fence, ending, replace(rest, events=()))


class MemoryStream:
    """Of `Stream`: reading."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def read(
        self,
        tenant: str,
        thread_id: UUID,
        *,
        after: int,
        limit: int,
        run_id: UUID | None = None,
    ) -> Sequence[Event]:
        """See `Stream.read`."""
        log = self._tables.events.get((tenant, thread_id), ())
        events = [
            Event(seq, 0, row.run_id, row.attempt, row.event, row.data)
            for seq, row in enumerate(log, start=1)
            if seq > after and run_id in {None, row.run_id}
        ]
        return events[:limit]

    async def end(self, tenant: str, thread_id: UUID) -> int:
        """See `Stream.end`."""
        return len(self._tables.events.get((tenant, thread_id), ()))


class MemoryMembers:
    """See `Members`; and the renewal of leases, which is no port."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._keys = 0

    async def join(self, member: Member) -> int | None:
        """See `Members.join`."""
        self._keys += 1
        row = MemberRow(member.worker_id, self._tables.clock())
        self._tables.members.setdefault(member.worker_id, row)
        return self._keys

    async def leave(self, worker_id: UUID) -> None:
        """See `Members.leave`."""
        self._tables.members.pop(worker_id, None)

    async def presence(
        self, *, since: datetime | None, settle_seconds: float
    ) -> Presence:
        """See `Members.presence`."""
        tables = self._tables
        shown = [row for row in tables.members.values() if row.lock_key is not None]
        return Presence(
            back=[
                row.worker_id
                for row in shown
                if row.lock_key in tables.locks
                and (since is None or moment(row.seen_at) > since)
            ],
            free=[row.worker_id for row in shown if row.lock_key not in tables.locks],
            database_since=moment(tables.started_at),
            settled=tables.started_at < tables.clock() - settle_seconds,
        )

    async def forget_silent(self, *, silent_seconds: float) -> None:
        """See `Members.forget_silent`."""
        tables = self._tables
        since = tables.clock() - silent_seconds
        for row in list(tables.members.values()):
            if row.seen_at < since:
                del tables.members[row.worker_id]

    async def renew(
        self, member: Member, *, lock_key: int | None, lease_seconds: float
    ) -> Sequence[Claim]:
        """What the renewal thread does in one transaction; see renewal.sql."""
        tables = self._tables
        now = tables.clock()
        tables.members[member.worker_id] = MemberRow(member.worker_id, now, lock_key)
        held = [
            row
            for row in tables.activations.values()
            if row.worker_id == member.worker_id
            and row.state == "leased"
            and row.kind != "update"
        ]
        for row in held:
            row.lease_until = now + lease_seconds
        return [claim_of(row) for row in held]


def finish(tables: Tables, fence: Fence, ending: Ending, rest: Commit) -> Finished:
    """Commits `rest`, ends the run and hands its thread on; or does nothing."""
    tables.fenced(fence)
    if fence.run_id is None:
        raise InvariantViolated("the activation belongs to no run")
    event = ending.event
    run = tables.may_end(fence.tenant, fence.run_id, event, refusal=Conflict)
    tables.check_heads(fence.tenant, str(fence.thread_id), rest.puts)
    own = {activation_id for activation_id, _ in fence.rights}
    stopped = [
        (row.activation_id, row.token)
        for row in tables.of_run(fence.tenant, fence.run_id)
        if row.state == "leased" and row.activation_id not in own
    ]
    tables.drop(fence.tenant, fence.run_id)
    tables.write(fence.tenant, str(fence.thread_id), rest, fence)
    tables.end(run, event, ending.error)
    tables.tell(fence, ending.events)
    following = tables.promote(
        fence.tenant,
        fence.thread_id,
        holder=fence.run_id,
        status=thread_after(event, more=False),
        error=ending.error,
    )
    return Finished(following, stopped)


def _claim(
    tables: Tables, slot: FreeSlot, n: int, of: Superstep | None = None
) -> Sequence[Claim]:
    ready = tables.ready(slot.worker_id, slot.graphs, slot.labels, of, tasks=slot.tasks)
    suspects = [row for row in ready if is_suspect(row.attempt)]
    if tables.holds_suspect(slot.worker_id):
        suspects = []
    rows = [*suspects[:1], *(row for row in ready if not is_suspect(row.attempt))][:n]
    until = tables.clock() + slot.lease_seconds
    for row in rows:
        row.lease(tables.draw_token(), slot.worker_id, until)
    return [claim_of(row) for row in rows]


def claim_of(row: ActivationRow) -> Claim:
    """What the dispatcher's looks return."""
    assert row.run_id is not None
    task = row.task
    return Claim(
        row.tenant,
        row.activation_id,
        row.thread_id,
        row.run_id,
        row.token,
        row.attempt,
        row.kind,
        None if task is None else task.task_id,
        None if task is None else task.task_path,
        None if task is None else task.node,
    )


def _lost(row: ActivationRow) -> Lost:
    return Lost(
        row.tenant,
        row.activation_id,
        row.thread_id,
        row.run_id,
        row.token,
        row.attempt,
        row.kind,
        None if row.task is None else row.task.node,
        row.cause,
    )


def _fence_of(claim: Claim) -> Fence:
    return Fence(
        claim.tenant, claim.thread_id, claim.activation_id, claim.token, claim.run_id
    )


def _stored(tables: Tables, tenant: str, thread_id: str, row: CheckpointRow) -> Stored:
    put = row.put
    results = tables.writes.get((tenant, thread_id, put.ns, put.checkpoint["id"]), {})
    return Stored(
        thread_id,
        put.ns,
        put.checkpoint,
        put.metadata,
        put.parent_id,
        row.ordinal,
        row.run_id,
        tuple(
            (result.task_id, channel, value)
            for result in results.values()
            for channel, value in result.writes
        ),
        tuple(row.run_id for result in results.values() for _ in result.writes),
    )
