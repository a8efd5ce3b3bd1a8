"""`threadmill dev`: everything in one command, for the folder one works in.

This process keeps what must outlive a change of code: the embedded PostgreSQL, the port
and the watch over the sources. What serves is a child, started anew for every change,
so that new code never meets modules of the old one.

The data lies beside langgraph.json, in `.threadmill/`: one project, one database, gone
with the folder. A file in it keeps it out of version control.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from pydantic import SecretStr

from threadmill.cli.console import paint, say
from threadmill.cli.options import DEFAULT_CONFIG, Config, Host, Port, Slots

if TYPE_CHECKING:
    from threadmill.cli.project import Project

_log = structlog.get_logger(__name__)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of the embedded PostgreSQL.  [default: .threadmill/pg beside"
        " langgraph.json]",
        show_default=False,
    ),
]
NoReload = Annotated[
    bool,
    typer.Option("--no-reload", help="Serve from this process; ignore changes."),
]


def dev(
    config: Config = DEFAULT_CONFIG,
    host: Host = "127.0.0.1",
    port: Port = 2024,
    data_dir: DataDir = None,
    slots: Slots = None,
    no_reload: NoReload = False,
) -> None:
    """Serve and run the graphs here, with an embedded PostgreSQL, and follow changes.

    Needs nothing installed: without DATABASE_URI it starts a PostgreSQL of its own,
    which ends with it. The schema is created and upgraded by itself. A change of a
    `*.py`, `.env` or langgraph.json restarts what serves.
    """
    from threadmill.cli.database import await_database, upgrade_database
    from threadmill.cli.project import open_project
    from threadmill.server.process import listen, url_of

    project = open_project(config, slots=slots, runs_graphs=no_reload)
    listener = listen(host, port)
    _warn_of_auth(project)
    with _database(project, data_dir) as (project, data):
        upgrade_database(project.settings)
        await_database(project.settings)
        url = url_of(listener, project.settings.mount_prefix)
        banner = _Banner(url, data, reloads=not no_reload)
        if no_reload:
            from threadmill.cli.dev_child import serve_and_work

            code = serve_and_work(project, listener, on_ready=banner.show)
        else:
            from threadmill.cli.dev_supervisor import Child, supervise

            child = Child(project, slots, listener, on_ready=banner.show)
            code = supervise(project.config, child, ignored=data)
    raise typer.Exit(code)


def _warn_of_auth(project: Project) -> None:
    if "auth" in project.config.unused_keys:
        _log.error(
            "auth.not_carried_out",
            problem="langgraph.json sets 'auth', which this version does not carry out:"
            " EVERY REQUEST IS SERVED UNAUTHENTICATED",
            remedy="listen on 127.0.0.1 only; `threadmill serve` refuses this file",
        )


@contextmanager
def _database(
    project: Project, data_dir: Path | None
) -> Iterator[tuple[Project, Path | None]]:
    """The project with a database, and where the embedded one's data is."""
    if project.settings.database_uri is not None:
        yield project, None
        return
    from threadmill.drivers.embedded import EmbeddedPostgres

    folder = data_dir or _own_folder(project.config.root)
    say(f"starting the embedded PostgreSQL in {folder}")
    with EmbeddedPostgres(folder) as server:
        settings = project.settings.model_copy(
            update={"database_uri": SecretStr(server.uri)}
        )
        yield replace(project, settings=settings), server.data_dir


def _own_folder(root: Path) -> Path:
    """`.threadmill/pg` of the project; the rest of the project never sees it."""
    own = root / ".threadmill"
    # A folder that cannot be written is told by whoever starts the server in it.
    with suppress(OSError):
        own.mkdir(exist_ok=True)
        (own / ".gitignore").write_text("*\n")
    return own / "pg"


class _Banner:
    """Says where everything is when it is there for the first time."""

    def __init__(self, url: str, data: Path | None, *, reloads: bool) -> None:
        self._data = data
        self._url = url
        self._reloads = reloads
        self._shown = False

    def show(self, news: Mapping[str, Any]) -> None:
        """Called for every process that becomes ready."""
        if self._shown:
            return
        self._shown = True
        say("\n".join(self._lines(news)))

    def _lines(self, news: Mapping[str, Any]) -> Iterator[str]:
        graphs = ", ".join(news["graphs"]) or "none"
        yield ""
        yield f"  {paint('API', 'green')}     {self._url}"
        yield f"  {paint('docs', 'green')}    {self._url}/docs"
        yield f"  {paint('graphs', 'green')}  {graphs}"
        if news["failed"]:
            names = ", ".join(news["failed"])
            yield f"          {paint('do not load: ' + names, 'red')} (see the log)"
        if self._data is not None:
            yield f"  {paint('data', 'green')}    {self._data}"
        if news["graphs"]:
            body = {"assistant_id": news["graphs"][0], "input": news["example"]}
            yield ""
            yield "  try it:"
            yield f"    curl -s {self._url}/runs/wait \\"
            yield "      -H 'Content-Type: application/json' \\"
            yield f"      -d '{json.dumps(body)}'"
        yield ""
        changes = "changed sources restart it; " if self._reloads else ""
        yield f"  {changes}Ctrl-C ends it, a second one at once"
        yield ""
