"""What long conversations cost in the database: ours, and LangGraph's own saver.

Both run the same chat graph in this process on the same server, a turn of one after a
turn of the other. Long threads begin with one update of their state.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypedDict
from uuid import uuid4

import psycopg
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from psycopg_pool import AsyncConnectionPool
from rich.table import Table

from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.saver import PostgresSaver
from threadmill.drivers.postgres.database import Database, Limits

OURS: Final = "threadmill"
THEIRS: Final = "langgraph"
NAMES: Final = (THEIRS, OURS)

BYTES_AT: Final = (100, 2000)
TIMED_AT: Final = 1000
_WHOLE: Final = 2000
_WARM_UP: Final = 4
# Ours merges 512 items now and then: so many turns see all that comes along.
_CYCLE: Final = 256
_TABLES: Final = {
    OURS: ("head", "checkpoint", "checkpoint_write", "chunk"),
    THEIRS: ("checkpoints", "checkpoint_blobs", "checkpoint_writes"),
}
_SCHEMAS: Final = {OURS: "threadmill", THEIRS: "public"}
_MEBIBYTE: Final = 1024 * 1024

# Texts that compress as texts do: words of a vocabulary, never the same row of them.
_CHANCE: Final = random.Random(4)  # noqa: S311 - not a secret
_WORDS: Final = [
    "".join(_CHANCE.choices("abcdefghijklmnoprstuvw", k=_CHANCE.randint(2, 9)))
    for _ in range(3000)
]
# Some 200 characters.
_WORDS_PER_MESSAGE: Final = 30


class Chat(TypedDict):
    """A conversation."""

    messages: Annotated[list[AnyMessage], add_messages]


def _text() -> str:
    return " ".join(_CHANCE.choices(_WORDS, k=_WORDS_PER_MESSAGE))


def _message(kind: type[AnyMessage]) -> AnyMessage:
    made: AnyMessage = kind(content=_text(), id=str(uuid4()))  # type: ignore[call-arg]
    return made


def _answer(_: Chat) -> dict[str, Any]:
    return {"messages": [_message(AIMessage)]}


def graph_over(saver: Any) -> Any:
    """The chat graph, with this checkpointer."""
    builder: Any = StateGraph(Chat)
    builder.add_node("answer", _answer)
    builder.add_edge(START, "answer")
    return builder.compile(checkpointer=saver)


@dataclass
class Contender:
    """A chat graph over one of the savers, in a database of its own."""

    name: str
    graph: Any
    uri: str

    async def turn(self, thread: str) -> None:
        """A question and its answer."""
        found = await self.graph.ainvoke(
            {"messages": [_message(HumanMessage)]}, _config(thread), durability="sync"
        )
        assert isinstance(found["messages"][-1], AIMessage)

    async def seed(self, messages: int) -> str:
        """A thread that has so many messages."""
        thread = str(uuid4())
        kinds = (HumanMessage, AIMessage)
        given = [_message(kinds[n % 2]) for n in range(messages)]
        await self.graph.aupdate_state(
            _config(thread), {"messages": given}, as_node="answer"
        )
        return thread

    async def wal(self) -> int:
        """Bytes of WAL that were ever written."""
        return await self._ask(
            b"SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
        )

    async def size(self) -> int:
        """Bytes of the tables with their indexes, once what is dead is gone."""
        tables = [f"{_SCHEMAS[self.name]}.{table}" for table in _TABLES[self.name]]
        async with await psycopg.AsyncConnection.connect(
            self.uri, autocommit=True
        ) as connection:
            for table in tables:
                await connection.execute(f"VACUUM {table}".encode())
        return await self._ask(
            b"SELECT sum(pg_total_relation_size(t::regclass))::bigint"
            b" FROM unnest(%s::text[]) t",
            tables,
        )

    async def _ask(self, query: bytes, *params: object) -> int:
        async with await psycopg.AsyncConnection.connect(
            self.uri, autocommit=True
        ) as connection:
            row = await (await connection.execute(query, params)).fetchone()
        assert row is not None
        return int(row[0])


@dataclass
class Stored:
    """What one contender did."""

    wal: dict[int, float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    size: int = 0


def _config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


@asynccontextmanager
async def contenders(uris: Mapping[str, str]) -> AsyncIterator[Mapping[str, Contender]]:
    """Both savers; the schema of ours is there already."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            AsyncConnectionPool(
                uris[THEIRS],
                min_size=1,
                max_size=4,
                kwargs={"autocommit": True, "prepare_threshold": 0},
            )
        )
        theirs = AsyncPostgresSaver(pool)  # type: ignore[arg-type]
        await theirs.setup()
        database = Database(uris[OURS], name="bench", limits=Limits(pool_max=4))
        await database.open()
        stack.push_async_callback(database.close)
        ours = PostgresSaver(PostgresCheckpoints(database))
        yield {
            THEIRS: Contender(THEIRS, graph_over(theirs), uris[THEIRS]),
            OURS: Contender(OURS, graph_over(ours), uris[OURS]),
        }


async def measure(
    found: Mapping[str, Contender], turns: int, *, whole: int = _WHOLE
) -> Mapping[str, Stored]:
    """WAL, then time, then the size of a thread with all its checkpoints.

    Args:
        found: the contenders.
        turns: per measurement.
        whole: messages of the thread whose size is measured.
    """
    results = {name: Stored() for name in found}
    for messages in BYTES_AT:
        for name, contender in found.items():
            thread = await contender.seed(messages)
            for _ in range(_WARM_UP):
                await contender.turn(thread)
            counted = turns if name == THEIRS else _CYCLE
            before = await contender.wal()
            for _ in range(counted):
                await contender.turn(thread)
            results[name].wal[messages] = (await contender.wal() - before) / counted
    threads = {name: await c.seed(TIMED_AT) for name, c in found.items()}
    for number in range(turns + _WARM_UP):
        for name, contender in found.items():
            started = time.perf_counter()
            await contender.turn(threads[name])
            if number >= _WARM_UP:
                results[name].seconds.append(time.perf_counter() - started)
    for name, contender in found.items():
        empty, thread = await contender.size(), str(uuid4())
        for _ in range(whole // 2):
            await contender.turn(thread)
        results[name].size = await contender.size() - empty
    return results


def table(results: Mapping[str, Stored]) -> Table:
    """One column per saver, then what it comes to and what it should."""
    shown = Table(title="a turn of a chat, and a thread of 2,000 messages")
    for heading in ("", *NAMES, "comes to", "aim"):
        shown.add_column(heading, justify="right" if heading else "left")
    ours, theirs = results[OURS], results[THEIRS]
    few, many = BYTES_AT

    def row(title: str, cells: Sequence[str], comes_to: str, aim: str) -> None:
        shown.add_row(title, *cells, comes_to, aim)

    for messages in BYTES_AT:
        cells = [f"{results[name].wal[messages] / 1024:.1f} KiB" for name in NAMES]
        less = theirs.wal[messages] / ours.wal[messages]
        aim = ">= 40x less" if messages == many else ""
        row(f"WAL per turn, {messages} messages", cells, f"{less:.1f}x less", aim)
    grown = [
        f"{results[name].wal[many] / results[name].wal[few]:.2f}x" for name in NAMES
    ]
    row(f"WAL at {many} against {few}", grown, grown[1], "<= 1.4x")
    medians = [statistics.median(results[name].seconds) for name in NAMES]
    row(
        f"turn, {TIMED_AT} messages (p50)",
        [f"{seconds * 1e3:.1f} ms" for seconds in medians],
        f"{medians[1] / medians[0]:.2f}x",
        "<= 0.6x",
    )
    row(
        "thread with all checkpoints",
        [f"{results[name].size / _MEBIBYTE:.1f} MiB" for name in NAMES],
        f"{theirs.size / max(ours.size, 1):.0f}x less",
        "<= 8 MB",
    )
    return shown
