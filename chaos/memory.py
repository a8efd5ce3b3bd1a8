"""What a worker may take of the machine's memory, and who kills it when it takes more.

Each worker lives in a memory cgroup of its own, as in a container, and is killed by the
kernel. Where no such group can be made, the battery itself kills who has grown by as
much, and the report says so. What a battery leaves behind that is killed itself, the
next one removes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from chaos.fleet import Process
from threadmill.testing.history import HistoryLog

KIND: Final = "out of memory"
CGROUPS: Final = Path("/sys/fs/cgroup")
# By so much may a worker grow, from when it was ready. That is the whole limit of its
# group: what it had before stays with the group where it was started.
_GROWTH_BYTES: Final = 200_000_000
_PREFIX: Final = "threadmill-chaos-"


class UnboundedError(Exception):
    """No memory cgroup can be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Group:
    """A memory cgroup with one process in it.

    Args:
        counter: the file where the kernel counts whom it has killed here.
    """

    folder: Path
    counter: str

    def kills(self) -> int:
        """How many processes the kernel's killer has ended in it."""
        for line in (self.folder / self.counter).read_text().splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
        return 0

    def remove(self) -> None:
        """Removes it, once its process has ended."""
        with suppress(OSError):
            self.folder.rmdir()


class Cgroups:
    """Makes memory cgroups, of the first version or of the second.

    Args:
        root: where cgroups are mounted.

    Raises:
        UnboundedError: none can be made.
    """

    def __init__(self, root: Path = CGROUPS) -> None:
        self._shared_out: Path | None = None
        self._prefix = f"{_PREFIX}{os.getpid()}-"
        if "memory" in _words(root / "cgroup.controllers"):
            self.version, self._parent = "v2", root
            self._limit, self._counter = "memory.max", "memory.events"
            # What is swapped out would not count; in the first version it does.
            self._swap, self._swaps = "memory.swap.max", False
        elif (root / "memory" / "memory.limit_in_bytes").exists():
            self.version, self._parent = "v1", root / "memory"
            self._limit, self._counter = "memory.limit_in_bytes", "memory.oom_control"
            self._swap, self._swaps = "memory.memsw.limit_in_bytes", True
        else:
            msg = f"no memory cgroups are mounted at {root}"
            raise UnboundedError(msg)
        try:
            if self.version == "v2":
                self._share_out()
            self._remove_stale()
            probe = self._parent / f"{self._prefix}probe"
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            # Not root; or a container, whose own group may not be divided.
            msg = f"cgroups here cannot be divided: {error.strerror}"
            raise UnboundedError(msg) from error

    def _share_out(self) -> None:
        """Groups of the second version have what their parent hands to its children."""
        controls = self._parent / "cgroup.subtree_control"
        if "memory" not in _words(controls):
            controls.write_text("+memory")
            self._shared_out = controls

    def _remove_stale(self) -> None:
        """Removes empty groups of batteries that are no more."""
        for folder in self._parent.glob(f"{_PREFIX}*-*"):
            owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
            if owner.isdigit() and not psutil.pid_exists(int(owner)):
                with suppress(OSError):  # somebody lives in it
                    folder.rmdir()

    def put(self, pid: int, limit_bytes: int) -> Group:
        """Puts a process into a new group.

        Args:
            pid: of the process.
            limit_bytes: what it may take from now on, besides what it has.

        Raises:
            ProcessLookupError: it has just ended.
            OSError: the kernel refuses.
        """
        group = Group(self._parent / f"{self._prefix}{pid}", self._counter)
        group.folder.mkdir()
        try:
            (group.folder / self._limit).write_text(str(limit_bytes))
            swap = limit_bytes if self._swaps else 0
            with suppress(OSError):  # a kernel may have been built without
                (group.folder / self._swap).write_text(str(swap))
            (group.folder / "cgroup.procs").write_text(str(pid))
        except OSError:
            group.remove()
            raise
        return group

    def close(self) -> None:
        """Leaves the cgroups as they were."""
        if self._shared_out is not None:
            with suppress(OSError):
                self._shared_out.write_text("-memory")


def _words(file: Path) -> Sequence[str]:
    try:
        return file.read_text().split()
    except OSError:
        return ()


@dataclass
class MemoryWatch:
    """Bounds the memory of workers, and logs whom that has cost its life.

    Bounds nobody before `open`.

    Args:
        log: where these faults are logged.
        root: where cgroups are mounted.
    """

    log: HistoryLog
    root: Path = CGROUPS
    _killed_by_kernel: int = 0
    _killed_by_us: int = 0
    _opened: bool = False
    # Why the kernel does not do it, or not for all.
    _unbounded: str = ""
    _cgroups: Cgroups | None = None
    _groups: dict[int, Group] = field(default_factory=dict)
    _sizes: dict[int, int] = field(default_factory=dict)
    # When who has ended since was certainly there; the looks are two, because an end
    # is noticed a little later than it comes.
    _looked_at: tuple[float, float] = (0.0, 0.0)

    def open(self) -> None:
        """Looks what this machine allows; who starts from now on is bounded."""
        self._opened = True
        self._looked_at = (self.log.now(), self.log.now())
        try:
            self._cgroups = Cgroups(self.root)
        except UnboundedError as why:
            self._unbounded = str(why)

    def bound(self, worker: Process) -> None:
        """From now on the worker may grow by so much, and no more."""
        if not self._opened:
            return
        pid = worker.pid
        try:
            if self._cgroups is not None and not self._unbounded:
                self._groups[pid] = self._cgroups.put(pid, _GROWTH_BYTES)
                return
        except ProcessLookupError:
            return
        except OSError as error:
            self._unbounded = f"a worker's cgroup is refused: {error.strerror}"
        with suppress(psutil.NoSuchProcess):
            self._sizes[pid] = psutil.Process(pid).memory_info().rss

    def look(self, workers: Sequence[Process]) -> None:
        """Notes when these lived; kills who has grown too much, if nobody else does."""
        self._looked_at = (self._looked_at[1], self.log.now())
        for worker in workers:
            if worker.pid not in self._sizes:
                continue  # the kernel's
            with suppress(psutil.NoSuchProcess):
                size = psutil.Process(worker.pid).memory_info().rss
                grown = size - self._sizes[worker.pid]
                if grown > _GROWTH_BYTES and worker.alive:
                    self._fell(worker.pid)
                    self._killed_by_us += 1
                    worker.send(signal.SIGKILL)

    def bury(self, worker: Process) -> None:
        """It has ended since the last look: by the kernel's hand, perhaps."""
        self._sizes.pop(worker.pid, None)
        group = self._groups.pop(worker.pid, None)
        if group is not None:
            if group.kills():
                self._fell(worker.pid)
                self._killed_by_kernel += 1
            group.remove()

    def _fell(self, pid: int) -> None:
        self.log.fault(KIND, at=self._looked_at[0], until=self.log.now(), pid=pid)

    def told(self) -> str:
        """Who has killed how many, in one line."""
        told = []
        if self._cgroups is not None:
            version = self._cgroups.version
            who = f"the kernel (oom_kill, memory cgroups {version})"
            told.append(f"{self._killed_by_kernel} workers were killed by {who}")
        if self._unbounded:
            who = f"the battery itself ({self._unbounded})"
            told.append(f"{self._killed_by_us} workers were killed by {who}")
        return f"{KIND}: {', '.join(told)}"

    def close(self) -> None:
        """Removes all groups; every process has ended."""
        for group in self._groups.values():
            group.remove()
        if self._cgroups is not None:
            self._cgroups.close()
