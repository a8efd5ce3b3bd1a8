"""How long to wait for a broker that is away, and what to say about it.

Told once that it broke, and once that it is back. Pauses grow, and are spread by
chance: a fleet that lost its broker must not come back to it in one instant.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_FIRST_PAUSE_SECONDS: Final = 0.2
_PAUSE_SECONDS_MAX: Final = 5.0


class Retrying:
    """One way to a broker.

    Args:
        log: where.
        name: of the way: the events are `name.broken` and `name.recovered`.
        chance: spreads the pauses.
    """

    def __init__(
        self,
        log: FilteringBoundLogger,
        name: str,
        *,
        chance: random.Random | None = None,
    ) -> None:
        self._log = log
        self._name = name
        self._chance = chance or random.Random()  # noqa: S311 - no secret depends on it
        self._pause_seconds = 0.0

    @property
    def broken(self) -> bool:
        """Whether it is."""
        return self._pause_seconds > 0

    def broke(self, error: Exception) -> float:
        """It broke, or still is; returns how long to wait before the next attempt."""
        if not self.broken:
            self._log.warning(
                f"{self._name}.broken", cause=str(error), meanwhile="workers poll"
            )
        self._pause_seconds = min(
            max(2 * self._pause_seconds, _FIRST_PAUSE_SECONDS), _PAUSE_SECONDS_MAX
        )
        return self._pause_seconds * self._chance.uniform(0.5, 1.0)

    def over(self) -> None:
        """It works."""
        if self.broken:
            self._log.info(f"{self._name}.recovered")
        self._pause_seconds = 0.0
