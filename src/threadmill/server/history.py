"""Searching histories: Threadmill's own route, under `/threadmill/history`.

Unlike LangGraph's routes this one refuses fields that it does not know: a filter that
is misspelt would find too much.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.responses import Response

from threadmill.domain.history import (
    COMPARISONS,
    LIMIT_MAX,
    SCAN_MAX,
    THREADS_MAX,
    HistoryQuery,
    ValueMatch,
)
from threadmill.domain.paths import is_path, scalar
from threadmill.errors import InvalidRequest
from threadmill.server.requests import body, documented
from threadmill.server.services import Needs, Tenant
from threadmill.server.wire import json_response

router = APIRouter(prefix="/threadmill/history", tags=["history"])

Text = Annotated[str, Field(min_length=1, max_length=1000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ValueBody(_Strict):
    """What a path of the state must lead to: one comparison, or any value."""

    path: str
    equals: Any = None
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    changed: bool = False

    def match(self) -> ValueMatch:
        """The same for the engine.

        Raises:
            InvalidRequest: the path is none, or nothing can be compared like this.
        """
        if not is_path(self.path):
            raise InvalidRequest(f"value.path: {self.path!r} is no path")
        given = [name for name in COMPARISONS if name in self.model_fields_set]
        if len(given) > 1:
            raise InvalidRequest(f"value: {' and '.join(given)} exclude each other")
        if not given:
            return ValueMatch(path=self.path, changed=self.changed)
        operand = scalar(getattr(self, given[0]))
        if operand is None:
            raise InvalidRequest(
                f"value.{given[0]} must be a number, true, false, null, or a text of "
                "500 characters at most"
            )
        return ValueMatch(
            path=self.path,
            comparison=given[0],
            operand=operand,
            changed=self.changed,
        )


class HistorySearchBody(_Strict):
    """Which checkpoints are searched for."""

    metadata: dict[str, str | int | float | bool | None] | None = None
    thread_ids: list[UUID] | None = Field(None, max_length=THREADS_MAX)
    graph_id: str | None = None
    since: AwareDatetime | None = None
    until: AwareDatetime | None = None
    node: Text | None = None
    run_id: UUID | None = None
    failed: bool = False
    error: Text | None = None
    source: Literal["input", "loop", "update", "fork"] | None = None
    value: ValueBody | None = None
    limit: int = Field(20, ge=1, le=LIMIT_MAX)
    scan: int = Field(1000, ge=1, le=SCAN_MAX)
    cursor: Text | None = None
    read_states: bool = False

    def query(self) -> HistoryQuery:
        """The same for the engine."""
        return HistoryQuery(
            metadata=self.metadata,
            thread_ids=self.thread_ids,
            graph_id=self.graph_id,
            since=_utc(self.since),
            until=_utc(self.until),
            node=self.node,
            run_id=self.run_id,
            failed=self.failed,
            error=self.error,
            source=self.source,
            value=None if self.value is None else self.value.match(),
        )


@router.post("/search", openapi_extra=documented(HistorySearchBody))
async def search(
    asked: Annotated[HistorySearchBody, Depends(body(HistorySearchBody))],
    services: Needs,
    tenant: Tenant,
) -> Response:
    """Checkpoints by what they hold, and how they came about."""
    page = await services.histories(
        tenant,
        asked.query(),
        cursor=asked.cursor,
        limit=asked.limit,
        scan=asked.scan,
        read_states=asked.read_states,
    )
    return json_response(page.as_json())


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone(UTC)
