"""How a process that drains divides its grace period.

Whoever asks for a drain kills the process when the period is over. So the last part of
the period is kept: for nodes that are told to stop, for handing back what has not
ended, for closing connections, and for threads that still run.
"""

from __future__ import annotations

from typing import Final

_KEPT_SECONDS: Final = 5.0
# Of a short period; the rest is for what runs.
_KEPT_SHARE: Final = 0.25
#: How long nodes that were told to stop are waited for; then their work goes without.
STOP_SECONDS: Final = 2.0
#: How long threads that still run are waited for, once everything else is closed.
THREADS_SECONDS: Final = 1.0


def work_seconds(grace_seconds: float) -> float:
    """How long nodes and requests may go on.

    Args:
        grace_seconds: the whole period, in seconds.
    """
    return grace_seconds - min(_KEPT_SECONDS, grace_seconds * _KEPT_SHARE)


def exit_seconds(grace_seconds: float) -> float:
    """When the process has ended, whatever it does.

    With the period, if that is twenty seconds or longer. Of a shorter one the part that
    is kept is too short for nodes that do not heed being told to stop; only those make
    the process take longer than its period.

    Args:
        grace_seconds: the whole period, in seconds.
    """
    return work_seconds(grace_seconds) + _KEPT_SECONDS
