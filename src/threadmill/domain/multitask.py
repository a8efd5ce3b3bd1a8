"""What a new run does on a thread that is busy (LangGraph's `multitask_strategy`).

The accepting transaction decides with the thread's row locked, so that two servers
cannot both pass `reject`.
"""

from __future__ import annotations

from enum import StrEnum

from threadmill.errors import InvalidRequest


class MultitaskStrategy(StrEnum):
    """The strategies that this version carries out."""

    ENQUEUE = "enqueue"
    REJECT = "reject"


# Known to clients, not carried out yet: refused by name, never taken for `enqueue`.
_NOT_YET = frozenset({"interrupt", "rollback"})


def strategy(name: str | None) -> MultitaskStrategy:
    """The strategy of that name; the default is `enqueue`.

    Raises:
        InvalidRequest: not a strategy, or not one of this version.
    """
    if name is None:
        return MultitaskStrategy.ENQUEUE
    if name in _NOT_YET:
        msg = (
            f"multitask_strategy '{name}' is not supported by this version; "
            "use 'enqueue' or 'reject' ('interrupt' and 'rollback' will follow)"
        )
        raise InvalidRequest(msg)
    try:
        return MultitaskStrategy(name)
    except ValueError:
        msg = f"multitask_strategy '{name}' is unknown; use 'enqueue' or 'reject'"
        raise InvalidRequest(msg) from None
