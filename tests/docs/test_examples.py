"""The examples do what their pages say, and the demo's story is true.

Everything runs as a user runs it: real processes, the stock SDK, the printed lines.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.fixtures.cluster import Cluster

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = Path("conversation", "demo.py")
CONVERSATION = """\
Turn 1 - Messages: 2
Turn 1 - Turn count: 1
Turn 1 - Last message: Turn 1: Processed 'Hello'
Turn 2 - Messages: 4
Turn 2 - Turn count: 2
Turn 2 - Last message: Turn 2: Processed 'Continue'
"""
_SECONDS = 110
_GONE_SECONDS = 20

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["chat_agent", "fanout", "approval"])
async def test_an_example_prints_what_its_page_shows(
    name: str, fresh_database_uri: str, tmp_path: Path
) -> None:
    page = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (shown,) = (text for language, text in blocks if not language)
    async with served(name, fresh_database_uri, tmp_path) as cluster:
        printed = await run_client(cluster, name)
    # The tasks of one superstep end in any order.
    assert sorted(printed.splitlines()) == sorted(shown.splitlines())


async def test_many_texts_are_counted_by_all_workers(
    fresh_database_uri: str, tmp_path: Path
) -> None:
    async with served("fanout", fresh_database_uri, tmp_path, slots=8) as cluster:
        await asyncio.gather(*(cluster.start_worker() for _ in range(2)))
        url = cluster.servers[0].url
        script = EXAMPLES / "fanout" / "across.py"
        code, printed = await asyncio.to_thread(run, script, {"THREADMILL_URL": url})
    assert code == 0, printed
    counted = [int(n) for n in re.findall(r"counted (\d+) texts", printed)]
    assert sum(counted) == 24
    assert len(counted) > 1
    assert "72 words in 24 texts" in printed


async def test_the_conversation_goes_on_whichever_server_is_asked(
    fresh_database_uri: str, tmp_path: Path
) -> None:
    async with served("conversation", fresh_database_uri, tmp_path) as cluster:
        printed = await run_client(cluster, "conversation")
    assert printed.startswith(CONVERSATION)


def test_the_plain_script_needs_nothing_but_another_checkpointer(
    fresh_database_uri: str,
) -> None:
    script = EXAMPLES / "plain_langgraph.py"
    code, printed = run(script, {"DATABASE_URI": fresh_database_uri})
    assert code == 0, printed
    assert "Turn 2: Processed 'Continue'" in printed


@pytest.fixture
def open_tmp(postgres_dir: Path) -> Path:
    """Give a temporary folder that another account's PostgreSQL can get into."""
    return postgres_dir.parent


@pytest.mark.timeout(_SECONDS + 30)
def test_the_demo_tells_its_story_and_every_claim_is_true(open_tmp: Path) -> None:
    code, printed = run(EXAMPLES / DEMO, {"TMPDIR": str(open_tmp)})
    assert code == 0, printed
    turns = [line for line in printed.splitlines() if line.startswith("Turn ")]
    assert turns == [
        *CONVERSATION.splitlines(),
        "Turn 3 - Messages: 6",
        "Turn 3 - Turn count: 3",
        "Turn 3 - Last message: Turn 3: Processed 'Are you still there?'",
    ]
    assert "accepted 40 / applied 40 / lost 0 / duplicated 0" in printed
    assert re.search(r"the same node began on worker \d, \d+ ms after", printed)
    assert re.search(r"asked server 1 \(http://\S+\), run by worker \d", printed)
    assert re.search(r"^ +checkpoints: \d+ of 44 runs$", printed, re.MULTILINE)
    assert "\x1b" not in printed, "no colours without a terminal"
    for named in re.findall(r"^ +((?:docs|examples)/\S+)", printed, re.MULTILINE):
        assert (EXAMPLES.parent / named).exists(), named
    assert_nothing_is_left(open_tmp)
    assert list(open_tmp.glob("threadmill-demo-*")) == []


def test_a_demo_that_is_not_true_says_so_and_keeps_its_logs(
    open_tmp: Path,
) -> None:
    """A wrong graph: its counter rises by two."""
    copy = open_tmp / "examples"
    shutil.copytree(EXAMPLES, copy)
    graph = copy / "conversation" / "conversation.py"
    source = graph.read_text(encoding="utf-8")
    graph.write_text(
        source.replace("state.turn_count + 1", "state.turn_count + 2"), encoding="utf-8"
    )

    code, printed = run(copy / DEMO, {"TMPDIR": str(open_tmp)})

    assert code == 1, printed
    assert "Turn 1 - Turn count: 2" in printed
    assert "Not as promised" in printed
    assert "expected" in printed
    (logs,) = re.findall(r"the log files are in (\S+)", printed)
    assert "server.ready" in Path(logs, "server-1.log").read_text()
    assert_nothing_is_left(open_tmp)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_stopped_leaves_no_process_behind(
    open_tmp: Path, how: signal.Signals
) -> None:
    with start(EXAMPLES / DEMO, {"TMPDIR": str(open_tmp)}) as demo:
        assert demo.stdout is not None
        before = list(iter(demo.stdout.readline, "1. The graph\n"))
        assert processes_of(open_tmp), "".join(before)
        demo.send_signal(how)
        demo.communicate(timeout=_SECONDS)
    assert demo.returncode == (-how if how is signal.SIGKILL else 130)
    deadline = time.monotonic() + _GONE_SECONDS
    while (left := processes_of(open_tmp)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


# --- what the tests are made of -------------------------------------------------------


@asynccontextmanager
async def served(
    example: str, database_uri: str, folder: Path, slots: int = 10
) -> AsyncIterator[Cluster]:
    """A server and a worker for an example."""
    config = EXAMPLES / example / "langgraph.json"
    cluster = Cluster(database_uri, config, folder)
    cluster.env["THREADMILL_SLOTS"] = str(slots)
    try:
        await asyncio.gather(cluster.start_server(), cluster.start_worker())
        yield cluster
    finally:
        await cluster.close()


async def run_client(cluster: Cluster, example: str) -> str:
    client = EXAMPLES / example / "client.py"
    code, printed = await asyncio.to_thread(
        run, client, {"THREADMILL_URL": cluster.servers[0].url}
    )
    assert code == 0, printed
    return printed


def run(script: Path, env: Mapping[str, str]) -> tuple[int, str]:
    """Runs a script to its end, without a terminal."""
    with start(script, env) as process:
        printed, _ = process.communicate(timeout=_SECONDS)
    return process.returncode, printed


def start(script: Path, env: Mapping[str, str]) -> subprocess.Popen[str]:
    kept = {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"}
    return subprocess.Popen(
        [sys.executable, "-u", script],
        env={**kept, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A test run in the background ignores SIGINT, and its children would too.
        preexec_fn=lambda: signal.signal(  # noqa: PLW1509 - no threads here
            signal.SIGINT, signal.default_int_handler
        ),
    )


def assert_nothing_is_left(folder: Path) -> None:
    assert processes_of(folder) == []


def processes_of(folder: Path) -> list[str]:
    """Processes that live and have the folder in their command or their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            told = [*process.cmdline(), *process.environ().values()]
            lives = process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if lives and process.pid != os.getpid() and any(str(folder) in t for t in told):
            found.append(f"{process.pid}: {' '.join(process.cmdline())}")
    return found
