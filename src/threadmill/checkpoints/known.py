"""What this process knows to be stored, so that it need not be sent again.

An entry tells which chunks a checkpoint had, and the epoch under which that was seen:
in a read, or in a put that the database has accepted. It is a guess about the present:
whoever relies on it names the epoch and the checkpoint in the same transaction, and is
refused when they no longer hold. Losing an entry costs traffic, nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadmill.checkpoints.packing import Manifest

# Names take some 100 bytes each; a namespace of 2,000 messages has about 20.
ENTRIES_MAX = 4096
NAMES_MAX = 100_000

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """A checkpoint whose chunks were there under this epoch of its namespace.

    Args:
        is_away: they lie in a chunk store, not in PostgreSQL.
    """

    ns: str
    checkpoint_id: str
    epoch: int
    manifest: Manifest
    is_away: bool = False

    def is_at(self, ns: str, checkpoint_id: str | None) -> bool:
        """Whether this tells of exactly that checkpoint."""
        return (self.ns, self.checkpoint_id) == (ns, checkpoint_id)


class Memory:
    """The latest known checkpoint of each namespace; the least used are forgotten.

    Safe to use from several threads.

    Args:
        entries_max: how many namespaces.
        names_max: how many names of chunks, in all of them.
    """

    def __init__(
        self, entries_max: int = ENTRIES_MAX, names_max: int = NAMES_MAX
    ) -> None:
        self._entries_max = entries_max
        self._names_max = names_max
        self._names = 0
        self._entries: OrderedDict[_Key, Known] = OrderedDict()
        self._lock = Lock()

    def find(self, tenant: str, thread_id: str, ns: str) -> Known | None:
        """What is known of a namespace; without that, of the thread's root.

        A subgraph often begins with values of its parent.
        """
        with self._lock:
            for key in ((tenant, thread_id, ns), (tenant, thread_id, "")):
                if key in self._entries:
                    self._entries.move_to_end(key)
                    return self._entries[key]
        return None

    def remember(self, tenant: str, thread_id: str, known: Known) -> None:
        """Takes the place of what was known of that namespace."""
        key = (tenant, thread_id, known.ns)
        with self._lock:
            self._forget(key)
            self._entries[key] = known
            self._names += len(known.manifest.names)
            while self._entries and (
                len(self._entries) > self._entries_max or self._names > self._names_max
            ):
                self._forget(next(iter(self._entries)))

    def _forget(self, key: _Key) -> None:
        known = self._entries.pop(key, None)
        if known is not None:
            self._names -= len(known.manifest.names)
