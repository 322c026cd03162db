"""A real Prometheus scrapes the exporter: totals are right, and the dashboard's and the alerts' queries have answers."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparkgap.monitor.exporters import pump
from sparkgap.monitor.exporters.prometheus import PrometheusExporter
from sparkgap.monitor.exporters.snapshot import Snapshot

GRAFANA = Path(pump.__file__).parent / "grafana"
DEADLINE = 60.0

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")), reason="Prometheus is not installed (Debian: prometheus)"
)


def snapshot(rows: int, **more: Any) -> Snapshot:
    return Snapshot(
        run="20300102-030405-0a1b2c3d", name="net.onnx", kind="transform", started=time.time() - 60, time=time.time(),
        details={"boundary": "files"},
        totals={"rows_in": rows, "rows_out": rows - 10, "skipped": 10, "bytes_in": 8 * rows, "cpu_seconds": rows / 100},
        phases={"read": 1.0 + rows / 500, "model": 2.0 + rows / 200, "starved": rows / 300},
        latency=(0, rows / 10, rows / 10, *[0] * 13), attempts={"running": 1, "ok": 2, "failed": 1}, tasks=4,
        dropped={"metrics": 5}, memory=1 << 30, gpus={("a.example", 0): (0.5, 1 << 20)}, limit="read", limit_share=0.6,
        latest={"loss": 0.25}, **more,
    )  # fmt: skip


class Server:
    """A running Prometheus."""

    def __init__(self, url: str, exporter: PrometheusExporter) -> None:
        self.url = url
        self.exporter = exporter

    def get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=DEADLINE) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        return [(r["metric"], float(r["value"][1])) for r in self.get("query", query=expression)["result"]]


def until(question: Callable[[], Any]) -> Any:
    """Ask until the answer is true; what Prometheus knows comes with its next scrape."""
    end, pause = time.monotonic() + DEADLINE, threading.Event()
    while time.monotonic() < end:
        try:
            if found := question():
                return found
        except OSError:  # not up yet
            pass
        pause.wait(0.2)
    raise AssertionError(f"no answer in {DEADLINE} s")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port, exporter = tmp_path_factory.mktemp("prometheus"), free_port(), PrometheusExporter(port=0)
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
        f"rule_files: [{GRAFANA / 'alerts.yml'}]\n"
        f"scrape_configs: [{{job_name: sparkgap, static_configs: [{{targets: ['127.0.0.1:{exporter.port}']}}]}}]\n"
    )
    command = [
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield Server(f"http://127.0.0.1:{port}", exporter)
        finally:
            process.terminate()
            exporter.close()


@pytest.fixture(scope="module")
def scraped(server: Server) -> Server:
    """After two different values have been scraped."""
    for rows in (1000, 2000):
        server.exporter.export(snapshot(rows))
        until(lambda rows=rows: [v for _, v in server.query("sparkgap_rows_in_total")] == [rows])
    return server


def test_totals_in_promql(scraped):
    (labels, value), *others = scraped.query("sparkgap_rows_out_total")
    assert (value, others) == (1990, [])
    assert {k: labels[k] for k in ("run", "run_name")} == {"run": "20300102-030405-0a1b2c3d", "run_name": "net.onnx"}
    assert scraped.query("sum(sparkgap_batch_seconds_count)") == [({}, 400)]
    assert dict((k["status"], v) for k, v in scraped.query("sparkgap_tasks")) == {
        "running": 1,
        "ok": 2,
        "failed": 1,
        "lost": 0,
    }
    (_, p50), = until(lambda: scraped.query("histogram_quantile(0.5, rate(sparkgap_batch_seconds_bucket[1m]))"))  # fmt: skip
    assert p50 == pytest.approx(0.002)


def queries() -> list[tuple[str, str]]:
    panels = json.loads((GRAFANA / "dashboard.json").read_text())["panels"]
    return [(f"{p['title']} {t['refId']}", t["expr"]) for p in panels for t in p["targets"]]


@pytest.mark.parametrize("expression", [q for _, q in queries()], ids=[n for n, _ in queries()])
def test_every_query_of_the_dashboard_has_data(scraped, expression):
    plain = expression.replace("$__rate_interval", "1m").replace("$run", ".*")
    assert "$" not in plain
    found = until(lambda: scraped.query(plain))
    assert all(value == value for _, value in found)


def test_the_list_of_runs_of_the_dashboard(scraped):
    (variable,) = [v for v in json.loads((GRAFANA / "dashboard.json").read_text())["templating"]["list"] if v["name"] == "run"]
    metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()
    assert [k[label] for k, _ in scraped.query(metric)] == ["20300102-030405-0a1b2c3d"]


def test_every_alert_is_evaluated_and_the_right_ones_fire(scraped):
    def rules() -> dict[str, Any]:
        return {r["name"]: r for g in scraped.get("rules")["groups"] for r in g["rules"]}

    until(lambda: all(r["health"] == "ok" for r in rules().values()) and rules()["SparkgapTaskFailures"]["state"] == "firing")
    states = {name: r["state"] for name, r in rules().items()}
    assert states == {
        "SparkgapRunFailed": "inactive", "SparkgapTaskFailures": "firing", "SparkgapTasksLost": "inactive",
        "SparkgapNoProgress": "inactive", "SparkgapRunSilent": "inactive", "SparkgapInputBound": "pending",
        "SparkgapBadRows": "inactive", "SparkgapEventsDropped": "firing",
    }  # fmt: skip
    scraped.exporter.export(replace(snapshot(100), run="other", status="failed", final=True))
    until(lambda: rules()["SparkgapRunFailed"]["state"] == rules()["SparkgapBadRows"]["state"] == "firing")


def test_the_page_follows_the_practice_of_prometheus():
    exporter = PrometheusExporter(port=0)
    try:
        exporter.export(snapshot(1000))
        with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=DEADLINE) as answer:
            page = answer.read()
    finally:
        exporter.close()
    done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


TIMES = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'sparkgap_rows_in_total{{run="r", run_name="n"}}', values: '5x40'}}
      - {{series: 'sparkgap_run_status{{run="r", run_name="n", status="running"}}', values: '1x40'}}
      - {{series: 'sparkgap_run_info{{run="r", run_name="n", kind="{kind}"}}', values: '1x40'}}
      - {{series: 'sparkgap_run_start_time_seconds{{run="r", run_name="n"}}', values: '0x40'}}
      - {{series: 'sparkgap_run_last_event_time_seconds{{run="r", run_name="n"}}', values: '0+60x10 600x30'}}
      - {{series: 'sparkgap_limit_ratio{{run="r", run_name="n", limit="read"}}', values: '0.75x40'}}
    alert_rule_test:
      - {{eval_time: {time}m, alertname: {alert}, exp_alerts: [{expected}]}}
"""


@pytest.mark.parametrize(
    ("alert", "kind", "minutes", "summary"),
    [
        ("SparkgapNoProgress", "transform", 10, None),
        ("SparkgapNoProgress", "transform", 12, "critical|n (r) is at work and has read no row for 10 minutes."),
        ("SparkgapNoProgress", "run", 12, None),
        ("SparkgapRunSilent", "transform", 12, None),
        ("SparkgapRunSilent", "transform", 14, "critical|Tasks of n (r) have said nothing for 4m 0s."),
        ("SparkgapInputBound", "transform", 9, None),
        ("SparkgapInputBound", "transform", 10, "info|n (r) waits for input 75% of its time."),
    ],
)
def test_when_alerts_fire(tmp_path, alert, kind, minutes, summary):
    expected = ""
    if summary is not None:
        severity, text = summary.split("|")
        own = ', limit: "read"' if alert == "SparkgapInputBound" else ""
        labels = f'{{severity: {severity}, run: "r", run_name: "n"{own}}}'
        expected = f'{{exp_labels: {labels}, exp_annotations: {{summary: "{text}"}}}}'
    text = TIMES.format(rules=GRAFANA / "alerts.yml", kind=kind, time=minutes, alert=alert, expected=expected)
    (tmp_path / "test.yml").write_text(text)
    done = subprocess.run(
        ["promtool", "test", "rules", str(tmp_path / "test.yml")],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
