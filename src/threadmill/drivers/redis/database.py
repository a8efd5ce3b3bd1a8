"""A Redis, alone or behind Sentinels, or a Cluster: calls of scripts, all bounded.

What is promised: every wait ends (for a free connection, for a connection to be made,
for an answer); who finds all connections in use waits for one; a call that may have
been carried out is never repeated by itself. A script that the server has forgotten is
sent whole: until then it has not run.

Several calls at once are one round trip, in this order, but no transaction. In a
Cluster their keys may lie on several nodes: there each call is a round trip of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from redis import asyncio as theirs
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from threadmill.drivers.redis.examine import Accepted, examine
from threadmill.drivers.redis.target import target_of
from threadmill.drivers.redis.translate import THEIRS, translated
from threadmill.errors import SetupError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from threadmill.drivers.redis.scripts import Script
    from threadmill.drivers.redis.target import Target

Text = str | bytes | int

_log = structlog.get_logger(__name__)

_NAME: Final = "threadmill"


@dataclass(frozen=True, slots=True)
class RedisLimits:
    """The bounds of one process's connections.

    Args:
        pool_max: how many calls are under way at once, and connections to each server.
        pool_timeout_seconds: how long a call waits for its turn.
        connect_timeout_seconds: the longest that a new connection may take.
        command_timeout_seconds: the longest that an answer may take.
    """

    pool_max: int = 10
    pool_timeout_seconds: float = 5
    connect_timeout_seconds: float = 5
    command_timeout_seconds: float = 30


@dataclass(frozen=True, slots=True)
class Call:
    """One script with its keys, which share a slot, and its arguments."""

    script: Script
    keys: Sequence[Text]
    args: Sequence[Text] = ()

    def as_digest(self) -> tuple[Text, ...]:
        """The command for a server that knows the script."""
        return ("EVALSHA", self.script.digest, len(self.keys), *self.keys, *self.args)

    def as_text(self) -> tuple[Text, ...]:
        """The command for one that does not."""
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.args)


class RedisDatabase:
    """Connections to one target; opened and closed on one event loop.

    Args:
        uri: see `threadmill.drivers.redis.target`; kept out of errors and reprs.
        limits: bounds of the connections and of every wait.
        volatile: accept a server that forgets everything when it restarts.
        evicting: accept one that drops keys when its memory is full, too.

    Raises:
        BadSetting: the URI cannot be read.
    """

    def __init__(
        self,
        uri: str,
        *,
        limits: RedisLimits | None = None,
        volatile: bool = False,
        evicting: bool = False,
    ) -> None:
        self.target = target_of(uri)
        self.limits = limits or RedisLimits()
        self._accepted = Accepted(volatile=volatile, evicting=evicting)
        self._turns = asyncio.Semaphore(self.limits.pool_max)
        # The one that calls go to, and all that are to be closed.
        self._client: Any = None
        self._clients: list[Any] = []

    async def open(self) -> None:
        """Connects and looks whether this server can be trusted with state.

        Raises:
            SetupError: it is too old, refuses the login, keeps nothing, or evicts.
            StoreUnavailable: it does not answer.
        """
        self._turns = asyncio.Semaphore(self.limits.pool_max)
        self._clients = _clients_of(self.target, self.limits)
        self._client = client = self._clients[0]
        try:
            async with self._turn():
                await examine(client, self.target, self._accepted)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Closes every connection; never raises, safe to call twice."""
        self._client, clients, self._clients = None, self._clients, []
        for client in clients:
            try:
                async with asyncio.timeout(self.limits.connect_timeout_seconds):
                    await client.aclose()
            except THEIRS as error:
                _log.warning("redis.not_closed", cause=type(error).__name__)

    async def call(self, script: Script, keys: Sequence[Text], *args: Text) -> Any:
        """Runs one script; one round trip.

        Raises:
            Error: what the script refuses by.
            StoreUnavailable: it has not run, or (connection lost) that is unknown.
        """
        (answer,) = await self.run(Call(script, keys, args))
        return answer

    async def run(self, *calls: Call) -> list[Any]:
        """Runs scripts one after the other; what one refuses does not stop the next.

        Raises:
            Error: the first one's that failed; see `call`.
        """
        async with self._turn() as client:
            answers = await self._send(client, [call.as_digest() for call in calls])
            for place, call in enumerate(calls):
                if isinstance(answers[place], exceptions.NoScriptError):
                    (answers[place],) = await self._send(client, [call.as_text()])
        for answer in answers:
            if isinstance(answer, Exception):
                raise self._ours(answer) from answer
        return answers

    async def commands(self, *commands: tuple[Text, ...]) -> list[Any]:
        """Plain commands of one key each, as `run` does scripts."""
        async with self._turn() as client:
            answers = await self._send(client, commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise self._ours(answer) from answer
        return answers

    async def _send(
        self, client: Any, commands: Sequence[tuple[Text, ...]]
    ) -> list[Any]:
        """Answers and refusals, in order.

        Raises:
            RedisError: the connection is lost.
        """
        if self.target.kind == "cluster":
            return [await _answer(client, command) for command in commands]
        if len(commands) == 1:
            return [await _answer(client, commands[0])]
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        found: list[Any] = await pipeline.execute(raise_on_error=False)
        return found

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[Any]:
        try:
            async with asyncio.timeout(self.limits.pool_timeout_seconds):
                await self._turns.acquire()
        except TimeoutError:
            msg = (
                f"all {self.limits.pool_max} connections to Redis ({self.target}) were"
                f" in use for {self.limits.pool_timeout_seconds:g} s"
            )
            shown = "all connections to Redis were in use"
            raise StoreUnavailable(msg, shown=shown) from None
        try:
            if self._client is None:
                msg = f"the connections to Redis ({self.target}) are not open"
                raise SetupError(msg)
            with _cancellation_kept():
                yield self._client
        except THEIRS as error:
            raise self._ours(error) from error
        finally:
            self._turns.release()

    def _ours(self, error: Exception) -> Exception:
        return translated(error, str(self.target))


@contextmanager
def _cancellation_kept() -> Iterator[None]:
    """Raises the cancellation that the client library has lost, if it has.

    It waits by `asyncio.wait_for`, which in Python 3.11 returns as if nothing had been,
    when what it waited for is done at the same moment.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


async def _answer(client: Any, command: tuple[Text, ...]) -> Any:
    try:
        return await client.execute_command(*command)
    except exceptions.ResponseError as refused:
        return refused


def _clients_of(target: Target, limits: RedisLimits) -> list[Any]:
    options: dict[str, Any] = {
        "username": target.username,
        "password": target.password,
        "client_name": _NAME,
        "max_connections": limits.pool_max,
        "socket_timeout": limits.command_timeout_seconds,
        "socket_connect_timeout": limits.connect_timeout_seconds,
        "socket_keepalive": True,
        # A call whose answer was lost may have been carried out.
        "retry": Retry(NoBackoff(), 0),
    }
    secure: dict[str, Any] = {"ssl": True, **dict(target.files)} if target.tls else {}
    if target.kind == "cluster":
        nodes = [theirs.cluster.ClusterNode(*host) for host in target.hosts]
        return [theirs.RedisCluster(startup_nodes=nodes, **options, **secure)]
    options["db"] = target.database
    if target.kind == "sentinel":
        sentinels: Any = theirs.Sentinel(  # type: ignore[no-untyped-call]
            target.hosts,
            sentinel_kwargs={
                "password": target.sentinel_password,
                "socket_timeout": limits.connect_timeout_seconds,
                "socket_connect_timeout": limits.connect_timeout_seconds,
                **secure,
            },
        )
        master = sentinels.master_for(target.master, **options, **secure)
        return [master, *sentinels.sentinels]
    ((host, port),) = target.hosts
    return [theirs.Redis(host=host, port=port, **options, **secure)]
