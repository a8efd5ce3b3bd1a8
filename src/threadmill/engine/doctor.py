"""Use-case: judge whether a set-up works, before it is found out in production.

Each rule is a pure function from facts to findings; a finding that is not good says how
to mend it. Gathering the facts is the ports' business.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from threadmill.domain.supported import POSTGRES_MAX, POSTGRES_MIN
from threadmill.stores.inspection import APP_ROLE, DISPATCHER_ROLE

if TYPE_CHECKING:
    from threadmill.engine.graphs import GraphCatalogue
    from threadmill.stores.inspection import (
        RoleFacts,
        SchemaFacts,
        ServerFacts,
        TableFacts,
    )

# As in pyproject.toml: from the first up to, but not with, the second.
LANGGRAPH_RANGE: Final = ((1, 2, 16), (1, 3))

_SKEW_SECONDS: Final = 1.0
# One each for hints and for renewing leases, two for nodes that block.
_SESSIONS_BESIDE_POOL: Final = 4
_PROCESSES_MIN: Final = 3


class Verdict(StrEnum):
    """What a finding means for the exit code: only `failed` is wrong."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor.

    Args:
        check: what was looked at.
        verdict: how it is.
        detail: what was found.
        remedy: how to mend it.
    """

    check: str
    verdict: Verdict
    detail: str
    remedy: str | None = None


def good(check: str, detail: str) -> Finding:
    """It is as it should be."""
    return Finding(check, Verdict.OK, detail)


def doubtful(check: str, detail: str, remedy: str) -> Finding:
    """It works, and the operator should know."""
    return Finding(check, Verdict.WARNING, detail, remedy)


def wrong(check: str, detail: str, remedy: str) -> Finding:
    """It must be mended."""
    return Finding(check, Verdict.FAILED, detail, remedy)


def skipped(check: str, because: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, Verdict.SKIPPED, because)


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the settings ask of a database.

    Args:
        pool_max: connections of one process's pool.
        lease_seconds: how long a claim holds.
        prepared: statements are prepared, so sessions must be ours.
    """

    pool_max: int
    lease_seconds: float
    prepared: bool


def judge_server(server: ServerFacts, needs: Needs) -> Iterator[Finding]:
    """The server itself: version, durability, clock, connections."""
    yield _version(server)
    yield _durability(server)
    yield _clock(server, needs)
    yield _connections(server, needs)


def _version(server: ServerFacts) -> Finding:
    major = server.version // 10_000
    detail = f"PostgreSQL {server.version_text}"
    if server.standby:
        return wrong(
            "database",
            f"{detail} is a standby, which refuses writes",
            "let DATABASE_URI lead to the primary (target_session_attrs=read-write)",
        )
    if major < POSTGRES_MIN:
        remedy = f"upgrade to PostgreSQL {POSTGRES_MIN} or newer"
        return wrong("database", f"{detail} is too old", remedy)
    if major > POSTGRES_MAX:
        remedy = f"threadmill is tested on {POSTGRES_MIN} to {POSTGRES_MAX}"
        return doubtful("database", f"{detail} is newer than what is tested", remedy)
    return good("database", detail)


def _durability(server: ServerFacts) -> Finding:
    off = [
        name
        for name, is_off in (
            ("fsync", not server.fsync),
            ("full_page_writes", not server.full_page_writes),
            ("synchronous_commit", server.synchronous_commit == "off"),
        )
        if is_off
    ]
    if off:
        return wrong(
            "durability",
            f"{', '.join(off)} off: what was accepted may be lost in a crash",
            f"set {' and '.join(f'{name} = on' for name in off)} in postgresql.conf",
        )
    detail = f"fsync on, synchronous_commit {server.synchronous_commit}"
    return good("durability", detail)


def _clock(server: ServerFacts, needs: Needs) -> Finding:
    """Leases are the database's time, so a skew confuses people, not Threadmill.

    A large one still means that something is broken, and it shows in every timestamp.
    """
    skew = abs(server.clock_ahead_seconds)
    error = server.clock_error_seconds
    side = "ahead of" if server.clock_ahead_seconds > 0 else "behind"
    detail = f"the database is {skew:.2f} s {side} this machine (± {error:.2f} s)"
    remedy = "synchronise both clocks (chrony, systemd-timesyncd)"
    if skew - error > needs.lease_seconds / 2:
        return wrong("clock", detail, remedy)
    if skew - error > _SKEW_SECONDS:
        return doubtful("clock", detail, remedy)
    return good("clock", detail)


def _connections(server: ServerFacts, needs: Needs) -> Finding:
    each = needs.pool_max + _SESSIONS_BESIDE_POOL
    fit = server.connections // each
    detail = (
        f"{server.connections} for this login, {each} a process at most: room for {fit}"
    )
    remedy = "raise max_connections, lower THREADMILL_POOL_MAX, or use a pooler"
    if fit == 0:
        return wrong("connections", detail, remedy)
    if fit < _PROCESSES_MIN:
        return doubtful("connections", detail, remedy)
    return good("connections", detail)


def judge_route(
    server: ServerFacts, direct: ServerFacts | str | None, needs: Needs
) -> Finding:
    """Whether LISTEN, presence and prepared statements have sessions of their own.

    Args:
        server: behind DATABASE_URI.
        direct: behind DATABASE_URI_DIRECT, or why nothing is; None if it is not set.
        needs: of the settings.
    """
    check = "sessions"
    unprepared = "set THREADMILL_PREPARED_STATEMENTS=false"
    if isinstance(direct, str):
        return wrong(
            check, direct, "mend DATABASE_URI_DIRECT, or unset it without a pooler"
        )
    if direct is not None and direct.identity != server.identity:
        return wrong(
            check,
            "DATABASE_URI_DIRECT leads to another database than DATABASE_URI",
            "let both lead to the same database",
        )
    if direct is not None and direct.pooled:
        return wrong(
            check,
            "DATABASE_URI_DIRECT leads through a pooler",
            "give the address of PostgreSQL itself",
        )
    if server.pooled and server.shared and needs.prepared:
        return wrong(
            check,
            "DATABASE_URI leads through a pooler in transaction mode",
            f"{unprepared}, and DATABASE_URI_DIRECT to PostgreSQL itself",
        )
    if direct is None and not needs.prepared:
        return doubtful(
            check,
            "no session of our own: dead workers are noticed when leases end, "
            "waiters poll",
            "set DATABASE_URI_DIRECT to PostgreSQL itself",
        )
    return good(check, "pooled, with a direct way" if server.pooled else "our own")


def may_read(schema: SchemaFacts) -> bool:
    """Whether the login may look at the schema, if there is one."""
    return not schema.tables or not any(map(_may_not_become, schema.roles))


def _may_not_become(role: RoleFacts) -> bool:
    # Only migrations become the dispatcher; the application's login need not.
    return role.exists and role.name == APP_ROLE and role.refusal is not None


def judge_schema(schema: SchemaFacts, pending: Sequence[str]) -> Iterator[Finding]:
    """Migrations, roles and row-level security.

    Args:
        schema: as found.
        pending: the names of the migrations that it lacks; not used if the login may
            not read (`may_read`).
    """
    if not may_read(schema):
        unread = "the login may not read it"
        yield skipped("schema", unread)
        yield _roles(schema.roles)
        yield skipped("row-level security", unread)
        return
    if pending:
        lacks = f"lacks {', '.join(pending)}"
        yield wrong("schema", lacks, "run `threadmill migrate`")
        for check in ("roles", "row-level security"):
            yield skipped(check, "the schema is not current")
        return
    yield good("schema", "current")
    yield _roles(schema.roles)
    yield _security(schema)


def _roles(roles: Sequence[RoleFacts]) -> Finding:
    check = "roles"
    for role in roles:
        if not role.exists:
            detail = f"role {role.name} does not exist"
            return wrong(check, detail, "run `threadmill migrate`")
        if role.bypasses:
            return wrong(
                check,
                f"role {role.name} passes row-level security by",
                f"ALTER ROLE {role.name} NOSUPERUSER NOBYPASSRLS",
            )
        if _may_not_become(role):
            return wrong(
                check,
                f"the login may not become {role.name} ({role.refusal})",
                f"GRANT {role.name} TO the login of DATABASE_URI",
            )
    return good(check, f"{APP_ROLE} and {DISPATCHER_ROLE}")


def _security(schema: SchemaFacts) -> Finding:
    check = "row-level security"
    if not schema.tables:
        return wrong(check, "no tables of tenants", "run `threadmill migrate`")
    for table in schema.tables:
        if mending := _mending(table):
            return wrong(
                check,
                f"table {table.name} does not keep tenants apart",
                f"ALTER TABLE threadmill.{table.name} {mending}",
            )
    if schema.unreadable is not None:
        return wrong(
            check,
            f"{APP_ROLE} cannot read ({schema.unreadable})",
            "restore the grants and policies of the migrations",
        )
    if schema.leaking:
        return wrong(
            check,
            f"rows without a tenant in sight: {', '.join(schema.leaking)}",
            "restore the policies of the migrations on these tables",
        )
    return good(check, f"forced on {len(schema.tables)} tables, empty without a tenant")


def _mending(table: TableFacts) -> str | None:
    if not table.enabled:
        return "ENABLE ROW LEVEL SECURITY"
    if not table.forced:
        return "FORCE ROW LEVEL SECURITY"
    if not table.scoped:
        return "... : restore the policy `tenant` of the migrations"
    return None


def judge_graphs(graphs: GraphCatalogue, late: Mapping[str, str]) -> Iterator[Finding]:
    """Each graph of langgraph.json.

    Args:
        graphs: as loaded.
        late: why factories that are called on an event loop failed, by graph.
    """
    remedy = "mend it; `threadmill dev` shows the whole traceback"
    failed = {
        failure.graph_id: f"{failure.target} does not load: {failure.cause}"
        for failure in graphs.failures.values()
    }
    for graph in graphs:
        if graph.id not in late:
            yield good(f"graph {graph.id}", f"loads from {graph.target}")
    for graph_id, cause in (failed | dict(late)).items():
        yield wrong(f"graph {graph_id}", cause, remedy)


def judge_broker(told: str | None, *, waiting: int, problem: str | None) -> Finding:
    """The message broker, if there is one.

    Args:
        told: what it says it is; None if none is set.
        waiting: hints that nobody has received, of those for any worker.
        problem: why it does not serve, if it does not.
    """
    check = "broker"
    if problem is not None:
        return wrong(
            check,
            problem,
            "start it, or mend BROKER_URI; meanwhile workers find work by polling",
        )
    if told is None:
        return good(check, "none: PostgreSQL wakes the workers")
    return good(check, f"{told}, {waiting} hints wait")


def judge_chunk_store(*, used: bool, problem: str | None) -> Finding:
    """Where checkpoints keep what they hold.

    Args:
        used: there is a chunk store.
        problem: why it cannot be used, if it cannot.
    """
    check = "checkpoints"
    if problem is not None:
        return wrong(
            check, problem, "mend it, or CHECKPOINT_URI: no run goes on before"
        )
    where = "Redis keeps what they hold" if used else "PostgreSQL keeps them"
    return good(check, where)


def judge_relay(*, used: bool, problem: str | None, lasting: bool) -> Finding:
    """Where copies of event streams are.

    Args:
        used: there is such a place.
        problem: why it does not serve, if it does not.
        lasting: it must be mended, or no process starts.
    """
    check = "streams"
    if problem is None:
        where = "Redis has copies for those who follow" if used else "from PostgreSQL"
        return good(check, where)
    if lasting:
        return wrong(check, problem, "mend it, or STREAM_URI: no process starts before")
    return doubtful(
        check, problem, "start it, or mend STREAM_URI; PostgreSQL is read meanwhile"
    )


def judge_langgraph(version: str, problem: str | None) -> Finding:
    """The installed LangGraph, against what this release is made for.

    Args:
        version: what is installed.
        problem: why the engine's self-test failed, if it did.
    """
    check = "langgraph"
    low, high = LANGGRAPH_RANGE
    wanted = ">={},<{}".format(
        *(".".join(map(str, bound)) for bound in LANGGRAPH_RANGE)
    )
    remedy = f'pip install "langgraph{wanted}"'
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if not low <= numbers < high:
        return wrong(check, f"{version} is not {wanted}", remedy)
    if problem is not None:
        return wrong(check, problem, remedy)
    return good(check, f"{version}, as the engine needs it")
