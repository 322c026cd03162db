"""OpenTelemetry: metrics as OTLP over HTTP in its JSON form, to a collector or to any system that takes OTLP."""

from __future__ import annotations

import json
import math
import os
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

from sparkgap._errors import ConfigurationError
from sparkgap.monitor.exporters.base import Exporter
from sparkgap.monitor.exporters.metrics import LATENCY, USER, Metric, Sample, samples
from sparkgap.monitor.exporters.registry import no_more
from sparkgap.monitor.exporters.snapshot import Point, Snapshot
from sparkgap.monitor.stats import LATENCY_BOUNDS

ENDPOINT = "http://127.0.0.1:4318"
TIMEOUT = 5.0
"""Seconds for a request."""
_CUMULATIVE = 2  # opentelemetry.proto.metrics.v1.AggregationTemporality


class OtlpExporter(Exporter):
    """Posts each run's numbers and points. Headers, e.g. of a login, come from ``OTEL_EXPORTER_OTLP_HEADERS``.

    Args:
        endpoint: base address of the receiver, or the whole one, which ends in ``/v1/metrics``.
        service: the attribute ``service.name``.

    Raises:
        ConfigurationError: the endpoint is no http or https address, or the headers cannot be read.
    """

    name: ClassVar[str] = "otlp"

    def __init__(self, endpoint: str = ENDPOINT, *, service: str = "sparkgap") -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigurationError(f"Exporter otlp: {endpoint!r} is not an address. Write e.g. 'otlp:http://host:4318'.")
        self.url = endpoint if parts.path.endswith("/v1/metrics") else endpoint.rstrip("/") + "/v1/metrics"
        self._service = service
        self._headers = {"Content-Type": "application/json", **_headers(os.environ.get("OTEL_EXPORTER_OTLP_HEADERS", ""))}

    @classmethod
    def from_spec(cls, target: str, options: Mapping[str, str]) -> OtlpExporter:
        """``otlp:http://host:4318?service=name``; without a target ``OTEL_EXPORTER_OTLP_ENDPOINT`` or this machine."""
        left = dict(options)
        service = left.pop("service", "sparkgap")
        no_more(left, cls.name, "service")
        return cls(target or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", ENDPOINT), service=service)

    def export(self, snapshot: Snapshot) -> None:
        """Post one request.

        Raises:
            OSError: nobody listens, or the answer is an error (`urllib.error.HTTPError`).
        """
        body = json.dumps(request(snapshot, self._service), allow_nan=False).encode()
        ask = urllib.request.Request(self.url, body, self._headers, method="POST")
        with urllib.request.urlopen(ask, timeout=TIMEOUT) as answer:
            answer.read()


def _headers(text: str) -> dict[str, str]:
    found = {}
    for item in filter(None, (t.strip() for t in text.split(","))):
        key, equals, value = item.partition("=")
        if not equals:
            raise ConfigurationError("OTEL_EXPORTER_OTLP_HEADERS must be key=value,key=value.")
        found[key.strip()] = unquote(value.strip())
    return found


def request(snapshot: Snapshot, service: str) -> dict[str, Any]:
    """Return the message `ExportMetricsServiceRequest` as JSON values."""
    resource = {
        "service.name": service,
        "sparkgap.run": snapshot.run,
        "sparkgap.run_name": snapshot.name,
        "sparkgap.kind": snapshot.kind,
    }
    scope = {"scope": {"name": "sparkgap"}, "metrics": list(_metrics(snapshot))}
    return {"resourceMetrics": [{"resource": {"attributes": _attributes(resource)}, "scopeMetrics": [scope]}]}


def _metrics(snapshot: Snapshot) -> Iterator[dict[str, Any]]:
    told = [s for s in samples(snapshot) if s.metric is not USER]
    for metric, group in groupby(told, key=lambda s: s.metric):
        yield _metric(metric, [_sample(snapshot, s) for s in group])
    if snapshot.points:
        yield _metric(USER, [_point(p) for p in snapshot.points])
    if sum(snapshot.latency):
        yield _histogram(snapshot)


def _metric(metric: Metric, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    head = {"name": f"sparkgap.{metric.name}", "unit": metric.unit, "description": metric.help}
    if metric.counter:
        return head | {"sum": {"aggregationTemporality": _CUMULATIVE, "isMonotonic": True, "dataPoints": points}}
    return head | {"gauge": {"dataPoints": points}}


def _sample(snapshot: Snapshot, sample: Sample) -> dict[str, Any]:
    own = {sample.metric.label: sample.label} if sample.metric.label else {}
    return {**_times(snapshot), "asDouble": _double(sample.value), "attributes": _attributes(own)}


def _point(point: Point) -> dict[str, Any]:
    """No step: each attribute value makes a series of its own."""
    own = {"name": point.name} | ({"partition": str(point.task.partition)} if point.task else {})
    return {"timeUnixNano": _nano(point.time), "asDouble": _double(point.value), "attributes": _attributes(own)}


def _histogram(snapshot: Snapshot) -> dict[str, Any]:
    counts = [str(int(c)) for c in snapshot.latency]  # 64-bit numbers are texts in this format
    point = {
        **_times(snapshot), "count": str(int(sum(snapshot.latency))), "sum": snapshot.phases.get("model", 0.0),
        "bucketCounts": counts, "explicitBounds": list(LATENCY_BOUNDS),
    }  # fmt: skip
    head = {"name": f"sparkgap.{LATENCY.name}", "unit": LATENCY.unit, "description": LATENCY.help}
    return head | {"histogram": {"aggregationTemporality": _CUMULATIVE, "dataPoints": [point]}}


def _times(snapshot: Snapshot) -> dict[str, str]:
    return {"startTimeUnixNano": _nano(snapshot.started), "timeUnixNano": _nano(snapshot.time)}


def _nano(seconds: float) -> str:
    return str(int(seconds * 1e6) * 1000)


def _double(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _attributes(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": k, "value": {"stringValue": v}} for k, v in values.items()]
