"""Every setting of Threadmill: one frozen value, checked once at start.

Why: a process that starts with a misread setting fails later, far from the cause.
So each value is typed, bounded and checked together with the others before anything
else happens, and a wrong one is named by its environment variable.

Promises:

* `Settings.from_env` either returns a complete value or raises one `BadSetting` that
  lists every wrong variable, one line each.
* No message, `repr` or traceback of this module shows a database URI.
* A misspelt ``THREADMILL_*`` name is reported with the closest known one.

It reads nothing by itself: `Settings()` is the defaults, whatever the environment
holds. Durations end in `_seconds`, sizes in `_bytes_max`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal, Self

import structlog
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from threadmill.environment import (
    Env,
    SettingDescription,
    Source,
    broker_problem,
    explain,
    is_misread,
    number_text,
    read,
    warnings,
)
from threadmill.environment import describe as describe_fields
from threadmill.errors import BadSetting

Dispatch = Literal["burst", "node"]
CheckpointFormat = Literal["chunks", "whole"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def _split(value: object) -> object:
    """Splits a comma-separated variable; other values pass through."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


# PostgreSQL and the kernel take these in whole milliseconds, in 31 bits, and read 0
# as "no limit".
_Seconds = Annotated[float, Field(ge=0.001, le=2_147_483, allow_inf_nan=False)]
# Ten years: instants that are so far away still fit everywhere.
_LONG_SECONDS_MAX = 315_360_000
_LongSeconds = Annotated[
    float, Field(ge=0.001, le=_LONG_SECONDS_MAX, allow_inf_nan=False)
]
_COUNT_MAX = 1_000_000
_Count = Annotated[int, Field(ge=1, le=_COUNT_MAX)]
#: A thread or a session for each.
SLOTS_MAX = 10_000
_POOL_MAX = 10_000
# PostgreSQL stores less than 1 GiB in one value.
_Bytes = Annotated[int, Field(ge=1, le=2**30 - 1)]


class Settings(BaseSettings):
    """The settings of one process; `docs/reference/settings.md` lists them."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    database_uri: Annotated[
        SecretStr | None, Env("DATABASE_URI", alias="POSTGRES_URI")
    ] = None
    """The PostgreSQL server, as `postgresql://user@host:port/name`. Without it `dev`
    starts its own; `serve` and `worker` refuse to start.
    """

    database_uri_direct: Annotated[SecretStr | None, Env("DATABASE_URI_DIRECT")] = None
    """The same database without a pooler in between: LISTEN and presence need it
    behind PgBouncer in transaction mode.
    """

    broker_uri: Annotated[SecretStr | None, Env("BROKER_URI")] = None
    """The message broker that wakes workers, as `amqp://`, `redis://`, `nats://` or
    `sqs://region/queue`. Without it PostgreSQL wakes them, all of them each time.
    """

    checkpoint_uri: Annotated[SecretStr | None, Env("CHECKPOINT_URI")] = None
    """A Redis or Valkey that keeps what checkpoints hold, as `redis://`,
    `redis+sentinel://` or `redis+cluster://` (`rediss` for TLS). Without it PostgreSQL
    keeps that, too.
    """

    checkpoint_volatile: Annotated[bool, Env("THREADMILL_CHECKPOINT_VOLATILE")] = False
    """Use that Redis even if it keeps nothing over a restart: every thread is then lost
    with it.
    """

    checkpoint_archive: Annotated[bool, Env("THREADMILL_CHECKPOINT_ARCHIVE")] = False
    """Copy what that Redis keeps to PostgreSQL within seconds, and take it from there
    when Redis has lost it.
    """

    stream_uri: Annotated[SecretStr | None, Env("STREAM_URI")] = None
    """A Redis or Valkey through which events reach those who follow a run, in the same
    forms. Without it they read PostgreSQL, which has the log in any case.
    """

    dispatch: Annotated[Dispatch, Env("THREADMILL_DISPATCH")] = "burst"
    """`burst`: a worker carries on with a run while nobody waits. `node`: every
    superstep may go to another worker. Both commit the same checkpoints.
    """

    slots: Annotated[
        int,
        Env("THREADMILL_SLOTS", alias="N_JOBS_PER_WORKER"),
        Field(ge=0, le=SLOTS_MAX),
    ] = 10
    """Activations a worker runs at once; 0 runs none (API only). One activation may run
    several tasks of a superstep.
    """

    tasks_max: Annotated[int, Env("THREADMILL_TASKS_MAX"), Field(ge=1, le=100_000)] = (
        200
    )
    """Tasks of one superstep that a worker runs at once."""

    lease_seconds: Annotated[_Seconds, Env("THREADMILL_LEASE_SECONDS")] = 10
    """How long a claim holds without renewal; the longest time a hung worker can delay
    a run.
    """

    renew_seconds: Annotated[_Seconds, Env("THREADMILL_RENEW_SECONDS")] = 3
    """How often leases are renewed; under half the lease."""

    sweep_seconds: Annotated[_Seconds, Env("THREADMILL_SWEEP_SECONDS")] = 1
    """How often each process looks for work that was left behind."""

    presence_seconds: Annotated[_Seconds, Env("THREADMILL_PRESENCE_SECONDS")] = 0.2
    """How often the presence of the other workers is looked at."""

    poll_seconds: Annotated[_Seconds, Env("THREADMILL_POLL_SECONDS")] = 2
    """The longest time between two looks of a waiter that gets no hint."""

    slice_seconds: Annotated[_Seconds, Env("THREADMILL_SLICE_SECONDS")] = 5
    """How long a burst may hold its slot before it lets others in."""

    attempts_max: Annotated[_Count, Env("THREADMILL_ATTEMPTS_MAX")] = 5
    """Attempts lost to crashes before a run becomes a dead letter."""

    run_timeout_seconds: Annotated[_LongSeconds, Env("BG_JOB_TIMEOUT_SECS")] = 86_400
    """The longest a run may take before it ends as `timeout`."""

    drain_grace_seconds: Annotated[
        float,
        Env("BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS"),
        Field(ge=0, le=_LONG_SECONDS_MAX, allow_inf_nan=False),
    ] = 180
    """Within this a draining process exits. Nodes may finish until 5 s before its end
    (or a quarter of it, if that is less); then it hands back what is left.
    """

    stream_ttl_seconds: Annotated[_LongSeconds, Env("RESUMABLE_STREAM_TTL_SECONDS")] = (
        120
    )
    """How long the events of a finished run can be replayed."""

    idempotency_ttl_seconds: Annotated[
        _LongSeconds, Env("THREADMILL_IDEMPOTENCY_TTL_SECONDS")
    ] = 86_400
    """How long an `Idempotency-Key` is remembered."""

    stateless_ttl_seconds: Annotated[
        _LongSeconds, Env("THREADMILL_STATELESS_TTL_SECONDS")
    ] = 120
    """How long a stateless run's answer stays readable."""

    payload_bytes_max: Annotated[
        _Bytes, Env("THREADMILL_PAYLOAD_BYTES_MAX", alias="HTTP_MAX_REQUEST_BODY_BYTES")
    ] = 32 * 1024 * 1024
    """The largest HTTP request body; a larger one gets 413."""

    response_bytes_max: Annotated[_Bytes, Env("THREADMILL_RESPONSE_BYTES_MAX")] = (
        128 * 1024 * 1024
    )
    """The largest answer to who lists threads, runs, assistants or states; who asks for
    more gets 422. A single item is never refused.
    """

    request_seconds: Annotated[_Seconds, Env("THREADMILL_REQUEST_SECONDS")] = 60
    """The longest that the head of a request may take, and that its body may pause (all
    of it may take ten times that); then it gets 408. A client that takes nothing of its
    answer for so long is cut off.
    """

    state_bytes_max: Annotated[_Bytes, Env("THREADMILL_STATE_BYTES_MAX")] = (
        64 * 1024 * 1024
    )
    """The largest checkpoint; a larger one fails its run."""

    checkpoint_format: Annotated[
        CheckpointFormat, Env("THREADMILL_CHECKPOINT_FORMAT")
    ] = "chunks"
    """How checkpoints are written. `chunks`: they share what they have in common.
    `whole`: each by itself, for as long as processes of a version that can read nothing
    else are running. Both are read.
    """

    queue_per_thread_max: Annotated[_Count, Env("THREADMILL_QUEUE_PER_THREAD_MAX")] = (
        1000
    )
    """Runs that may wait on one thread; the next one gets 429."""

    pool_min: Annotated[int, Env("THREADMILL_POOL_MIN"), Field(ge=0, le=_POOL_MAX)] = 1
    """Database connections a process keeps open."""

    pool_max: Annotated[int, Env("THREADMILL_POOL_MAX"), Field(ge=1, le=_POOL_MAX)] = 10
    """Database connections a process opens at most."""

    pool_timeout_seconds: Annotated[
        _Seconds, Env("THREADMILL_POOL_TIMEOUT_SECONDS")
    ] = 5
    """How long to wait for a free connection of the pool."""

    statement_timeout_seconds: Annotated[
        _Seconds, Env("THREADMILL_STATEMENT_TIMEOUT_SECONDS")
    ] = 30
    """The longest one SQL statement may take."""

    lock_timeout_seconds: Annotated[
        _Seconds, Env("THREADMILL_LOCK_TIMEOUT_SECONDS")
    ] = 5
    """The longest a statement waits for another one's lock."""

    idle_in_transaction_seconds: Annotated[
        _Seconds, Env("THREADMILL_IDLE_IN_TRANSACTION_SECONDS")
    ] = 5
    """When the database ends a transaction whose process is frozen."""

    connect_timeout_seconds: Annotated[
        _Seconds, Env("THREADMILL_CONNECT_TIMEOUT_SECONDS")
    ] = 5
    """The longest a new database connection may take."""

    tcp_user_timeout_seconds: Annotated[
        _Seconds, Env("THREADMILL_TCP_USER_TIMEOUT_SECONDS")
    ] = 4
    """When a silent network counts as cut. The server cuts a client that it cannot
    reach after `THREADMILL_LEASE_SECONDS`.
    """

    prepared_statements: Annotated[bool, Env("THREADMILL_PREPARED_STATEMENTS")] = True
    """Prepare statements on the database; `false` behind PgBouncer in transaction
    mode.
    """

    token_flush_seconds: Annotated[_Seconds, Env("THREADMILL_TOKEN_FLUSH_SECONDS")] = (
        0.03
    )
    """How long message tokens are gathered before they commit."""

    keepalive_seconds: Annotated[_Seconds, Env("THREADMILL_KEEPALIVE_SECONDS")] = 5
    """The heartbeat of silent streams and waiting answers."""

    log_json: Annotated[bool | None, Env("LOG_JSON")] = None
    """Logs as JSON lines; unset: yes, except on a terminal."""

    log_level: Annotated[LogLevel, BeforeValidator(_upper), Env("LOG_LEVEL")] = "INFO"
    """The least severe log line that is written."""

    recursion_limit: Annotated[_Count, Env("LANGGRAPH_DEFAULT_RECURSION_LIMIT")] = (
        10_011
    )
    """Supersteps a run may take when its config sets no `recursion_limit`."""

    recursion_limit_max: Annotated[_Count, Env("THREADMILL_RECURSION_LIMIT_MAX")] = (
        100_000
    )
    """The largest `recursion_limit` that a run's config may set; a larger one gets
    422.
    """

    cors_allow_origins: Annotated[
        tuple[str, ...],
        BeforeValidator(_split),
        Env("CORS_ALLOW_ORIGINS"),
        Field(min_length=1),
    ] = ("*",)
    """Origins whose pages may call, comma-separated; `*` is all. Requests of other
    pages that would change something get 403.
    """

    mount_prefix: Annotated[str, Env("MOUNT_PREFIX")] = ""
    """The path under which all routes are served: `/api`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Reads arguments only; `from_env` is the one way to the environment."""
        return (init_settings,)

    @field_validator("database_uri", "database_uri_direct")
    @classmethod
    def _is_postgres(cls, uri: SecretStr | None) -> SecretStr | None:
        if uri is None:
            return uri
        if not uri.get_secret_value().startswith(("postgresql://", "postgres://")):
            msg = "it must begin with postgresql:// (a driver suffix is not understood)"
            raise ValueError(msg)
        if is_misread(uri.get_secret_value()):
            msg = (
                "it cannot be told where the host begins; percent-encode the user and"
                " the password (@ as %40, / as %2F, : as %3A)"
            )
            raise ValueError(msg)
        return uri

    @field_validator("broker_uri")
    @classmethod
    def _is_broker(cls, uri: SecretStr | None) -> SecretStr | None:
        if uri is not None and (problem := broker_problem(uri.get_secret_value())):
            raise ValueError(problem)
        return uri

    @field_validator("cors_allow_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            scheme, separator, rest = origin.partition("://")
            if origin != "*" and not (
                scheme and separator and rest and "/" not in rest
            ):
                msg = (
                    f"{origin!r} is no origin; write scheme and host without a path,"
                    " such as https://app.example.com, or *"
                )
                raise ValueError(msg)
        return origins

    @field_validator("mount_prefix")
    @classmethod
    def _is_path(cls, prefix: str) -> str:
        prefix = prefix.rstrip("/")
        if prefix and not prefix.startswith("/"):
            msg = f"it must begin with a slash; write /{prefix}"
            raise ValueError(msg)
        return prefix

    @model_validator(mode="after")
    def _agree(self) -> Self:
        """Checks what single fields cannot: how settings fit together."""
        problems = []
        if self.renew_seconds >= self.lease_seconds / 2:
            renew, lease = map(number_text, (self.renew_seconds, self.lease_seconds))
            problems.append(
                f"THREADMILL_RENEW_SECONDS={renew}: it must be less than half of"
                f" THREADMILL_LEASE_SECONDS ({lease}), or one late renewal loses the"
                " lease"
            )
        if self.pool_min > self.pool_max:
            problems.append(
                f"THREADMILL_POOL_MIN={self.pool_min}: it must not be more than"
                f" THREADMILL_POOL_MAX ({self.pool_max})"
            )
        if self.checkpoint_archive and self.checkpoint_uri is None:
            problems.append(
                "THREADMILL_CHECKPOINT_ARCHIVE=true: without CHECKPOINT_URI there is"
                " nothing to archive"
            )
        if self.checkpoint_uri is not None and self.checkpoint_format == "whole":
            problems.append(
                "THREADMILL_CHECKPOINT_FORMAT=whole: processes that can read nothing"
                " else do not know CHECKPOINT_URI either; set one of the two"
            )
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def from_env(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        fallback: Mapping[str, str] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Self:
        """Reads the settings from `environ`, and from `fallback` what is unset there.

        An empty value counts as unset. A name of `environ` wins over every alias of
        it in `fallback`.

        Args:
            environ: the real environment; the process's own when None.
            fallback: the `env` of langgraph.json (`LangGraphConfig.env`).
            warn: takes one line per misspelt or doubly set name; logs it when None.

        Raises:
            BadSetting: one or more values are wrong; one line for each.
        """
        sources = (
            Source(os.environ if environ is None else environ),
            Source(fallback or {}, " in the env of langgraph.json"),
        )
        warn = warn or structlog.get_logger(__name__).warning
        for source in sources:
            for line in warnings(cls.model_fields, source):
                warn(line)
        found = read(cls.model_fields, sources)
        try:
            return cls.model_validate({f: raw.value for f, raw in found.items()})
        except ValidationError as error:
            problems = explain(error, cls.model_fields, found)
        # Outside the except block: the vendor's error holds the values, secrets too.
        count = len(problems)
        head = "" if count == 1 else f"{count} settings are wrong:\n  "
        raise BadSetting(head + "\n  ".join(problems))


def describe() -> Iterator[SettingDescription]:
    """Yields every setting in the order of the reference page."""
    yield from describe_fields(Settings.model_fields)
