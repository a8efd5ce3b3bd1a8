"""A service that the fleet uses beside PostgreSQL, and what may befall it.

Each process has a way of its own to it, which can be cut off.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chaos.proxy import Proxy, Target

if TYPE_CHECKING:
    import random

    from chaos.services import Service


@dataclass(eq=False)
class Aside:
    """A service, started, and the ways of the fleet's processes to it.

    Args:
        service: what it is.
        setting: the variable that leads processes to it, if not the service's own.
        ways: by process id.
    """

    service: Service
    setting: str | None = None
    ways: dict[int, Proxy] = field(default_factory=dict)

    async def way(self, listen: str, chooser: random.Random) -> Proxy:
        """A new way, for a process that is about to start."""
        way = Proxy(Target("127.0.0.1", self.service.port), chooser)
        await way.open(listen)
        return way

    def env(self, port: int, host: str) -> dict[str, str]:
        """The settings of a process whose way is there."""
        if self.setting is None:
            return self.service.env(port, host)
        return {self.setting: self.service.uri(port, host)}

    async def restart(self, seconds: float) -> None:
        """SIGKILL, some time without it, and a start with what it had stored."""
        await asyncio.to_thread(self.service.kill)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.service.start)

    async def refuse(self, seconds: float) -> None:
        """Every connection breaks, and new ones are refused for a while."""
        ways = list(self.ways.values())
        for way in ways:
            way.refuse()
        await asyncio.sleep(seconds)
        for way in ways:
            way.mend()

    async def hang(self, seconds: float) -> None:
        """Nothing passes between the fleet and it, and nobody is told."""
        ways = list(self.ways.values())
        for way in ways:
            way.hang()
        await asyncio.sleep(seconds)
        for way in ways:
            way.mend()
