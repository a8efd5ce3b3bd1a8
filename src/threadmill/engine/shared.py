"""Many who ask the same at the same moment: it is asked once.

A thousand clients may follow one run. Each event wakes all of them, and all would look
at the same place of the same log.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

T = TypeVar("T")
K = TypeVar("K", bound="Hashable")


class Shared(Generic[K, T]):
    """Asks once for all who have come before the asking begins.

    Nobody gets an answer that was asked for before he came: what happened before he
    asked is in it. Belongs to one event loop.

    Args:
        ask: gives the answer to a question.
    """

    def __init__(self, ask: Callable[[K], Awaitable[T]]) -> None:
        self._ask = ask
        self._gathering: dict[K, asyncio.Task[T]] = {}

    async def __call__(self, question: K) -> T:
        """The answer, or the error, that all who ask at this moment get.

        Who is cancelled takes nobody along.
        """
        asked = self._gathering.get(question)
        if asked is None:
            # It begins with the next turn of the loop: who was woken together comes
            # before that.
            asked = asyncio.create_task(self._answer(question))
            asked.add_done_callback(_look_at)
            self._gathering[question] = asked
        return await asyncio.shield(asked)

    async def _answer(self, question: K) -> T:
        del self._gathering[question]
        return await self._ask(question)


def _look_at(asked: asyncio.Task[T]) -> None:
    """An error that nobody waits for any more is nobody's."""
    if not asked.cancelled():
        asked.exception()
