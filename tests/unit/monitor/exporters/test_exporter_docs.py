"""The page of exporters is true."""

from __future__ import annotations

from pathlib import Path

from sparkgap.monitor.exporters import pump
from sparkgap.monitor.exporters.metrics import METRICS
from sparkgap.monitor.exporters.prometheus import MAX_RUNS
from sparkgap.monitor.exporters.registry import _BUILT_IN
from sparkgap.monitor.exporters.tracker import MAX_NAMES
from sparkgap.monitor.stats import PHASES

PAGE = (Path(__file__).parents[4] / "docs/exporters.md").read_text()


def test_every_metric_is_in_the_table():
    for metric in METRICS:
        unit = metric.unit.strip("{}").replace("By", "bytes")
        label = f"`{metric.label}`" if metric.label else ""
        assert f"| `{metric.full}` | {unit} | {label} | {metric.help} |" in PAGE


def test_every_exporter_and_phase_is_named():
    assert all(f"`{name}:" in PAGE or f'"{name}:' in PAGE for name in _BUILT_IN)
    assert all(f"`{phase}`" in PAGE for phase in PHASES)


def test_limits_are_those_of_the_code():
    assert f"The {MAX_RUNS} latest runs" in PAGE
    assert f"At most {MAX_NAMES} names" in PAGE


def test_the_files_are_where_it_says():
    folder = Path(pump.__file__).parent / "grafana"
    assert folder.as_posix().endswith("sparkgap/monitor/exporters/grafana")
    assert {p.name for p in folder.iterdir()} == {"dashboard.json", "alerts.yml"}
