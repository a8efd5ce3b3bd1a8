"""LangGraph's checkpointer over PostgreSQL, without a server.

::

    with PostgresSaver.from_conn_string("postgresql://...") as saver:
        saver.setup()
        graph = builder.compile(checkpointer=saver)

What it promises: an operation is one commit; the latest checkpoint is the one that was
put last, by an explicit pointer and not by the clock in its id; tenants do not see each
other. What it does not, because nobody holds a lease here: two processes that run one
thread at the same time are not kept apart. As with LangGraph's own savers, the last one
to put decides what is latest. Threadmill's server and workers add the fence.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from threadmill.checkpoints.codec import STATE_BYTES_MAX, Codec
from threadmill.checkpoints.home import BackgroundLoop, Home, running_loop
from threadmill.checkpoints.interface import StoreSaver
from threadmill.checkpoints.postgres import PostgresCheckpoints
from threadmill.checkpoints.upkeep import Upkeep
from threadmill.domain.tenant import DEFAULT_TENANT
from threadmill.drivers.postgres.database import Database, Limits
from threadmill.drivers.postgres.migrate import migrate
from threadmill.errors import InvalidRequest, SetupError

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import TracebackType

    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.base import SerializerProtocol


# How much longer than the database's own limits a thread waits for an answer.
_MARGIN_SECONDS = 5.0


class PostgresSaver(StoreSaver):
    """A checkpoint saver for one tenant.

    Most programs want `from_conn_string`. Made like this, it works over a database
    that somebody else opens and closes, on the event loop of its first caller.

    Args:
        checkpoints: the storage.
        tenant: whose threads these are.
        serde: LangGraph's serializer; without one, that of `checkpoints`.
    """

    _checkpoints: PostgresCheckpoints

    def __init__(
        self,
        checkpoints: PostgresCheckpoints,
        *,
        tenant: str = DEFAULT_TENANT,
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde or checkpoints.codec.serde)
        self.tenant = tenant
        self._use(checkpoints)
        limits = checkpoints.database.limits
        self._home = Home(
            wait_seconds=limits.statement_timeout_seconds
            + limits.pool_timeout_seconds
            + _MARGIN_SECONDS
        )
        if (loop := running_loop()) is not None:
            self._home.move_in(loop)
        self._uri: str | None = None
        self._background: BackgroundLoop | None = None

    def _use(self, checkpoints: PostgresCheckpoints) -> None:
        codec = Codec(
            self.serde,
            state_bytes_max=checkpoints.codec.state_bytes_max,
            whole=checkpoints.codec.whole,
        )
        self._checkpoints = checkpoints.with_codec(codec)
        self._upkeep = Upkeep(self._checkpoints)

    # ---------------------------------------------------------- opening and closing

    @classmethod
    def from_conn_string(
        cls,
        conn_string: str,
        *,
        tenant: str = DEFAULT_TENANT,
        serde: SerializerProtocol | None = None,
        limits: Limits | None = None,
        state_bytes_max: int = STATE_BYTES_MAX,
    ) -> Self:
        """A saver with connections of its own; open it by `with` or `async with`.

        Args:
            conn_string: a PostgreSQL URI; kept out of errors and reprs.
            tenant: whose threads these are.
            serde: LangGraph's serializer, if not its default.
            limits: bounds of the pool and of every wait.
            state_bytes_max: the largest checkpoint, in bytes.
        """
        database = Database(
            conn_string, name="threadmill saver", limits=limits or Limits()
        )
        codec = Codec(serde, state_bytes_max=state_bytes_max)
        saver = cls(PostgresCheckpoints(database, codec), tenant=tenant)
        saver._uri = conn_string
        saver._home.close()
        return saver

    def __enter__(self) -> Self:
        """Opens the saver on a background thread; async calls are served as well.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        self._require_own()
        self._background = BackgroundLoop()
        self._home.move_in(self._background.loop)
        try:
            self._home.call(self._checkpoints.database.open())
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the connections and ends the thread."""
        try:
            self._home.call(self._checkpoints.database.close())
        finally:
            self._leave()

    async def __aenter__(self) -> Self:
        """Opens the saver on the running event loop; other threads are served as well.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        self._require_own()
        await self._checkpoints.database.open()
        self._home.move_in(asyncio.get_running_loop())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the connections."""
        self._home.close()
        await self._checkpoints.database.close()

    def _leave(self) -> None:
        self._home.close()
        if self._background is not None:
            self._background.stop()
            self._background = None

    def _require_own(self) -> str:
        if self._uri is None:
            msg = (
                "this saver works over a database that is opened, closed and migrated "
                "elsewhere; make one by PostgresSaver.from_conn_string(...)"
            )
            raise SetupError(msg)
        return self._uri

    async def asetup(self) -> None:
        """Creates or upgrades the schema; safe to call each time, also at once.

        Raises:
            SetupError: the login may not create the schema.
            StoreUnavailable: the database does not answer.
        """
        await migrate(self._require_own(), limits=self._checkpoints.database.limits)

    def setup(self) -> None:
        """The same, for programs without an event loop.

        Raises:
            InvalidRequest: called where an event loop runs.
        """
        if running_loop() is not None:
            msg = "setup() blocks the event loop; use `await saver.asetup()` there"
            raise InvalidRequest(msg)
        asyncio.run(self.asetup())

    def with_allowlist(
        self, extra_allowlist: Collection[tuple[str, ...]]
    ) -> BaseCheckpointSaver[int]:
        """LangGraph's own: a clone that may load these types in strict mode."""
        clone = super().with_allowlist(extra_allowlist)
        if clone is not self and isinstance(clone, PostgresSaver):
            clone._use(self._checkpoints)  # noqa: SLF001 - one class
        return clone
