"""Accepts a request to run: from what a client asked for to a stored run.

Everything that can be said about a request without running it is said here, before
anything is stored: unknown assistants, unknown modes, options of LangGraph's that this
version does not carry out. What is accepted is complete: `kwargs` holds the merged
configuration, so that a worker needs nothing but the run's row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from langchain_core.utils.uuid import uuid7

from threadmill.brokers.base import Hint
from threadmill.domain.multitask import strategy
from threadmill.engine.run_config import (
    check_command,
    check_config,
    merge_config,
    own_config,
    own_keys,
)
from threadmill.engine.states import Position
from threadmill.errors import InvalidRequest, NotFound, RequestError
from threadmill.faults import Faults
from threadmill.stores.records import NewAssistant, NewRun

if TYPE_CHECKING:
    from collections.abc import Collection

    from threadmill.brokers.base import Hints
    from threadmill.checkpoints.base import Checkpoints
    from threadmill.engine.graphs import GraphCatalogue, LoadedGraph
    from threadmill.stores.base import Assistants, Runs
    from threadmill.stores.records import Accepted, Json

STREAM_MODES: Final = (
    "values",
    "updates",
    "messages",
    "messages-tuple",
    "custom",
    "events",
    "debug",
    "tasks",
    "checkpoints",
)
_DURABILITIES: Final = ("sync", "async", "exit")
# Ten years: a bound, so that no date overflows.
_AFTER_SECONDS_MAX: Final = 315_360_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What a client asked for, in LangGraph's words.

    Args:
        thread_id: for a stateless run, a fresh id.
        stateless: the thread is made for the run, and goes with it unless
            `on_completion` is keep.
        at: where it begins, if not at the head.
        stream_mode: what its stream carries; empty for nothing.
        idempotency_key: the same key and body give the same run.
        body_hash: of the request's body; it and the thread are compared under a key.
        request_id: the client's own, shown in the run's configuration.
    """

    assistant_id: str
    thread_id: UUID
    stateless: bool = False
    input: Any = None
    command: Json | None = None
    config: Json = field(default_factory=dict)
    context: Any = None
    metadata: Json = field(default_factory=dict)
    at: Position = field(default_factory=Position)
    stream_mode: Sequence[str] = ()
    stream_subgraphs: bool = False
    stream_resumable: bool = False
    interrupt_before: str | Sequence[str] | None = None
    interrupt_after: str | Sequence[str] | None = None
    multitask_strategy: str | None = None
    if_not_exists: str | None = None
    on_completion: str | None = None
    durability: str | None = None
    checkpoint_during: bool | None = None
    after_seconds: float | None = None
    feedback_keys: Sequence[str] | None = None
    webhook: str | None = None
    idempotency_key: str | None = None
    body_hash: bytes = b""
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitLimits:
    """Bounds and defaults of accepted runs."""

    recursion_limit: int = 10_011
    recursion_limit_max: int = 100_000
    queue_per_thread_max: int = 1000
    idempotency_ttl_seconds: float = 86_400.0


@dataclass(frozen=True, slots=True)
class _Target:
    """The assistant that a run is for."""

    assistant_id: UUID
    graph: LoadedGraph
    config: Json
    context: Json
    metadata: Json


class Submit:
    """Accepts runs.

    Args:
        runs: stores them.
        assistants: finds those that are not a graph's default.
        graphs: what is served.
        checkpoints: where the checkpoints are that runs fork from.
        hints: told after the commit that a graph has work.
        limits: bounds and defaults.
        faults: what tests make happen around the commit.
    """

    def __init__(
        self,
        *,
        runs: Runs,
        assistants: Assistants,
        graphs: GraphCatalogue,
        checkpoints: Checkpoints,
        hints: Hints,
        limits: SubmitLimits,
        faults: Faults | None = None,
    ) -> None:
        self._runs = runs
        self._assistants = assistants
        self._graphs = graphs
        self._checkpoints = checkpoints
        self._hints = hints
        self._limits = limits
        self._faults = faults or Faults()

    async def __call__(self, tenant: str, request: RunRequest) -> Accepted:
        """`check`, then `accept`.

        Raises:
            Error: see both.
        """
        return await self.accept(tenant, await self.check(tenant, request))

    async def check(self, tenant: str, request: RunRequest) -> NewRun:
        """All that can be said about a request before it is stored.

        Raises:
            InvalidRequest: not valid, or not carried out by this version.
            RequestError: options that exclude each other.
            GraphLoadFailed: the graph is known and does not load.
        """
        _check(request)
        _check_steps(request.config, self._limits.recursion_limit_max)
        target = await self._target(tenant, request.assistant_id)
        await self._require_checkpoint(tenant, request)
        return await self._new_run(request, target)

    async def accept(self, tenant: str, new: NewRun) -> Accepted:
        """Stores a checked run durably and hints that there is work.

        Raises:
            NotFound: no such thread. ThreadBusy: `reject`, and a run is active.
            Overloaded: too many runs wait on the thread.
            Conflict: the idempotency key was used for another request.

        After an error of `Unavailable`, or when cancelled, the run may be stored: the
        same request under the same idempotency key then gives this run.
        """
        await self._faults.at("accept.before")
        accepted = await self._runs.accept(tenant, new)
        await self._faults.at("accept.after")
        if accepted.new:
            self._hints.ready(
                Hint(new.graph_id, tenant, new.thread_id, labels=new.labels)
            )
        return accepted

    async def _require_checkpoint(self, tenant: str, request: RunRequest) -> None:
        """LangGraph would begin at an empty state, and make that the thread's."""
        checkpoint_id, thread = request.at.checkpoint_id, str(request.thread_id)
        if checkpoint_id is None:
            return
        if await self._checkpoints.get(tenant, thread, "", checkpoint_id) is None:
            # Part of the request's body, so it is the body that is not valid.
            raise InvalidRequest(f"thread {thread} has no checkpoint {checkpoint_id}")

    async def _target(self, tenant: str, assistant_id: str) -> _Target:
        try:
            return await self._find(tenant, assistant_id)
        except NotFound as error:
            # Part of the request's body, so it is the body that is not valid.
            raise InvalidRequest(str(error)) from error

    async def _find(self, tenant: str, name: str) -> _Target:
        try:
            assistant_id = UUID(name)
        except ValueError:
            return _default(self._graphs.get(name))
        if graph := self._graphs.by_assistant(assistant_id):
            return _default(graph)
        found = await self._assistants.get(tenant, assistant_id)
        return _Target(
            assistant_id,
            self._graphs.get(found.graph_id),
            found.config,
            found.context,
            found.metadata,
        )

    async def _new_run(self, request: RunRequest, target: _Target) -> NewRun:
        # Made now, so that ids rise with time and rows of one time lie together.
        run_id = uuid7()
        temporary = request.stateless and request.on_completion != "keep"
        ids = {
            "run_id": str(run_id),
            "thread_id": str(request.thread_id),
            "graph_id": target.graph.id,
            "assistant_id": str(target.assistant_id),
        }
        metadata = {
            **target.metadata,
            **(request.config.get("metadata") or {}),
            **request.metadata,
            "graph_id": ids["graph_id"],
            "assistant_id": ids["assistant_id"],
        }
        return NewRun(
            run_id=run_id,
            thread_id=request.thread_id,
            assistant_id=target.assistant_id,
            graph_id=target.graph.id,
            kwargs=await self._kwargs(
                request, target, ids, metadata, temporary=temporary
            ),
            metadata=metadata,
            strategy=strategy(request.multitask_strategy),
            after_seconds=request.after_seconds or 0.0,
            create_thread=request.stateless or request.if_not_exists == "create",
            temporary=temporary,
            thread_metadata={k: ids[k] for k in ("graph_id", "assistant_id")},
            idempotency_key=request.idempotency_key,
            body_hash=request.body_hash,
            idempotency_ttl_seconds=self._limits.idempotency_ttl_seconds,
            queue_max=self._limits.queue_per_thread_max,
            labels=self._graphs.labels(target.graph.id, target.assistant_id),
            from_checkpoint=request.at.checkpoint_id,
        )

    async def _kwargs(
        self,
        request: RunRequest,
        target: _Target,
        ids: Json,
        metadata: Json,
        *,
        temporary: bool,
    ) -> Json:
        config = merge_config(target.config, own_config(request.config))
        config.setdefault("recursion_limit", self._limits.recursion_limit)
        config["metadata"] = {**metadata, **ids}
        context = await _context(request, target, own_keys(config))
        config["configurable"] = {
            **config.get("configurable", {}),
            **ids,
            "user_id": (config.get("configurable") or {}).get("user_id") or "",
            "langgraph_auth_user": None,
            "langgraph_auth_user_id": "",
            "langgraph_auth_permissions": [],
            **(
                {"langgraph_request_id": request.request_id}
                if request.request_id
                else {}
            ),
        }
        return {
            "input": request.input,
            "command": request.command or None,
            "config": config,
            "context": context,
            "stream_mode": list(request.stream_mode),
            "interrupt_before": request.interrupt_before,
            "interrupt_after": request.interrupt_after,
            "webhook": None,
            "feedback_keys": None,
            "temporary": temporary,
            "subgraphs": request.stream_subgraphs,
            "resumable": request.stream_resumable,
            "checkpoint_during": request.checkpoint_during,
            "durability": request.durability or "async",
            "checkpoint": _fork(request.at),
        }


def default_assistants(graphs: GraphCatalogue) -> list[NewAssistant]:
    """The assistant that each graph has from the start."""
    return [
        NewAssistant(
            assistant_id=graph.assistant_id,
            graph_id=graph.id,
            name=graph.id,
            description=graph.description,
            metadata=dict(_SYSTEM),
        )
        for graph in graphs
    ]


_SYSTEM: Final[Mapping[str, str]] = {"created_by": "system"}


def _default(graph: LoadedGraph) -> _Target:
    return _Target(graph.assistant_id, graph, {}, {}, dict(_SYSTEM))


def _check_steps(config: Json, limit: int) -> None:
    if (config.get("recursion_limit") or 0) > limit:
        msg = (
            f"config.recursion_limit must not be more than {limit} "
            "(THREADMILL_RECURSION_LIMIT_MAX)"
        )
        raise InvalidRequest(msg)


def _check(request: RunRequest) -> None:
    """Refuses what is not valid, and what would silently not be done."""
    check_config(request.config)
    check_command(request.command or {})
    check_stream_modes(request.stream_mode)
    _one_of("durability", request.durability, _DURABILITIES)
    _one_of("if_not_exists", request.if_not_exists, ("create", "reject"))
    _one_of("on_completion", request.on_completion, ("delete", "keep"))
    if not 0 <= (request.after_seconds or 0) <= _AFTER_SECONDS_MAX:
        raise InvalidRequest(
            f"after_seconds must lie between 0 and {_AFTER_SECONDS_MAX}"
        )
    if request.webhook is not None:
        raise InvalidRequest(
            "webhook is not supported by this version; wait for the run or poll it"
        )
    if request.feedback_keys:
        raise InvalidRequest("feedback_keys is not supported by this version")
    if request.stateless and "resume" in (request.command or {}):
        raise RequestError("command.resume needs a thread; a stateless run has none")
    if request.stateless and request.at.checkpoint_id:
        raise RequestError("checkpoint needs a thread; a stateless run has none")
    _check_position(request.at)


def _check_position(at: Position) -> None:
    beside = "a run begins at a checkpoint of the root graph"
    if at.ns:
        raise InvalidRequest(f"checkpoint_ns '{at.ns}' names a subgraph; {beside}")
    if set((at.map or {}).items()) - {("", at.checkpoint_id)}:
        raise InvalidRequest(f"checkpoint_map names other checkpoints; {beside}")


def check_stream_modes(modes: Collection[str]) -> None:
    """Refuses modes that no stream has.

    Raises:
        InvalidRequest: naming the first of them.
    """
    for mode in modes:
        _one_of("stream_mode", mode, STREAM_MODES)


def _one_of(name: str, value: str | None, allowed: Sequence[str]) -> None:
    if value is not None and value not in allowed:
        raise InvalidRequest(f"{name} '{value}' is unknown; use {', '.join(allowed)}")


async def _context(request: RunRequest, target: _Target, configurable: Json) -> Any:
    """The run's context: the assistant's, then the client's; only keys of its schema.

    A client that sets `configurable` only means the same by it.
    """
    asked = request.context
    if asked and own_keys(request.config):
        raise RequestError(
            "set either config.configurable or context, not both; context is newer"
        )
    if asked and not isinstance(asked, Mapping):
        return asked
    merged = {**target.context, **(asked or configurable)}
    if not merged:
        return None
    schema = (await target.graph.schemas()).context
    if schema is None:
        return {**target.context, **asked} if asked else target.context or None
    known = schema.get("properties")
    if known is None or schema.get("additionalProperties"):
        return merged
    return {key: value for key, value in merged.items() if key in known} or None


def _fork(at: Position) -> Json | None:
    """Where the run forks off, if it does not go on from the head."""
    if at.checkpoint_id is None:
        return None
    return {
        "checkpoint_id": at.checkpoint_id,
        "checkpoint_ns": "",
        "checkpoint_map": None,
    }
