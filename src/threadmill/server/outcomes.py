"""The responses that follow a run to its end: `wait`, `join` and the streams."""

from __future__ import annotations

from typing import TYPE_CHECKING

from threadmill.engine.wire_json import encode_bytes
from threadmill.errors import Error, NotFound, Unavailable
from threadmill.server.errors import told
from threadmill.server.live import LiveResponse
from threadmill.server.sse import HEARTBEAT, MEDIA_TYPE, frames

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from threadmill.engine.watch import Waiter
    from threadmill.server.services import Services
    from threadmill.stores.records import Run


def run_path(run: Run) -> str:
    """The run's own path. Without MOUNT_PREFIX: clients append it to their base URL."""
    return f"/threads/{run.thread_id}/runs/{run.run_id}"


def waiting(
    services: Services,
    tenant: str,
    run: Run,
    *,
    waiter: Waiter | None,
    cancel_when_gone: bool,
    content_location: str | None = None,
) -> LiveResponse:
    """Answers with the run's outcome when it has ended; blank lines until then."""

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            ended = await services.wait(tenant, run, waiter)
            answer = await services.answers(tenant, ended)
        except Unavailable:
            # The client asks again, at `Location`, through any server.
            raise
        except Error as error:
            shown = {"error": type(error).__name__, "message": told(error)}
            answer = {"__error__": shown}
        yield encode_bytes(answer)

    return LiveResponse(
        body(),
        beat=b"\n",
        beat_seconds=services.keepalive_seconds,
        drain=services.drain,
        media_type="application/json",
        headers=_headers(run, "join", content_location),
        on_gone=_canceller(services, tenant, run) if cancel_when_gone else None,
    )


def streaming(
    services: Services,
    tenant: str,
    run: Run,
    *,
    after: int,
    modes: frozenset[str] | None,
    waiter: Waiter | None,
    cancel_when_gone: bool,
    content_location: str | None = None,
) -> LiveResponse:
    """Sends the run's events as they commit, until it has ended.

    Every event of the log has an id; it is shown only if the run was made resumable.
    A database that stays away cuts the connection; no event says so, because clients
    take `error` for the end of the run.
    """
    ids = bool(run.kwargs.get("resumable"))

    async def body() -> AsyncGenerator[bytes, None]:
        events = services.follow(
            tenant,
            run.thread_id,
            run.run_id,
            after=after,
            modes=modes,
            waiter=waiter,
        )
        async for batch in events:
            yield frames(batch, ids=ids)

    return LiveResponse(
        body(),
        beat=HEARTBEAT,
        beat_seconds=services.keepalive_seconds,
        drain=services.drain,
        media_type=MEDIA_TYPE,
        headers=_headers(run, "stream", content_location),
        on_gone=_canceller(services, tenant, run) if cancel_when_gone else None,
    )


def _headers(run: Run, verb: str, content_location: str | None) -> Mapping[str, str]:
    return {
        "Location": f"{run_path(run)}/{verb}",
        "Content-Location": content_location or run_path(run),
    }


def _canceller(
    services: Services, tenant: str, run: Run
) -> Callable[[], Awaitable[None]]:
    async def cancel() -> None:
        try:
            await services.cancel(tenant, run.thread_id, run.run_id)
        except NotFound:
            return  # it has ended meanwhile

    return cancel
