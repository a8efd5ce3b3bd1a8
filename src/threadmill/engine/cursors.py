"""Where a search goes on: opaque to its holder, and of one search only.

A cursor is the place that a page has come to, and a digest of the tenant and the
question that it belongs to. With another question, or another tenant's, it is refused;
it never leads to anything that its holder may not see.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from threadmill.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence


def digest_of(tenant: str, *question: object) -> str:
    """Equal for the same question of the same tenant."""
    spelled = json.dumps([tenant, *question], sort_keys=True, default=str)
    return hashlib.sha256(spelled.encode()).hexdigest()[:16]


def cursor_of(place: Sequence[Any], digest: str) -> str:
    """A cursor for that question, which leads to `place`."""
    content = json.dumps([digest, *place], default=_spelled)
    return base64.urlsafe_b64encode(content.encode()).decode()


def place_of(cursor: str, digest: str, *, parts: int) -> Sequence[Any]:
    """Where a cursor leads.

    Args:
        cursor: from `cursor_of`.
        digest: of the question that it is given back with.
        parts: how many a place has.

    Raises:
        InvalidRequest: it is no cursor, or of another question.
    """
    try:
        mine, *place = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        if mine == digest and len(place) == parts:
            return tuple(map(_read, place))
    except (ValueError, KeyError, TypeError, binascii.Error):
        pass
    raise InvalidRequest("cursor belongs to another search; ask again without it")


def _spelled(value: object) -> Any:
    if isinstance(value, datetime):
        return {"at": value.isoformat()}
    return {"id": str(value)}


def _read(value: Any) -> Any:
    if isinstance(value, dict) and "at" in value:
        return datetime.fromisoformat(value["at"])
    return UUID(value["id"]) if isinstance(value, dict) else value
