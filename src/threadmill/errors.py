"""The one tree of errors, cut by what the caller should do next.

::

    Error
    ├─ RequestError        change the request
    │  ├─ InvalidRequest     malformed or not allowed
    │  ├─ PayloadTooLarge    over a configured limit
    │  ├─ RequestTooSlow     its body comes too slowly
    │  ├─ NotFound           no such thing, or not yours
    │  ├─ Forbidden          known, and not allowed
    │  └─ Conflict           clashes with the present state
    │     ├─ ThreadBusy        a run is active or queued
    │     ├─ AlreadyExists     the id or idempotency key is taken
    │     └─ HeadMoved         the thread has gone on meanwhile
    ├─ LimitExceeded       wait, then try again
    │  └─ Overloaded         a bounded queue is full
    ├─ Unavailable         a retry is safe
    │  ├─ StoreUnavailable   the database does not answer
    │  ├─ StoreReadOnly      a store answers, and takes nothing more
    │  ├─ BrokerUnavailable  the message broker does not answer
    │  └─ ChunksDropped      the thread was pruned while it was written
    ├─ SetupError          the operator must mend something
    │  ├─ BadSetting         a setting or langgraph.json is wrong
    │  └─ SchemaOutdated     run `threadmill migrate`
    ├─ GraphError          the user's code
    │  ├─ GraphLoadFailed    it does not import or compile
    │  ├─ GraphFailed        it raised
    │  ├─ StateUnserializable  its state cannot be stored
    │  ├─ EffectUnknown      it may have happened already: look, then decide
    │  └─ EffectNotDone      said by an effect: it has not happened
    ├─ StateLost           what was stored is gone: restore it, or begin anew
    ├─ LeaseLost           somebody else owns the activation: stop silently
    └─ InvariantViolated   our bug; it always alerts

`code` is part of the interface and is never renamed. A class's docstring is its
default message. Drivers translate their vendor's errors at their edge; only the root
of a loop or of a task catches broadly, and logs. The HTTP status of each class stands
in one table, `threadmill.server.errors`.
"""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """threadmill failed."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class RequestError(Error):
    """the request cannot be served as it is."""

    code = "request_error"


class InvalidRequest(RequestError):
    """the request is not valid."""

    code = "invalid_request"


class PayloadTooLarge(RequestError):
    """the payload is larger than THREADMILL_PAYLOAD_BYTES_MAX."""

    code = "payload_too_large"


class RequestTooSlow(RequestError):
    """the request's body comes too slowly (THREADMILL_REQUEST_SECONDS)."""

    code = "request_too_slow"


class NotFound(RequestError):
    """not found."""

    code = "not_found"


class Forbidden(RequestError):
    """not allowed."""

    code = "forbidden"


class Conflict(RequestError):
    """the request clashes with the present state."""

    code = "conflict"


class ThreadBusy(Conflict):
    """the thread has an active or queued run."""

    code = "thread_busy"


class AlreadyExists(Conflict):
    """it exists already."""

    code = "already_exists"


class HeadMoved(Conflict):
    """the thread's head has moved meanwhile; read it again."""

    code = "head_moved"


class LimitExceeded(Error):
    """a limit is reached; try again later."""

    code = "limit_exceeded"

    def __init__(
        self, message: str | None = None, *, retry_after_seconds: float = 1.0
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Overloaded(LimitExceeded):
    """a queue is full; try again later."""

    code = "overloaded"


class Unavailable(Error):
    """temporarily unavailable; a retry is safe."""

    code = "unavailable"

    def __init__(
        self,
        message: str | None = None,
        *,
        retry_after_seconds: float = 1.0,
        shown: str | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        # What clients may read: no address, and nothing that a server said.
        self.shown = shown or str(self)


class StoreUnavailable(Unavailable):
    """the database does not answer; check DATABASE_URI and that it is running."""

    code = "store_unavailable"


class StoreReadOnly(Unavailable):
    """a store answers, and takes nothing more: it is full, or a replica."""

    # Apart from `StoreUnavailable`: what reads go on finding would be done again and
    # again in vain, so whoever meets this has had an attempt.
    code = "store_read_only"


class BrokerUnavailable(Unavailable):
    """the message broker does not answer; check BROKER_URI and that it is running."""

    # Nobody waits for a broker: hints are published, and received, beside the work.
    code = "broker_unavailable"


class ChunksDropped(Unavailable):
    """the thread was pruned while it was written; a retry is safe."""

    # The saver answers it by itself, with a put that sends everything.
    code = "chunks_dropped"


class SetupError(Error):
    """the set-up must be mended."""

    code = "setup_error"


class BadSetting(SetupError):
    """a setting is not valid."""

    code = "bad_setting"


class SchemaOutdated(SetupError):
    """the database schema is missing or older; run `threadmill migrate`."""

    code = "schema_outdated"


class GraphError(Error):
    """the graph's own code failed."""

    code = "graph_error"


class GraphLoadFailed(GraphError):
    """the graph does not load."""

    code = "graph_load_failed"

    def __init__(self, message: str | None = None, *, shown: str | None = None) -> None:
        super().__init__(message)
        # What clients may read: no paths and nothing of the graph's code.
        self.shown = shown or "the graph does not load"


class GraphFailed(GraphError):
    """the graph raised an error."""

    code = "graph_failed"


class StateUnserializable(GraphError):
    """the graph's state holds a value that cannot be stored."""

    code = "state_unserializable"


class EffectUnknown(GraphError, RuntimeError):
    """an effect may have happened already."""

    # LangGraph's own RetryPolicy repeats nodes, but not for a RuntimeError: the
    # answer would be the same.
    code = "effect_unknown"


class EffectNotDone(GraphError):
    """the effect has not happened."""

    code = "effect_not_done"


class StateLost(Error):
    """what a thread holds is not in Redis any more."""

    code = "state_lost"


class LeaseLost(Error):
    """the activation is owned by somebody else."""

    code = "lease_lost"


class InvariantViolated(Error):
    """an invariant of threadmill is broken; please report it."""

    code = "invariant_violated"
