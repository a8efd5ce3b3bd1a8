"""`threadmill workers`: who is there, and asking one of them to go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import typer

from threadmill.cli.console import say, say_json, say_table
from threadmill.cli.options import DEFAULT_CONFIG, AsJson, Config
from threadmill.errors import Conflict, NotFound, Unavailable

if TYPE_CHECKING:
    from threadmill.operations import Operations
    from threadmill.stores.operations import MemberState

# On top of the grace: until the process learns of it, and until it is seen gone.
_MARGIN_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.25

Which = Annotated[str, typer.Argument(metavar="PROCESS", help="Its id or name.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Return when the process has ended.")
]


def workers_list(as_json: AsJson = False, config: Config = DEFAULT_CONFIG) -> None:
    """List the processes of the fleet.

    Servers too: all of them can drain. SLOTS shows how many are taken, by
    runs of all tenants; SILENT is how long ago a process was last seen.
    """
    from threadmill.cli.database import operate
    from threadmill.cli.project import settings_near

    found = operate(settings_near(config), lambda operations: operations.fleet.list())
    if as_json:
        say_json([member.as_json() for member in found])
        return
    say_table(
        (
            "ID",
            "NAME",
            "ROLE",
            "VERSION",
            "SLOTS",
            "SILENT",
            "STATE",
            "LABELS",
            "GRAPHS",
        ),
        [_row(member) for member in found],
    )


def workers_drain(
    which: Which,
    wait: Wait = False,
    as_json: AsJson = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Ask a process to drain, as SIGTERM does.

    It learns of it when it next renews its leases, within seconds: it claims no more,
    hands over at the next superstep, and exits within its grace period.
    """
    from threadmill.cli.database import operate
    from threadmill.cli.project import settings_near

    settings = settings_near(config)
    seconds = settings.drain_grace_seconds + _MARGIN_SECONDS

    async def drain(operations: Operations) -> MemberState:
        asked = _find(await operations.fleet.list(), which)
        asked = await operations.fleet.drain(asked.worker_id)
        if wait:
            await _until_gone(operations, asked, seconds)
        return asked

    asked = operate(settings, drain)
    if as_json:
        say_json(asked.as_json())
    else:
        say(f"{asked.name} {'has ended' if wait else 'will drain'}")


def _row(member: MemberState) -> Sequence[str]:
    return (
        str(member.worker_id),
        member.name,
        member.role,
        member.version,
        f"{member.taken}/{member.slots}",
        f"{member.silent_seconds:.0f} s",
        "draining" if member.draining else "up",
        ",".join(member.labels) or "-",
        ",".join(member.graphs) or "-",
    )


def _find(members: Sequence[MemberState], which: str) -> MemberState:
    """The member of that id or name.

    Raises:
        NotFound: there is none. Conflict: several have the name.
    """
    found = [m for m in members if which in (str(m.worker_id), m.name)]
    if not found:
        msg = f"no process is called {which}; see `threadmill workers list`"
        raise NotFound(msg)
    if len(found) > 1:
        ids = ", ".join(str(member.worker_id) for member in found)
        msg = f"several processes are called {which}; name one by its id: {ids}"
        raise Conflict(msg)
    return found[0]


async def _until_gone(
    operations: Operations, asked: MemberState, seconds: float
) -> None:
    """Returns when the member is off the list: the last thing that it does.

    Raises:
        Unavailable: it is still there after `seconds`.
    """
    give_up_at = time.monotonic() + seconds
    while time.monotonic() < give_up_at:
        if asked.worker_id not in _ids(await operations.fleet.list()):
            return
        await asyncio.sleep(_LOOK_SECONDS)
    msg = (
        f"{asked.name} is still there after {seconds:.0f} s; it was asked to drain, "
        "and its own BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS may be longer"
    )
    raise Unavailable(msg)


def _ids(members: Sequence[MemberState]) -> set[UUID]:
    return {member.worker_id for member in members}
