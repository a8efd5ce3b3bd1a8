"""Cursors come back from clients, who may have made them themselves."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from threadmill.engine.cursors import CURSOR_MAX, cursor_of, digest_of, place_of
from threadmill.errors import InvalidRequest

AT = {"at": "2026-01-02T03:04:05+00:00"}
ID = {"id": "00000000-0000-0000-0000-000000000001"}
PARTS = (datetime, UUID, str, int)
DIGEST = digest_of("tenant", "question")


def _forged(*place: Any) -> str:
    content = json.dumps([DIGEST, *place])
    return base64.urlsafe_b64encode(content.encode()).decode()


def test_a_cursor_leads_back_to_its_place() -> None:
    place = (datetime(2026, 1, 2, tzinfo=UTC), UUID(int=7), "\u00e4", 2**63 - 1)
    assert tuple(place_of(cursor_of(place, DIGEST), DIGEST, parts=PARTS)) == place


@pytest.mark.parametrize(
    "place",
    [
        ("x", ID, "a", 1),
        ({"at": 5}, ID, "a", 1),
        ({"at": "9999-12-31T23:59:59-23:59"}, ID, "a", 1),
        (AT, AT, "a", 1),
        (AT, {"id": 5}, "a", 1),
        (AT, "x", "a", 1),
        (AT, ID, 1, 1),
        (AT, ID, "\ud800", 1),
        (AT, ID, ["a"], 1),
        (AT, ID, "a", "1"),
        (AT, ID, "a", True),
        (AT, ID, "a", 1.5),
        (AT, ID, "a", 2**63),
        (AT, ID, "a"),
        (AT, ID, "a", 1, 1),
    ],
    ids=repr,
)
def test_a_forged_place_is_refused(place: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        place_of(_forged(*place), DIGEST, parts=PARTS)


@pytest.mark.parametrize(
    "content", [b"[" * 700, b"[" * 7000, b"{}", b"5", b"\xff"], ids=len
)
def test_what_is_no_cursor_is_refused(content: bytes) -> None:
    cursor = base64.urlsafe_b64encode(content).decode()
    with pytest.raises(InvalidRequest, match="cursor"):
        place_of(cursor, DIGEST, parts=PARTS)


def test_a_long_one_is_not_even_read() -> None:
    long = _forged(AT, ID, "a" * CURSOR_MAX, 1)
    with pytest.raises(InvalidRequest, match="cursor"):
        place_of(long, DIGEST, parts=PARTS)
