"""What the routes work with: use-cases and ports, handed in, never looked up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path, Request

from threadmill.checkpoints.chunk_store import ChunkChores
from threadmill.composition import Core
from threadmill.domain.tenant import DEFAULT_TENANT
from threadmill.engine.answers import Answers
from threadmill.engine.cancel import Cancel
from threadmill.engine.graphs import GraphCatalogue
from threadmill.engine.measure import Measure
from threadmill.engine.prune import Prune
from threadmill.engine.retain import Retain
from threadmill.engine.search_histories import SearchHistories
from threadmill.engine.states import States
from threadmill.engine.submit import Submit, SubmitLimits, default_assistants
from threadmill.engine.watch import StreamRun, WaitForRun, Watch
from threadmill.operations import Operations
from threadmill.server.live import Drain
from threadmill.stores.base import Assistants, Runs, Threads
from threadmill.streams.base import Stream

# The only tenant of this version; authentication will tell it.
TENANT = DEFAULT_TENANT


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything a server is made of.

    Args:
        keepalive_seconds: how long an open response may be silent.
        response_bytes_max: the largest page of a list.
    """

    graphs: GraphCatalogue
    assistants: Assistants
    threads: Threads
    runs: Runs
    stream: Stream
    submit: Submit
    cancel: Cancel
    states: States
    answers: Answers
    wait: WaitForRun
    follow: StreamRun
    watch: Watch
    drain: Drain
    operations: Operations
    retain: Retain
    prune: Prune
    histories: SearchHistories
    measure: Measure
    chunks: ChunkChores | None
    keepalive_seconds: float
    response_bytes_max: int

    async def start(self) -> None:
        """Makes sure that every graph has its default assistant; idempotent.

        Raises:
            Unavailable: the database does not answer.
        """
        await self.assistants.ensure(TENANT, default_assistants(self.graphs))


def build_services(core: Core) -> Services:
    """The services of a server process.

    `watch` is a receiver of hints, for `in_fleet`; `drain` is for the `HttpServer`.
    """
    settings = core.settings
    watch = Watch(poll_seconds=settings.poll_seconds)
    return Services(
        graphs=core.graphs,
        assistants=core.assistants,
        threads=core.threads,
        runs=core.runs,
        stream=core.stream,
        submit=Submit(
            runs=core.runs,
            assistants=core.assistants,
            graphs=core.graphs,
            checkpoints=core.checkpoints,
            hints=core.hints,
            limits=SubmitLimits(
                recursion_limit=settings.recursion_limit,
                recursion_limit_max=settings.recursion_limit_max,
                queue_per_thread_max=settings.queue_per_thread_max,
                idempotency_ttl_seconds=settings.idempotency_ttl_seconds,
            ),
            faults=core.faults,
        ),
        cancel=Cancel(core.runs, core.hints),
        states=States(
            threads=core.threads,
            graphs=core.graphs,
            checkpoints=core.checkpoints,
            saver=core.saver,
            hints=core.hints,
            member=core.member.worker_id,
            lease_seconds=settings.lease_seconds,
        ),
        answers=Answers(
            runs=core.runs,
            graphs=core.graphs,
            saver=core.saver,
            poll_seconds=settings.poll_seconds,
        ),
        wait=WaitForRun(core.run_states, watch),
        follow=StreamRun(core.stream, watch),
        watch=watch,
        drain=Drain(),
        operations=core.operations,
        retain=core.retain,
        prune=core.prune,
        histories=core.histories,
        measure=core.measure,
        chunks=core.chunks,
        keepalive_seconds=settings.keepalive_seconds,
        response_bytes_max=settings.response_bytes_max,
    )


async def services(request: Request) -> Services:
    """The application's services."""
    found = request.app.state.services
    assert isinstance(found, Services)  # noqa: S101 - set by create_app
    return found


async def tenant() -> str:
    """Whose request it is."""
    return TENANT


# Coroutines, because FastAPI sends plain functions to a thread pool.
Needs = Annotated[Services, Depends(services)]
Tenant = Annotated[str, Depends(tenant)]
ThreadId = Annotated[UUID, Path()]
RunId = Annotated[UUID, Path()]
