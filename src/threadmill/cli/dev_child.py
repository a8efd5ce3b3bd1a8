"""The process that serves for `threadmill dev`: a server and a worker in one.

`dev` starts it anew whenever the sources change. It listens on the socket that it
inherits, and drains in a second: nodes that take longer run again in its successor.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from socket import socket

    from threadmill.cli.life import Stop
    from threadmill.cli.lifeline import ChildEnd
    from threadmill.cli.project import Project
    from threadmill.engine.graphs import GraphCatalogue

GRACE_SECONDS: Final = 1.0
_THREADS_SECONDS: Final = 0.5

News = dict[str, Any]


def serve_and_work(
    project: Project,
    listener: socket,
    *,
    on_ready: Callable[[Mapping[str, Any]], None],
    line: ChildEnd | None = None,
) -> int:
    """Serves the project until the process is asked to end; gives the exit code.

    Args:
        project: whose settings name a database with a current schema.
        listener: where the interface listens.
        on_ready: told about the graphs when requests are answered.
        line: to the parent, which then has the terminal's signals to itself.

    Raises:
        Error: it cannot start.
    """
    from threadmill.cli.life import SIGNALS, live
    from threadmill.cli.member import Plan, run_member
    from threadmill.cli.project import load
    from threadmill.engine.activation.places import labels_asked

    settings = project.settings.model_copy(
        update={"drain_grace_seconds": GRACE_SECONDS}
    )
    graphs = load(project, needed=False)
    plan = Plan(
        role="dev",
        settings=settings,
        graphs=graphs,
        # It is the only worker there is.
        labels=labels_asked(graphs.run_labels, [g.graph for g in graphs]),
        api=listener,
        on_ready=lambda: on_ready(_news(graphs)),
    )

    async def main(stop: Stop) -> None:
        if line is not None:
            line.on_stop = stop.ask_from_thread
        await run_member(plan, stop)

    return live(
        main,
        grace_seconds=GRACE_SECONDS,
        threads_seconds=_THREADS_SECONDS,
        signals=SIGNALS if line is None else (signal.SIGTERM,),
    )


def _news(graphs: GraphCatalogue) -> News:
    """What the banner tells: the graphs, and an input for the first one."""
    first = next(iter(graphs), None)
    chats = first is not None and "messages" in getattr(first.graph, "channels", ())
    example = {"messages": [{"role": "user", "content": "Hello"}]} if chats else {}
    return {
        "graphs": list(graphs.ids),
        "failed": list(graphs.failures),
        "example": example,
    }


def main() -> int:
    """Serves for the parent that started this process; gives the exit code."""
    # Before anything that takes time: Ctrl-C is the parent's business. A handler and
    # not SIG_IGN, which the user's own subprocesses would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)

    from pathlib import Path

    from threadmill.cli.console import complain
    from threadmill.cli.lifeline import ChildEnd, inherited
    from threadmill.cli.project import open_project
    from threadmill.errors import Error

    config, slots, line_descriptor, listener_descriptor = sys.argv[1:]
    line = ChildEnd(int(line_descriptor))
    listener = inherited(int(listener_descriptor))
    try:
        project = open_project(
            Path(config),
            slots=int(slots) if slots else None,
            database_uri=line.database_uri,
        )
        return serve_and_work(project, listener, on_ready=line.ready, line=line)
    except Error as error:
        complain(str(error))
        return 1


if __name__ == "__main__":
    from threadmill.cli.life import end_within, leave_quickly

    code = main()
    end_within(_THREADS_SECONDS, code)
    leave_quickly(code)
