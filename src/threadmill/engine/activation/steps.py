"""How many supersteps a run may take, counted over all its entries.

LangGraph counts from where an entry begins. Here the count begins where the run began,
so that leaving and entering again changes neither what `RemainingSteps` shows nor when
the run is given up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from langgraph.errors import ErrorCode, GraphRecursionError, create_error_message

if TYPE_CHECKING:
    from threadmill.stores.records import Run

# LangGraph counts one superstep for the input and one more to stop at.
_AROUND: Final = 2


class _StepsLeft(int):
    """A recursion limit that may be below 1.

    LangGraph takes no such limit from users. An entry near the end of its run has one.
    """

    def __lt__(self, other: int) -> bool:
        return other != 1 and int(self) < other

    def __bool__(self) -> bool:
        return True

    def __hash__(self) -> int:
        return int.__hash__(self)


class StepLimit:
    """The limit of one run.

    Args:
        limit: LangGraph's recursion limit, as asked for.
        start_step: of the checkpoint that the run began at.
    """

    def __init__(self, limit: int, *, start_step: int) -> None:
        self.limit = limit
        self._last_step = start_step + limit + _AROUND

    @classmethod
    def of(cls, run: Run, own: Mapping[str, Any], default: int) -> StepLimit:
        """The run's own, else the graph's, else the default.

        Args:
            run: as begun.
            own: the config that the graph was bound to.
            default: what a run gets that does not say.
        """
        asked = run.kwargs.get("config") or {}
        limit = asked.get("recursion_limit") or own.get("recursion_limit") or default
        return cls(int(limit), start_step=run.start_step)

    def left_at(self, step: int) -> int:
        """The recursion limit for an entry at a checkpoint of this step."""
        left = self._last_step - step - _AROUND
        return left if left > 0 else _StepsLeft(left)

    def is_reached_at(self, step: int) -> bool:
        """Whether a run whose head has this step is given up."""
        return step >= self._last_step

    def error(self) -> GraphRecursionError:
        """LangGraph's error, with the limit that was asked for."""
        return GraphRecursionError(
            create_error_message(
                message=(
                    f"Recursion limit of {self.limit} reached without hitting a stop "
                    "condition. You can increase the limit by setting the "
                    "`recursion_limit` config key."
                ),
                error_code=ErrorCode.GRAPH_RECURSION_LIMIT,
            )
        )
