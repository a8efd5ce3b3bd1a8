"""LangGraph's checkpointer over Redis or Valkey, without a server of ours.

::

    saver = RedisSaver.from_uri("redis://...")
    graph = builder.compile(checkpointer=saver)

What it promises is what `PostgresSaver` does: an operation is one commit; the latest
checkpoint is the one that was put last, by an explicit pointer; tenants do not see each
other. And what it does not: nobody holds a lease here, so two processes that run one
thread at the same time are not kept apart.

How much a crash of Redis may cost is Redis's own `appendfsync`: nothing with `always`,
about a second with `everysec`. A server that keeps nothing is refused.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import ref

from threadmill.checkpoints.codec import STATE_BYTES_MAX, Codec
from threadmill.checkpoints.home import BackgroundLoop, Home
from threadmill.checkpoints.interface import StoreSaver
from threadmill.checkpoints.redis.store import Keeping, RedisCheckpoints
from threadmill.checkpoints.redis.upkeep import RedisUpkeep
from threadmill.domain.tenant import DEFAULT_TENANT
from threadmill.drivers.redis.database import RedisDatabase, RedisLimits

if TYPE_CHECKING:
    from collections.abc import Collection, Coroutine
    from types import TracebackType

    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.checkpoint.serde.base import SerializerProtocol


# How much longer than Redis's own limits a thread waits for an answer.
_MARGIN_SECONDS: Final = 5.0


class _OpeningHome(Home):
    """A home that opens its saver when it is first needed."""

    def __init__(self, open_: Any, *, wait_seconds: float) -> None:
        super().__init__(
            wait_seconds=wait_seconds,
            saver="RedisSaver",
            opening="RedisSaver.from_uri(...)",
        )
        self._open_saver = open_

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """See `Home.run`."""
        if self._loop is None:
            await asyncio.to_thread(self._open_saver, work)
        return await super().run(work)

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """See `Home.call`."""
        if self._loop is None:
            self._open_saver(work)
        return super().call(work)


class RedisSaver(StoreSaver):
    """A checkpoint saver for one tenant; made by `from_uri`.

    It opens itself on a thread of its own when it is first used, and serves every event
    loop and every thread. `with` or `async with` opens it at once and closes it, the
    latter on the running event loop, which saves a hop for each operation.

    Args:
        checkpoints: the storage; opened and closed by this saver.
        tenant: whose threads these are.
        serde: LangGraph's serializer; without one, that of `checkpoints`.
    """

    _checkpoints: RedisCheckpoints

    def __init__(
        self,
        checkpoints: RedisCheckpoints,
        *,
        tenant: str = DEFAULT_TENANT,
        serde: SerializerProtocol | None = None,
    ) -> None:
        super().__init__(serde=serde or checkpoints.codec.serde)
        self.tenant = tenant
        self._use(checkpoints)
        limits = checkpoints.database.limits
        self._home: Home = _OpeningHome(
            self._open_once,
            wait_seconds=limits.pool_timeout_seconds
            + limits.connect_timeout_seconds
            + limits.command_timeout_seconds
            + _MARGIN_SECONDS,
        )
        self._opening = threading.Lock()
        self._background: BackgroundLoop | None = None

    def _use(self, checkpoints: RedisCheckpoints) -> None:
        codec = Codec(self.serde, state_bytes_max=checkpoints.codec.state_bytes_max)
        self._checkpoints = checkpoints.with_codec(codec)
        self._upkeep = RedisUpkeep(self._checkpoints)

    @classmethod
    def from_uri(
        cls,
        uri: str,
        *,
        tenant: str = DEFAULT_TENANT,
        serde: SerializerProtocol | None = None,
        ttl_seconds: float | None = None,
        refresh_on_read: bool = False,
        volatile: bool = False,
        limits: RedisLimits | None = None,
        state_bytes_max: int = STATE_BYTES_MAX,
    ) -> Self:
        """A saver with connections of its own.

        Args:
            uri: `redis://`, `redis+sentinel://` or `redis+cluster://`, `rediss` for
                TLS; kept out of errors and reprs.
            tenant: whose threads these are.
            serde: LangGraph's serializer, if not its default.
            ttl_seconds: after which a thread is gone that nobody has put to; None is
                never. Give all savers of a tenant the same.
            refresh_on_read: reading a checkpoint keeps its thread as a put does.
            volatile: accept a server that keeps nothing over a restart.
            limits: bounds of the pool and of every wait.
            state_bytes_max: the largest checkpoint, in bytes.

        Raises:
            BadSetting: the URI cannot be read.
        """
        database = RedisDatabase(uri, limits=limits, volatile=volatile)
        checkpoints = RedisCheckpoints(
            database,
            Codec(serde, state_bytes_max=state_bytes_max),
            keeping=Keeping(ttl_seconds, refresh_on_read),
        )
        return cls(checkpoints, tenant=tenant)

    # ---------------------------------------------------------- opening and closing

    def _open_once(self, work: Coroutine[Any, Any, Any] | None = None) -> None:
        """Opens it on a background thread, unless somebody has done so meanwhile."""
        try:
            with self._opening:
                if self._background is None:
                    self._open_in_background()
        except BaseException:
            if work is not None:
                work.close()
            raise

    def _open_in_background(self) -> None:
        background = BackgroundLoop()
        opening = Home(wait_seconds=self._home.wait_seconds)
        opening.move_in(background.loop)
        try:
            opening.call(self._checkpoints.database.open())
        except BaseException:
            background.stop()
            raise
        self._background = background
        self._home.move_in(background.loop)
        self._at_exit = partial(_close_alive, ref(self))
        atexit.register(self._at_exit)

    def close(self) -> None:
        """Closes the connections; the next use would open it again.

        The end of the program does so by itself.

        Blocks for as long as closing takes: on an event loop, use `async with`.
        """
        with self._opening:
            background, self._background = self._background, None
            if background is None:
                return
            atexit.unregister(self._at_exit)
            try:
                self._home.call(self._checkpoints.database.close())
            finally:
                self._home.close()
                background.stop()

    def __enter__(self) -> Self:
        """Opens the saver on a background thread; async calls are served as well.

        Raises:
            SetupError: this server cannot be trusted with state.
            StoreUnavailable: Redis does not answer.
        """
        self._open_once()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the connections and ends the thread."""
        self.close()

    async def __aenter__(self) -> Self:
        """Opens the saver on the running event loop; other threads are served as well.

        Raises:
            SetupError: this server cannot be trusted with state.
            StoreUnavailable: Redis does not answer.
        """
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

    def with_allowlist(
        self, extra_allowlist: Collection[tuple[str, ...]]
    ) -> BaseCheckpointSaver[int]:
        """LangGraph's own: a clone that may load these types in strict mode."""
        clone = super().with_allowlist(extra_allowlist)
        if clone is not self and isinstance(clone, RedisSaver):
            clone._use(self._checkpoints)  # noqa: SLF001 - one class
        return clone


def _close_alive(saver: ref[RedisSaver]) -> None:
    """Ends connections before the interpreter ends their event loop under them."""
    if (alive := saver()) is not None:
        alive.close()
