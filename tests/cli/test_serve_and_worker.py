"""`serve` and `worker`: what they serve, how they work together, how they end."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.cli.conftest import ECHO, PATIENCE_SECONDS, Program, Project, until

RUN = {"assistant_id": "agent", "input": {"name": ""}}

# Says that it has begun, then blocks its thread: no exit may wait for it.
STUCK = """
    import pathlib, time
    from typing import TypedDict
    from langgraph.graph import START, StateGraph

    class State(TypedDict):
        name: str

    def answer(state: State) -> State:
        pathlib.Path("begun").touch()
        time.sleep(600)
        return state

    builder = StateGraph(State)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph = builder.compile()
"""


def url_of(server: Program) -> str:
    return server.event("server.ready")["url"]


def begin(project: Project, server: Program) -> None:
    """Start a run and wait until its node has begun."""
    url = url_of(server)
    thread = httpx.post(f"{url}/threads", json={}, timeout=PATIENCE_SECONDS).json()
    path = f"/threads/{thread['thread_id']}/runs"
    httpx.post(url + path, json=RUN, timeout=PATIENCE_SECONDS).raise_for_status()
    until((project.root / "begun").exists, "the node begins")


def test_a_server_and_a_worker_carry_a_run_out_and_end_on_sigterm(
    served: Project,
) -> None:
    server = served.start("serve", "--port", "0")
    worker = served.start("worker", "--slots", "3", "--labels", "gpu, eu")
    ready = worker.event("worker.ready")
    assert (ready["slots"], ready["graphs"]) == (3, ["agent"])
    assert ready["labels"] == ["eu", "gpu"]
    url = url_of(server)
    answer = httpx.post(f"{url}/runs/wait?a=b", json=RUN, timeout=PATIENCE_SECONDS)
    assert answer.json() == {"name": "first"}
    httpx.get(f"{url}/ok").raise_for_status()
    httpx.get(f"{url}/no%0Asuch")
    assert (worker.end(), server.end()) == (0, 0)
    requests = [server.event("request"), server.event("request", after=1)]
    assert [(r["method"], r["path"], r["status"]) for r in requests] == [
        ("POST", "/runs/wait", 200),
        ("GET", "/no%0Asuch", 404),
    ]
    assert all(r["ms"] >= 0 for r in requests)


def test_what_is_doubtful_is_told_and_what_loads_is_served(served: Project) -> None:
    served.file("agent.py", ECHO)
    served.file("broken.py", "import nothing_of_this_name")
    served.file(
        "keeping.py",
        """
        from langgraph.checkpoint.memory import InMemorySaver
        from agent import builder
        graph = builder.compile(checkpointer=InMemorySaver())
        """,
    )
    names = ("agent", "broken", "keeping")
    served.config({name: f"./{name}.py:graph" for name in names}, grphs={}, store={})
    server = served.start("serve", "--port", "0", THREADMILL_SLOT="1")
    assert server.event("server.ready")["graphs"] == ["agent", "keeping"]
    failed = server.event("graph.load_failed")
    assert failed["graph_id"] == "broken"
    assert failed["exception"].startswith("Traceback")
    replaced = server.event("graph.checkpointer_replaced")
    assert replaced["graph_id"] == "keeping"
    assert "without a checkpointer" in replaced["remedy"]
    server.line("'grphs' is not known", "graphs", "warning")
    server.line("THREADMILL_SLOT is no setting", "THREADMILL_SLOTS", "warning")
    assert server.end() == 0


def test_a_server_without_any_graph_says_so_loudly_and_serves(served: Project) -> None:
    served.file("agent.py", "raise RuntimeError('not today')")
    server = served.start("serve", "--port", "0")
    assert httpx.get(f"{url_of(server)}/ok").status_code == 200
    loud = server.event("graphs.none_loads")
    assert loud["level"] == "error"
    assert "RuntimeError: not today" in loud["problem"]


def test_a_worker_tells_its_health(served: Project, free_port: int) -> None:
    worker = served.start("worker", "--slots", "2", "--health-port", str(free_port))
    worker.event("worker.ready")
    url = f"http://127.0.0.1:{free_port}"
    health = httpx.get(f"{url}/ok", timeout=PATIENCE_SECONDS).json()
    assert (health["ok"], health["slots"], health["slots_taken"]) == (True, 2, 0)
    metrics = httpx.get(f"{url}/metrics", timeout=PATIENCE_SECONDS)
    assert metrics.headers["content-type"].startswith("text/plain")
    assert "threadmill_worker_slots 2.0" in metrics.text.splitlines()


def test_the_environment_of_langgraph_json_reaches_graphs_and_settings(
    served: Project,
) -> None:
    uri = served.environ.pop("DATABASE_URI")
    served.file("secrets.env", f"DATABASE_URI={uri}\nNAME=from the file\n")
    source = ECHO.replace('"first"', "os.environ['NAME']")
    served.file("agent.py", f"    import os\n{source}")
    served.config({"agent": "./agent.py:graph"}, env="secrets.env")
    server = served.start("serve", "--port", "0")
    worker = served.start("worker")
    worker.event("worker.ready")
    url = url_of(server)
    answer = httpx.post(f"{url}/runs/wait", json=RUN, timeout=PATIENCE_SECONDS)
    assert answer.json() == {"name": "from the file"}


# A thread that never returns, and a task that does not stop when it is told to.
_STUBBORN = STUCK.replace("def answer", "async def answer").replace(
    "time.sleep(600)",
    """while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass""",
)


@pytest.mark.parametrize(
    ("source", "grace"), [(STUCK, "5"), (_STUBBORN, "0.2")], ids=["thread", "task"]
)
def test_a_drain_hands_back_what_does_not_stop_and_exits(
    served: Project, source: str, grace: str
) -> None:
    served.file("agent.py", source.replace("time\n", "time, asyncio\n", 1))
    server = served.start("serve", "--port", "0")
    worker = served.start("worker", BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS=grace)
    begin(served, server)
    assert worker.end() == 0
    worker.event("process.stopping")
    with psycopg.connect(served.environ["DATABASE_URI"]) as connection:
        left = "SELECT state, attempt, worker_id FROM threadmill.activation"
        assert connection.execute(left).fetchall() == [("ready", 0, None)]


def test_a_second_signal_ends_a_worker_in_the_middle_of_its_drain(
    served: Project,
) -> None:
    served.file("agent.py", STUCK)
    server = served.start("serve", "--port", "0")
    worker = served.start("worker", BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS="600")
    begin(served, server)
    worker.signal(signal.SIGTERM)
    worker.event("process.stopping")
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 128 + signal.SIGTERM


def test_a_server_that_drains_cuts_open_streams_at_once(served: Project) -> None:
    """Nobody works here, so without the drain the stream would stay open."""
    server = served.start("serve", "--port", "0")
    opened, cut = threading.Event(), threading.Event()
    url = f"{url_of(server)}/runs/stream"

    def follow() -> None:
        with httpx.stream("POST", url, json=RUN, timeout=PATIENCE_SECONDS) as response:
            opened.set()
            with pytest.raises(httpx.RemoteProtocolError):
                response.read()
        cut.set()

    client = threading.Thread(target=follow)
    client.start()
    assert opened.wait(PATIENCE_SECONDS)
    assert server.end() == 0
    client.join(PATIENCE_SECONDS)
    assert cut.is_set()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_starting_ends_the_process_quietly(
    served: Project, name: str
) -> None:
    served.file("agent.py", f"    import pathlib, time\n{_SLOW_IMPORT}{ECHO}")
    worker = served.start("worker")
    until(Path(served.root, "importing").exists, "the graph is imported")
    worker.signal(signal.Signals[name])
    assert worker.ended() == -signal.Signals[name]
    assert "Traceback" not in worker.output


_SLOW_IMPORT = """
    pathlib.Path("importing").touch()
    time.sleep(600)
"""
