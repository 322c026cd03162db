"""The pump runs exporters side by side; specs become exporters or say what is wrong."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from importlib.metadata import EntryPoint

import pytest

from sparkgap._errors import ConfigurationError
from sparkgap.monitor.events import Task, TaskStarted
from sparkgap.monitor.exporters import registry
from sparkgap.monitor.exporters.base import Exporter
from sparkgap.monitor.exporters.jsonl import JsonLinesExporter
from sparkgap.monitor.exporters.pump import Pump, export
from sparkgap.monitor.exporters.registry import make
from sparkgap.monitor.store import Store
from sparkgap.testing.exporters import RUN, START, example

DEADLINE = 20.0


class Told(Exporter):
    """Keeps what it gets and tells of it."""

    name = "told"

    def __init__(self):
        self.got, self.closed, self.told = [], 0, threading.Semaphore(0)

    @classmethod
    def from_spec(cls, target, options):
        return cls()

    def export(self, snapshot):
        self.got.append(snapshot)
        self.told.release()

    def close(self):
        self.closed += 1


class Failing(Told):
    name = "failing"

    def export(self, snapshot):
        super().export(snapshot)
        raise RuntimeError("never again")


class Stuck(Told):
    name = "stuck"

    def __init__(self):
        super().__init__()
        self.free = threading.Event()

    def export(self, snapshot):
        super().export(snapshot)
        self.free.wait(DEADLINE)


def say(store, portion):
    for event in portion:
        store.say(event)


def test_changes_are_exported_while_the_run_goes_on_and_the_end_once():
    store, told, story = Store(), Told(), list(example())
    with Pump(store, [told], every=0.01):
        say(store, story[0])
        assert told.told.acquire(timeout=DEADLINE)
        for portion in story[1:]:
            say(store, portion)
        while not told.got[-1].final:
            assert told.told.acquire(timeout=DEADLINE)
    assert [s.final for s in told.got].count(True) == 1
    assert [p.value for s in told.got for p in s.points] == [3.0, 2.0, 1.5, 1.25]
    assert told.closed == 1


def test_a_failing_exporter_is_logged_once_and_counted(caplog):
    store, failing, told, story = Store(), Failing(), Told(), list(example())
    with caplog.at_level(logging.WARNING, "sparkgap.monitor"), Pump(store, [failing, told], every=0.01) as pump:
        for portion in story:
            say(store, portion)
            assert failing.told.acquire(timeout=DEADLINE)
    assert pump.errors == {"failing": len(failing.got), "told": 0}
    assert len(failing.got) >= len(story)
    assert [r.message.count("never again") for r in caplog.records] == [1]
    assert told.got[-1].final


def test_a_stuck_exporter_holds_up_neither_the_others_nor_the_end(monkeypatch, caplog):
    from sparkgap.monitor.exporters import pump

    monkeypatch.setattr(pump, "CLOSE_SECONDS", 0.2)
    store, stuck, told, story = Store(), Stuck(), Told(), list(example())
    running = Pump(store, [stuck, told], every=0.01)
    say(store, story[0])
    assert stuck.told.acquire(timeout=DEADLINE)
    assert told.told.acquire(timeout=DEADLINE)
    for portion in story[1:]:
        say(store, portion)
    running.close()
    assert told.got[-1].final
    assert (told.closed, stuck.closed) == (1, 0)
    assert "stuck did not end in time" in caplog.text
    stuck.free.set()


def test_runs_that_were_over_before_are_not_told(monkeypatch):
    from sparkgap.monitor.exporters import pump

    store, told, story = Store(), Told(), list(example())
    for portion in story:
        say(store, portion)
    monkeypatch.setattr(pump.time, "time", lambda: START + 100)
    with Pump(store, [told], every=3600):
        pass
    assert told.got == []
    with Pump(store, [told], every=3600):
        store.say(TaskStarted(run=RUN, time=START + 101, task=Task(2, 0, 20), host="h", pid=1))
    assert [s.status for s in told.got] == ["running"]


def test_every_must_be_above_zero():
    with pytest.raises(ConfigurationError, match=r"every=0 must be seconds above 0"):
        Pump(Store(), [Told()], every=0)


def test_export_takes_the_runs_of_this_process(tmp_path, monkeypatch):
    from sparkgap.monitor import driver

    monkeypatch.setenv("SPARKGAP_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(driver, "_monitor", None)
    told = Told()
    with export(f"jsonl:{tmp_path / 'runs.jsonl'}", told, every=3600):
        for portion in example():
            say(driver.monitor().store, portion)
    assert [s.run for s in told.got] == [RUN]
    assert RUN in (tmp_path / "runs.jsonl").read_text()


def test_export_without_a_target_and_with_a_wrong_one():
    with pytest.raises(ConfigurationError, match="nowhere to export to"):
        export()
    told = Told()
    with pytest.raises(ConfigurationError, match="no exporter 'nagios'"):
        export(told, "nagios:host")
    assert told.closed == 1


SCRIPT = """
import sys
from sparkgap.monitor.exporters.jsonl import JsonLinesExporter
from sparkgap.monitor.exporters.pump import Pump
from sparkgap.monitor.store import Store
from sparkgap.testing.exporters import example
store = Store()
Pump(store, [JsonLinesExporter(__import__("pathlib").Path(sys.argv[1]))], every=3600)
for portion in example():
    for event in portion:
        store.say(event)
"""


def test_the_end_of_the_process_loses_nothing(tmp_path):
    path = tmp_path / "runs.jsonl"
    subprocess.run([sys.executable, "-c", SCRIPT, str(path)], check=True, timeout=120)
    assert '"sparkgap_rows_out_total": 300' in path.read_text()


@pytest.mark.parametrize(
    ("spec", "match"),
    [
        ("nagios:host", r"no exporter 'nagios' \(in 'nagios:host'\): it must be one of prometheus, .*jsonl"),
        ("", r"no exporter ''"),
        ("prometheus:99999", r"'99999' is not host:port. Write e.g. 'prometheus:0.0.0.0:9108'"),
        ("prometheus:a:b", r"'a:b' is not host:port"),
        ("prometheus:9108?host=x", r"prometheus has no option 'host'; it has: none"),
        ("graphite:http://host:2003", r"is not host:port. Write e.g. 'graphite:host:2003'"),
        ("graphite:host?by=day", r"by='day' must be 'name' or 'run'"),
        ("graphite:host?prefix", r"must be option=value"),
        ("otlp:host:4318", r"'host:4318' is not an address. Write e.g. 'otlp:http://host:4318'"),
        ("tensorboard", r"needs a folder. Write e.g. \"tensorboard:logs\""),
        ("jsonl:", r"needs a file"),
        ("jsonl:/no/such/folder/x", r"cannot write '/no/such/folder/x'"),
    ],
)
def test_a_wrong_spec_says_what_to_write(spec, match):
    with pytest.raises(ConfigurationError, match=match):
        make(spec)


def test_right_specs(tmp_path):
    made = make("graphite:[::1]:2004?prefix=a.b&by=run")
    assert (made._address, made._prefix, made._by_run) == (("::1", 2004), "a.b", True)
    assert make("graphite:carbon")._address == ("carbon", 2003)
    assert make("graphite")._address == ("127.0.0.1", 2003)
    assert make("otlp:https://h/base?service=x").url == "https://h/base/v1/metrics"
    assert make("otlp:http://h:1/v1/metrics").url == "http://h:1/v1/metrics"
    assert make(f"jsonl:{tmp_path}/a.jsonl").path == tmp_path / "a.jsonl"
    made = make("prometheus:0")
    assert made.port > 0
    with pytest.raises(ConfigurationError, match=r"cannot listen on 127.0.0.1:.* Write another port"):
        make(f"prometheus:{made.port}")
    made.close()


def test_exporters_of_other_packages(monkeypatch):
    point = EntryPoint("told", f"{__name__}:Told", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == registry.GROUP else [])
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    assert make("told:x").name == "told"
    assert registry.names()[-1] == "told"


def test_neither_spark_nor_optional_packages_are_imported_before_they_are_needed():
    code = (
        "import sys, sparkgap.monitor.exporters.pump, sparkgap.monitor.exporters.registry as r\n"
        "[__import__(v.partition(':')[0]) for v in r._BUILT_IN.values()]\n"
        "print(sorted({'pyspark', 'prometheus_client', 'tensorboardX', 'mlflow'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_a_file_is_appended_to(tmp_path):
    (tmp_path / "a").write_text("before\n")
    JsonLinesExporter(tmp_path / "a").close()
    assert (tmp_path / "a").read_text() == "before\n"
