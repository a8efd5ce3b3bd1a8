"""One process of the fleet: a real worker and a real sweep, and what befalls them.

It has two threads, as real ones do: the event loop, and the thread that renews leases
and holds the presence lock. The second is played here; what it does to the store and to
the worker is what `RenewalThread` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from tests.simulation.bus import Bus
from tests.simulation.loop import World
from tests.simulation.script import ScriptedEntry, SimulatedFaults
from tests.simulation.store.tables import moment
from tests.simulation.store.working import MemoryMembers
from tests.simulation.wire import Wire
from threadmill.domain.lease import LeaseTimes
from threadmill.engine.activate import Activate, ActivateRules
from threadmill.engine.activation.entry import EntryLimits
from threadmill.engine.graphs import GraphCatalogue
from threadmill.engine.sweep import Sweep, SweepRules
from threadmill.errors import StoreUnavailable
from threadmill.stores.records import Member, OwnSession
from threadmill.worker.worker import Worker, WorkerRules

if TYPE_CHECKING:
    from tests.simulation.simulation import Store
    from tests.simulation.witness import Witness

_RECONNECT_SECONDS = 0.1
# Passed less often than the others, and as worth a fault.
_WEIGHTS = {"finish.before": 4.0, "release.before": 4.0, "claim.after": 2.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRules:
    """How every process of a fleet is set up, and what its code meets.

    Args:
        point_chance: how often something happens at a named point of the code.
    """

    times: LeaseTimes
    worker: WorkerRules
    activate: ActivateRules
    sweep: SweepRules
    limits: EntryLimits
    point_chance: float = 0.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all processes of one simulation share."""

    world: World
    chance: Random
    wire: Wire
    bus: Bus
    store: Store
    graphs: GraphCatalogue
    witness: Witness
    rules: ProcessRules
    worker: type[Worker] = Worker
    sweep: type[Sweep] = Sweep


class Process:
    """A process from its start to its end.

    Args:
        around: what it shares with the others.
        name: for the trace.
        worker_id: drawn by whoever starts it.
        labels: what its worker has.
    """

    def __init__(
        self,
        around: Surroundings,
        name: str,
        worker_id: UUID,
        labels: Sequence[str] = (),
    ) -> None:
        self._labels = labels
        self._around = around
        self.name = name
        self.member = Member(worker_id, name, "worker", "0")
        chance = around.chance
        clock = {"began": chance.uniform(0, 1e5), "rate": chance.uniform(0.97, 1.03)}
        self._loop = around.world.thread(name, **clock)
        self._renewal = around.world.thread(f"{name}/renewal", **clock)
        self._own_session: OwnSession | None = None
        self._sessions = 0
        self._lock_key: int | None = None
        self._ended = False
        self._session_broke = False
        self._pause: asyncio.Future[None] | None = None
        self.worker: Worker | None = None
        self._loop.call_soon(lambda: self._loop.create_task(self._run()))

    # --- what befalls it -------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether it may still do something."""
        return not self._loop.dead

    @property
    def idle(self) -> bool:
        """Whether it works on nothing."""
        if self.worker is None:
            return not self.alive
        now = self.worker.statistics()
        return not self.alive or (now.running, now.taken) == (0, 0)

    def kill(self) -> None:
        """SIGKILL: both threads are gone, and a moment later the session."""
        self._note("is killed")
        self._end()

    def _end(self) -> None:
        self._loop.kill()
        self._renewal.kill()
        self._around.world.after(0.005, self._free_lock)

    def freeze(self, seconds: float) -> None:
        """SIGSTOP and SIGCONT: both threads stand still, the session stays."""
        self._note("freezes", f" for {seconds:.3f} s")
        self._loop.freeze(seconds)
        self._renewal.freeze(seconds)

    def block(self, seconds: float) -> None:
        """Something blocks the event loop; the renewal goes on."""
        self._note("blocks its loop", f" for {seconds:.3f} s")
        self._loop.freeze(seconds)

    def break_session(self) -> None:
        """The renewal's connection breaks; the thread notices at once."""
        self._free_lock()
        self._session_broke = True
        self._wake_renewal()

    def drain(self) -> None:
        """SIGTERM."""
        self._note("drains")
        self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self.worker is not None:
            self.worker.drain()
        else:
            self._end()

    def _free_lock(self) -> None:
        if self._lock_key is not None:
            self._around.store.tables.locks.discard(self._lock_key)

    def _note(self, what: str, which: str = "") -> None:
        self._around.witness.note(self.name, what, which)

    # --- its event loop --------------------------------------------------------------

    async def _run(self) -> None:
        around, rules = self._around, self._around.rules
        members = around.wire.to(around.store.members, self._loop)
        self._lock_key = await self._join(members)
        dispatcher = around.wire.to(around.store.dispatcher, self._loop)
        faults = ProcessFaults(self, around)
        self.worker = around.worker(
            worker_id=self.member.worker_id,
            graphs=around.graphs,
            dispatcher=dispatcher,
            activate=Activate(
                graphs=around.graphs,
                dispatcher=dispatcher,
                run_states=cast(
                    "Any", around.wire.to(around.store.run_states, self._loop)
                ),
                checkpoints=cast(
                    "Any", around.wire.to(around.store.checkpoints, self._loop)
                ),
                saver=cast("Any", lambda _tenant: None),
                hints=around.bus,
                rules=rules.activate,
                limits=rules.limits,
                stream=cast("Any", around.store.stream),
                blocking=cast("Any", None),
                effects=cast("Any", None),
                faults=faults,
                entry=ScriptedEntry,
            ),
            times=rules.times,
            rules=replace(
                rules.worker, desk=replace(rules.worker.desk, labels=self._labels)
            ),
            faults=faults,
            clock=self._loop.time,
            chance=around.chance,
        )
        around.bus.add(self._loop, self.worker)
        self._renewal.call_soon(lambda: self._renewal.create_task(self._renew()))
        sweep = around.sweep(
            dispatcher=dispatcher,
            members=members,
            threads=cast("Any", around.wire.to(around.store.threads, self._loop)),
            hints=around.bus,
            rules=rules.sweep,
            session=lambda: self._own_session,
            clock=self._loop.time,
            chance=around.chance,
        )
        sweeping = self._loop.create_task(sweep.run())
        await self.worker.run()
        sweeping.cancel()
        self._ended = True
        with suppress(StoreUnavailable):
            await members.leave(self.member.worker_id)
        self._note("has drained")
        self._end()

    async def _join(self, members: MemoryMembers) -> int | None:
        while True:
            try:
                return await members.join(self.member)
            except StoreUnavailable:
                await asyncio.sleep(_RECONNECT_SECONDS)

    # --- its renewal thread ----------------------------------------------------------

    async def _renew(self) -> None:
        around, times = self._around, self._around.rules.times
        members = around.wire.to(around.store.members, self._renewal)
        assert self._lock_key is not None
        while not self._ended:
            self._session_broke = False
            try:
                around.store.tables.locks.add(self._lock_key)
                while self._holds_session():
                    asked_at = self._renewal.time()
                    held = await members.renew(
                        self.member,
                        lock_key=self._lock_key,
                        lease_seconds=times.lease_seconds,
                    )
                    if self._own_session is None:
                        self._sessions += 1
                        self._own_session = OwnSession(
                            self.member.worker_id,
                            self._sessions,
                            since=self._renewal.time(),
                            renewed_at=moment(around.world.now),
                            database_since=moment(around.store.tables.started_at),
                        )
                    if self.worker is not None:
                        self.worker.renewed(asked_at, held)
                    if not self._session_broke:
                        await self._rest(times.renew_seconds)
            except StoreUnavailable:
                self._free_lock()
            self._own_session = None
            self._sessions = max(self._sessions, 1)
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _holds_session(self) -> bool:
        return not (self._ended or self._session_broke)

    async def _rest(self, seconds: float) -> None:
        """Waits so long, or until the session breaks."""
        self._pause = self._renewal.create_future()
        alarm = self._renewal.call_later(seconds, self._wake_renewal)
        await self._pause
        alarm.cancel()

    def _wake_renewal(self) -> None:
        if self._pause is not None and not self._pause.done():
            self._pause.set_result(None)


class ProcessFaults(SimulatedFaults):
    """What happens to a process at the named points, by chance."""

    def __init__(self, process: Process, around: Surroundings) -> None:
        super().__init__()
        self._process = process
        self._around = around

    async def at(self, point: str) -> None:
        """See `Faults.at`."""
        around = self._around
        often = around.rules.point_chance * _WEIGHTS.get(point, 1.0)
        if not around.witness.faulty or around.chance.random() >= often:
            return
        around.witness.note(self._process.name, f"meets a fault at {point}")
        lease = around.rules.times.lease_seconds
        match around.chance.randrange(4):
            case 0:
                await self.die()
            case 1 | 2:
                self._process.freeze(around.chance.uniform(0.9, 2.1) * lease)
                await asyncio.sleep(0)
            case _:
                await asyncio.sleep(around.chance.random() * 0.3)

    async def node(self, task_id: str, token: int) -> None:
        """See `SimulatedFaults.node`."""
        self._around.witness.node(self._process.name, task_id, token)

    async def die(self) -> None:
        """See `SimulatedFaults.die`."""
        self._process.kill()
        await asyncio.get_running_loop().create_future()
