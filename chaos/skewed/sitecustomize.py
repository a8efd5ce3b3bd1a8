"""Makes the clock of one process wrong, without root: on its PYTHONPATH only.

Python runs this module before anything else. CHAOS_CLOCK_SKEW_SECONDS is added to the
time of day, as `time.time` and `time.time_ns` tell it: that is what LangGraph dates
checkpoints with. The monotonic clock stays right, as it does on a machine whose time
of day is wrong.
"""

from __future__ import annotations

import os
import time

_SKEW_SECONDS = float(os.environ["CHAOS_CLOCK_SKEW_SECONDS"])
_right, _right_ns = time.time, time.time_ns

time.time = lambda: _right() + _SKEW_SECONDS
time.time_ns = lambda: _right_ns() + int(_SKEW_SECONDS * 1e9)
