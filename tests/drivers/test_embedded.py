"""The embedded PostgreSQL: real processes, killed in every order.

A server that outlives its owners, or one that dies under them, is the fault that these
tests are there to find; so all of them look at the processes of the machine.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.drivers.embedded_owners import (
    AS_ROOT,
    GONE_SECONDS,
    OWNER,
    Gone,
    OwnerProcess,
    keep_a_row,
    postmaster_pid,
    query,
    server_gone,
    supervisor_pid,
)
from threadmill.drivers.embedded import EmbeddedPostgres
from threadmill.drivers.embedded.account import choose_account
from threadmill.drivers.embedded.binaries import runnable_binaries
from threadmill.drivers.embedded.layout import Layout
from threadmill.errors import SetupError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


@pytest.fixture
def data_dir(postgres_dir: Path) -> Path:
    return postgres_dir


# Starting and stopping


def test_the_server_answers_over_both_ways_and_stops_with_its_owner(
    data_dir: Path,
) -> None:
    with EmbeddedPostgres(data_dir, fsync=False) as server:
        assert query(server.uri, "SELECT 1") == 1
        assert query(server.tcp_uri, "SHOW server_version_num").startswith("18")
        gone = server_gone(data_dir)
    gone.wait()
    assert not list(data_dir.glob("**/postmaster.pid"))
    assert Layout(data_dir).running() is None


def test_a_warm_start_keeps_the_data_and_the_password(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        keep_a_row(server.uri)
        password = (data_dir / "password").read_text()
    with EmbeddedPostgres(data_dir) as server:
        assert query(server.uri, "SELECT answer FROM kept") == 42
    assert (data_dir / "password").read_text() == password


def test_start_and_stop_may_be_called_twice(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, fsync=False)
    assert server.start() == server.start()
    server.stop()
    server.stop()
    with pytest.raises(SetupError, match=r"call start\(\)"):
        _ = server.uri


def test_settings_reach_the_server(data_dir: Path) -> None:
    with EmbeddedPostgres(
        data_dir, fsync=False, settings={"work_mem": "7MB"}
    ) as server:
        assert query(server.uri, "SHOW work_mem") == "7MB"
        assert query(server.uri, "SHOW fsync") == "off"


def test_the_data_is_flushed_by_default(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as server:
        assert query(server.uri, "SHOW fsync") == "on"


# Sharing


def test_two_processes_share_one_server_until_the_last_is_gone(data_dir: Path) -> None:
    with OwnerProcess(data_dir) as first, OwnerProcess(data_dir) as second:
        assert first.uri == second.uri
        gone = server_gone(data_dir)
        first.close()
        assert query(second.uri, "SELECT 1") == 1
        second.close()
    gone.wait()


def test_processes_that_start_at_once_on_a_fresh_folder_share_one_server(
    data_dir: Path,
) -> None:
    servers = [EmbeddedPostgres(data_dir, fsync=False) for _ in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({server.uri for server in servers}) == 1
    for server in servers:
        server.stop()


def test_an_owner_that_comes_while_the_last_one_leaves_gets_a_server(
    data_dir: Path,
) -> None:
    leaving = EmbeddedPostgres(data_dir, fsync=False)
    leaving.start()
    for _ in range(10):
        coming = EmbeddedPostgres(data_dir, fsync=False)
        thread = threading.Thread(target=leaving.stop)
        thread.start()
        uri = coming.start()
        thread.join()
        assert query(uri, "SELECT 1") == 1
        leaving = coming
    leaving.stop()


def test_a_forked_child_neither_prolongs_nor_ends_the_ownership(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, fsync=False)
    server.start()
    gone = server_gone(data_dir)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=server.stop)
    child.start()
    child.join()
    assert query(server.uri, "SELECT 1") == 1

    asked, answer = context.Pipe()
    lasting = context.Process(target=answer.recv)
    lasting.start()
    server.stop()
    gone.wait()
    asked.send("end")
    lasting.join()


FORKING_OWNER = OWNER.replace(
    "sys.stdin.read()",
    "import os, time\nif os.fork() == 0:\n    time.sleep(600)\nsys.stdin.read()",
)


def test_a_killed_owners_forked_child_does_not_keep_the_server(
    data_dir: Path,
) -> None:
    owner = OwnerProcess(data_dir, program=FORKING_OWNER)
    gone = server_gone(data_dir)
    (child,) = wait_for_children(owner.process.pid)
    owner.process.kill()
    gone.wait()
    child.kill()
    owner.close()


def wait_for_children(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    while not (children := parent.children()):
        os.sched_yield()
    return children


# SIGKILL


def test_sigkill_of_the_owner_leaves_no_server(data_dir: Path) -> None:
    owner = OwnerProcess(data_dir)
    gone = server_gone(data_dir)
    owner.kill()
    gone.wait()


@pytest.mark.parametrize("killed_first", [0, 1], ids=["starter", "joiner"])
def test_sigkill_of_one_of_two_owners_leaves_it_running(
    data_dir: Path, killed_first: int
) -> None:
    owners = [OwnerProcess(data_dir), OwnerProcess(data_dir)]
    gone = server_gone(data_dir)
    owners.pop(killed_first).kill()
    assert query(owners[0].uri, "SELECT 1") == 1
    owners[0].kill()
    gone.wait()


def test_sigkill_of_the_supervisor_leaves_no_server(data_dir: Path) -> None:
    with OwnerProcess(data_dir):
        gone = server_gone(data_dir)
        os.kill(supervisor_pid(data_dir), signal.SIGKILL)
        gone.wait()


def test_a_server_starts_at_once_after_its_supervisor_was_killed(
    data_dir: Path,
) -> None:
    with OwnerProcess(data_dir) as owner:
        keep_a_row(owner.uri)
        os.kill(supervisor_pid(data_dir), signal.SIGKILL)
        with EmbeddedPostgres(data_dir, fsync=False) as server:
            assert query(server.uri, "SELECT answer FROM kept") == 42


def test_no_server_is_left_when_all_are_killed_at_once(data_dir: Path) -> None:
    owner = OwnerProcess(data_dir)
    gone = server_gone(data_dir)
    for pid in (postmaster_pid(data_dir), supervisor_pid(data_dir)):
        os.kill(pid, signal.SIGKILL)
    owner.kill()
    gone.wait()
    with EmbeddedPostgres(data_dir, fsync=False) as server:
        assert query(server.uri, "SELECT 1") == 1


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGQUIT, signal.SIGKILL], ids=lambda n: n.name
)
def test_a_server_that_ends_by_itself_comes_back_under_the_same_uri(
    data_dir: Path, number: signal.Signals
) -> None:
    with EmbeddedPostgres(data_dir, fsync=False) as server:
        keep_a_row(server.uri)
        pid = postmaster_pid(data_dir)
        gone = Gone(pid)
        os.kill(pid, number)
        gone.wait()
        # A newcomer's answer comes from a loop that has restarted the server first.
        with EmbeddedPostgres(data_dir) as newcomer:
            assert newcomer.uri == server.uri
        assert eventually(lambda: query(server.uri, "SELECT answer FROM kept")) == 42


def eventually(ask: Callable[[], object]) -> object:
    """Return the answer of a server that is just coming back."""
    for _ in range(200):
        try:
            return ask()
        except psycopg.OperationalError:
            threading.Event().wait(0.05)
    return ask()


def test_sigterm_of_the_supervisor_stops_the_server(data_dir: Path) -> None:
    with OwnerProcess(data_dir):
        gone = server_gone(data_dir)
        os.kill(supervisor_pid(data_dir), signal.SIGTERM)
        gone.wait()


# What a crash leaves behind


def test_a_crash_in_the_middle_of_initdb_costs_nothing(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, fsync=False)
    failed: list[BaseException] = []

    def start() -> None:
        try:
            server.start()
        except SetupError as error:
            failed.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    while not list(data_dir.glob("draft-*/pgdata/base")):
        os.sched_yield()
    gone = Gone(supervisor_pid(data_dir))
    os.kill(supervisor_pid(data_dir), signal.SIGKILL)
    gone.wait()
    thread.join()
    # The interrupted start has tried again by itself.
    assert not failed
    assert query(server.uri, "SELECT 1") == 1
    server.stop()
    assert not list(data_dir.glob("draft-*"))


def test_a_number_that_is_used_again_by_a_stranger_does_not_stop_the_start(
    data_dir: Path,
) -> None:
    with EmbeddedPostgres(data_dir, fsync=False):
        status = (data_dir / "pgdata/postmaster.pid").read_text()
        owner = (data_dir / "pgdata").stat()
    with subprocess.Popen(
        ["sleep", "600"], user=owner.st_uid if AS_ROOT else None
    ) as stranger:
        leftover = data_dir / "pgdata/postmaster.pid"
        leftover.write_text("\n".join([str(stranger.pid), *status.split("\n")[1:]]))
        os.chown(leftover, owner.st_uid, owner.st_gid)
        with EmbeddedPostgres(data_dir, fsync=False) as server:
            assert query(server.uri, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_a_server_without_a_supervisor_is_stopped_before_the_next_start(
    data_dir: Path,
) -> None:
    """As on systems without a death signal, where it outlives its supervisor."""
    with EmbeddedPostgres(data_dir, fsync=False):
        pass
    pgdata = data_dir / "pgdata"
    account = choose_account(data_dir, pgdata)
    program = runnable_binaries(account, data_dir).postgres
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command: list[str | Path] = [program, "-D", pgdata, "-p", str(port)]
    command += ["-c", "unix_socket_directories="]
    with account.spawn(command) as orphan:
        wait_until_ready(pgdata)
        with EmbeddedPostgres(data_dir, fsync=False) as server:
            assert query(server.uri, "SELECT 1") == 1
            assert orphan.wait(timeout=GONE_SECONDS) == 0


def wait_until_ready(pgdata: Path) -> None:
    status = pgdata / "postmaster.pid"
    while not status.exists() or "ready" not in status.read_text():
        os.sched_yield()


def test_data_of_another_major_version_is_refused(data_dir: Path) -> None:
    (data_dir / "pgdata").mkdir(parents=True)
    (data_dir / "pgdata/PG_VERSION").write_text("16\n")
    with pytest.raises(
        SetupError, match=r"version 16, and the embedded one is 18; .*DATABASE_URI"
    ):
        EmbeddedPostgres(data_dir).start()
    assert (data_dir / "pgdata/PG_VERSION").read_text() == "16\n"


def test_a_bad_setting_is_named_and_leaves_no_process(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir, fsync=False, settings={"no_such_thing": "1"})
    with pytest.raises(SetupError, match="no_such_thing"):
        server.start()
    assert Layout(data_dir).running() is None


# Secrets


def test_the_password_is_only_in_its_file(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, fsync=False) as server:
        password = (data_dir / "password").read_text()
        assert len(password) > 40
        assert query(server.tcp_uri, "SELECT 1") == 1
        assert (data_dir / "password").stat().st_mode & 0o777 == 0o600
        for process in psutil.process_iter(["cmdline"]):
            assert password not in " ".join(process.info["cmdline"] or [])
        assert password not in repr(server)
        with pytest.raises(psycopg.OperationalError):
            query(server.tcp_uri.replace(password, "guess"), "SELECT 1")
        with pytest.raises(psycopg.OperationalError):
            query(server.uri.replace(password, "guess"), "SELECT 1")
    for log in data_dir.glob("*.log"):
        assert password not in log.read_text()
