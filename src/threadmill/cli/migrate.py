"""`threadmill migrate`: creates or upgrades the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from threadmill.cli.console import paint, say
from threadmill.cli.options import DEFAULT_CONFIG, Config, Tenant
from threadmill.domain.tenant import DEFAULT_TENANT

if TYPE_CHECKING:
    from threadmill.checkpoints.repack import Repacked
    from threadmill.settings import Settings

Repack = Annotated[
    bool,
    typer.Option("--repack", help="Then rewrite old checkpoints, to take less room."),
]

_MEBIBYTE = 1024 * 1024


def migrate(
    repack: Repack = False,
    tenant: Tenant = DEFAULT_TENANT,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Create or upgrade the schema in the database of DATABASE_URI.

    Safe when several run at once, and when the schema is current. The login needs
    CREATEROLE and CREATE on the database. langgraph.json is read for its `env` only,
    and may be missing.

    With --repack, checkpoints of the first format are rewritten in the present one, a
    page at a time, while servers and workers go on. It may be stopped and called again.
    """
    from threadmill.cli.database import upgrade_database
    from threadmill.cli.project import settings_near
    from threadmill.drivers.postgres.configured import database_uri
    from threadmill.drivers.postgres.reach import address

    settings = settings_near(config)
    where = address(database_uri(settings))
    say(f"migrating the database at {where}")
    applied = upgrade_database(settings)
    for name in applied:
        say(f"  {paint('applied', 'green')} {name}")
    if repack:
        _repack(settings, tenant)
    say("done" if applied else "up to date")


def _repack(settings: Settings, tenant: str) -> None:
    from threadmill.cli.database import repack_database

    def tell(done: Repacked) -> None:
        say(
            f"  {paint('repacked', 'green')} {done.checkpoints} checkpoints:"
            f" {done.bytes_before / _MEBIBYTE:.1f} MiB"
            f" became {done.bytes_after / _MEBIBYTE:.1f} MiB"
        )

    repack_database(settings, tenant, tell)
