"""`dev`: everything in one command, following changes, and nothing left behind."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from langgraph_sdk import get_client

from tests.cli.conftest import ECHO, PATIENCE_SECONDS, Program, Project, until
from tests.fixtures.postgres import open_folder
from threadmill.cli.dev_supervisor import Death, Deaths


@pytest.fixture
def folder() -> Iterator[Project]:
    """Give a project in a folder that PostgreSQL's account may pass through."""
    root = open_folder("threadmill-dev-")
    project = Project(root)
    project.config()
    yield project
    project.close()
    shutil.rmtree(root, ignore_errors=True)


def url_of(dev: Program, *, after: int = 0) -> str:
    return dev.event("server.ready", after=after)["url"]


def answer(url: str, graph: str = "agent") -> dict:
    body = {"assistant_id": graph, "input": {"name": ""}}
    return httpx.post(f"{url}/runs/wait", json=body, timeout=PATIENCE_SECONDS).json()


def database_processes(data: Path) -> list[psutil.Process]:
    """The supervisor and the server of a data folder."""
    supervisor = json.loads((data / "supervisor.json").read_text())["pid"]
    postgres = (data / "pgdata" / "postmaster.pid").read_text().splitlines()[0]
    return [psutil.Process(supervisor), psutil.Process(int(postgres))]


def gone(process: psutil.Process) -> bool:
    """Whether it ended; what nobody has reaped yet has ended too."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_dev_serves_follows_changes_and_ends_on_ctrl_c(folder: Project) -> None:
    dev = folder.start("dev", "--port", "0")
    url = url_of(dev)
    dev.line(f"API     {url}")
    dev.line(f"curl -s {url}/runs/wait")
    own = folder.root / ".threadmill"
    assert (own / ".gitignore").read_text() == "*\n"

    async with get_client(url=url) as client:
        thread_id = (await client.threads.create())["thread_id"]
        first = await client.runs.wait(thread_id, "agent", input={"name": ""})
        assert first == {"name": "first"}

        folder.file("agent.py", ECHO.replace("first", "second"))
        assert dev.event("dev.restarting")["changed"] == ["agent.py"]
        assert url_of(dev, after=1) == url
        again = await client.runs.wait(thread_id, "agent", input={"name": ""})
        assert again == {"name": "second"}
        history = await client.threads.get_history(thread_id)
        values: list[object] = [state["values"] for state in history]
        assert {"name": "first"} in values
        assert {"name": "second"} in values

    processes = [*dev.descendants(), *database_processes(own / "pg")]
    dev.signal(signal.SIGINT, group=True)
    assert dev.ended() == 0
    assert all(map(gone, processes))
    assert "Traceback" not in dev.output


def test_a_mistake_is_shown_and_the_other_graphs_are_served(folder: Project) -> None:
    folder.file("other.py", ECHO.replace("first", "other"))
    folder.config({"agent": "./agent.py:graph", "other": "./other.py:graph"})
    folder.file("agent.py", ECHO)
    dev = folder.start("dev", "--port", "0")
    url = url_of(dev)
    folder.file("agent.py", "graph = nothing_of_this_name\n")
    failed = dev.event("graph.load_failed")
    assert failed["graph_id"] == "agent"
    assert "NameError" in failed["exception"]
    assert dev.event("server.ready", after=1)["graphs"] == ["other"]
    assert answer(url, "other") == {"name": "other"}

    folder.file("langgraph.json", "{")
    dev.line("error: ", "langgraph.json", "not JSON")
    assert dev.event("dev.ended")["code"] == 1
    folder.config({"agent": "./agent.py:graph"})
    folder.file("agent.py", ECHO.replace("first", "mended"))
    until(lambda: answer(url) == {"name": "mended"}, "the mended graph answers")
    assert dev.end() == 0


# Its first node waits for a file, in a thread that nobody can stop.
WAITING = """
    import pathlib, time
    from typing import TypedDict
    from langgraph.graph import START, StateGraph

    class State(TypedDict):
        name: str

    def wait(state: State) -> State:
        with open("begun", "a") as begun:
            begun.write("x")
        while not pathlib.Path("go").exists():
            time.sleep(0.02)
        return {"name": "waited"}

    builder = StateGraph(State)
    builder.add_node("wait", wait)
    builder.add_edge(START, "wait")
    graph = builder.compile()
"""


def begin(folder: Project, url: str, times: int) -> str:
    """Start a run, wait until its node has begun so many times; give its path."""
    thread = httpx.post(f"{url}/threads", json={}, timeout=PATIENCE_SECONDS).json()
    path = f"{url}/threads/{thread['thread_id']}/runs"
    body = {"assistant_id": "agent", "input": {"name": ""}}
    run = httpx.post(path, json=body, timeout=PATIENCE_SECONDS).json()
    until_begun(folder, times)
    return f"{path}/{run['run_id']}"


def until_begun(folder: Project, times: int) -> None:
    begun = folder.root / "begun"
    until(
        lambda: begun.exists() and len(begun.read_text()) >= times,
        f"the node begins {times} times",
    )


def test_a_run_outlives_a_reload_and_ctrl_c_waits_for_no_node(folder: Project) -> None:
    folder.file("agent.py", WAITING)
    dev = folder.start("dev", "--port", "0")
    url = url_of(dev)
    path = begin(folder, url, times=1)
    folder.file("tools.py", "x = 1")
    until_begun(folder, 2)
    (folder.root / "go").touch()
    answer = httpx.get(f"{path}/join", timeout=PATIENCE_SECONDS).json()
    assert answer == {"name": "waited"}

    (folder.root / "go").unlink()
    begin(folder, url, times=3)
    processes = dev.descendants()
    dev.signal(signal.SIGINT, group=True)
    assert dev.ended() == 0
    assert all(map(gone, processes))


# Its node ends the process the first time, and tells what it can read there.
DEADLY = """
    import os, pathlib
    from typing import TypedDict
    from langgraph.graph import START, StateGraph

    class State(TypedDict):
        name: str

    async def die_once(state: State) -> State:
        died = pathlib.Path("died")
        if not died.exists():
            died.touch()
            os._exit(3)
        return {"name": os.environ.get("DATABASE_URI", "nothing")}

    builder = StateGraph(State)
    builder.add_node("die_once", die_once)
    builder.add_edge(START, "die_once")
    graph = builder.compile()
"""


def test_a_child_that_dies_is_started_again_and_its_run_goes_on(
    folder: Project,
) -> None:
    """The users' code does not see the embedded superuser's URI either."""
    folder.file("agent.py", DEADLY)
    dev = folder.start("dev", "--port", "0")
    url = url_of(dev)
    thread = httpx.post(f"{url}/threads", json={}, timeout=PATIENCE_SECONDS).json()
    path = f"{url}/threads/{thread['thread_id']}/runs"
    body = {"assistant_id": "agent", "input": {"name": ""}}
    run = httpx.post(path, json=body, timeout=PATIENCE_SECONDS).json()
    ended = dev.event("dev.ended")
    assert (ended["code"], ended["remedy"]) == (3, "starting it again")
    url_of(dev, after=1)
    joined = httpx.get(f"{path}/{run['run_id']}/join", timeout=PATIENCE_SECONDS)
    assert joined.json() == {"name": "nothing"}

    (child,) = [p for p in dev.descendants() if "dev_child" in " ".join(p.cmdline())]
    child.kill()
    assert dev.event("dev.ended", after=1)["code"] == -signal.SIGKILL
    url_of(dev, after=2)
    assert dev.end() == 0


def test_a_child_that_dies_again_and_again_is_left_until_a_change() -> None:
    deaths = Deaths()
    sudden = Death(-9, served=False)
    pauses = [deaths.pause_seconds(sudden, lived_seconds=1) for _ in range(11)]
    assert pauses[:5] == [0.25, 0.5, 1, 2, 4]
    assert pauses[9:] == [4, None]
    assert deaths.pause_seconds(Death(1, served=True), lived_seconds=3600) == 0.25
    assert deaths.pause_seconds(Death(1, served=False), lived_seconds=1) is None


def test_a_killed_dev_leaves_no_process_behind(folder: Project) -> None:
    dev = folder.start("dev", "--port", "0")
    url_of(dev)
    data = folder.root / ".threadmill" / "pg"
    processes = [*dev.descendants(), *database_processes(data)]
    assert len(processes) >= 3
    dev.signal(signal.SIGKILL)
    until(lambda: all(map(gone, processes)), "all are gone")


def test_without_reload_one_process_serves_and_the_data_stays(folder: Project) -> None:
    data = folder.root / "elsewhere"
    folder.config({"agent": "./agent.py:graph"}, auth={"path": "./auth.py:auth"})
    options = ("dev", "--port", "0", "--no-reload", "--data-dir", str(data))
    dev = folder.start(*options)
    url = url_of(dev)
    loud = dev.event("auth.not_carried_out")
    assert loud["level"] == "error"
    assert "UNAUTHENTICATED" in loud["problem"]
    thread = httpx.post(f"{url}/threads", json={}, timeout=PATIENCE_SECONDS).json()
    assert answer(url) == {"name": "first"}
    assert dev.descendants() == []
    dev.signal(signal.SIGINT, group=True)
    assert dev.ended() == 0
    assert not (folder.root / ".threadmill").exists()

    dev = folder.start(*options)
    path = f"{url_of(dev)}/threads/{thread['thread_id']}"
    httpx.get(path, timeout=PATIENCE_SECONDS).raise_for_status()
    dev.signal(signal.SIGINT)
    assert dev.ended() == 0


def test_dev_uses_and_migrates_a_database_that_is_configured(
    project: Project, postgres_uri: str
) -> None:
    """A graph whose file is missing is shown, and hides no other one."""
    project.config({"gone": "./gone/agent.py:graph", "agent": "./agent.py:graph"})
    dev = project.start("dev", "--port", "0", "--slots", "2", DATABASE_URI=postgres_uri)
    assert "no file" in dev.event("graph.load_failed")["cause"]
    assert dev.event("worker.ready")["slots"] == 2
    dev.line("do not load: gone")
    assert answer(url_of(dev)) == {"name": "first"}
    assert not (project.root / ".threadmill").exists()
    assert dev.end() == 0
