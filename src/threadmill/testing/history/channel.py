"""How messages are found in a thread's state: the user says where they are.

A channel holds a list; each item is a message, or something else that the graph put
there, such as an answer. An item is known by the message ids that clients logged: a
string by itself, anything else by the value at `path`, or without one by its `id` or
its `content`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Channel:
    """Where messages are.

    Args:
        name: the channel of the state.
        path: keys or attributes that lead from an item to its id, with dots between
            them, such as ``additional_kwargs.client_id``.
        results: a channel where nodes leave a mark that is the same in each attempt of
            a task, and of no other task; None if there is none.
    """

    name: str = "messages"
    path: str | None = None
    results: str | None = None

    def messages(
        self, values: Mapping[str, Any], known: AbstractSet[str]
    ) -> tuple[str, ...]:
        """The known messages in a state, in order."""
        items = values.get(self.name)
        found = []
        for item in items if isinstance(items, list | tuple) else ():
            names = (name for name in self._names(item) if name in known)
            found += [name for name in [next(names, None)] if name is not None]
        return tuple(found)

    def marks(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """What nodes have left in the channel of results."""
        items = values.get(self.results) if self.results else None
        return tuple(map(str, items)) if isinstance(items, list | tuple) else ()

    def _names(self, item: object) -> Iterator[str]:
        if self.path is not None:
            for step in self.path.split("."):
                item = _inside(item, step)
            yield str(item)
        elif isinstance(item, str):
            yield item
        else:
            for step in ("id", "content"):
                name = _inside(item, step)
                if isinstance(name, str):
                    yield name


def _inside(item: object, step: str) -> object:
    if isinstance(item, Mapping):
        return item.get(step)
    return getattr(item, step, None)
