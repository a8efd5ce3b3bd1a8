"""`threadmill prune` and `threadmill retention`: what is kept, and for how long."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from threadmill.cli.console import say, say_json
from threadmill.cli.options import (
    DEFAULT_CONFIG,
    AsJson,
    Config,
    Tenant,
)
from threadmill.domain.tenant import DEFAULT_TENANT

if TYPE_CHECKING:
    from threadmill.domain.retention import Ttl
    from threadmill.stores.retention import Freed

_MEBIBYTE: Final = 1024 * 1024
_MINUTES_PER_DAY: Final = 1440
_UNITS: Final = {"m": 1, "h": 60, "d": _MINUTES_PER_DAY, "w": 7 * _MINUTES_PER_DAY}
_AGE: Final = re.compile(r"(\d{1,6})([mhdw])")

OlderThan = Annotated[
    str | None,
    typer.Option(
        "--older-than",
        help="Only threads without a change for so long: 90m, 12h, 30d, 4w.",
        show_default=False,
    ),
]
GraphId = Annotated[
    str | None,
    typer.Option("--graph", help="Only threads of this graph.", show_default=False),
]
Every = Annotated[bool, typer.Option("--all", help="Every thread at rest.")]
KeepLatest = Annotated[
    bool | None,
    typer.Option(
        "--keep-latest/--delete",
        help="Leave the present state of each, or nothing of it.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what would be freed.")
]
Days = Annotated[
    float | None,
    typer.Option(
        "--days",
        help="Days without a change after which a thread's time is over.",
        show_default=False,
    ),
]
StrategyName = Annotated[
    Literal["keep_latest", "delete", "clear"],
    typer.Option("--strategy", help="What is left then; clear takes the rule away."),
]


def prune(
    older_than: OlderThan = None,
    graph: GraphId = None,
    every: Every = False,
    keep_latest: KeepLatest = None,
    dry_run: DryRun = False,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: AsJson = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Delete threads, or all but their present state, and say what that frees.

    Threads with an open run are left alone, and with --keep-latest those that wait
    for a human. It works a page at a time while servers and workers go on, and may be
    stopped and called again.
    """
    from threadmill.cli.database import prune_database
    from threadmill.cli.project import settings_near
    from threadmill.domain.retention import Strategy
    from threadmill.engine.prune import PruneOrder

    if keep_latest is None:
        raise typer.BadParameter("say --keep-latest or --delete")
    if every == bool(older_than or graph):
        raise typer.BadParameter("say --older-than, --graph or both; or --all")
    order = PruneOrder(
        strategy=Strategy.KEEP_LATEST if keep_latest else Strategy.DELETE,
        idle_minutes=_minutes(older_than),
        graph_id=graph,
        dry_run=dry_run,
    )
    verb = "would free" if dry_run else "freed"
    last: list[Freed] = []

    def tell(freed: Freed) -> None:
        last[:] = [freed]
        if not as_json:
            say(
                f"{verb} {freed.checkpoints} checkpoints of {freed.threads} threads:"
                f" {freed.bytes / _MEBIBYTE:.1f} MiB"
            )

    prune_database(settings_near(config), tenant, order, tell)
    if as_json:
        (freed,) = last
        say_json(freed.as_json(dry_run=dry_run))


def retention_set(
    strategy: StrategyName,
    days: Days = None,
    tenant: Tenant = DEFAULT_TENANT,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Say how long a tenant's threads are kept, where nothing nearer says it.

    It holds within the interval of a round; nothing is restarted.
    """
    from threadmill.cli.database import operate
    from threadmill.cli.project import settings_near

    ttl = _rule(strategy, days)
    operate(
        settings_near(config),
        lambda operations: operations.retention.set_rule(tenant, ttl),
    )
    say(_sentence(tenant, ttl))


def retention_show(
    tenant: Tenant = DEFAULT_TENANT,
    as_json: AsJson = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Show how long a tenant's threads are kept, where nothing nearer says it."""
    from threadmill.cli.database import operate
    from threadmill.cli.project import settings_near

    found = operate(
        settings_near(config), lambda operations: operations.retention.rule(tenant)
    )
    if as_json:
        rule = (
            None
            if found is None
            else {"strategy": found.strategy.value, "ttl_minutes": found.minutes}
        )
        say_json({"tenant": tenant, "rule": rule})
    else:
        say(_sentence(tenant, found))


def _rule(strategy: str, days: float | None) -> Ttl | None:
    from threadmill.domain.retention import Strategy, Ttl, asked_ttl
    from threadmill.errors import InvalidRequest

    if strategy == "clear":
        if days is not None:
            raise typer.BadParameter("--days goes with keep_latest and delete")
        return None
    if days is None:
        raise typer.BadParameter("say --days")
    try:
        asked_ttl(days * _MINUTES_PER_DAY)
    except InvalidRequest:
        raise typer.BadParameter("--days must be more than 0, at most 3650") from None
    return Ttl(days * _MINUTES_PER_DAY, Strategy(strategy))


def _sentence(tenant: str, ttl: Ttl | None) -> str:
    if ttl is None or ttl.minutes is None:
        return f"{tenant}: no rule; graphs and langgraph.json say how long"
    what = {"delete": "deleted", "keep_latest": "reduced to their present state"}
    days = f"{ttl.minutes / _MINUTES_PER_DAY:g}"
    return f"{tenant}: threads are {what[ttl.strategy]} {days} days after a change"


def _minutes(age: str | None) -> float:
    if age is None:
        return 0.0
    found = _AGE.fullmatch(age)
    if found is None:
        raise typer.BadParameter("--older-than is a number with m, h, d or w: 30d")
    return int(found[1]) * _UNITS[found[2]]
