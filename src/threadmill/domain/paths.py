"""Paths into a state: `order.status`, `items.0.price`.

The first part names a channel; each other one a key, an attribute, or a place in a
list. What a path leads to is compared as JSON: only scalars are, and a number is the
same number however it is written.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from threadmill.errors import BadSetting

PATH_MAX: Final = 200
PATHS_MAX: Final = 20
# A longer text is no key of anything: it is not compared, and not stored.
SCALAR_MAX: Final = 500
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class Scalar:
    """A value that can be compared.

    Args:
        text: as JSON, in one form.
        number: set for numbers.
    """

    text: str
    number: float | None = None


def is_path(path: object) -> bool:
    """Whether this is a path."""
    return (
        isinstance(path, str)
        and len(path) <= PATH_MAX
        and "\0" not in path
        and all(path.split("."))
    )


def declared_paths(value: object, where: str) -> tuple[str, ...]:
    """Checked paths of langgraph.json, sorted, each once.

    Raises:
        BadSetting: it is no list, or one of them is no path.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise BadSetting(f'{where} must be a list of paths, such as ["order.status"]')
    found = list(value)
    for path in found:
        if not is_path(path):
            raise BadSetting(
                f"{where}: {path!r} is no path: a channel, then keys, with dots "
                f"between them, {PATH_MAX} characters at most"
            )
    if len(found) > PATHS_MAX:
        raise BadSetting(f"{where} may name {PATHS_MAX} paths at most")
    return tuple(sorted(set(found)))


def scalar_at(values: Mapping[str, Any], path: str) -> Scalar | None:
    """What the path leads to in channel values; None if nothing comparable."""
    found: Any = values
    for part in path.split("."):
        found = _within(found, part)
        if found is _MISSING:
            return None
    return scalar(found)


def scalar(value: Any) -> Scalar | None:
    """A text, number, truth value or null as it is compared; None for all else."""
    if value is None or isinstance(value, bool):
        return Scalar(json.dumps(value))
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, str) and len(value) <= SCALAR_MAX:
        # As LangGraph's serializer stores it: halves of surrogate pairs are lost.
        stored = value.encode("utf-8", "replace").decode("utf-8")
        return Scalar(json.dumps(stored, ensure_ascii=False))
    return None


def _number(value: float) -> Scalar | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number):
        return None
    whole = isinstance(value, int) or number.is_integer()
    return Scalar(str(int(value)) if whole else repr(number), number)


def _within(value: Any, part: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(part, _MISSING)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if part.isascii() and part.isdigit() and int(part) < len(value):
            return value[int(part)]
        return _MISSING
    # Only what the state declares: a property would run the user's code.
    if dataclasses.is_dataclass(value) or hasattr(type(value), "model_fields"):
        return getattr(value, "__dict__", {}).get(part, _MISSING)
    return _MISSING
