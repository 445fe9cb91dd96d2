"""Queues as Prometheus metrics, with the extra ``prometheus``. Nothing is collected until `register` is called, and then only when somebody scrapes.

    offload_tasks_total{queue, registry, outcome}    calls that ended: succeeded, failed, cancelled, dropped, coalesced, rejected
    offload_tasks_waiting, offload_tasks_running     {queue, registry}
    offload_workers, offload_workers_busy            {queue, registry}: threads
    offload_wait_seconds_total, offload_run_seconds_total, offload_blocked_seconds_total    {queue, registry}

``registry`` is the empty string for the application's own queues.
"""

from collections.abc import Iterator
from typing import Any

from offload._api import Registry, default
from offload._measures import MEASURES, read, samples


class QueueCollector:
    """A collector over `stats`: hand it to a ``CollectorRegistry`` of prometheus_client, or let `register` do so."""

    def __init__(self, *registries: Registry) -> None:
        self._registries = registries or (default,)

    def collect(self) -> Iterator[Any]:
        """The metrics of all queues, each registry's as of one moment. Does not block."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        stats = read(self._registries)
        for measure in MEASURES:
            kind = CounterMetricFamily if measure.grows else GaugeMetricFamily
            labels = ["queue", "registry", *([measure.label] if measure.label else [])]
            family = kind(f"offload_{measure.name}", measure.about, labels=labels, unit="seconds" if measure.unit == "s" else "")
            for sample in samples(measure, stats):
                family.add_metric([sample.queue, sample.registry, *([sample.kind] if measure.label else [])], sample.value)
            yield family

    def describe(self) -> list[Any]:
        """What it will collect: nothing that could be in another's way."""
        return list(self.collect())


def register(*registries: Registry, to: Any = None) -> QueueCollector:
    """Add the queues of these registries, the default one if none is given, to prometheus_client's registry ``to``, its global one if None.

    Returns the collector, for ``to.unregister``. Does not block. Raises ValueError if they are there already.
    """
    from prometheus_client import REGISTRY

    collector = QueueCollector(*registries)
    (REGISTRY if to is None else to).register(collector)
    return collector
