"""Puts the application together: routes, middlewares, errors. No logic of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from threadmill import __version__
from threadmill.errors import Error
from threadmill.server import (
    assistants,
    errors,
    history,
    meta,
    operations,
    runs,
    stateless,
    states,
    threads,
)
from threadmill.server.docs_page import add_docs_page
from threadmill.server.guard import BodyLimits, LastResort, Origins
from threadmill.server.history import ValueBody
from threadmill.server.requests import CheckpointBody

if TYPE_CHECKING:
    from starlette.types import Lifespan

    from threadmill.server.services import Services
    from threadmill.settings import Settings

# What a browser's script may read of a response from another origin.
_EXPOSED: Final = (
    "content-location",
    "location",
    "retry-after",
    "x-pagination-next",
    "x-pagination-total",
)
# Tried in this order: what is asked for most comes first.
_ROUTERS: Final = (
    runs.router,
    stateless.router,
    threads.router,
    states.router,
    assistants.router,
    operations.router,
    history.router,
    meta.router,
)


def create_app(
    services: Services, settings: Settings, *, lifespan: Lifespan[FastAPI] | None = None
) -> FastAPI:
    """The HTTP application.

    Args:
        services: what the routes work with.
        settings: origins, path prefix, limit of bodies.
        lifespan: opened before the first request, closed after the last.
    """
    prefix = settings.mount_prefix
    app = FastAPI(
        title="Threadmill",
        version=__version__,
        lifespan=lifespan,
        # FastAPI's own page loads its scripts from somebody else's servers.
        docs_url=None,
        redoc_url=None,
        openapi_url=f"{prefix}/openapi.json",
        middleware=[
            _cors(settings),
            Middleware(Origins, allowed=settings.cors_allow_origins),
            Middleware(LastResort),
            Middleware(
                BodyLimits,
                bytes_max=settings.payload_bytes_max,
                pause_seconds=settings.request_seconds,
            ),
        ],
        exception_handlers={
            Error: errors.on_error,
            RequestValidationError: errors.on_invalid,
            HTTPException: errors.on_http_error,
        },
    )
    app.state.services = services
    for router in _ROUTERS:
        app.include_router(router, prefix=prefix)
    add_docs_page(app, prefix)
    _describe_bodies(app)
    return app


def _cors(settings: Settings) -> Middleware:
    origins = settings.cors_allow_origins
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_methods=["*"],
        allow_headers=["*"],
        # Cookies only for origins that were named.
        allow_credentials="*" not in origins,
        allow_private_network=True,
        expose_headers=_EXPOSED,
    )


def _describe_bodies(app: FastAPI) -> None:
    """Adds the schemas that the routes' bodies refer to."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        schema = plain()
        known = schema.setdefault("components", {}).setdefault("schemas", {})
        for part in (CheckpointBody, ValueBody):
            known.setdefault(part.__name__, part.model_json_schema())
        return schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's own way
