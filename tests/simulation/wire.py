"""The way between a process and the store: slow, broken, or a while not there at all.

A call arrives at the store after some time, is carried out there in one instant, and
its answer comes back after some more. Either half can get lost. A call that a dead
process has sent may arrive all the same; so does one whose caller was cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeVar, cast

from tests.simulation.loop import ThreadLoop, World
from threadmill.errors import Error, StoreUnavailable

T = TypeVar("T")
# Told of each call that the store has carried out: who, what, with what, result.
OnCall = Callable[[str, str, tuple[Any, ...], dict[str, Any], object], None]

WRITING: Final = frozenset({"accept", "begin", "commit", "finish", "release", "cancel"})


@dataclass(frozen=True, slots=True, kw_only=True)
class WireRules:
    """How bad the way is.

    Args:
        quick_seconds: the longest that one direction usually takes.
        slow_chance: how often it takes up to `slow_seconds`.
        lost_chance: how often a call never arrives.
        unanswered_chance: how often its answer does not.
        notice_seconds: after which a caller knows that there is no answer.
    """

    quick_seconds: float = 0.01
    slow_chance: float = 0.0
    slow_seconds: float = 0.0
    lost_chance: float = 0.0
    unanswered_chance: float = 0.0
    notice_seconds: float = 0.5


class Wire:
    """All ways to the one store.

    Args:
        world: whose time it takes.
        chance: draws what befalls each call.
        rules: how bad it is, until `mend`.
        on_call: told of what the store has carried out, at that instant.
    """

    def __init__(
        self, world: World, chance: Random, rules: WireRules, on_call: OnCall
    ) -> None:
        self._world = world
        self._chance = chance
        self._rules = rules
        self._on_call = on_call
        self._down_until = -1.0
        self.writing = 0

    def mend(self) -> None:
        """From now on nothing is lost and nothing is slow."""
        self._rules = WireRules(quick_seconds=self._rules.quick_seconds)

    def cut(self, seconds: float) -> None:
        """Nobody reaches the store for so long."""
        self._down_until = max(self._down_until, self._world.now + seconds)

    def to(self, port: T, loop: ThreadLoop) -> T:
        """The port as a thread sees it from afar."""
        return cast("T", _Remote(self, port, loop))

    def call(
        self,
        loop: ThreadLoop,
        method: Callable[..., Coroutine[Any, Any, Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> asyncio.Future[Any]:
        """Carries one call out, over there; gives its answer, to be awaited."""
        answer = loop.create_future()
        self.writing += method.__name__ in WRITING
        rules, draw = self._rules, self._chance.random()
        there = self._seconds()
        if draw < rules.lost_chance:
            self._world.after(there, self._done, method)
            self._answer(rules.notice_seconds, answer, StoreUnavailable())
        else:
            silent = draw < rules.lost_chance + rules.unanswered_chance
            call = (loop, method, args, kwargs, answer, silent)
            self._world.after(there, self._arrive, *call)
        return answer

    def _seconds(self) -> float:
        rules, draw = self._rules, self._chance.random()
        if draw < rules.slow_chance:
            return self._chance.random() * rules.slow_seconds
        return (draw * 0.9 + 0.1) * rules.quick_seconds

    def _arrive(
        self,
        loop: ThreadLoop,
        method: Callable[..., Coroutine[Any, Any, Any]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        answer: asyncio.Future[Any],
        silent: bool,  # noqa: FBT001 - the world hands it over by position
    ) -> None:
        self._done(method)
        back = self._seconds()
        if self._world.now < self._down_until:
            self._answer(back, answer, StoreUnavailable())
            return
        if loop.dead and self._chance.random() < 0.5:
            return
        result = at_once(method(*args, **kwargs))
        self._on_call(loop.name, method.__name__, args, kwargs, result)
        if silent:
            self._answer(self._rules.notice_seconds, answer, StoreUnavailable())
        else:
            self._answer(back, answer, result)

    def _done(self, method: Callable[..., object]) -> None:
        self.writing -= method.__name__ in WRITING

    def _answer(
        self, seconds: float, answer: asyncio.Future[Any], result: object
    ) -> None:
        self._world.after(seconds, _tell, answer, result)


class _Remote:
    """A port at the other end of the wire."""

    def __init__(self, wire: Wire, port: object, loop: ThreadLoop) -> None:
        self._wire = wire
        self._port = port
        self._loop = loop

    def __getattr__(self, name: str) -> Callable[..., asyncio.Future[Any]]:
        method = getattr(self._port, name)

        def call(*args: Any, **kwargs: Any) -> asyncio.Future[Any]:
            return self._wire.call(self._loop, method, args, kwargs)

        self.__dict__[name] = call
        return call


def at_once(transaction: Coroutine[Any, Any, Any]) -> object:
    """Carries out a transaction that waits for nothing; an error of ours is a result.

    Raises:
        AssertionError: it waits.
    """
    try:
        transaction.send(None)
    except StopIteration as end:
        result: object = end.value
        return result
    except Error as error:
        return error
    raise AssertionError("a transaction of the in-memory store waits for something")


def _tell(answer: asyncio.Future[Any], result: object) -> None:
    if answer.done():
        return
    if isinstance(result, Error):
        answer.set_exception(result)
    else:
        answer.set_result(result)
