"""The text that Prometheus reads, made by prometheus-client of `Measurements`; in any thread.

It takes milliseconds, so it has no business on the daemon's loop. This module alone imports
prometheus-client, and is imported when metrics are wanted.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Exported

from arrayd_server.metrics.measurements import Measurements
from arrayd_server.metrics.table import METRICS, Metric


class MeasurementsCollector:
    """Gives prometheus-client all that is in the table."""

    def __init__(self, measured: Measurements) -> None:
        self._measured = measured

    def collect(self) -> Iterator[Exported]:
        """Yield the metrics in the order of the table."""
        values, distributions = self._measured.values(), self._measured.distributions()
        for metric in METRICS.values():
            if metric.kind == "histogram":
                family = _histogram(metric)
                for label, one in distributions[metric.name].items():
                    family.add_metric([label], one.buckets(), one.total)
                yield family
            else:
                plain = _plain(metric)
                for labels, value in values[metric.name].items():
                    plain.add_metric(labels, value)
                yield plain


def text(measured: Measurements, accept: str = "") -> tuple[bytes, str]:
    """Return the text, and its type: that which an Accept header asks for."""
    registry = CollectorRegistry()
    registry.register(MeasurementsCollector(measured))
    ProcessCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _histogram(metric: Metric) -> HistogramMetricFamily:
    return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)


def _plain(metric: Metric) -> GaugeMetricFamily | CounterMetricFamily:
    # An info is a gauge of 1, as prometheus-client writes it in the plain format too.
    kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    return kind(metric.name, metric.help, labels=metric.labels)
