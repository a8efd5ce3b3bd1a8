"""The story of `make demo`: a conversation that outlives its servers and workers.

Two servers and three workers, each a process of its own, over one PostgreSQL. Some of
them are killed on the way. Every claim that is printed was checked; the exit code is 0
only if all of them were true.

    python examples/conversation/demo.py [--keep]

`--keep` leaves the folder with the log files; a story that fails leaves it anyway.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from story.database import Database
from story.fleet import PROGRAM, Fleet, Member, NotStarted, Server
from story.journal import Journal
from story.screen import Screen, Untrue

from threadmill.drivers.embedded import EmbeddedPostgres
from threadmill.errors import Error
from threadmill.settings import Settings

ROUNDS = 20
SLOW_SECONDS = 1.5
STORY_SECONDS = 180.0


@dataclass(slots=True)
class Stage:
    """Who takes part, and what is known so far."""

    screen: Screen
    fleet: Fleet
    journal: Journal
    database: Database
    servers: list[Server] = field(default_factory=list)
    workers: list[Member] = field(default_factory=list)
    thread_id: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)

    def ran_on(self, run_id: str) -> list[str]:
        """The workers of a run's nodes, in order, as they wrote down themselves."""
        begun = self.journal.begun(run_id)
        names = {worker.pid: worker.name for worker in self.workers}
        return list(dict.fromkeys(f"{names[b.pid]} (process {b.pid})" for b in begun))


# --- the six steps ----------------------------------------------------------------


async def the_graph(stage: Stage) -> None:
    """What is served: an ordinary graph without any persistence of its own."""
    # Here, because LangGraph takes a moment to import, and the title should not wait.
    from conversation import graph

    screen = stage.screen
    screen.check(
        "conversation.py is a graph of three nodes: receive, process, save",
        expected=["receive", "process", "save"],
        found=[name for name in graph.nodes if not name.startswith("__")],
    )
    screen.check(
        "it is compiled without a checkpointer: Threadmill keeps the state",
        expected=None,
        found=graph.checkpointer,
    )
    for server in stage.servers:
        served = await server.client.assistants.search(graph_id="conversation")
        screen.check(
            f"{server.name} serves it at {server.url}",
            expected=["conversation"],
            found=[assistant["name"] for assistant in served],
        )


async def two_turns_on_two_servers(stage: Stage) -> None:
    """Turn 1 on one server, turn 2 on the other, the same thread."""
    first, second = stage.servers
    stage.thread_id = (await first.client.threads.create())["thread_id"]
    await turn(stage, 1, first, "Hello")
    await turn(stage, 2, second, "Continue")


async def a_server_dies(stage: Stage) -> None:
    """Server 1 is killed; the conversation goes on through server 2."""
    first, second = stage.servers
    await first.kill()
    stage.screen.check(
        f"{first.name} is dead (SIGKILL)",
        expected=-signal.SIGKILL,
        found=first.process.returncode,
    )
    await turn(stage, 3, second, "Are you still there?")


async def a_worker_dies(stage: Stage) -> None:
    """The worker of a slow node is killed in the middle of it; another takes over."""
    screen, journal, client = stage.screen, stage.journal, stage.servers[1].client
    await settle(stage)
    thread_id = (await client.threads.create())["thread_id"]
    run = await client.runs.create(thread_id, "errand", input={"seconds": SLOW_SECONDS})
    run_id = run["run_id"]
    first = await journal.wait_for(run_id, "dig", times=1)
    victim = next(w for w in stage.workers if w.pid == first.pid)
    killed_at = time.monotonic()
    await victim.kill()
    screen.say(f"{victim.name} had begun the slow node: killed (SIGKILL)")

    again = await journal.wait_for(run_id, "dig", times=2)
    others = {worker.pid for worker in stage.workers if worker is not victim}
    screen.check(
        f"the same node began on {again.worker}, "
        f"{(again.at_seconds - killed_at) * 1000:.0f} ms after the kill",
        expected="another worker",
        found="another worker" if again.pid in others else again.worker,
    )
    state: Any = await client.runs.join(thread_id, run_id)
    screen.check(
        f"the run ended there: {state['report']}",
        expected="Found a coin in a hill",
        found=state["report"],
    )
    ran = {node: len(journal.begun(run_id, node)) for node in ERRAND}
    screen.check(
        "the node before it was not run again; only the one that was killed was",
        expected={"prepare": 1, "dig": 2, "report": 1},
        found=ran,
    )


async def two_servers_at_once(stage: Stage) -> None:
    """Two servers get a message for one thread at the same moment, over and over."""
    screen = stage.screen
    stage.servers[0] = await stage.fleet.server("server 1")
    screen.say("server 1 was started again, as an orchestrator would")
    first, second = stage.servers
    thread_id = (await first.client.threads.create())["thread_id"]
    accepted: list[str] = []
    for number in range(1, ROUNDS + 1):
        accepted += await asyncio.gather(
            *(
                say_at_once(server, thread_id, f"{number} by {server.name}")
                for server in (first, second)
            )
        )
    await check_each_applied_once(stage, thread_id, accepted)


async def what_is_in_the_database(stage: Stage) -> None:
    """Looks into the database, past all servers."""
    screen, found = stage.screen, await stage.database.summary()
    screen.say(f"threads: {found.threads}")
    screen.say(f"checkpoints: {found.checkpoints} of {found.runs} runs")
    screen.say(
        f"bytes: {found.state_bytes:,} of state, {found.table_bytes:,} on disk with "
        "all tables and indexes"
    )
    screen.check(
        "every run has ended with success, and nothing is left waiting",
        expected=(0, 0),
        found=(found.not_success, found.activations),
    )
    screen.check(
        "the checkpoints of each thread form one path",
        expected=(found.threads, 0),
        found=(found.beginnings, found.forks),
    )


STEPS = (
    ("The graph", the_graph),
    ("Two turns of one conversation, through two servers", two_turns_on_two_servers),
    ("A server is killed; the conversation goes on", a_server_dies),
    ("A worker is killed in the middle of a slow node", a_worker_dies),
    (f"Two servers, one thread, the same moment, {ROUNDS} times", two_servers_at_once),
    ("What is in the database now", what_is_in_the_database),
)
ERRAND = ("prepare", "dig", "report")
EXIT_INTERRUPTED = 130
NEXT = (
    "Where to look next:",
    "examples/README.md              the graphs that you have just seen, and others",
    "docs/tutorial/quickstart.md     your own graph, in ten minutes",
    "docs/explanation/guarantees.md  what is promised, and what happens when X dies",
    "make dev                        this example, with a server to talk to",
)


# --- what the steps are made of ----------------------------------------------------


async def turn(stage: Stage, number: int, server: Server, text: str) -> None:
    """Says something through a server, and checks the whole answer."""
    runs: list[str] = []
    stage.messages.append({"role": "user", "content": text})
    state: Any = await server.client.runs.wait(
        stage.thread_id,
        "conversation",
        input=spoken(stage.messages),
        on_run_created=lambda run: runs.append(run["run_id"]),
    )
    answer = f"Turn {number}: Processed '{text}'"
    expected = [*stage.messages, {"role": "assistant", "content": answer}]
    stage.messages = state["messages"]
    screen = stage.screen
    screen.line(f"Turn {number} - Messages: {len(state['messages'])}")
    screen.line(f"Turn {number} - Turn count: {state['turn_count']}")
    screen.line(f"Turn {number} - Last message: {state['messages'][-1]['content']}")
    workers = ", then ".join(stage.ran_on(runs[0]))
    screen.say(f"asked {server.name} ({server.url}), run by {workers}")
    screen.check(
        "all messages are there, each once and in order, and the counter went on",
        expected=(expected, number),
        found=(state["messages"], state["turn_count"]),
    )


async def settle(stage: Stage) -> None:
    """Waits until the database has been up for one lease."""
    lease = Settings.from_env().lease_seconds
    seconds = await stage.database.seconds_to_settle(lease)
    if seconds > 0:
        stage.screen.say(
            f"PostgreSQL is younger than a lease ({lease:g} s): its restart would free "
            "all presence locks,"
        )
        with stage.screen.working("so nobody is taken for dead yet; waiting"):
            await asyncio.sleep(seconds)


async def say_at_once(server: Server, thread_id: str, text: str) -> str:
    """Sends one new message; returns it when its answer is there."""
    await server.client.runs.wait(
        thread_id,
        "inbox",
        input=spoken([{"role": "user", "content": text}]),
    )
    return text


async def check_each_applied_once(
    stage: Stage, thread_id: str, accepted: Sequence[str]
) -> None:
    """Compares what was accepted with what is in the state, and the two orders."""
    screen, (first, second) = stage.screen, stage.servers
    state: Any = (await second.client.threads.get_state(thread_id))["values"]
    said = [m["content"] for m in state["messages"] if m["role"] == "user"]
    answers = [m["content"] for m in state["messages"] if m["role"] == "assistant"]
    applied = len(set(accepted) & set(said))
    lost = len(set(accepted) - set(said))
    duplicated = len(said) - len(set(said))
    screen.check(
        f"accepted {len(accepted)} / applied {applied} / lost {lost} / "
        f"duplicated {duplicated}",
        expected=(2 * ROUNDS, 2 * ROUNDS, 0, 0),
        found=(len(accepted), applied, lost, duplicated),
    )
    newest_first = await first.client.runs.list(thread_id, limit=4 * ROUNDS)
    order = [message_of(run) for run in reversed(newest_first)]
    screen.check(
        "applied in the order in which they were accepted",
        expected=order,
        found=said,
    )
    screen.check(
        "each was answered once, in its turn",
        expected=[f"Turn {n}: Processed '{s}'" for n, s in enumerate(said, start=1)],
        found=answers,
    )
    ahead = sum(text.endswith(first.name) for text in order[::2])
    screen.say(
        f"{first.name} was first in {ahead} rounds, {second.name} in {ROUNDS - ahead}"
    )


def spoken(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """A partial state: without the counter, which the graph keeps."""
    return {"messages": messages, "user_id": "ada"}


def message_of(run: Any) -> str:
    """What a run was asked for."""
    return str(run["kwargs"]["input"]["messages"][0]["content"])


# --- the stage --------------------------------------------------------------------


async def set_up(screen: Screen, folder: Path, stack: AsyncExitStack) -> Stage:
    """Starts the database, two servers and three workers; the stack ends them."""
    logs = folder / "logs"
    logs.mkdir()
    with screen.working("starting PostgreSQL and creating the schema"):
        postgres = EmbeddedPostgres(folder / "postgres")
        stack.callback(postgres.stop)
        uri = postgres.start()
        await migrate(uri, logs / "migrate.log")
    database = Database(uri)
    journal = Journal(folder / "journal")
    fleet = Fleet(logs, uri, journal.path)
    stack.push_async_callback(fleet.stop)
    stage = Stage(screen, fleet, journal, database)
    with screen.working("starting 2 servers and 3 workers"):
        async with asyncio.TaskGroup() as group:
            start = group.create_task
            servers = [start(fleet.server(f"server {n}")) for n in (1, 2)]
            workers = [start(fleet.worker(f"worker {n}")) for n in (1, 2, 3)]
    stage.servers = [task.result() for task in servers]
    stage.workers = [task.result() for task in workers]
    for member in (*stage.servers, *stage.workers):
        address = f" at {member.url}" if isinstance(member, Server) else ""
        screen.say(f"{member.name}: process {member.pid}{address}, log {member.log}")
    screen.say(f"PostgreSQL {await database.version()} with its data in {folder}")
    return stage


async def migrate(uri: str, log: Path) -> None:
    """Creates the schema, with the command that an operator uses."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            "migrate",
            env={**os.environ, "DATABASE_URI": uri},
            stdout=output,
            stderr=output,
        )
        if await process.wait() != 0:
            raise NotStarted(f"`threadmill migrate` failed: see {log}")


async def tell(screen: Screen, folder: Path) -> None:
    """The whole story; its processes are gone when this returns or raises."""
    started_at = time.monotonic()
    async with AsyncExitStack() as stack:
        screen.title("Threadmill: a conversation that outlives its servers")
        stage = await set_up(screen, folder, stack)
        for number, (title, step) in enumerate(STEPS, start=1):
            screen.chapter(number, title)
            await step(stage)
    seconds = time.monotonic() - started_at
    screen.done(f"All {screen.checked} claims were checked and true ({seconds:.0f} s).")


async def play(screen: Screen, folder: Path) -> bool:
    """Tells the story within its time, and returns whether it was true."""
    # SIGTERM ends it as Ctrl-C does: by way of every `finally`.
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    failures: list[str] = []
    try:
        async with asyncio.timeout(STORY_SECONDS):
            await tell(screen, folder)
    except* (Untrue, NotStarted, Error) as group:
        failures += [str(error) for error in leaves(group)]
    except* TimeoutError:
        failures.append(f"it took over {STORY_SECONDS:.0f} s")
    for failure in failures:
        screen.failed(f"Not as promised: {failure}")
    return not failures


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The single errors of a group."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def main() -> int:
    """Plays the story and clears up."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="keep the log files")
    keep = parser.parse_args().keep
    screen = Screen()
    folder = Path(tempfile.mkdtemp(prefix="threadmill-demo-"))
    # PostgreSQL runs as somebody else when we are root, and must get to its data.
    folder.chmod(0o711)
    keep_logs = True
    try:
        true = asyncio.run(play(screen, folder))
        keep_logs = keep or not true
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.failed("Interrupted.")
        keep_logs = keep
        return EXIT_INTERRUPTED
    finally:
        clear_up(screen, folder, keep=keep_logs)
    for line in NEXT if true else ():
        screen.point_out(line)
    return 0 if true else 1


def clear_up(screen: Screen, folder: Path, *, keep: bool) -> None:
    """Removes what the story left on disk; the log files stay if asked for."""
    shutil.rmtree(folder / "postgres" if keep else folder, ignore_errors=True)
    if keep:
        screen.say(f"the log files are in {folder / 'logs'}")


if __name__ == "__main__":
    sys.exit(main())
