"""The page that Prometheus reads: prometheus-client writes the format, this hands it what the core renders."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.exporter.core.catalogue import METRICS
from services.exporter.core.render import Sample


class RenderedCollector(Collector):
    """Asks for the series anew at every scrape; called by the server's threads."""

    def __init__(self, samples: Callable[[], Sequence[Sample]]) -> None:
        """Show what ``samples`` returns; it must be safe to call from any thread."""
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that has a series, in the order of the catalogue."""
        found: dict[str, list[Sample]] = {}
        for sample in self._samples():
            found.setdefault(sample.name, []).append(sample)
        for name, metric in METRICS.items():
            if name in found:
                make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = make(name, metric.help, labels=metric.labels)
                for sample in found[name]:
                    family.add_metric(sample.labels, sample.value)
                yield family

    def describe(self) -> list[Metric]:
        """Return nothing: what there is depends on the moment."""
        return []


def registry_of(samples: Callable[[], Sequence[Sample]]) -> CollectorRegistry:
    """Return the registry of the page: what the core renders, and this process's own figures."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RenderedCollector(samples))
    ProcessCollector(namespace="autoscaler_exporter", registry=registry)
    return registry
