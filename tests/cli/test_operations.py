"""What whoever runs a fleet asks and tells it, while no server is needed for it."""

from __future__ import annotations

import json
import signal
from typing import Any

import httpx
import pytest

from tests.cli.conftest import PATIENCE_SECONDS, Program, Project, until

NOBODY = "00000000-0000-4000-8000-000000000000"

# Two nodes: the first waits for a file, or takes its worker down.
NODES = """
    import asyncio, operator, os, pathlib
    from typing import Annotated, TypedDict
    from langgraph.graph import START, StateGraph

    class State(TypedDict):
        steps: Annotated[list[str], operator.add]

    async def first(state: State) -> State:
        if pathlib.Path("deadly").exists():
            os._exit(9)
        pathlib.Path("begun").touch()
        while not pathlib.Path("open").exists():
            await asyncio.sleep(0.01)
        return {"steps": ["first"]}

    async def last(state: State) -> State:
        return {"steps": ["last"]}

    builder = StateGraph(State)
    builder.add_sequence([("first", first), ("last", last)])
    builder.add_edge(START, "first")
    graph = builder.compile()
"""


class Operator:
    """A project with a server, and what an operator types."""

    def __init__(self, project: Project) -> None:
        self._project = project
        project.file("agent.py", NODES)
        # Whoever sweeps gives a run up after its first loss.
        project.environ["THREADMILL_ATTEMPTS_MAX"] = "1"
        # Who has died is found by its absence, also right after the server's start.
        project.environ["THREADMILL_LEASE_SECONDS"] = "60"
        self._server = project.start("serve", "--port", "0")
        self.url = self._server.event("server.ready")["url"]

    def post(self, path: str, body: object = None) -> Any:
        return httpx.post(self.url + path, json=body, timeout=PATIENCE_SECONDS).json()

    def get(self, path: str) -> Any:
        return httpx.get(self.url + path, timeout=PATIENCE_SECONDS).json()

    def submit(self) -> dict[str, Any]:
        """A run on a thread of its own."""
        thread = self.post("/threads", {})["thread_id"]
        body = {"assistant_id": "agent", "input": {"steps": ["said"]}}
        run: dict[str, Any] = self.post(f"/threads/{thread}/runs", body)
        return run

    def outcome(self, run: dict[str, Any]) -> Any:
        return self.get(f"/threads/{run['thread_id']}/runs/{run['run_id']}/join")

    def reason(self, run: dict[str, Any]) -> Any:
        return self.get(f"/threadmill/runs/{run['run_id']}/why")["reason"]

    def worker(self, **environ: str) -> Program:
        worker = self._project.start("worker", "--slots", "1", **environ)
        worker.event("worker.ready")
        return worker

    def exists(self, file: str) -> bool:
        return (self._project.root / file).exists()

    def touch(self, file: str) -> None:
        (self._project.root / file).touch()

    def remove(self, file: str) -> None:
        (self._project.root / file).unlink()

    def say(self, *words: str) -> tuple[int, str]:
        return self._project.run(*words)

    def ask(self, *words: str) -> Any:
        """The JSON of a command that succeeds."""
        code, output = self.say(*words, "--json")
        assert code == 0, output
        return json.loads(output)

    def workers(self) -> dict[str, Any]:
        """The workers on the list, by process id."""
        found = self.get("/threadmill/workers")
        return {m["name"].rpartition(":")[2]: m for m in found if m["role"] == "worker"}


@pytest.fixture
def operator(served: Project) -> Operator:
    return Operator(served)


def test_a_worker_that_is_told_to_drain_hands_over_and_exits_with_0(
    operator: Operator,
) -> None:
    run = operator.submit()
    assert operator.reason(run) == "no_graph"
    old = operator.worker(BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS="600")
    until(lambda: operator.exists("begun"), "the node begins")
    why = operator.ask("why", run["run_id"])
    member = operator.workers()[str(old.pid)]
    assert (member["slots"], member["taken"], member["draining"]) == (1, 1, False)
    assert (why["reason"], why["details"]["worker"]) == ("running", member["name"])
    code, output = operator.say("workers", "drain", member["name"])
    assert (code, output) == (0, f"{member['name']} will drain\n")
    old.event("process.told_to_drain")
    old.event("process.stopping")
    assert operator.workers()[str(old.pid)]["draining"]
    # It claims no more: what comes now waits for the next worker.
    other = operator.submit()
    assert operator.reason(other) == "no_graph"
    new = operator.worker()
    operator.touch("open")
    assert old.ended() == 0
    assert operator.outcome(run) == {"steps": ["said", "first", "last"]}
    assert operator.outcome(other) == {"steps": ["said", "first", "last"]}
    member = operator.workers()[str(new.pid)]
    code, output = operator.say("workers", "drain", member["worker_id"], "--wait")
    assert (code, output) == (0, f"{member['name']} has ended\n")
    assert new.ended() == 0
    assert operator.workers() == {}
    _, table = operator.say("workers", "list")
    assert table.splitlines()[0].split()[:3] == ["ID", "NAME", "ROLE"]
    assert " server " in table


def test_nobody_counts_on_a_worker_that_was_sent_a_signal(operator: Operator) -> None:
    run = operator.submit()
    old = operator.worker(BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS="600")
    until(lambda: operator.exists("begun"), "the node begins")
    old.signal(signal.SIGTERM)
    until(
        lambda: operator.workers()[str(old.pid)]["draining"], "the worker is draining"
    )
    assert operator.reason(operator.submit()) == "no_graph"
    operator.touch("open")
    assert old.ended() == 0
    assert operator.reason(run) == "no_graph"


def test_a_server_can_be_told_to_drain_too(operator: Operator) -> None:
    (server,) = operator.ask("workers", "list")
    code, output = operator.say("workers", "drain", server["name"], "--wait")
    assert (code, output) == (0, f"{server['name']} has ended\n")


def test_a_run_that_killed_its_workers_is_shown_and_redriven(
    operator: Operator,
) -> None:
    operator.touch("deadly")
    run, other = operator.submit(), operator.submit()
    for _ in range(2):
        # Whoever worked before it shows itself would be found by its lease only.
        slow = operator.worker(THREADMILL_FAULTS="renew.before=pause:500ms")
        assert slow.ended() == 9
    until(lambda: len(operator.get("/threadmill/dead-letters")) == 2, "both die")
    assert operator.ask("dead-letters", "list")["total"] == 2
    why = operator.ask("why", run["run_id"])
    assert why["reason"] == "dead_letter"
    assert "ended while it ran" in why["sentence"]
    letter = operator.ask("dead-letters", "show", run["run_id"])
    assert (letter["graph_id"], letter["attempts"]) == ("agent", 1)
    assert letter["cause"] == why["details"]["cause"]
    _, shown = operator.say("dead-letters", "show", run["run_id"])
    assert f"run_id        {run['run_id']}\n" in shown
    _, shown = operator.say("dead-letters", "list", "--limit", "1")
    assert shown.splitlines()[-1] == "1 of 2"
    nobody = operator.ask("dead-letters", "list", "--tenant", "x")
    assert nobody == {"dead_letters": [], "total": 0}

    operator.remove("deadly")
    operator.touch("open")
    operator.worker()
    code, output = operator.say("dead-letters", "redrive", run["run_id"], NOBODY)
    assert code == 1
    assert f"{run['run_id']} redriven\n" in output
    assert f"error: {NOBODY}: run {NOBODY} is no dead letter\n" in output
    assert operator.outcome(run) == {"steps": ["said", "first", "last"]}
    answer = operator.ask("dead-letters", "redrive", "--all")
    assert answer == [{"run_id": other["run_id"], "redriven": True, "refusal": None}]
    assert operator.outcome(other) == {"steps": ["said", "first", "last"]}
    assert operator.reason(other) == "ended"
    code, output = operator.say("dead-letters", "discard", other["run_id"])
    assert (code, "is no dead letter" in output) == (1, True)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["why", NOBODY], f"error: run {NOBODY} not found\n"),
        (
            ["dead-letters", "show", NOBODY],
            f"error: run {NOBODY} is no dead letter\n",
        ),
        (
            ["workers", "drain", "nobody"],
            "error: no process is called nobody; see `threadmill workers list`\n",
        ),
    ],
)
def test_who_is_not_there_is_one_line(
    served: Project, words: list[str], problem: str
) -> None:
    (served.root / "langgraph.json").unlink()
    assert served.run(*words) == (1, problem)


def test_it_needs_a_database(project: Project) -> None:
    code, output = project.run("why", NOBODY)
    assert code == 1
    assert "DATABASE_URI is not set" in output


def test_threads_are_pruned_and_tenants_get_rules(operator: Operator) -> None:
    operator.touch("open")
    run = operator.submit()
    operator.worker()
    assert operator.outcome(run) == {"steps": ["said", "first", "last"]}
    everything = ("prune", "--all", "--keep-latest")
    foreseen = operator.ask(*everything, "--dry-run")
    assert (foreseen["dry_run"], foreseen["threads"]) == (True, 1)
    assert foreseen["checkpoints"] > 1
    freed = operator.ask(*everything)
    assert freed == {**foreseen, "dry_run": False}
    code, output = operator.say("prune", "--older-than", "30d", "--delete")
    assert (code, output) == (0, "freed 0 checkpoints of 0 threads: 0.0 MiB\n")
    assert operator.say("prune", "--delete")[0] == 2
    code, output = operator.say("prune", "--graph", "agent", "--delete")
    assert (code, output.split(": ")[0]) == (0, "freed 1 checkpoints of 1 threads")

    mine = ("--tenant", "acme")
    assert operator.ask("retention", "show", *mine) == {"tenant": "acme", "rule": None}
    set_ = ("retention", "set", *mine, "--strategy")
    code, output = operator.say(*set_, "keep_latest", "--days", "30")
    assert code == 0
    assert output == (
        "acme: threads are reduced to their present state 30 days after a change\n"
    )
    rule = operator.ask("retention", "show", *mine)["rule"]
    assert rule == {"strategy": "keep_latest", "ttl_minutes": 43_200}
    assert operator.say(*set_, "delete", "--days", "-1")[0] == 2
    code, output = operator.say(*set_, "clear")
    assert (code, output.split(";")[0]) == (0, "acme: no rule")


def test_histories_are_searched_and_threads_measured(operator: Operator) -> None:
    operator.touch("open")
    run = operator.submit()
    operator.worker()
    operator.outcome(run)
    thread = run["thread_id"]
    search = ("history", "search", "--graph", "agent")
    page = operator.ask(*search, "--path", "steps.1", "--equals", "first", "--changed")
    (item,) = page["items"]
    assert (item["thread_id"], item["nodes"]) == (thread, ["first"])
    assert (page["by_index"], item["value"]) == (False, "first")
    page = operator.ask(*search, "--node", "last", "--source", "loop")
    assert [item["nodes"] for item in page["items"]] == [["last"]]
    code, output = operator.say(*search, "--limit", "1")
    lines = output.splitlines()
    assert (code, lines[1].split()[2]) == (0, thread)
    cursor = lines[-1].partition("--cursor ")[2]
    rest = operator.ask(*search, "--limit", "1", "--cursor", cursor)["items"]
    assert rest[0]["checkpoint_id"] == page["items"][0]["parent_checkpoint_id"]
    assert operator.say(*search, "--cursor", "x")[0] == 1

    found = operator.ask("storage", "--graph", "agent")
    (size,) = found["threads"]
    assert (size["thread_id"], found["scanned"]) == (thread, 1)
    assert "steps" in size["channels"]
    assert found["graphs"]["agent"]["channels"] == size["channels"]
    assert operator.get(f"/threadmill/storage?thread_id={thread}")["threads"] == [size]
    code, output = operator.say("storage", "--thread", thread)
    lines = output.splitlines()
    assert (code, lines[1].split()[:2]) == (0, [thread, "agent"])
    assert lines[4].split()[:2] == ["agent", "1"]
    assert "steps" in lines[4]
    assert operator.say("storage", "--thread", NOBODY)[0] == 1
