"""The client library's errors, and those of our scripts, as our own.

A script refuses by an error whose first word is one of `REFUSALS`.
"""

from __future__ import annotations

from typing import Final

from redis import exceptions as theirs

from threadmill.errors import (
    AlreadyExists,
    ChunksDropped,
    Error,
    HeadMoved,
    InvariantViolated,
    LeaseLost,
    SetupError,
    StoreUnavailable,
)

REFUSALS: Final[dict[str, type[Error]]] = {
    "LEASELOST": LeaseLost,
    "HEADMOVED": HeadMoved,
    "CHUNKSDROPPED": ChunksDropped,
    "ALREADYEXISTS": AlreadyExists,
}

# What the server says while it cannot do what it could a moment later.
_PASSING: Final = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOREPLICAS",
        "READONLY",
        "TRYAGAIN",
        "UNBLOCKED",
    }
)


# All that the client library raises; its errors of Clusters are apart from the others.
THEIRS: Final = (theirs.RedisError, theirs.RedisClusterException, OSError)


def translated(error: Exception, where: str) -> Error:
    """Our error for one of the client library.

    Args:
        error: as the library raised it.
        where: the target, without secrets.
    """
    text = str(error)
    word, _, rest = text.partition(" ")
    if word in REFUSALS:
        return REFUSALS[word](rest)
    if isinstance(error, theirs.AuthenticationError | theirs.NoPermissionError):
        msg = f"Redis ({where}) refuses the login, or what it asked for ({text})"
        return SetupError(msg)
    if isinstance(error, theirs.OutOfMemoryError):
        msg = f"Redis ({where}) has no memory left; raise its maxmemory ({text})"
        return StoreUnavailable(msg)
    passing = (
        theirs.ConnectionError,
        theirs.TimeoutError,
        theirs.ClusterDownError,
        theirs.SlotNotCoveredError,
        theirs.ReadOnlyError,
        theirs.RedisClusterException,
        OSError,
    )
    # What it says about a command that it has not sent is our mistake.
    sent = not word.startswith("EVAL")
    if (isinstance(error, passing) and sent) or word in _PASSING:
        msg = f"Redis ({where}) does not answer; check that it is running ({text})"
        return StoreUnavailable(msg)
    return InvariantViolated(f"Redis ({where}) refuses a command: {text}")
