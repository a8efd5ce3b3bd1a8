"""Who takes too much memory is killed by the kernel, or else by the battery."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from chaos import memory
from chaos.fleet import POLL_SECONDS, Process
from chaos.memory import CGROUPS, Cgroups, MemoryWatch, UnboundedError
from threadmill.testing.history import HistoryLog, read_logs

pytestmark = pytest.mark.timeout(60)

_EATS = """
import sys, time
sys.stdin.readline()
eaten = []
while True:
    eaten.append(b"x" * 5_000_000)
    time.sleep(0.01)
"""
_SECONDS = 30.0


@asynccontextmanager
async def _eater(folder: Path) -> AsyncIterator[Process]:
    """A process that grows for ever once it is told to."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _EATS), stdin=asyncio.subprocess.PIPE
    )
    try:
        yield Process("worker", process, folder / "log")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _eats(eater: Process, until: Callable[[], bool]) -> None:
    assert isinstance(eater.process, asyncio.subprocess.Process)
    assert eater.process.stdin is not None
    eater.process.stdin.write(b"\n")
    async with asyncio.timeout(_SECONDS):
        while not until():  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


@pytest.fixture
def log(tmp_path: Path) -> HistoryLog:
    return HistoryLog(tmp_path / "faults.jsonl", clock=lambda: 7.0)


def _groups() -> list[Path]:
    """What the groups of this process are called, wherever they are."""
    name = f"{memory._PREFIX}{os.getpid()}-*"
    return [*CGROUPS.glob(name), *CGROUPS.glob(f"memory/{name}")]


async def test_the_kernel_kills_who_takes_too_much(
    tmp_path: Path, log: HistoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        Cgroups().close()
    except UnboundedError as why:
        pytest.skip(str(why))
    monkeypatch.setattr(memory, "_GROWTH_BYTES", 50_000_000)
    watch = MemoryWatch(log)
    watch.open()
    async with _eater(tmp_path) as eater, _eater(tmp_path) as other:
        watch.bound(eater)
        watch.bound(other)
        assert len(_groups()) == 2
        await _eats(eater, lambda: not eater.alive)
        await other.kill()
        watch.bury(eater)
        watch.bury(other)
    watch.close()
    assert eater.process.returncode == -9
    faults = read_logs([tmp_path / "faults.jsonl"]).faults
    assert [(fault.kind, fault.pid) for fault in faults] == [(memory.KIND, eater.pid)]
    assert watch.told().startswith("out of memory: 1 workers were killed by the kernel")
    assert _groups() == []


async def _is_ended_by_the_battery(watch: MemoryWatch, eater: Process) -> None:
    watch.bound(eater)

    def ended() -> bool:
        watch.look([eater])
        return not eater.alive

    await _eats(eater, ended)
    watch.bury(eater)


async def test_elsewhere_the_battery_does(
    tmp_path: Path, log: HistoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_GROWTH_BYTES", 50_000_000)
    watch = MemoryWatch(log, tmp_path)
    watch.open()
    async with _eater(tmp_path) as eater:
        await _is_ended_by_the_battery(watch, eater)
    watch.close()
    assert [f.pid for f in read_logs([tmp_path / "faults.jsonl"]).faults] == [eater.pid]
    assert "by the battery itself (no memory cgroups are mounted at" in watch.told()


async def test_nobody_is_bounded_where_nobody_is_greedy(
    tmp_path: Path, log: HistoryLog
) -> None:
    """Without that kind of fault no cgroup is touched."""
    watch = MemoryWatch(log)
    async with _eater(tmp_path) as eater:
        watch.bound(eater)
        assert _groups() == []
        watch.look([eater])
        assert eater.alive
        await eater.kill()
        watch.bury(eater)
    watch.close()


async def test_a_group_that_is_refused_is_the_batterys_own_affair(
    tmp_path: Path, log: HistoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel may refuse any of them, also when others were made."""
    monkeypatch.setattr(memory, "_GROWTH_BYTES", 50_000_000)
    root = tmp_path / "cgroups"
    root.mkdir()
    (root / "cgroup.controllers").write_text("memory\n")
    (root / "cgroup.subtree_control").write_text("memory\n")
    watch = MemoryWatch(log, root)
    watch.open()
    async with _eater(tmp_path) as eater:
        (root / f"{memory._PREFIX}{os.getpid()}-{eater.pid}").touch()
        await _is_ended_by_the_battery(watch, eater)
    watch.close()
    refused = "1 workers were killed by the battery itself (a worker's cgroup is refus"
    assert refused in watch.told()


def test_what_a_killed_battery_has_left_is_removed(tmp_path: Path) -> None:
    """But no group of a battery that lives, and none with somebody in it."""
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    nobody = 2**22 + 1  # no kernel gives that number to a process
    stale, lived_in = (tmp_path / f"{memory._PREFIX}{nobody}-{n}" for n in (1, 2))
    others = tmp_path / f"{memory._PREFIX}{os.getppid()}-1"
    for folder in (stale, lived_in, others):
        folder.mkdir()
    (lived_in / "cgroup.procs").touch()
    Cgroups(tmp_path).close()
    assert not stale.exists()
    assert lived_in.exists()
    assert others.exists()


def test_groups_of_the_second_version(tmp_path: Path) -> None:
    """A folder stands for them: what would be told to the kernel is written there."""
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    controls = tmp_path / "cgroup.subtree_control"
    controls.write_text("cpu\n")
    groups = Cgroups(tmp_path)
    assert controls.read_text() == "+memory"
    group = groups.put(12, 1000)
    written = {file.name: file.read_text() for file in group.folder.iterdir()}
    assert written == {
        "memory.max": "1000",
        "memory.swap.max": "0",
        "cgroup.procs": "12",
    }
    (group.folder / "memory.events").write_text("low 0\noom 1\noom_kill 3\n")
    assert group.kills() == 3
    groups.close()
    assert controls.read_text() == "-memory"


def test_what_others_have_shared_out_stays_so(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    controls = tmp_path / "cgroup.subtree_control"
    controls.write_text("memory\n")
    Cgroups(tmp_path).close()
    assert controls.read_text() == "memory\n"


def test_a_group_that_may_not_be_divided_is_left_alone(tmp_path: Path) -> None:
    """As a container's own, where processes live: the kernel refuses (EBUSY)."""
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    (tmp_path / "cgroup.subtree_control").mkdir()
    with pytest.raises(UnboundedError, match="cannot be divided"):
        Cgroups(tmp_path)
