"""Where a search goes on: opaque to its holder, and of one search only.

A cursor is the place that a page has come to, and a digest of the tenant and the
question that it belongs to. With another question, or another tenant's, it is refused;
it never leads to anything that its holder may not see. The digest holds no secret, so
whoever likes makes a cursor himself: nothing in it is trusted.
"""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from threadmill.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A cursor may have so many characters; ours have some 200.
CURSOR_MAX: Final = 1000
_INT_MAX: Final = 2**63 - 1
# What reading one may raise that is none.
_NONSENSE: Final = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
)


def digest_of(tenant: str, *question: object) -> str:
    """Equal for the same question of the same tenant."""
    spelled = json.dumps([tenant, *question], sort_keys=True, default=str)
    return hashlib.sha256(spelled.encode()).hexdigest()[:16]


def cursor_of(place: Sequence[Any], digest: str) -> str:
    """A cursor for that question, which leads to `place`."""
    content = json.dumps([digest, *place], default=_spelled)
    return base64.urlsafe_b64encode(content.encode()).decode()


def place_of(cursor: str, digest: str, *, parts: Sequence[type]) -> Sequence[Any]:
    """Where a cursor leads.

    Args:
        cursor: from `cursor_of`.
        digest: of the question that it is given back with.
        parts: what a place is made of: `datetime`, `UUID`, `str` or `int`.

    Raises:
        InvalidRequest: it is no cursor, or of another question.
    """
    try:
        if len(cursor) <= CURSOR_MAX:
            mine, *place = json.loads(base64.urlsafe_b64decode(cursor.encode()))
            if mine == digest:
                return [_read(v, kind) for v, kind in zip(place, parts, strict=True)]
    except _NONSENSE:
        pass
    raise InvalidRequest("cursor belongs to another search; ask again without it")


def _spelled(value: object) -> Any:
    if isinstance(value, datetime):
        return {"at": value.isoformat()}
    return {"id": str(value)}


def _read(value: Any, kind: type) -> Any:
    if kind is datetime:
        # In UTC: PostgreSQL does not know every offset that Python knows.
        return datetime.fromisoformat(value["at"]).astimezone(UTC)
    if kind is UUID:
        return UUID(value["id"])
    if type(value) is not kind:
        raise TypeError
    if isinstance(value, str):
        value.encode()  # half a surrogate pair cannot be sent
    elif isinstance(value, int) and abs(value) > _INT_MAX:
        raise OverflowError
    return value
