"""`threadmill serve`: the HTTP interface of a fleet; it runs no graph."""

from __future__ import annotations

import typer

from threadmill.cli.options import DEFAULT_CONFIG, Config, Host, Port


def serve(
    config: Config = DEFAULT_CONFIG, host: Host = "127.0.0.1", port: Port = 8123
) -> None:
    """Serve the HTTP API over the PostgreSQL of DATABASE_URI; workers run the graphs.

    Run as many as you like behind any load balancer. The schema must be current: run
    `threadmill migrate` first. SIGTERM drains.
    """
    from threadmill.cli.database import await_database
    from threadmill.cli.project import load, open_project, refuse_auth
    from threadmill.server.process import listen

    project = open_project(config)
    refuse_auth(project.config)
    listener = listen(host, port)
    await_database(project.settings)
    # Only now what takes seconds to import: a refusal comes at once.
    from threadmill.cli.life import live
    from threadmill.cli.member import Plan, run_member

    graphs = load(project, needed=False)
    plan = Plan(role="server", settings=project.settings, graphs=graphs, api=listener)
    grace_seconds = project.settings.drain_grace_seconds
    raise typer.Exit(
        live(lambda stop: run_member(plan, stop), grace_seconds=grace_seconds)
    )
