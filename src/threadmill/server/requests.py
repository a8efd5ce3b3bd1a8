"""What clients may send, checked before anything else looks at it.

Unknown fields are ignored, as LangGraph's server does: clients of many ages send what
they like. Known fields that this version does not carry out are refused by name where
ignoring them would be a silent loss.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from threadmill.engine.states import Position
from threadmill.engine.submit import check_stream_modes
from threadmill.errors import InvalidRequest
from threadmill.server.errors import readable
from threadmill.stores.base import METADATA_BYTES_MAX, METADATA_KEYS_MAX

M = TypeVar("M", bound=BaseModel)

PAGE_MAX: Final = 1000
# Answers wrap what was sent a few times, and JSON is written to a depth of 254.
DEPTH_MAX: Final = 200
_KEY_MAX: Final = 255
# A NUL character as JSON says it: an even number of backslashes before the escape's.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

Limit = Annotated[int, Field(ge=1, le=PAGE_MAX)]
Offset = Annotated[int, Field(ge=0, le=2**31 - 1)]
Object = dict[str, Any]


def _names_a_graph(metadata: Object) -> Object:
    if not isinstance(metadata.get("graph_id"), str | None):
        raise PydanticCustomError("graph_id", "graph_id must be a string")
    return metadata


def _is_bounded(metadata: Object) -> Object:
    keys, size = len(metadata), len(orjson.dumps(metadata))
    if keys > METADATA_KEYS_MAX or size > METADATA_BYTES_MAX:
        msg = (
            f"a thread's metadata has at most {METADATA_KEYS_MAX} keys and "
            f"{METADATA_BYTES_MAX} bytes, not {keys} and {size}"
        )
        raise PydanticCustomError("metadata", msg)
    return metadata


ThreadMetadata = Annotated[
    Object, AfterValidator(_names_a_graph), AfterValidator(_is_bounded)
]


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class CheckpointBody(Body):
    """A position in a thread, by itself or in the `configurable` of a config."""

    checkpoint_id: str | None = None
    checkpoint_ns: str | None = None
    checkpoint_map: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _unwrapped(cls, value: Any) -> Any:
        if isinstance(value, dict) and "configurable" in value:
            return value["configurable"]
        return value

    def position(self) -> Position:
        """The same for the engine."""
        return Position(
            checkpoint_id=self.checkpoint_id or None,
            ns=self.checkpoint_ns or "",
            map=self.checkpoint_map,
        )


def position(checkpoint: CheckpointBody | None, checkpoint_id: str | None) -> Position:
    """Where both ways to name a checkpoint lead; the bare id wins."""
    at = Position() if checkpoint is None else checkpoint.position()
    return replace(at, checkpoint_id=checkpoint_id) if checkpoint_id else at


class RunBody(Body):
    """A run to create, wait for or stream."""

    assistant_id: str
    input: Any = None
    command: Object | None = None
    config: Object | None = None
    context: Any = None
    metadata: Object | None = None
    checkpoint: CheckpointBody | None = None
    checkpoint_id: str | None = None
    checkpoint_during: bool | None = None
    durability: str | None = None
    interrupt_before: str | list[str] | None = None
    interrupt_after: str | list[str] | None = None
    stream_mode: str | list[str] | None = None
    stream_subgraphs: bool | None = None
    stream_resumable: bool | None = None
    feedback_keys: list[str] | None = None
    webhook: str | None = None
    multitask_strategy: str | None = None
    if_not_exists: str | None = None
    on_completion: str | None = None
    on_disconnect: Literal["cancel", "continue"] | None = None
    after_seconds: float | None = None


class ThreadBody(Body):
    """A thread to create."""

    thread_id: UUID | None = None
    metadata: ThreadMetadata | None = None
    if_exists: Literal["raise", "do_nothing"] | None = None
    ttl: Any = None
    supersteps: list[Any] | None = None


class ThreadPatch(Body):
    """What changes about a thread."""

    metadata: ThreadMetadata | None = None
    ttl: Any = None


class PruneBody(Body):
    """Which threads are pruned, and how."""

    thread_ids: list[UUID] = Field(max_length=PAGE_MAX)
    strategy: str = "delete"
    # Not a text or a number that might be meant as one: what is at stake is everything.
    dry_run: StrictBool = False


class ThreadCount(Body):
    """Which threads are counted."""

    ids: list[UUID] | None = Field(None, max_length=PAGE_MAX)
    metadata: Object | None = None
    values: Object | None = None
    status: Literal["idle", "busy", "interrupted", "error"] | None = None


class ThreadSearch(ThreadCount):
    """Which threads are listed, and how."""

    limit: Limit = 10
    offset: Offset = 0
    sort_by: (
        Literal["thread_id", "status", "created_at", "updated_at", "state_updated_at"]
        | None
    ) = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[str] | None = None
    extract: Object | None = None


class StateUpdate(Body):
    """A change of a thread's state."""

    values: Any = None
    as_node: str | None = None
    checkpoint: CheckpointBody | None = None
    checkpoint_id: str | None = None


class StateAt(Body):
    """Which state is asked for."""

    checkpoint: CheckpointBody
    subgraphs: bool | None = None


class HistoryBody(Body):
    """Which past states are asked for."""

    limit: Limit = 1
    before: CheckpointBody | str | None = None
    metadata: Object | None = None
    checkpoint: CheckpointBody | None = None

    def older_than(self) -> Position | None:
        """Where `before` is, in the namespace of `checkpoint` if it names none.

        Raises:
            InvalidRequest: it names no checkpoint.
        """
        before = self.before
        if before is None:
            return None
        if isinstance(before, str):
            before = CheckpointBody(checkpoint_id=before)
        if not before.checkpoint_id:
            msg = "before: checkpoint_id is missing"
            raise InvalidRequest(msg)
        at = before.position()
        if before.checkpoint_ns is None and self.checkpoint is not None:
            at = replace(at, ns=self.checkpoint.position().ns)
        return at


class AssistantCount(Body):
    """Which assistants are counted."""

    metadata: Object | None = None
    graph_id: str | None = None
    name: str | None = None


class AssistantSearch(AssistantCount):
    """Which assistants are listed, and how."""

    limit: Limit = 10
    offset: Offset = 0
    sort_by: (
        Literal["assistant_id", "graph_id", "name", "created_at", "updated_at"] | None
    ) = None
    sort_order: Literal["asc", "desc"] | None = None
    select: list[str] | None = None


class CancelMany(Body):
    """Which runs are cancelled together."""

    thread_id: UUID | None = None
    run_ids: list[UUID] | None = Field(None, max_length=PAGE_MAX)
    status: Literal["pending", "running", "all"] | None = None


def body(model: type[M]) -> Callable[[Request], Coroutine[Any, Any, M]]:
    """A dependency that reads the request's body as `model`.

    Whatever content type the client claims, it is JSON; no body at all is `{}`.
    """

    async def read(request: Request) -> M:
        return checked(model, await json_of(request))

    return read


async def json_of(request: Request) -> Any:
    """The request's body as JSON.

    Raises:
        InvalidRequest: it is none, or nested too deeply.
        PayloadTooLarge: it is over the limit.
    """
    raw = await request.body()
    if not raw:
        return {}
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        msg = f"the request's body is not JSON: {error}"
        raise InvalidRequest(msg) from None
    if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and _too_deep(value):
        msg = f"the request's body is nested more than {DEPTH_MAX} levels deep"
        raise InvalidRequest(msg)
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


async def refuse_nul(request: Request) -> None:
    """Refuses what the database would refuse later, when it is too late.

    Raises:
        InvalidRequest: a text of the body holds a NUL character.
    """
    if _NUL.search(await request.body()):
        msg = "a text holds a NUL character, which PostgreSQL cannot store"
        raise InvalidRequest(msg)


def checked(model: type[M], value: Any, at: Sequence[str] = ()) -> M:
    """`value` as `model`; `at` says where in the body it stands.

    Raises:
        InvalidRequest: naming each field that is wrong.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = [
            {**problem, "loc": (*at, *problem["loc"])}
            for problem in error.errors(include_url=False, include_input=False)
        ]
        raise InvalidRequest(readable(problems)) from None


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """What a route adds to the OpenAPI description: the body's schema."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def idempotency_key(headers: Mapping[str, str]) -> str | None:
    """The request's `Idempotency-Key`.

    Raises:
        InvalidRequest: it is empty, or too long to be stored.
    """
    key = headers.get("idempotency-key")
    if key is None:
        return None
    if not key.strip() or len(key) > _KEY_MAX:
        msg = f"Idempotency-Key must have 1 to {_KEY_MAX} characters"
        raise InvalidRequest(msg)
    return key


def body_hash(value: Any, where: str) -> bytes:
    """What two requests under one idempotency key are compared by.

    Args:
        value: the body; the order of its keys makes no difference.
        where: the thread, or that there is none. Not whether the client waits for
            the run: it may come back and only ask for it.
    """
    canonical = orjson.dumps([where, value], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).digest()


def stream_modes(values: list[str]) -> frozenset[str] | None:
    """Modes in a query: repeated, separated by commas, or a JSON list; None for all.

    Raises:
        InvalidRequest: one of them is unknown.
    """
    modes: list[str] = []
    for value in values:
        modes += _json_list(value) if value.startswith("[") else value.split(",")
    asked = frozenset(mode.strip() for mode in modes if mode.strip())
    check_stream_modes(asked)
    return asked or None


def _json_list(value: str) -> list[str]:
    try:
        return [str(mode) for mode in orjson.loads(value)]
    except orjson.JSONDecodeError:
        msg = "stream_mode is not a JSON list of modes"
        raise InvalidRequest(msg) from None
