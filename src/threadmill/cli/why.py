"""`threadmill why`: what keeps a run from moving."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from threadmill.cli.console import say, say_json
from threadmill.cli.options import (
    DEFAULT_CONFIG,
    AsJson,
    Config,
    Tenant,
)
from threadmill.domain.tenant import DEFAULT_TENANT
from threadmill.logs import redact

RunId = Annotated[UUID, typer.Argument(metavar="RUN_ID", help="The run.")]


def why(
    run_id: RunId,
    tenant: Tenant = DEFAULT_TENANT,
    as_json: AsJson = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Say why a run is not moving, in one sentence.

    Asks the database of DATABASE_URI, so it works when no server does. Changes nothing.
    """
    from threadmill.cli.database import operate
    from threadmill.cli.project import settings_near

    settings = settings_near(config)
    found = operate(settings, lambda operations: operations.explain(tenant, run_id))
    if as_json:
        say_json(found.as_json())
    else:
        say(redact(f"{found.status}: {found.answer.sentence}"))
