"""A real carbon daemon takes what the Graphite exporter sends, and writes it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparkgap.monitor.exporters.graphite import GraphiteExporter
from sparkgap.monitor.exporters.snapshot import Snapshot

DEADLINE = 60.0
CONFIGURATION = """
[cache]
STORAGE_DIR = {folder}
CONF_DIR = {folder}
LOCAL_DATA_DIR = {folder}/whisper
LOG_DIR = {folder}
PID_DIR = {folder}
MAX_CREATES_PER_MINUTE = inf
MAX_UPDATES_PER_SECOND = inf
LINE_RECEIVER_INTERFACE = 127.0.0.1
LINE_RECEIVER_PORT = {port}
PICKLE_RECEIVER_PORT = 0
CACHE_QUERY_INTERFACE = 127.0.0.1
CACHE_QUERY_PORT = 0
ENABLE_TAGS = False
USER =
"""

pytestmark = pytest.mark.skipif(
    not (shutil.which("carbon-cache") and shutil.which("whisper-fetch")),
    reason="carbon is not installed (Debian: graphite-carbon)",
)


@pytest.fixture
def carbon(tmp_path: Path) -> Iterator[int]:
    """The port of a running daemon that keeps seconds, for an hour."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    (tmp_path / "carbon.conf").write_text(CONFIGURATION.format(folder=tmp_path, port=port))
    (tmp_path / "storage-schemas.conf").write_text("[all]\npattern = .*\nretentions = 1s:1h\n")
    command = ["carbon-cache", f"--config={tmp_path}/carbon.conf", f"--logdir={tmp_path}", "--nodaemon", "start"]
    with (tmp_path / "out").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            yield port
        finally:
            process.terminate()


def export(exporter: GraphiteExporter, snapshot: Snapshot) -> None:
    """Export, once the daemon listens."""
    end, pause = time.monotonic() + DEADLINE, threading.Event()
    while True:
        try:
            return exporter.export(snapshot)
        except ConnectionRefusedError:
            assert time.monotonic() < end, "carbon does not listen"
            pause.wait(0.1)


def kept(path: Path, since: float) -> dict[int, float]:
    """Read the values of a file of carbon, by second."""
    command = ["whisper-fetch", f"--from={int(since) - 5}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
    pairs = (line.split() for line in done.stdout.splitlines())
    return {int(second): float(value) for second, value in pairs if value != "None"}


def test_carbon_keeps_what_was_sent(carbon, tmp_path):
    now = time.time()
    exporter = GraphiteExporter("127.0.0.1", carbon, prefix="team.sparkgap")
    for ago, rows in ((2, 1000), (1, 123_456_789_012)):
        totals = {"rows_out": rows, "cpu_seconds": 1.25}
        export(exporter, Snapshot(run="r", name="net 1.onnx", time=now - ago, totals=totals, phases={"model": 2.5}))
    exporter.close()
    folder, pause = tmp_path / "whisper/team/sparkgap/net_1_onnx", threading.Event()
    expected = {int(now - 2): 1000.0, int(now - 1): 123_456_789_012.0}
    end = time.monotonic() + DEADLINE
    while kept(folder / "rows_out.wsp", now) != expected and time.monotonic() < end:
        pause.wait(0.2)
    assert kept(folder / "rows_out.wsp", now) == expected
    assert set(kept(folder / "phase_seconds/model.wsp", now).values()) == {2.5}
    assert set(kept(folder / "cpu_seconds.wsp", now).values()) == {1.25}
