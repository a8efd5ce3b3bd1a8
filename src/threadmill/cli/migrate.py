"""`threadmill migrate`: creates or upgrades the schema."""

from __future__ import annotations

from threadmill.cli.console import paint, say
from threadmill.cli.options import DEFAULT_CONFIG, Config


def migrate(config: Config = DEFAULT_CONFIG) -> None:
    """Create or upgrade the schema in the database of DATABASE_URI.

    Safe when several run at once, and when the schema is current. The login needs
    CREATEROLE and CREATE on the database. langgraph.json is read for its `env` only,
    and may be missing.
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
    say("done" if applied else "up to date")
