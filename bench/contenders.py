"""What is measured: LangGraph in process, and Threadmill in both dispatch modes.

Every contender runs one fresh thread through the same graph per call, on the same
PostgreSQL, and reports the CPU time of all its processes but the database's.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import httpx
import psutil
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph_sdk import get_client
from psycopg_pool import AsyncConnectionPool

from bench.graphs import INPUT, builder
from bench.wide import BUILDERS

_PROGRAM = Path(sys.executable).with_name("threadmill")
_READY_SECONDS = 120.0


class Contender(Protocol):
    """Something that can run a turn."""

    name: str

    async def turn(self) -> None:
        """Runs one turn on a new thread and checks its answer."""
        ...

    def cpu_seconds(self) -> float:
        """CPU time used so far, client excluded where it is a process of its own."""
        ...


def check(values: Any) -> None:
    """A contender that answers wrongly is not worth timing."""
    assert values["turn_count"] == 1, values
    assert len(values["messages"]) == 2, values


@dataclass
class InProcess:
    """`ainvoke` with LangGraph's AsyncPostgresSaver over a pool."""

    graph: Any
    shared: Mapping[str, Any]
    name: str = "in-process"

    async def turn(self) -> None:
        """See `Contender.turn`."""
        config = {"configurable": {"thread_id": str(uuid4())}}
        check(await self.graph.ainvoke(INPUT, config, durability="sync"))

    async def ask(self, graph: str, given: Mapping[str, Any]) -> Any:
        """Runs one of the graphs whose supersteps may be shared."""
        config = {"configurable": {"thread_id": str(uuid4())}}
        return await self.shared[graph].ainvoke(given, config, durability="sync")

    def cpu_seconds(self) -> float:
        """See `Contender.cpu_seconds`."""
        return time.process_time()


@dataclass
class Served:
    """A server and a worker as processes, called through the stock client."""

    name: str
    client: Any
    processes: list[psutil.Process]
    url: str = ""

    async def turn(self) -> None:
        """See `Contender.turn`."""
        check(
            await self.client.runs.wait(
                str(uuid4()), "bench", input=INPUT, if_not_exists="create"
            )
        )

    async def ask(self, graph: str, given: Mapping[str, Any]) -> Any:
        """Runs one of the graphs whose supersteps may be shared."""
        return await self.client.runs.wait(
            str(uuid4()), graph, input=given, if_not_exists="create"
        )

    def cpu_seconds(self) -> float:
        """See `Contender.cpu_seconds`."""
        return sum(p.cpu_times().user + p.cpu_times().system for p in self.processes)


@asynccontextmanager
async def in_process(uri: str) -> AsyncIterator[InProcess]:
    """LangGraph alone."""
    async with AsyncConnectionPool(
        uri,
        min_size=1,
        max_size=10,
        kwargs={"autocommit": True, "prepare_threshold": 0},
    ) as pool:
        saver = AsyncPostgresSaver(pool)  # type: ignore[arg-type]
        await saver.setup()
        shared = {n: b.compile(checkpointer=saver) for n, b in BUILDERS.items()}
        yield InProcess(builder.compile(checkpointer=saver), shared)


@asynccontextmanager
async def served(
    uri: str,
    dispatch: str,
    folder: Path,
    *,
    workers: int = 1,
    slots: int = 10,
    **settings: str,
) -> AsyncIterator[Served]:
    """Threadmill as it is run: one server, some workers."""
    config = folder / "langgraph.json"
    here = Path(__file__).with_name("graphs.py")
    wide = here.with_name("wide.py")
    graphs = {"bench": f"{here}:graph"} | {n: f"{wide}:{n}" for n in BUILDERS}
    config.write_text(json.dumps({"graphs": graphs}))
    env = {
        **os.environ,
        "DATABASE_URI": uri,
        "THREADMILL_DISPATCH": dispatch,
        "THREADMILL_SLOTS": str(slots),
        "LOG_LEVEL": "WARNING",
        **settings,
    }
    async with AsyncExitStack() as stack:
        port = _free_port()
        commands = [["serve", "--config", str(config), "--port", str(port)]]
        commands += [["worker", "--config", str(config)]] * workers
        processes = [
            await stack.enter_async_context(_process(command, env))
            for command in commands
        ]
        url = f"http://127.0.0.1:{port}"
        await _until_ready(url)
        contender = Served(f"{dispatch}", get_client(url=url), processes, url)
        await contender.turn()
        yield contender


@asynccontextmanager
async def _process(
    command: list[str], env: dict[str, str]
) -> AsyncIterator[psutil.Process]:
    process = await asyncio.create_subprocess_exec(_PROGRAM, *command, env=env)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


async def _until_ready(url: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    async with httpx.AsyncClient() as client:
        while time.monotonic() < deadline:
            try:
                if (await client.get(f"{url}/ok")).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.05)
    msg = f"no server at {url} within {_READY_SECONDS:.0f} s"
    raise TimeoutError(msg)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
