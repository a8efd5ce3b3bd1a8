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
    StoreReadOnly,
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
        "TRYAGAIN",
        "UNBLOCKED",
    }
)


# What it says of a command within a script.
_FORBIDDEN: Final = "can't run this command"

# What it says to whoever writes, while it still answers who reads.
_READ_ONLY: Final = frozenset({"MISCONF", "NOREPLICAS", "READONLY"})

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
    forbidden = theirs.AuthenticationError | theirs.NoPermissionError
    if isinstance(error, forbidden) or _FORBIDDEN in text:
        msg = f"Redis ({where}) refuses the login, or what it asked for ({text})"
        return SetupError(msg)
    if isinstance(error, theirs.OutOfMemoryError):
        msg = f"Redis ({where}) has no memory left; raise its maxmemory ({text})"
        return StoreReadOnly(msg, shown="Redis has no memory left")
    if isinstance(error, theirs.ReadOnlyError) or word in _READ_ONLY:
        msg = f"Redis ({where}) takes nothing; it is a replica, or cannot save ({text})"
        return StoreReadOnly(msg, shown="Redis takes nothing")
    passing = (
        theirs.ConnectionError,
        theirs.TimeoutError,
        theirs.ClusterDownError,
        theirs.SlotNotCoveredError,
        theirs.RedisClusterException,
        OSError,
    )
    # What it says about a command that it has not sent is our mistake.
    sent = not word.startswith("EVAL")
    if (isinstance(error, passing) and sent) or word in _PASSING:
        msg = f"Redis ({where}) does not answer; check that it is running ({text})"
        return StoreUnavailable(msg, shown="Redis does not answer")
    return InvariantViolated(f"Redis ({where}) refuses a command: {text}")
