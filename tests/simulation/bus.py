"""Hints that get lost, come twice, late and in another order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from uuid import UUID

from tests.simulation.loop import ThreadLoop, World
from threadmill.brokers.base import Hint, HintReceiver


@dataclass(frozen=True, slots=True, kw_only=True)
class BusRules:
    """How unreliable hints are; delays make them come in another order."""

    lost_chance: float = 0.0
    doubled_chance: float = 0.0
    late_seconds: float = 0.02


class Bus:
    """Carries hints from everybody to everybody; a `Hints`.

    Args:
        world: whose time it takes.
        chance: draws what befalls each hint.
        rules: how unreliable it is.
    """

    def __init__(self, world: World, chance: Random, rules: BusRules) -> None:
        self._world = world
        self._chance = chance
        self._rules = rules
        self._receivers: list[tuple[ThreadLoop, HintReceiver]] = []

    def add(self, loop: ThreadLoop, receiver: HintReceiver) -> None:
        """From now on it gets hints, on its loop."""
        self._receivers.append((loop, receiver))

    def ready(self, hint: Hint, n: int = 1) -> None:
        """See `Hints.ready`."""
        del n
        for loop, receiver in self._receivers:
            self._send(loop, receiver.on_ready, hint.graph_id)

    def moved(self, tenant: str, thread_id: UUID) -> None:
        """See `Hints.moved`; workers do nothing on it."""

    def stop(self, activation_id: UUID, token: int) -> None:
        """See `Hints.stop`."""
        for loop, receiver in self._receivers:
            self._send(loop, receiver.on_stop, activation_id, token)

    def _send(self, loop: ThreadLoop, tell: Callable[..., None], *args: object) -> None:
        if loop.dead:
            return
        rules, draw = self._rules, self._chance.random()
        if draw < rules.lost_chance:
            return
        times = 2 if draw > 1 - rules.doubled_chance else 1
        for _ in range(times):
            late = self._chance.random() * rules.late_seconds
            self._world.after(late, loop.call_soon, tell, *args)
