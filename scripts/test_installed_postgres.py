"""Run what depends on PostgreSQL's version on every older one that is installed here.

All tests run on the embedded PostgreSQL. The database's own tests run once more on
Debian's packages of 15, 16 and 17, as far as this machine has them: each gets a fresh
cluster in a temporary folder, on a free port of loopback. Arguments go to pytest.

Exits with pytest's first failure; 0 where no other version is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from threadmill.drivers.embedded.account import choose_account, initdb_account

VERSIONS = (15, 16, 17)
PACKAGES = Path("/usr/lib/postgresql")
TESTS = (
    "tests/migration",
    "tests/stores",
    "tests/contract/test_checkpoints.py",
    "tests/checkpoints/test_chunks.py",
    "tests/checkpoints/test_fence.py",
    "tests/checkpoints/test_plans.py",
    "tests/drivers/test_database.py",
    "tests/drivers/test_frozen_senders.py",
)
# The other stores' part of the same suites.
LEFT_OUT = "not Redis and not Valkey"
READY_SECONDS = 30.0


@contextmanager
def server(programs: Path) -> Iterator[str]:
    """Yield the superuser's URI of a fresh cluster that these programs serve."""
    folder = Path(tempfile.mkdtemp(prefix="threadmill-installed-"))
    data = folder / "data"
    account = choose_account(folder, data)
    try:
        folder.chmod(0o711)
        data.mkdir()
        account.own(data)
        initdb = [
            *(programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        ]
        made = initdb_account(account).spawn(initdb, stdout=subprocess.DEVNULL)
        if made.wait() != 0:
            sys.exit(f"{programs}/initdb failed")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["-k", "", "-c", "fsync=off", "-c", "max_connections=200"]
        log = (folder / "log").open("wb")
        process = account.spawn(
            [programs / "postgres", "-D", data, "-p", str(port), *options],
            death_signal=signal.SIGINT,
            stdout=log,
            stderr=log,
        )
        uri = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        try:
            wait_for(uri)
            yield uri
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(uri: str) -> None:
    """Return when the server answers."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            psycopg.connect(uri).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def main() -> None:
    """Test on each version that is there."""
    found = [v for v in VERSIONS if (PACKAGES / str(v) / "bin" / "postgres").exists()]
    if not found:
        print("no PostgreSQL 15, 16 or 17 in /usr/lib/postgresql: nothing to do")
    for version in found:
        print(f"on PostgreSQL {version}:", flush=True)
        with server(PACKAGES / str(version) / "bin") as uri:
            command = [
                sys.executable,
                "-m",
                "pytest",
                *TESTS,
                "-k",
                LEFT_OUT,
                *sys.argv[1:],
            ]
            env = {**os.environ, "THREADMILL_TEST_DATABASE_URI": uri}
            code = subprocess.run(command, env=env, check=False).returncode  # noqa: S603
        if code != 0:
            sys.exit(code)


if __name__ == "__main__":
    main()
