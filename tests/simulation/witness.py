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
from threadmill.stores.records import Presence

if TYPE_CHECKING:
    from threadmill.checkpoints.base import Commit, Committed, Put
    from threadmill.domain.fence import Fence
    from threadmill.stores.records import Accepted, Cancelled, Claim, Ending, Lost

# Logged only when something happened that the code itself calls a bug.
_ALARMS: Final = frozenset({"worker.attempt_crashed", "sweep.broken", "attempt.broken"})


class Witness:
    """The books of one schedule.

    Args:
        attempts_max: losses without progress after which a run is given up.
        quiet: nothing goes wrong, so no node may begin twice.
        clock: the world's.
    """

    def __init__(
        self, attempts_max: int, clock: Callable[[], float], *, quiet: bool
    ) -> None:
        self._attempts_max = attempts_max
        self._quiet = quiet
        self._tried: set[str] = set()
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
        self._losses: Counter[UUID] = Counter()
        # Of a run's step when it was planned: its tasks begin with as many.
        self._brought: dict[UUID, int] = {}
        self._of_token: dict[int, UUID] = {}
        self._results: set[str] = set()
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
        found = result.free if isinstance(result, Presence) else result
        if found == [] and what in _LOOKS:
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
            if claim.run_id in self.ended:
                self._wrong(f"run {claim.run_id} is claimed after its end")
            self._count(claim)
            self._given_out(claim.thread_id, claim.activation_id, claim.token)

    def _count(self, claim: Claim) -> None:
        """Its attempt is one more than what was lost since it last got on."""
        if claim.kind == "task" and claim.activation_id not in self._tokens:
            self._losses[claim.activation_id] = self._brought[claim.run_id]
        lost = self._losses[claim.activation_id]
        if claim.attempt != lost + 1:
            self._wrong(
                f"{claim.activation_id} is claimed for attempt {claim.attempt} after "
                f"{lost} losses"
            )

    def _given_out(self, thread_id: UUID, activation_id: UUID, token: int) -> None:
        """Somebody holds the activation from now on, and under this token."""
        if token <= self._newest.get(thread_id, 0):
            self._wrong(f"token {token} does not rise along its thread")
        self._held[activation_id] = self._tokens[activation_id] = token
        self._newest[thread_id] = token
        self._of_token[token] = activation_id

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
        del kwargs
        _tenant, _thread, commit, fence = args
        if fence is None:
            return
        self._wrote(fence, commit)
        if commit.release:
            self._let_go(fence.activation_id, fence.token)
        committed = cast("Committed", result)
        if committed.claimed is not None:
            self.counts["slots filled by a hand-over"] += 1
            self._claim((), {}, [committed.claimed])
        if commit.plan is not None:
            self._held.pop(fence.activation_id, None)
            self.counts["supersteps spread"] += 1
            self._brought[fence.run_id] = self._losses[fence.activation_id]
        for activation_id, token in sorted(
            committed.planned.values(), key=lambda right: right[1]
        ):
            self._losses[activation_id] = self._brought[fence.run_id]
            self._given_out(fence.thread_id, activation_id, token)
        if commit.ended is not None:
            self._tasks_end(fence, commit)
        if committed.join is not None:
            self.counts["supersteps joined by who ended the last task"] += 1
            self._given_out(fence.thread_id, *committed.join)

    def _tasks_end(self, fence: Fence, commit: Commit) -> None:
        assert commit.ended is not None
        rights = dict(fence.rights)
        for activation_id in commit.ended.activations:
            if activation_id not in rights:
                self._wrong(f"{activation_id} is ended by somebody who holds it not")
            self._held.pop(activation_id, None)
        for result in commit.writes:
            if result.task_id in self._results:
                self._wrong(f"the result of {result.task_id} is committed twice")
            self._results.add(result.task_id)

    def _wrote(self, fence: Fence, commit: Commit) -> None:
        for activation_id, token in fence.rights:
            newest = self._tokens.get(activation_id, token)
            if newest != token:
                self._wrong(
                    f"a stale holder writes: token {token} of run {fence.run_id}, "
                    f"{newest} was given out"
                )
        if fence.run_id in self.ended:
            self._wrong(f"run {fence.run_id} writes after its end")
        for put in commit.puts:
            self._put(fence, put)
        if commit.puts:
            # Whoever was re-opened already and gets on is lost once since then.
            held = self._held.get(fence.activation_id) == fence.token
            lost = self._losses[fence.activation_id]
            self._losses[fence.activation_id] = 0 if held else min(lost, 1)

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
        if now[-1][:2] in {item[:2] for item in before}:
            self._wrong(f"{now[-1]} is applied twice")
        self._heads[thread], self.applied[thread] = checkpoint["id"], now

    def _let_go(self, activation_id: UUID, token: int) -> bool:
        if self._held.get(activation_id) != token:
            return False
        del self._held[activation_id]
        return True

    def _release(self, args: Any, kwargs: Any, result: object) -> None:
        del result
        for activation_id, token in cast("Fence", args[0]).rights:
            if self._let_go(activation_id, token):
                self._losses[activation_id] += kwargs["count_attempt"]

    def _reopen(self, args: Any, kwargs: Any, result: object) -> None:
        del args, kwargs
        for lost in cast("Sequence[Lost]", result):
            self._held.pop(lost.activation_id, None)
            self._losses[lost.activation_id] += 1

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
        message = (ending.error or {}).get("message", "")
        lost = max(self._losses[activation_id] for activation_id, _ in fence.rights)
        if "gave up" in message and lost < self._attempts_max:
            self._wrong(f"run {fence.run_id} is given up too early")

    def _wrote_last(self, fence: Fence, rest: Commit) -> None:
        losses = self._losses[fence.activation_id]
        self._wrote(fence, rest)
        self._losses[fence.activation_id] = losses

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

    def node(self, who: str, task_id: str, token: int) -> None:
        """A node begins."""
        self.note(who, "runs node", f" {task_id} under token {token}")
        if self._quiet and task_id in self._tried:
            self._wrong(f"{task_id} begins again, and nothing has gone wrong")
        self._tried.add(task_id)
        activation_id = self._of_token[token]
        lost = self._losses[activation_id]
        # A stale holder, thawed, may begin a node before it learns that it is one.
        if self._held.get(activation_id) == token and lost >= self._attempts_max:
            self._wrong(f"a node of {task_id} runs after {lost} losses")


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


_LOOKS: Final = frozenset({"claim", "reopen", "due", "presence", "renew"})
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
