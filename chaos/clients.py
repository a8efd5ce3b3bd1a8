"""The load: clients that send, follow and read, and log all of it.

They are as careful as the documentation asks them to be: every try of a message has
the same `Idempotency-Key` and goes to whichever server answers, and a broken stream is
followed on after the last event that was seen. Some are careless on purpose: they give
up after one try, ask for what may be refused, or cancel what they have asked for.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import uuid4

import httpx

from chaos.fleet import Process
from threadmill.testing.history import HistoryLog

_TRY_SECONDS = 10.0
_GIVE_UP_SECONDS = 90.0
_PAUSE_SECONDS = 0.1
_MESSAGES_PER_THREAD = 25
# So many clients meet on one thread; more would only wait for each other.
_CLIENTS_PER_SHARED = 6
_CANCELLED_SHARE = 0.06
_CANCEL_SECONDS_MAX = 0.6
_LATER_SHARE = 0.1
_LATER_SECONDS = (0.1, 1.0)
# A run that went with a window of loss: the checker tells whether it may be gone.
_GONE = "gone"
_ENDED = {"success", "error", "timeout", "interrupted", _GONE}
# Nothing went wrong, or somebody may be asked again.
_UNAVAILABLE = 503
_AGAIN = {429, 500, 502, _UNAVAILABLE, 504}


@dataclass
class Clients:
    """Some clients.

    Args:
        servers: whom to ask; changes while they run.
        log: what they say about it.
        chooser: decides what they do.
        harms: what the next messages ask for, the next one first.
        kinds: how often which message was sent.
        poisoned: the runs that must end as `error`.
        unavailable: how often a server has said 503, by its address.
        may_lose: whether the database has gone back, so that runs may be gone.
    """

    servers: Sequence[Process]
    log: HistoryLog
    chooser: random.Random
    harms: deque[str] = field(default_factory=deque)
    kinds: Counter[str] = field(default_factory=Counter)
    poisoned: list[str] = field(default_factory=list)
    accepted: int = 0
    unavailable: Counter[str] = field(default_factory=Counter)
    may_lose: bool = False
    _shared: list[str] = field(default_factory=list)

    async def run(self, clients: int, stop: asyncio.Event) -> None:
        """Sends until it is told to stop, and returns when the last one is done."""
        shared = -(-clients // _CLIENTS_PER_SHARED)
        self._shared = [str(uuid4()) for _ in range(shared)]
        async with (
            httpx.AsyncClient(timeout=_TRY_SECONDS) as http,
            asyncio.TaskGroup() as group,
        ):
            for number in range(clients):
                group.create_task(self._client(http, number, stop))

    async def crowd(self, server: Process, number: int) -> None:
        """Many messages at once, all of them to one server, until each is answered."""
        async with (
            httpx.AsyncClient(timeout=_TRY_SECONDS) as http,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(number):
                thread = str(uuid4())
                sent = self._send(http, thread, f"crowd-{thread}-plain", only=server)
                group.create_task(sent)

    async def _client(
        self, http: httpx.AsyncClient, number: int, stop: asyncio.Event
    ) -> None:
        mine, turn = str(uuid4()), 0
        place = number % len(self._shared)
        while not stop.is_set():
            turn += 1
            if turn % _MESSAGES_PER_THREAD == 0:
                mine = str(uuid4())
                if number == place:
                    self._shared[place] = str(uuid4())
            harm = self.harms.popleft() if self.harms else None
            kind = harm or self.chooser.choice(("plain", "plain", "fan"))
            if harm is None and self.chooser.random() < _LATER_SHARE:
                kind = "later"
            # Poison has a thread of its own: all that follows on it would wait. What is
            # to begin later has one, too: what follows on it would overtake it.
            alone = kind in {"poison", "later"}
            thread = str(uuid4()) if alone else mine
            if harm is None and not alone and self.chooser.random() < 0.3:
                thread = self._shared[place]
            message = f"c{number}-{turn}-{kind}"
            self.kinds[kind] += 1
            run = await self._send(http, thread, message)
            if run is None:
                continue
            if kind == "poison":
                self.poisoned.append(run)
                continue
            if harm is None and self.chooser.random() < _CANCELLED_SHARE:
                await self._cancel(http, thread, run)
            if self.chooser.random() < 0.5:
                await self._follow(http, thread, run, stop)
            else:
                await self._join(http, thread, run, stop)
            await self._read(http, thread)

    def _url(self) -> str | None:
        alive = [server.url for server in self.servers if server.alive]
        return self.chooser.choice(alive) if alive else None

    async def _send(
        self,
        http: httpx.AsyncClient,
        thread: str,
        message: str,
        *,
        only: Process | None = None,
    ) -> str | None:
        """The run that the message became; None when it is refused or unknown.

        Args:
            http: asks.
            thread: which.
            message: its id.
            only: the server to ask; as long as it lives, no other one.
        """
        key, draw = uuid4().hex, self.chooser.random()
        body: dict[str, object] = {
            "assistant_id": "harm",
            "input": {"messages": [message]},
            "if_not_exists": "create",
            "stream_mode": ["updates"],
            "stream_resumable": True,
            "multitask_strategy": "reject" if draw < 0.1 else "enqueue",
        }
        if message.endswith("-later"):
            body["after_seconds"] = self.chooser.uniform(*_LATER_SECONDS)
        patience = 0.0 if draw > 0.95 else _GIVE_UP_SECONDS
        deadline = self.log.now() + patience
        self.log.invoke(message, thread=thread, key=key)
        while True:
            url = only.url if only is not None and only.alive else self._url()
            try:
                answer = await http.post(
                    f"{url}/threads/{thread}/runs",
                    json=body,
                    headers={"Idempotency-Key": key},
                )
            except (httpx.TransportError, httpx.UnsupportedProtocol):
                answer = None
            if answer is not None and answer.is_success:
                run: str = answer.json()["run_id"]
                self.log.ok(message, thread=thread, run=run)
                self.accepted += 1
                return run
            if answer is not None and answer.status_code == _UNAVAILABLE:
                self.unavailable[str(url)] += 1
                if "retry-after" not in answer.headers:
                    msg = f"503 does not say when to come back: {answer.text[:200]}"
                    raise AssertionError(msg)
            if answer is not None and answer.status_code not in _AGAIN:
                why = f"{answer.status_code} {answer.text[:200]}"
                self.log.fail(message, thread=thread, why=why)
                return None
            if self.log.now() > deadline:
                self.log.unknown(message, thread=thread)
                return None
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _cancel(self, http: httpx.AsyncClient, thread: str, run: str) -> None:
        """Changes its mind a moment later; the run may have ended before."""
        await asyncio.sleep(self.chooser.uniform(0.0, _CANCEL_SECONDS_MAX))
        with suppress(httpx.TransportError, httpx.UnsupportedProtocol):
            await http.post(f"{self._url()}/threads/{thread}/runs/{run}/cancel")

    async def _status(
        self, http: httpx.AsyncClient, thread: str, run: str
    ) -> str | None:
        with suppress(httpx.HTTPError, httpx.UnsupportedProtocol, KeyError, ValueError):
            answer = await http.get(f"{self._url()}/threads/{thread}/runs/{run}")
            # Without a loss this is no end, and the verdict tells of it.
            if self.may_lose and answer.status_code == httpx.codes.NOT_FOUND:
                return _GONE
            status: str = answer.raise_for_status().json()["status"]
            return status
        return None

    async def _join(
        self, http: httpx.AsyncClient, thread: str, run: str, stop: asyncio.Event
    ) -> None:
        """Waits for the run's end, by asking; also for its disappearance."""
        while await self._status(http, thread, run) not in _ENDED:
            if stop.is_set():
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _follow(
        self, http: httpx.AsyncClient, thread: str, run: str, stop: asyncio.Event
    ) -> None:
        """Follows the run's stream to its end, whoever serves it.

        A stream that ends in order is whole. A server that goes away cuts it.
        """
        reader, last = uuid4().hex, "0"
        self.log.reader(reader, thread=thread, run=run)
        while True:
            status = await self._status(http, thread, run)
            if status == _GONE:
                return
            orderly, last = await self._listen(http, thread, run, reader, last)
            if orderly:
                self.log.end(reader)
                return
            if stop.is_set() and status not in _ENDED:
                return
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _listen(
        self, http: httpx.AsyncClient, thread: str, run: str, reader: str, last: str
    ) -> tuple[bool, str]:
        """One connection: whether it ended in order, and the last event that came."""
        url = f"{self._url()}/threads/{thread}/runs/{run}/stream"
        seen = ""
        try:
            async with http.stream("GET", url, headers={"Last-Event-ID": last}) as got:
                got.raise_for_status()
                async for line in got.aiter_lines():
                    if line.startswith("id: "):
                        seen = line.removeprefix("id: ")
                    elif not line and seen:
                        self.log.seen(reader, seen)
                        last, seen = seen, ""
        except (httpx.HTTPError, httpx.UnsupportedProtocol):
            return False, last
        return True, last

    async def _read(self, http: httpx.AsyncClient, thread: str) -> None:
        """Looks at the state, if somebody answers."""
        began = self.log.now()
        with suppress(httpx.HTTPError, httpx.UnsupportedProtocol):
            answer = await http.get(f"{self._url()}/threads/{thread}/state")
            if not answer.is_success:
                return
            state = answer.json()
            self.log.read(
                thread,
                began_at=began,
                messages=state["values"].get("messages", []),
                checkpoint=state["checkpoint"]["checkpoint_id"],
            )
