"""Watches what the store carries out, and says what must never be so.

The witness keeps books of its own: who claimed what, which run has ended, what lies on
top of what. It never asks the store what is allowed, so a store that allows too much is
seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

from threadmill.errors import Error

if TYPE_CHECKING:
    from threadmill.checkpoints.base import Commit, Put
    from threadmill.domain.fence import Fence
    from threadmill.stores.records import Accepted, Cancelled, Claim, Ending, Lost

# Logged only when something happened that the code itself calls a bug.
_ALARMS: Final = frozenset({"worker.attempt_crashed", "sweep.broken", "attempt.broken"})


class Witness:
    """The books of one schedule.

    Args:
        attempts_max: losses without progress after which a run is given up.
        clock: the world's.
    """

    def __init__(self, attempts_max: int, clock: Callable[[], float]) -> None:
        self._attempts_max = attempts_max
        self._clock = clock
        self.faulty = True
        self.over = False
        self.violations: list[str] = []
        self.trace: list[tuple[float, str, str, tuple[Any, ...], object]] = []
        self.counts: Counter[str] = Counter()
        self.accepted: dict[UUID, list[UUID]] = {}
        self.ended: dict[UUID, str] = {}
        self.applied: dict[UUID, tuple[Any, ...]] = {}
        self._heads: dict[UUID, str] = {}
        self._tokens: dict[UUID, int] = {}
        self._newest: dict[UUID, int] = {}
        self._held: dict[UUID, int] = {}
        self._acting: dict[UUID, int] = {}
        self._losses: Counter[UUID | None] = Counter()
        self._begun: dict[UUID, list[UUID]] = {}

    # --- the trace -------------------------------------------------------------------

    def note(self, who: str, what: str, which: str = "") -> None:
        """Something befalls somebody; it is counted without its `which`."""
        if self.over:
            return
        self.trace.append((self._clock(), who, f"{what}{which}", (), None))
        self.counts[what] += 1

    def logged(self, event: str) -> None:
        """The code under test has logged something."""
        self.note("log", event)
        if event in _ALARMS:
            self._wrong(f"the code reports a bug of its own: {event}")

    def lines(self) -> list[str]:
        """The trace as text."""
        return [
            f"{at:10.6f} {who:12} {what}{_shown(args, result)}"
            for at, who, what, args, result in self.trace
        ]

    def _wrong(self, what: str) -> None:
        self.violations.append(f"at {self._clock():.6f}: {what}")

    # --- what the store has carried out ----------------------------------------------

    def saw(
        self,
        who: str,
        what: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: object,
    ) -> None:
        """One transaction; an error as its result means that it changed nothing."""
        self.counts[what] += 1
        if result == [] and what in _LOOKS:
            return  # looked, and found nothing
        self.trace.append((self._clock(), who, what, args, result))
        if isinstance(result, Error):
            self.counts[f"{what} refused: {result.code}"] += 1
            return
        seen = _SEEN.get(what)
        if seen is not None:
            seen(self, args, kwargs, result)

    def _accept(self, args: Any, kwargs: Any, result: object) -> None:
        del args, kwargs
        accepted = cast("Accepted", result)
        if accepted.new:
            run = accepted.run
            self.accepted.setdefault(run.thread_id, []).append(run.run_id)

    def _claim(self, args: Any, kwargs: Any, result: object) -> None:
        del args, kwargs
        for claim in cast("Sequence[Claim]", result):
            if claim.activation_id in self._held:
                self._wrong(f"{claim.activation_id} is claimed while it is held")
            if claim.token <= self._newest.get(claim.thread_id, 0):
                self._wrong(f"token {claim.token} does not rise along its thread")
            if claim.run_id in self.ended:
                self._wrong(f"run {claim.run_id} is claimed after its end")
            if self._losses[claim.run_id] >= self._attempts_max:
                self.counts["claims of a spent run"] += 1
            self._held[claim.activation_id] = claim.token
            self._tokens[claim.activation_id] = claim.token
            self._acting[claim.run_id] = claim.token
            self._newest[claim.thread_id] = claim.token

    def _begin(self, args: Any, kwargs: Any, result: object) -> None:
        del kwargs, result
        claim: Claim = args[0]
        begun = self._begun.setdefault(claim.thread_id, [])
        if begun and begun[-1] == claim.run_id:
            return
        if claim.run_id in begun:
            self._wrong(f"run {claim.run_id} goes on after a later one has begun")
        if any(run not in self.ended for run in begun):
            self._wrong(f"run {claim.run_id} begins before the one before has ended")
        begun.append(claim.run_id)

    def _commit(self, args: Any, kwargs: Any, result: object) -> None:
        del kwargs, result
        _tenant, _thread, commit, fence = args
        if fence is None:
            return
        self._wrote(fence, commit)
        if commit.release:
            self._let_go(fence)

    def _wrote(self, fence: Fence, commit: Commit) -> None:
        if self._tokens.get(fence.activation_id, fence.token) != fence.token:
            self._wrong(
                f"a stale holder writes: token {fence.token} of run {fence.run_id}, "
                f"{self._tokens[fence.activation_id]} was given out"
            )
        if fence.run_id in self.ended:
            self._wrong(f"run {fence.run_id} writes after its end")
        for put in commit.puts:
            self._put(fence, put)
        if commit.release:
            self._losses[fence.run_id] = 0
        elif commit.puts:
            # Whoever was re-opened already and gets on is lost once since then.
            held = self._held.get(fence.activation_id) == fence.token
            self._losses[fence.run_id] = 0 if held else 1

    def _put(self, fence: Fence, put: Put) -> None:
        thread, checkpoint = fence.thread_id, put.checkpoint
        if put.parent_id != self._heads.get(thread):
            self._wrong(
                f"checkpoint {checkpoint['id']} follows {put.parent_id}, and the head "
                f"was {self._heads.get(thread)}: the thread forks"
            )
        if fence.token < self._newest.get(thread, 0):
            self._wrong(f"token {fence.token} falls along the thread's checkpoints")
        before = self.applied.get(thread, ())
        now = checkpoint["channel_values"]["applied"]
        if now[:-1] != before:
            self._wrong(f"checkpoint {checkpoint['id']} loses what was applied before")
        if now[-1] in before:
            self._wrong(f"{now[-1]} is applied twice")
        self._heads[thread], self.applied[thread] = checkpoint["id"], now

    def _let_go(self, fence: Fence) -> None:
        if self._held.get(fence.activation_id) == fence.token:
            del self._held[fence.activation_id]

    def _release(self, args: Any, kwargs: Any, result: object) -> None:
        del result
        fence: Fence = args[0]
        if self._held.get(fence.activation_id) != fence.token:
            return
        self._let_go(fence)
        self._losses[fence.run_id] += kwargs["count_attempt"]

    def _reopen(self, args: Any, kwargs: Any, result: object) -> None:
        del args, kwargs
        for lost in cast("Sequence[Lost]", result):
            self._held.pop(lost.activation_id, None)
            self._losses[lost.run_id] += 1

    def _begin_update(self, args: Any, kwargs: Any, result: object) -> None:
        del args, kwargs
        fence = cast("Fence", result)
        self._tokens[fence.activation_id] = fence.token
        self._newest[fence.thread_id] = fence.token

    def _finish(self, args: Any, kwargs: Any, result: object) -> None:
        del kwargs, result
        fence, ending = args[0], cast("Ending", args[1])
        if len(args) > 2:
            self._wrote_last(fence, args[2])
        self._end(fence.run_id, ending.event.value)
        self._held.pop(fence.activation_id, None)
        message = (ending.error or {}).get("message", "")
        if "gave up" in message and self._losses[fence.run_id] < self._attempts_max:
            self._wrong(f"run {fence.run_id} is given up too early")

    def _wrote_last(self, fence: Fence, rest: Commit) -> None:
        losses = self._losses[fence.run_id]
        self._wrote(fence, rest)
        self._losses[fence.run_id] = losses

    def _cancel(self, args: Any, kwargs: Any, result: object) -> None:
        del args, kwargs
        cancelled = cast("Cancelled", result)
        self._end(cancelled.run.run_id, "cancel")
        for activation_id, _ in cancelled.activations:
            self._held.pop(activation_id, None)

    def _end(self, run_id: UUID, how: str) -> None:
        if run_id in self.ended:
            self._wrong(f"run {run_id} ends twice: {self.ended[run_id]}, then {how}")
        self.ended[run_id] = how
        self.counts[f"runs ended by {how}"] += 1

    # --- what graphs do --------------------------------------------------------------

    def node(self, who: str, run_id: UUID, step: int, token: int) -> None:
        """A node begins."""
        self.note(who, "runs node", f" {step} of {run_id.int} under token {token}")
        # A stale holder, thawed, may begin a node before it learns that it is one.
        if self._acting[run_id] == token and self._losses[run_id] >= self._attempts_max:
            self._wrong(f"a node runs after {self._losses[run_id]} losses of {run_id}")


def _shown(args: Sequence[Any], result: object) -> str:
    if not args and result is None:
        return ""
    given = ", ".join(_short(arg) for arg in args)
    return f"({given}) -> {_short(result)}"


def _short(value: object) -> str:
    if isinstance(value, Error):
        return f"{value.code}"
    if isinstance(value, UUID):
        return str(value.int)
    return repr(value)


_LOOKS: Final = frozenset({"claim", "reopen", "due", "absent", "renew"})
_SEEN: Final[dict[str, Callable[[Witness, Any, Any, object], None]]] = {
    "accept": Witness._accept,
    "claim": Witness._claim,
    "begin": Witness._begin,
    "commit": Witness._commit,
    "release": Witness._release,
    "reopen": Witness._reopen,
    "finish": Witness._finish,
    "cancel": Witness._cancel,
    "begin_update": Witness._begin_update,
}
