"""How a process that drains divides its grace period.

Whoever asks for a drain kills the process when the period is over. So the process has
ended by then: the last part of the period is kept for handing over what has not ended.
"""

from __future__ import annotations

from typing import Final

_HAND_OVER_SECONDS: Final = 5.0
# Of a short period; the rest is for what runs.
_HAND_OVER_SHARE: Final = 0.25


def work_seconds(grace_seconds: float) -> float:
    """How long nodes and requests may go on.

    Args:
        grace_seconds: the whole period, in seconds.
    """
    return grace_seconds - min(_HAND_OVER_SECONDS, grace_seconds * _HAND_OVER_SHARE)


def exit_seconds(grace_seconds: float) -> float:
    """When the process has ended, whatever it does: with the period.

    Handing over gets its time even if the period is shorter than that.

    Args:
        grace_seconds: the whole period, in seconds.
    """
    return max(grace_seconds, _HAND_OVER_SECONDS)
