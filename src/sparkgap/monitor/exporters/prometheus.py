"""Prometheus: a `/metrics` page on a port of its own, made when it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, ClassVar

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.monitor.exporters.base import Exporter
from sparkgap.monitor.exporters.metrics import LATENCY, METRICS, Sample, samples
from sparkgap.monitor.exporters.registry import host_and_port, no_more
from sparkgap.monitor.exporters.snapshot import Snapshot
from sparkgap.monitor.stats import LATENCY_BOUNDS

PORT = 9108
MAX_RUNS = 20
"""The latest runs are shown. Labels never name a partition, an attempt or a machine, so that series stay few."""
MAX_LABEL = 100


class PrometheusExporter(Exporter):
    """Serves the latest runs to Prometheus.

    Args:
        host: where to listen. Whoever reaches it can read it: there is no token in this protocol.
        port: 0 for a free one.

    Attributes:
        port: where it listens.

    Raises:
        ConfigurationError: the port is taken.
        MissingDependencyError: prometheus-client is absent.
    """

    name: ClassVar[str] = "prometheus"

    def __init__(self, host: str = "127.0.0.1", port: int = PORT) -> None:
        client = need("prometheus_client", extra="prometheus", why="to export to Prometheus")
        self._page = _Page()
        registry = client.CollectorRegistry()
        registry.register(self._page)
        try:
            self._server, self._thread = client.start_http_server(port, host, registry)
        except OSError as error:
            raise ConfigurationError(
                f"Exporter prometheus cannot listen on {host}:{port} ({error}). Write another port, e.g. "
                "'prometheus:9109', or 0 for a free one."
            ) from error
        self.port: int = self._server.server_port
        self._open = True

    @classmethod
    def from_spec(cls, target: str, options: Mapping[str, str]) -> PrometheusExporter:
        """``prometheus``, ``prometheus:port`` or ``prometheus:host:port``."""
        no_more(options, cls.name, "")
        host, port = host_and_port(target, cls.name, host="127.0.0.1", port=PORT, example="prometheus:0.0.0.0:9108")
        return cls(host, port)

    def export(self, snapshot: Snapshot) -> None:
        """Keep the run for the next scrape."""
        self._page.keep(snapshot)

    def close(self) -> None:
        """Stop listening."""
        if self._open:
            self._open = False
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class _Page:
    """What a scrape gets: a custom collector of prometheus-client."""

    def __init__(self) -> None:
        self._runs: dict[str, Snapshot] = {}
        self._lock = threading.Lock()

    def keep(self, snapshot: Snapshot) -> None:
        with self._lock:
            self._runs[snapshot.run] = snapshot
            while len(self._runs) > MAX_RUNS:
                del self._runs[min(self._runs, key=lambda r: self._runs[r].started)]

    def describe(self) -> Iterable[Any]:
        """Nothing: names are known only with the runs. Without this method the page would be made once at registration."""
        return ()

    def collect(self) -> Iterator[Any]:
        from prometheus_client import core

        with self._lock:
            runs = list(self._runs.values())
        told = [(run, sample) for run in runs for sample in samples(run)]
        for metric in METRICS:
            maker = core.CounterMetricFamily if metric.counter else core.GaugeMetricFamily
            family = maker(f"sparkgap_{metric.name}", metric.help, labels=_labels(metric.label))
            for run, sample in told:
                if sample.metric is metric:
                    family.add_metric(_values(run, sample), sample.value)
            yield family
        yield _latency(core, runs)
        yield _info(core, runs)


def _labels(own: str) -> list[str]:
    return ["run", "run_name", *([own] if own else [])]


def _values(run: Snapshot, sample: Sample) -> list[str]:
    return [run.run, run.name[:MAX_LABEL], *([sample.label[:MAX_LABEL]] if sample.metric.label else [])]


def _latency(core: Any, runs: list[Snapshot]) -> Any:
    family = core.HistogramMetricFamily(f"sparkgap_{LATENCY.name}", LATENCY.help, labels=_labels(""))
    bounds = [*map(str, LATENCY_BOUNDS), "+Inf"]
    for run in runs:
        buckets = list(zip(bounds, accumulate(run.latency), strict=True))
        family.add_metric([run.run, run.name[:MAX_LABEL]], buckets, sum_value=run.phases.get("model", 0.0))
    return family


def _info(core: Any, runs: list[Snapshot]) -> Any:
    labels = [*_labels(""), "kind", "boundary"]
    family = core.GaugeMetricFamily("sparkgap_run_info", "always 1; what the run is", labels=labels)
    for run in runs:
        boundary = str(run.details.get("boundary", ""))
        family.add_metric([run.run, run.name[:MAX_LABEL], run.kind[:MAX_LABEL], boundary[:MAX_LABEL]], 1)
    return family
