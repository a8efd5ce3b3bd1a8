"""`threadmill worker`: runs graphs; it has no interface but its health."""

from __future__ import annotations

from typing import Annotated

import typer

from threadmill.cli.options import DEFAULT_CONFIG, Config, Slots
from threadmill.domain import labels as rules

Labels = Annotated[
    str,
    typer.Option(
        "--labels",
        help="What this worker offers, comma-separated: gpu,region:eu.",
        show_default=False,
    ),
]
HealthPort = Annotated[
    int | None,
    typer.Option(
        "--health-port",
        min=0,
        max=65535,
        help="Answer GET /ok and /metrics on this port.",
        show_default=False,
    ),
]
HealthHost = Annotated[
    str, typer.Option("--health-host", help="Address of the health port.")
]


def worker(
    config: Config = DEFAULT_CONFIG,
    slots: Slots = None,
    labels: Labels = "",
    health_port: HealthPort = None,
    health_host: HealthHost = "127.0.0.1",
) -> None:
    """Run the graphs of langgraph.json for the fleet over DATABASE_URI.

    Run as many as you like: each takes what it has free slots and loaded graphs for.
    The schema must be current: run `threadmill migrate` first. SIGTERM drains: nodes
    finish, and what is left goes to other workers.
    """
    from threadmill.cli.database import await_database
    from threadmill.cli.project import load, open_project, require_slots
    from threadmill.server.process import listen

    offered = rules.labels(
        [label.strip() for label in labels.split(",") if label.strip()], "--labels"
    )
    project = open_project(config, slots=slots)
    require_slots(project.settings)
    health = None
    if health_port is not None:
        health = listen(health_host, health_port, option="--health-port")
    await_database(project.settings)
    # Only now what takes seconds to import: a refusal comes at once.
    from threadmill.cli.life import live
    from threadmill.cli.member import Plan, run_member

    plan = Plan(
        role="worker",
        settings=project.settings,
        graphs=load(project, needed=True),
        labels=offered,
        health=health,
    )
    grace_seconds = project.settings.drain_grace_seconds
    raise typer.Exit(
        live(lambda stop: run_member(plan, stop), grace_seconds=grace_seconds)
    )
