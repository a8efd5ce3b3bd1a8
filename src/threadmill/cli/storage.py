"""`threadmill storage`: which threads and graphs take how much, by their channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from threadmill.cli.console import say, say_json, say_table
from threadmill.cli.options import (
    DEFAULT_CONFIG,
    AsJson,
    Config,
    Tenant,
)
from threadmill.domain.tenant import DEFAULT_TENANT
from threadmill.engine.measure import SCAN_MAX, SHOWN_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from threadmill.engine.measure import Measured
    from threadmill.stores.storage import Channel, Parts

_KIBIBYTE: Final = 1024
_CHANNELS_SHOWN: Final = 3

Graph = Annotated[
    str | None,
    typer.Option("--graph", help="Only threads of this graph.", show_default=False),
]
ThreadId = Annotated[
    UUID | None,
    typer.Option("--thread", help="Only this thread.", show_default=False),
]
Limit = Annotated[
    int,
    typer.Option("--limit", min=1, max=SHOWN_MAX, help="How many threads are shown."),
]
Scan = Annotated[
    int, typer.Option("--scan", min=1, max=SCAN_MAX, help="How many are summed up.")
]
Cursor = Annotated[
    str | None,
    typer.Option(
        "--cursor", help="Where the page before has ended.", show_default=False
    ),
]


def storage(
    graph: Graph = None,
    thread: ThreadId = None,
    limit: Limit = 10,
    scan: Scan = 200,
    cursor: Cursor = None,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: AsJson = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Show which threads take how much room, and which of their channels.

    Sums up so many threads, the newest by when they were made, and shows the largest of
    these, then each graph, with the channels of its largest threads. Bytes are of
    values as they are stored, without rows and indexes.
    """
    from threadmill.cli.database import measure
    from threadmill.cli.project import settings_near

    if thread is not None and (graph is not None or cursor is not None):
        raise typer.BadParameter("--thread goes with neither --graph nor --cursor")
    found = measure(
        settings_near(config),
        tenant,
        thread,
        graph_id=graph,
        shown=limit,
        scan=scan,
        cursor=cursor,
    )
    if as_json:
        say_json(found.as_json())
    else:
        _tell(found)


def _tell(found: Measured) -> None:
    rows = [
        (
            str(thread.thread_id),
            thread.graph_id or "-",
            *_shown(thread.parts),
            _largest(thread.channels.by_name if thread.channels else {}),
        )
        for thread in found.threads
    ]
    if rows:
        say_table(("THREAD", "GRAPH", "CHECKPOINTS", "KIB", "CHANNELS"), rows)
        say()
    graphs = [
        (
            name or "-",
            str(graph.threads),
            *_shown(graph.parts),
            str(graph.sampled),
            _largest(graph.channels.by_name),
        )
        for name, graph in found.graphs.items()
    ]
    if graphs:
        say_table(
            ("GRAPH", "THREADS", "CHECKPOINTS", "KIB", "SAMPLE", "CHANNELS"), graphs
        )
    say(f"{found.scanned} threads summed up")
    if found.cursor is not None:
        say(f"there are more: --cursor {found.cursor}")


def _shown(parts: Parts) -> tuple[str, str]:
    return str(parts.checkpoints), f"{parts.bytes / _KIBIBYTE:.1f}"


def _largest(channels: Mapping[str, Channel]) -> str:
    def taken(channel: Channel) -> int:
        return channel.chunks + channel.inline + channel.writes

    largest = sorted(channels, key=lambda name: -taken(channels[name]))
    return ", ".join(
        f"{name} {taken(channels[name]) / _KIBIBYTE:.1f}"
        for name in largest[:_CHANNELS_SHOWN]
    )
