"""Every built-in exporter keeps the contract, as seen from its target: files, sockets and servers that are read back."""

from __future__ import annotations

import gzip
import io
import json
import socket
import socketserver
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sparkgap.monitor.events import Artifact
from sparkgap.monitor.exporters import graphite, prometheus
from sparkgap.monitor.exporters.graphite import GraphiteExporter
from sparkgap.monitor.exporters.jsonl import JsonLinesExporter
from sparkgap.monitor.exporters.metrics import METRICS
from sparkgap.monitor.exporters.otlp import OtlpExporter
from sparkgap.monitor.exporters.prometheus import PrometheusExporter
from sparkgap.monitor.exporters.snapshot import Snapshot
from sparkgap.monitor.shown import prepare
from sparkgap.testing.exporters import RUN, START, ExporterConformance, example, snapshots

DEADLINE = 20.0


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class TestJsonLines(ExporterConformance):
    def exporter(self, folder):
        return JsonLinesExporter(folder / "runs.jsonl")

    def totals(self, folder):
        numbers = self._lines(folder)[-1]["numbers"]
        return {"rows_in": numbers["sparkgap_rows_in_total"], "rows_out": numbers["sparkgap_rows_out_total"]}

    def points(self, folder):
        return [(p["name"], p["partition"], p["value"]) for line in self._lines(folder) for p in line["points"]]

    def broken(self, folder):
        made = JsonLinesExporter(folder / "gone.jsonl")
        (folder / "gone.jsonl").unlink()
        (folder / "gone.jsonl").mkdir()
        return made

    def _lines(self, folder: Path) -> list[dict[str, Any]]:
        return [json.loads(line, parse_constant=pytest.fail) for line in (folder / "runs.jsonl").read_text().splitlines()]

    def test_a_line_tells_failures_and_shown_things(self, tmp_path):
        made = self.exporter(tmp_path)
        for snapshot in snapshots(example()):
            made.export(snapshot)
        lines = self._lines(tmp_path)
        assert [f["error"] for line in lines for f in line["failures"]] == ["ValueError"]
        assert [a["name"] for line in lines for a in line["artifacts"]] == ["notes"]
        assert [line["status"] for line in lines][-1] == "done"


def page(port: int) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Read a page of metrics with Prometheus' own parser for Python."""
    from prometheus_client.parser import text_string_to_metric_families as parse

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=DEADLINE) as answer:
        text = answer.read().decode()
    return {(s.name, frozenset(s.labels.items())): s.value for family in parse(text) for s in family.samples}


class TestPrometheus(ExporterConformance):
    def exporter(self, folder):
        self.made = PrometheusExporter(port=0)
        return self.made

    def totals(self, folder):
        found = page(self.made.port)
        return {n: v for n in ("rows_in", "rows_out") for (name, _), v in found.items() if name == f"sparkgap_{n}_total"}

    def test_only_the_latest_runs_are_shown(self, made):
        for number in range(prometheus.MAX_RUNS + 5):
            made.export(Snapshot(run=f"r{number}", started=float(number)))
        runs = {dict(labels)["run"] for _, labels in page(made.port) if dict(labels).get("run")}
        assert runs == {f"r{n}" for n in range(5, prometheus.MAX_RUNS + 5)}

    def test_labels_name_no_partition_attempt_or_machine(self, made):
        for snapshot in snapshots(example()):
            made.export(snapshot)
        found = page(made.port)
        assert {k for _, labels in found for k, _ in labels} <= {
            "run", "run_name", "kind", "boundary", "phase", "status", "type", "limit", "name", "le", "gpu",
        }  # fmt: skip
        assert "a.example" not in str(found)

    def test_the_histogram_is_cumulative(self, made):
        made.export(Snapshot(run="r", latency=(1, 2, *[0] * 13, 4), phases={"model": 3.5}))
        found = {
            dict(labels)["le"]: v for (name, labels), v in page(made.port).items() if name == "sparkgap_batch_seconds_bucket"
        }
        assert [found["0.001"], found["0.002"], found["60.0"], found["+Inf"]] == [1, 3, 3, 7]

    def test_the_last_value_of_a_metric_is_the_mean_of_the_tasks_that_count(self, made):
        for snapshot in snapshots(example()):
            made.export(snapshot)
        assert [v for (name, _), v in page(made.port).items() if name == "sparkgap_metric"] == [(1.5 + 1.25) / 2]

    def test_listens_on_loopback_unless_asked(self, made):
        assert made._server.server_address[0] == "127.0.0.1"


class _Carbon(socketserver.ThreadingTCPServer):
    """Takes plaintext metrics, strictly: a line that carbon would refuse is an error."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.errors: list[str] = []
        self.ended = threading.Semaphore(0)
        super().__init__(("127.0.0.1", 0), _CarbonConnection)


class _CarbonConnection(socketserver.StreamRequestHandler):
    server: _Carbon

    def handle(self) -> None:
        for line in self.rfile:
            parts = line.decode("ascii").rstrip("\n").split(" ")
            if len(parts) != 3 or not all(parts[0].split(".")) or "/" in parts[0] or not parts[2].isdigit():
                self.server.errors.append(repr(line))
                continue
            self.server.values[parts[0]] = float(parts[1])
        self.server.ended.release()


class TestGraphite(ExporterConformance):
    @pytest.fixture(autouse=True)
    def _carbon(self) -> Iterator[None]:
        with _Carbon() as self.carbon:
            threading.Thread(target=self.carbon.serve_forever, kwargs={"poll_interval": 0.05}).start()
            yield
            self.carbon.shutdown()

    def exporter(self, folder):
        self.made = GraphiteExporter("127.0.0.1", self.carbon.server_address[1])
        return self.made

    def totals(self, folder):
        self.made.close()  # then all has arrived once the server sees the end
        assert self.carbon.ended.acquire(timeout=DEADLINE)
        assert self.carbon.errors == []
        assert {len(p.split(".")) for p in self.carbon.values} <= {3, 4}
        return {p.rsplit(".", 1)[1]: v for p, v in self.carbon.values.items() if p.endswith((".rows_in", ".rows_out"))}

    def broken(self, folder):
        return GraphiteExporter("127.0.0.1", closed_port())

    def test_connects_again(self, tmp_path):
        made, story = self.exporter(tmp_path), snapshots(example())
        made.export(story[0])
        made._socket.shutdown(socket.SHUT_RDWR)  # as a restart of carbon does
        assert self.carbon.ended.acquire(timeout=DEADLINE)
        made.export(story[-1])
        assert self.totals(tmp_path) == {"rows_in": 300, "rows_out": 300}

    def test_a_listener_that_takes_nothing_costs_the_limit_and_no_more(self, monkeypatch):
        monkeypatch.setattr(graphite, "TIMEOUT", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            made = GraphiteExporter("127.0.0.1", deaf.getsockname()[1])
            flood = Snapshot(run="r", phases={f"phase{n}": 1.0 for n in range(400_000)})
            with pytest.raises(TimeoutError):
                made.export(flood)
            made.close()

    def test_paths(self):
        made = GraphiteExporter("127.0.0.1", self.carbon.server_address[1], prefix="team.x y", by_run=True)
        self.made = made
        made.export(Snapshot(run="r.1", name="net.onnx", latency=(0, 100, *[0] * 14), latest={"loss/a": 2.0}))
        made.close()
        assert self.carbon.ended.acquire(timeout=DEADLINE)
        values = self.carbon.values
        assert values["team.x_y.net_onnx.r_1.metric.loss_a"] == 2.0
        assert values["team.x_y.net_onnx.r_1.batch_seconds.p50"] == pytest.approx(0.0015)


class _Receiver(ThreadingHTTPServer):
    """Takes OTLP over HTTP and reads it with OpenTelemetry's own message types."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.status = 200
        super().__init__(("127.0.0.1", 0), _ReceiverConnection)


class _ReceiverConnection(BaseHTTPRequestHandler):
    server: _Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/metrics"
        self.server.requests.append((self.headers, body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


class TestOtlp(ExporterConformance):
    @pytest.fixture(autouse=True)
    def _receiver(self) -> Iterator[None]:
        with _Receiver() as self.receiver:
            threading.Thread(target=self.receiver.serve_forever, kwargs={"poll_interval": 0.05}).start()
            yield
            self.receiver.shutdown()

    def exporter(self, folder):
        return OtlpExporter(f"http://127.0.0.1:{self.receiver.server_address[1]}")

    def totals(self, folder):
        metrics = self._metrics(-1)
        return {n: metrics[f"sparkgap.{n}"].sum.data_points[0].as_double for n in ("rows_in", "rows_out")}

    def points(self, folder):
        found = []
        for number in range(len(self.receiver.requests)):
            metric = self._metrics(number).get("sparkgap.metric")
            for point in metric.gauge.data_points if metric else ():
                own = {a.key: a.value.string_value for a in point.attributes}
                found.append((own["name"], int(own["partition"]), point.as_double))
        return found

    def broken(self, folder):
        return OtlpExporter(f"http://127.0.0.1:{closed_port()}")

    def _metrics(self, number: int) -> dict[str, Any]:
        pytest.importorskip("opentelemetry.proto", reason="opentelemetry-proto reads what was sent")
        from google.protobuf.json_format import Parse
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        message = Parse(self.receiver.requests[number][1], ExportMetricsServiceRequest())
        return {m.name: m for r in message.resource_metrics for s in r.scope_metrics for m in s.metrics}

    def test_numbers_are_cumulative_sums_and_the_latency_a_histogram(self, made):
        for snapshot in snapshots(example()):
            made.export(snapshot)
        metrics = self._metrics(-1)
        rows = metrics["sparkgap.rows_in"].sum
        assert rows.is_monotonic
        assert rows.aggregation_temporality == 2
        assert rows.data_points[0].start_time_unix_nano == int(START) * 10**9
        point = metrics["sparkgap.batch_seconds"].histogram.data_points[0]
        assert point.count == sum(point.bucket_counts) == 30
        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1

    def test_an_error_of_the_receiver_is_an_error(self, made):
        self.receiver.status = 503
        with pytest.raises(urllib.error.HTTPError, match="503"):
            made.export(snapshots(example())[0])

    def test_headers_come_from_the_environment(self, tmp_path, monkeypatch):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Token=a%20b, X-Other=c")
        self.exporter(tmp_path).export(snapshots(example())[0])
        headers = self.receiver.requests[0][0]
        assert (headers["X-Token"], headers["X-Other"]) == ("a b", "c")


def records(path: Path) -> Iterator[bytes]:
    """Give the records of an event file: length, checksum, bytes, checksum."""
    data = io.BytesIO(path.read_bytes())
    while head := data.read(12):
        (length,) = struct.unpack("<Q", head[:8])
        yield data.read(length)
        data.read(4)


class TestTensorBoard(ExporterConformance):
    def exporter(self, folder):
        pytest.importorskip("tensorboardX", reason="tensorboardX writes the files")
        from sparkgap.monitor.exporters.tensorboard import TensorBoardExporter

        return TensorBoardExporter(folder / "logs")

    def totals(self, folder):
        latest = {tag: value for tag, _, value in self._scalars(folder)}
        return {n: latest[f"sparkgap/{n}"] for n in ("rows_in", "rows_out")}

    def points(self, folder):
        return [(t.split("/")[0], int(t.split("/")[1]), v) for t, _, v in self._scalars(folder) if t.startswith("loss/")]

    def broken(self, folder):
        (folder / "logs").write_text("no folder")
        return self.exporter(folder)

    def _values(self, folder: Path) -> Iterator[tuple[int, Any]]:
        from tensorboardX.proto.event_pb2 import Event

        paths = sorted((folder / "logs").rglob("*tfevents*"), key=lambda p: p.stat().st_mtime_ns)
        assert all(p.parent.parent == folder / "logs" for p in paths)
        for path in paths:
            for record in records(path):
                event = Event.FromString(record)
                yield from ((event.step, value) for value in event.summary.value)

    def _scalars(self, folder: Path) -> list[tuple[str, int, float]]:
        return [(v.tag, s, v.simple_value) for s, v in self._values(folder) if v.WhichOneof("value") == "simple_value"]

    def test_shows_pictures_histograms_and_texts(self, made, tmp_path):
        np = pytest.importorskip("numpy")
        shown = {"picture": np.zeros((5, 7, 3), np.uint8), "weights": np.arange(20.0), "words": "well"}
        artifacts = []
        for name, value in shown.items():
            kind, media, data, caption = prepare(value)
            artifacts.append(
                Artifact(run=RUN, time=START, name=name, kind=kind, media=media, data=data, step=3, caption=caption)
            )
        made.export(Snapshot(run=RUN, artifacts=tuple(artifacts)))
        found = {v.tag.split("/")[0]: (step, v) for step, v in self._values(tmp_path)}
        step, picture = found["picture"]
        assert (step, picture.image.width, picture.image.height) == (3, 7, 5)
        assert picture.image.encoded_image_string == artifacts[0].data
        assert (found["weights"][1].histo.num, found["weights"][1].histo.sum) == (20, 190)
        assert found["words"][1].tensor.string_val == [b"well"]


class TestMlflow(ExporterConformance):
    @pytest.fixture(autouse=True)
    def _own_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")

    def exporter(self, folder):
        pytest.importorskip("mlflow", reason="mlflow-skinny is the client")
        from sparkgap.monitor.exporters.mlflow import MlflowExporter

        return MlflowExporter((folder / "runs").as_uri(), experiment="mine")

    def _run(self, folder: Path) -> tuple[Any, Any]:
        from mlflow import MlflowClient

        client = MlflowClient((folder / "runs").as_uri())
        (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
        return client, run

    def totals(self, folder):
        metrics = self._run(folder)[1].data.metrics
        return {n: metrics[f"sparkgap/{n}"] for n in ("rows_in", "rows_out")}

    def points(self, folder):
        client, run = self._run(folder)
        keys = [k for k in run.data.metrics if k.startswith("loss/")]
        return [("loss", int(k[5:]), m.value) for k in keys for m in client.get_metric_history(run.info.run_id, k)]

    def broken(self, folder):
        (folder / "runs").write_text("no folder")
        return self.exporter(folder)

    def test_a_run_there_is_like_the_run_here(self, made, tmp_path):
        for snapshot in snapshots(example()):
            made.export(snapshot)
        client, run = self._run(tmp_path)
        assert (run.info.status, run.info.run_name) == ("FINISHED", "net")
        assert run.data.params["boundary"] == "rows"
        assert run.data.tags["sparkgap.run"] == RUN
        assert [f.path for f in client.list_artifacts(run.info.run_id, "text")] == ["text/notes-0-1.txt"]


def test_prometheus_answers_in_the_form_that_is_asked_for():
    made = PrometheusExporter(port=0)
    try:
        made.export(snapshots(example())[-1])
        ask = urllib.request.Request(
            f"http://127.0.0.1:{made.port}/metrics",
            headers={"Accept": "application/openmetrics-text", "Accept-Encoding": "gzip"},
        )
        with urllib.request.urlopen(ask, timeout=DEADLINE) as answer:
            text = gzip.decompress(answer.read()).decode()
    finally:
        made.close()
    assert text.endswith("# EOF\n")
    assert {m.full for m in METRICS if not m.label} <= {line.split("{")[0] for line in text.splitlines()}
