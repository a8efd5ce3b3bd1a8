"""Chunks in Redis: one hash for each thread, one round trip for each operation.

How much a crash of Redis may cost is Redis's own `appendfsync`: nothing with `always`.
What it has lost is noticed where it is looked for; nothing begins anew without a word.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import structlog

from threadmill.checkpoints.chunk_store import Inventory
from threadmill.checkpoints.compression import Blob
from threadmill.checkpoints.redis import records
from threadmill.checkpoints.redis.keys import chunks_key
from threadmill.checkpoints.segments import NAME_BYTES
from threadmill.drivers.redis.scripts import Scripts
from threadmill.errors import StoreReadOnly

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from threadmill.drivers.redis.database import RedisDatabase, Text

SCRIPTS: Final = Scripts("threadmill.checkpoints.redis")
_log = structlog.get_logger(__name__)

# Of one command; a server serves others in between.
_NAMES_MAX: Final = 512
# Neither a tenant nor a thread of anybody's.
_TRIED: Final = "threadmill:try"


class RedisChunks:
    """The `ChunkStore` port.

    Args:
        database: opened and closed by this store.
    """

    def __init__(self, database: RedisDatabase) -> None:
        self._database = database

    async def open(self) -> None:
        """See `ChunkStore.open`. A login that may not do everything is found here."""
        await self._database.open()
        try:
            await self._try()
        except StoreReadOnly as error:
            # What is there can be read, and dropping makes room.
            _log.warning("chunks.read_only", cause=str(error))
        except BaseException:
            await self.close()
            raise

    async def _try(self) -> None:
        """Does everything once, on a thread that nobody has."""
        sent = {b"\0" * NAME_BYTES: Blob("", b"")}
        await self.keep(_TRIED, _TRIED, sent)
        await self.find(_TRIED, _TRIED, sent)
        held = await self.inventory(_TRIED, _TRIED)
        await self.drop(_TRIED, _TRIED, held.sizes, generation=held.generation)

    async def close(self) -> None:
        """See `ChunkStore.close`."""
        await self._database.close()

    async def keep(
        self,
        tenant: str,
        thread_id: str,
        chunks: Mapping[bytes, Blob],
        *,
        relied: Collection[bytes] = (),
    ) -> None:
        """See `ChunkStore.keep`."""
        if not chunks and not relied:
            return
        sent = ((name, records.chunk_of(blob)) for name, blob in chunks.items())
        await self._database.call(
            SCRIPTS.keep_chunks,
            [chunks_key(tenant, thread_id)],
            len(relied),
            *relied,
            *chain.from_iterable(sent),
        )

    async def find(
        self, tenant: str, thread_id: str, names: Collection[bytes]
    ) -> Mapping[bytes, Blob]:
        """See `ChunkStore.find`."""
        key, wanted = chunks_key(tenant, thread_id), list(names)
        commands: list[tuple[Text, ...]] = [
            ("HMGET", key, *wanted[at : at + _NAMES_MAX])
            for at in range(0, len(wanted), _NAMES_MAX)
        ]
        answers = await self._database.commands(*commands)
        found: dict[bytes, Blob] = {}
        for name, value in zip(wanted, chain.from_iterable(answers), strict=True):
            if value is not None:
                found[name] = records.blob_of(value)
        return found

    async def inventory(self, tenant: str, thread_id: str) -> Inventory:
        """See `ChunkStore.inventory`."""
        found: list[Any] = await self._database.call(
            SCRIPTS.list_chunks, [chunks_key(tenant, thread_id)]
        )
        generation, *sizes = found
        return Inventory(
            int(generation), dict(zip(sizes[::2], map(int, sizes[1::2]), strict=True))
        )

    async def drop(
        self,
        tenant: str,
        thread_id: str,
        names: Collection[bytes],
        *,
        generation: int,
    ) -> bool:
        """See `ChunkStore.drop`."""
        if not names:
            return True
        gone: int = await self._database.call(
            SCRIPTS.drop_chunks, [chunks_key(tenant, thread_id)], generation, *names
        )
        return bool(gone)
