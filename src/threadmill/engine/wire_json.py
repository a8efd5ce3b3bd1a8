"""JSON as clients see it: any value of a graph becomes JSON text.

A graph's state holds whatever its author put there: messages, pydantic models,
dataclasses, sets, bytes, objects nobody foresaw. Showing it must never fail, so
what JSON cannot say is shown as its `repr`. This is for eyes and wires only:
checkpoints are stored by LangGraph's serializer, which loses nothing.

The text is valid for every JSON reader: NaN and infinities are null, lone
surrogates are U+FFFD, NUL characters are escaped.
"""

from __future__ import annotations

import dataclasses
import json
from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from pathlib import PurePath
from re import Pattern
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

_SEQUENCES: Final = (list, tuple, set, frozenset, deque)
_SIMPLER: Final[tuple[tuple[Any, Callable[[Any], object]], ...]] = (
    ((tuple, set, frozenset, deque), list),
    (Mapping, dict),
    ((bytes, bytearray, memoryview), lambda value: b64encode(value).decode()),
    (timedelta, timedelta.total_seconds),
    (Pattern, lambda value: value.pattern),
    ((Decimal, PurePath, UUID), str),
)
# Deeper than any state that is worth reading.
_DEPTH_MAX: Final = 200


def encode(value: object) -> str:
    """`value` as JSON text."""
    return encode_bytes(value).decode()


def encode_bytes(value: object) -> bytes:
    """`value` as JSON in UTF-8."""
    try:
        return orjson.dumps(value, default=_simplify)
    except (TypeError, RecursionError):
        # Keys that are no strings, integers over 64 bits, lone surrogates, cycles.
        return json.dumps(_plain(value, ()), separators=(",", ":")).encode()


def _simplify(value: Any) -> object:
    """One step from an object that JSON does not know towards one that it does."""
    if _has(value, "model_dump"):
        return _dumped(value)
    for types, simplify in _SIMPLER:
        if isinstance(value, types):
            return simplify(value)
    # Arrays and their scalars, whichever library they come from.
    return value.tolist() if _has(value, "tolist") else _repr(value)


def _has(value: object, method: str) -> bool:
    return not isinstance(value, type) and callable(getattr(value, method, None))


def _dumped(model: Any) -> object:
    try:
        return model.model_dump()
    except Exception:  # noqa: BLE001 - the author's own serializer may raise anything
        return _repr(model)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - the author's own __repr__ may raise anything
        return f"<{type(value).__name__}>"


def _plain(value: Any, above: tuple[int, ...]) -> object:
    """`value` made of what the standard library's encoder takes; slow and total.

    Args:
        value: anything.
        above: the `id` of each container around it; one met again is a cycle.
    """
    if isinstance(value, Enum):
        return _plain(value.value, above)
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, float):
        return float(value) if isfinite(value) else None
    if value is None or isinstance(value, int):
        return value
    if id(value) in above or len(above) >= _DEPTH_MAX:
        return f"<{type(value).__name__}>"
    return _plain_compound(value, (*above, id(value)))


def _plain_compound(value: Any, above: tuple[int, ...]) -> object:
    if isinstance(value, Mapping):
        return {_key(k): _plain(v, above) for k, v in value.items()}
    if isinstance(value, _SEQUENCES):
        return [_plain(v, above) for v in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = (f.name for f in dataclasses.fields(value))
        return {
            name: _plain(getattr(value, name, None), above)
            for name in names
            if not name.startswith("_")
        }
    return _plain(_simplify(value), above)


def _key(key: object) -> str:
    if isinstance(key, Enum):
        key = key.value
    if key is None or isinstance(key, bool):
        return json.dumps(key)
    return _clean(key if isinstance(key, str) else str(key))


def _clean(text: str) -> str:
    """`text` without lone surrogates; surrogate pairs become their character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
