"""From an HTTP request to an accepted run; shared by all routes that create one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.utils.uuid import uuid7

from threadmill.engine.run_config import POSITION
from threadmill.engine.states import Position
from threadmill.engine.submit import RunRequest
from threadmill.errors import InvalidRequest
from threadmill.server.requests import (
    CheckpointBody,
    RunBody,
    body_hash,
    checked,
    idempotency_key,
    json_of,
    position,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.requests import Request

    from threadmill.engine.watch import Waiter
    from threadmill.server.services import Services
    from threadmill.stores.records import Run

_REQUEST_ID_MAX = 256


@dataclass(frozen=True, slots=True)
class Launch:
    """How a route creates runs.

    Args:
        thread_id: None for stateless runs.
        default_modes: what is streamed if the client does not say.
    """

    thread_id: UUID | None = None
    default_modes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Launched:
    """An accepted run.

    Args:
        waiter: watches it since before it was accepted; None for an older run that an
            idempotency key named.
        cancel_when_gone: the client wants it cancelled when it disconnects.
    """

    run: Run
    waiter: Waiter | None
    cancel_when_gone: bool


async def launch(
    services: Services, tenant: str, request: Request, how: Launch
) -> Launched:
    """Accepts the run that the request's body describes.

    Raises:
        Error: see `Submit`.
    """
    value = await json_of(request)
    body = checked(RunBody, value)
    asked = run_request(body, value, request.headers, how)
    waiter = services.watch.waiter(tenant, asked.thread_id)
    accepted = await services.submit(tenant, asked)
    return Launched(
        accepted.run,
        waiter if accepted.new else None,
        cancel_when_gone=body.on_disconnect == "cancel",
    )


async def launch_batch(
    services: Services,
    tenant: str,
    values: Sequence[Any],
    headers: Mapping[str, str],
    how: Launch,
) -> Sequence[Run]:
    """Accepts several runs; all are checked before the first is accepted.

    Raises:
        Error: see `Submit`; naming the place of a body that is not valid.
    """
    bodies = [checked(RunBody, value, [str(n)]) for n, value in enumerate(values)]
    checks = [
        await services.submit.check(tenant, run_request(body, value, headers, how))
        for body, value in zip(bodies, values, strict=True)
    ]
    return [(await services.submit.accept(tenant, new)).run for new in checks]


def run_request(
    body: RunBody, value: Any, headers: Mapping[str, str], how: Launch
) -> RunRequest:
    """The engine's form of a checked body.

    Raises:
        InvalidRequest: the idempotency key or the request id is not valid.
    """
    key = idempotency_key(headers)
    where = "stateless" if how.thread_id is None else str(how.thread_id)
    return RunRequest(
        assistant_id=body.assistant_id,
        thread_id=how.thread_id or uuid7(),
        stateless=how.thread_id is None,
        input=body.input,
        command=body.command,
        config=body.config or {},
        context=body.context,
        metadata=body.metadata or {},
        at=_position(body),
        stream_mode=_modes(body.stream_mode, how.default_modes),
        stream_subgraphs=bool(body.stream_subgraphs),
        stream_resumable=bool(body.stream_resumable),
        interrupt_before=_nodes(body.interrupt_before),
        interrupt_after=_nodes(body.interrupt_after),
        multitask_strategy=body.multitask_strategy,
        if_not_exists=body.if_not_exists,
        on_completion=body.on_completion,
        durability=body.durability,
        checkpoint_during=body.checkpoint_during,
        after_seconds=body.after_seconds,
        feedback_keys=body.feedback_keys,
        webhook=body.webhook,
        idempotency_key=key,
        body_hash=b"" if key is None else body_hash(value, where),
        request_id=_request_id(headers),
    )


def _position(body: RunBody) -> Position:
    """Where the run begins: what it says itself, or else what its config says."""
    said = position(body.checkpoint, body.checkpoint_id)
    configurable = (body.config or {}).get("configurable")
    if said != Position() or not isinstance(configurable, dict):
        return said
    named = {key: configurable[key] for key in POSITION if key in configurable}
    in_config = checked(CheckpointBody, named, ["config", "configurable"]).position()
    # A node that passes its own config on means no checkpoint by its namespace.
    return in_config if in_config.checkpoint_id else said


def _modes(asked: str | list[str] | None, default: Sequence[str]) -> Sequence[str]:
    if asked is None:
        return default
    modes = [asked] if isinstance(asked, str) else asked
    return tuple(dict.fromkeys(modes))


def _nodes(asked: str | list[str] | None) -> str | list[str] | None:
    """All nodes ("*") or a list of names; one name may stand alone."""
    return [asked] if isinstance(asked, str) and asked != "*" else asked


def _request_id(headers: Mapping[str, str]) -> str | None:
    request_id = headers.get("x-request-id")
    if request_id is not None and len(request_id) > _REQUEST_ID_MAX:
        msg = f"x-request-id must have at most {_REQUEST_ID_MAX} characters"
        raise InvalidRequest(msg)
    return request_id
