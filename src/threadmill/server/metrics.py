"""Numbers in Prometheus's text format: a worker's own, and those of all queues."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from threadmill.stores.operations import Queue

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
