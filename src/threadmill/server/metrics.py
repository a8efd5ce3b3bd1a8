"""Numbers in Prometheus's text format: a worker's own, and those of all queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from threadmill.checkpoints.chunk_store import ArchiveLag
    from threadmill.stores.operations import Queue
    from threadmill.stores.retention import Freed

PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"

_WORKER: Final = "threadmill_worker_"
# What counts up ends in `_total`, everything else goes up and down.
_TOTAL: Final = "_total"
_WORKER_HELP: Final = MappingProxyType(
    {
        "slots": "Activations that this worker may run at once.",
        "slots_taken": "Slots that are taken, also by threads that have not returned.",
        "activations_running": "Activations that this worker is carrying out.",
        "activations_claimed_total": "Activations that this worker has claimed.",
        "draining": "1 while this worker takes no more work, else 0.",
        "pool_connections": "Database connections of the pool.",
        "pool_requests_waiting": "Transactions that wait for a connection.",
        "pruned_threads_total": "Threads that this worker has pruned by a rule.",
        "pruned_bytes_total": "Bytes of values that this has freed.",
    }
)
_QUEUE: Final = "threadmill_queue_"
_QUEUE_HELP: Final = MappingProxyType(
    {
        "runnable": "Activations that a free worker would take now.",
        "oldest_runnable_seconds": "How long the first runnable activation has waited.",
        "running": "Activations that workers hold.",
        "blocked": "Runs behind their thread, and tasks behind another one.",
        "delayed": "Runs and retries whose time has not come.",
        "dead_letters": "Runs that were given up.",
    }
)

_RETENTION: Final = "threadmill_retention_"
_RETENTION_HELP: Final = MappingProxyType(
    {
        "threads_total": "Threads that this process has pruned or deleted by a rule.",
        "checkpoints_total": "Checkpoints that went with them.",
        "bytes_total": "Bytes of values that this has freed.",
    }
)

_ARCHIVE: Final = "threadmill_archive_"
_ARCHIVE_HELP: Final = MappingProxyType(
    {
        "behind_threads": "Threads with values that PostgreSQL has no copy of yet.",
        "behind_seconds": "For how long the first of them has waited.",
    }
)

Numbers = Callable[[], Mapping[str, float]]


def worker_metrics(numbers: Numbers) -> Callable[[], bytes]:
    """Gives what a worker is doing, read when it is asked for.

    Args:
        numbers: by the ends of metric names.
    """
    registry = CollectorRegistry()
    registry.register(_Worker(numbers))
    return lambda: generate_latest(registry)


def queue_metrics(queues: Sequence[Queue]) -> bytes:
    """What waits, by labels: joined by commas, none for work that needs none."""
    registry = CollectorRegistry()
    registry.register(_Queues(queues))
    return generate_latest(registry)


def retention_metrics(freed: Freed) -> bytes:
    """What this process has pruned since it began."""
    registry = CollectorRegistry()
    registry.register(_Retention(freed))
    return generate_latest(registry)


def archive_metrics(lag: ArchiveLag) -> bytes:
    """How far the archive of the chunk store is behind."""
    registry = CollectorRegistry()
    registry.register(_Archive(lag))
    return generate_latest(registry)


class _Archive(Collector):
    def __init__(self, lag: ArchiveLag) -> None:
        self._values = {
            "behind_threads": lag.threads,
            "behind_seconds": lag.seconds,
        }

    def collect(self) -> Iterator[Metric]:
        for name, help_ in _ARCHIVE_HELP.items():
            yield GaugeMetricFamily(_ARCHIVE + name, help_, value=self._values[name])


class _Retention(Collector):
    def __init__(self, freed: Freed) -> None:
        self._freed = freed

    def collect(self) -> Iterator[Metric]:
        for name, help_ in _RETENTION_HELP.items():
            value = getattr(self._freed, name.removesuffix(_TOTAL))
            yield CounterMetricFamily(_RETENTION + name, help_, value=value)


class _Worker(Collector):
    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers

    def collect(self) -> Iterator[Metric]:
        for name, value in self._numbers().items():
            family = CounterMetricFamily if name.endswith(_TOTAL) else GaugeMetricFamily
            yield family(_WORKER + name, _WORKER_HELP[name], value=value)


class _Queues(Collector):
    def __init__(self, queues: Sequence[Queue]) -> None:
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        for name, help_ in _QUEUE_HELP.items():
            family = GaugeMetricFamily(_QUEUE + name, help_, labels=["labels"])
            for queue in self._queues:
                family.add_metric([",".join(queue.labels)], queue.as_json()[name])
            yield family
