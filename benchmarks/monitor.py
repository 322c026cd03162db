"""What seeing costs, and how soon it is seen: `python -m benchmarks.monitor [overhead latency connect flood]`.

overhead: the embedded transform of (a) with everything on (events, page, Prometheus exporter) against everything off.
latency: seconds from `gap.report` in a task to the driver's store, and to a client of the page's event stream; over TCP.
connect: the same on Spark Connect, over files in a shared folder.
flood: eight processes that report 100,000 times a second in all; every other five seconds they keep silent.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import dense
from benchmarks.common import ROOT, Settings, facts, settle

FLOOD_RATE, FLOOD_PROCESSES, FLOOD_SECONDS, FLOOD_PHASE = 100_000, 8, 40, 5
LATENCY_TASKS, LATENCY_SECONDS, LATENCY_EVERY = 8, 30, 0.1


def start(master: str, **conf: Any) -> Any:
    """Return a session whose workers can import this file."""
    import sparkgap as gap

    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    spark = gap.session(master, conf=conf)
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def overhead(repeats: int) -> list[str]:
    """Compare everything on with everything off, in turns."""
    import sparkgap as gap
    from sparkgap.monitor import driver

    spark = start("local[2]")
    settings = Settings()
    rows = settings.rows(dense.FULL_ROWS)
    folder = settings.data("dense", rows, lambda path: dense.make(path, rows))
    model = gap.load(dense.network())
    frames = {}
    for name, enabled in (("off", "false"), ("on", "true")):
        spark.conf.set(driver.ENABLED, enabled)
        frames[name] = gap.transform(
            gap.files(str(folder)), model, inputs=["x"], outputs=["y"], keep=["key"], batch_size=dense.BATCH
        )
    seconds: dict[str, list[float]] = {"off": [], "on": []}
    with gap.page(), gap.export("prometheus:0"):
        for number in range(-4, repeats):
            for name in ("off", "on") if number % 2 else ("on", "off"):
                begin = time.perf_counter()
                frames[name].write.format("noop").mode("overwrite").save()
                if number >= 0:
                    seconds[name].append(time.perf_counter() - begin)
    off, on = statistics.median(seconds["off"]), statistics.median(seconds["on"])
    pairs = [a / b - 1 for a, b in zip(seconds["on"], seconds["off"], strict=True)]
    spark.stop()
    return [
        f"overhead: {rows:,} rows, median of {repeats}: off {off:.3f} s, on {on:.3f} s: {on / off - 1:+.1%} "
        f"(median of pairs {statistics.median(pairs):+.1%}, {min(pairs):+.1%} to {max(pairs):+.1%})"
    ]


def reporting_model(seconds: float, every: float) -> Callable[[Any], dict[str, Any]]:
    """A model that reports the time of day, again and again."""

    def model(x: np.ndarray) -> dict[str, Any]:
        import sparkgap as gap

        end = time.time() + seconds
        pause = threading.Event()
        while time.time() < end:
            gap.report(said=time.time())
            pause.wait(every)
        return {"y": x}

    return model


def watched(spark: Any, model: Any, tasks: int) -> Any:
    """Return a transform of `tasks` partitions with one row each."""
    import sparkgap as gap

    number = gap.TensorSpec("x", "float32", ())
    loaded = gap.load(model, signature=gap.Signature((number,), (gap.TensorSpec("y", "float32", ()),)))
    df = spark.range(0, tasks, 1, tasks).selectExpr("id", "float(id) AS x")
    return gap.transform(df, loaded, keep=["id"], batch_size=1)


def latency(_: int) -> list[str]:
    """Measure how soon a report is in the store and on the page, over TCP, on a cluster of two executors."""
    return delays_of(start("local-cluster[2,1,1024]"), "cluster, TCP")


def connect(_: int) -> list[str]:
    """Measure the same on Spark Connect, over files."""
    from pyspark.sql import SparkSession

    from sparkgap.monitor import driver

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.remote("local[2]").getOrCreate()
    with tempfile.TemporaryDirectory() as folder:
        spark.conf.set(driver.FOLDER, folder)
        return delays_of(spark, "Connect, files")


def delays_of(spark: Any, what: str) -> list[str]:
    """Run eight tasks that report the time of day for half a minute, and see when that arrives."""
    import sparkgap as gap
    from sparkgap.monitor.driver import monitor

    store = monitor().store
    waves = LATENCY_TASKS // 2
    out = watched(spark, reporting_model(LATENCY_SECONDS / waves, LATENCY_EVERY), LATENCY_TASKS)
    run = gap.summary(out).run
    delays: list[float] = []
    page_delays: list[float] = []
    done = threading.Event()
    with gap.page() as page:
        stream = page.url.replace("/?", f"/api/stream?run={run}&")
        threading.Thread(target=listen, args=(store, run, delays, done), daemon=True).start()
        threading.Thread(target=browse, args=(stream, page_delays, done), daemon=True).start()
        out.write.format("noop").mode("overwrite").save()
        done.set()
    spark.stop()
    return [line(f"{what}: to {end}", values) for end, values in (("the store", delays), ("the page", page_delays))]


def listen(store: Any, run: str, delays: list[float], done: threading.Event) -> None:
    """Note how old each report is when the store has it."""
    counts: dict[Any, int] = {}
    version = -1
    while not done.is_set():
        version = store.wait(version, 0.5)
        now = time.time()
        with store.reading(run) as state:
            for key, series in state.series.items() if state is not None else ():
                fresh = series.count - counts.get(key, 0)
                counts[key] = series.count
                delays.extend(now - point[2] for point in list(series.points)[len(series.points) - fresh :])


def browse(url: str, delays: list[float], done: threading.Event) -> None:
    """Note how old the newest report of each series is when a client of the page has it."""
    seen: dict[str, float] = {}
    with urllib.request.urlopen(url) as stream:
        for text in stream:
            now = time.time()
            if done.is_set():
                return
            for name, value in newest(json.loads(text[5:])) if text.startswith(b"data:") else ():
                if value > seen.get(name, 0.0):
                    seen[name] = value
                    delays.append(now - value)


def newest(message: Any, path: str = "") -> list[tuple[str, float]]:
    """Find the newest reported time of each series in a message of the page, whatever its shape."""
    if isinstance(message, dict):
        return [x for k, v in message.items() for x in newest(v, f"{path}/{k}")]
    if isinstance(message, list):
        return [x for n, v in enumerate(message) for x in newest(v, f"{path}/{n}")]
    recent = isinstance(message, float) and 0 < time.time() - message < 30 and "points" in path
    return [(path.split("points")[0], message)] if recent else []


def line(where: str, delays: list[float]) -> str:
    """Describe delays."""
    values = sorted(delays)
    p50, p99 = (values[min(len(values) - 1, int(len(values) * q))] for q in (0.5, 0.99))
    return f"latency: {where}: p50 {p50:.2f} s, p99 {p99:.2f} s, max {values[-1]:.2f} s ({len(values):,})"


def flooding(seconds: float, phase: float, rate: float) -> Callable[[Any], dict[str, Any]]:
    """A model that works in small units, and reports so often in every other phase of the clock."""

    def model(x: np.ndarray) -> dict[str, Any]:
        import sparkgap as gap

        report, a = gap.report, np.ones((40, 40), dtype=np.float32)
        done = [0, 0]
        begin = before = time.time()
        due = 0.0
        while (now := time.time()) < begin + seconds:
            loud = int(now / phase) % 2
            for _ in range(50):
                a = a @ a / 40
            done[loud] += 50
            due += rate * (now - before) if loud else 0.0
            before = now
            for n in range(int(due)):
                report(value=1.0, step=n)
            due -= int(due)
        # counted in units a second of processor time, for other processes share the cores
        gap.report(quiet_units=done[0], loud_units=done[1])
        return {"y": x}

    return model


def flood(_: int) -> list[str]:
    """Measure what 100,000 reports a second do to the work, and whether every one is sent or counted as dropped."""
    import psutil

    import sparkgap as gap
    from sparkgap.monitor.driver import monitor

    spark = start(f"local[{FLOOD_PROCESSES}]")
    out = watched(spark, flooding(FLOOD_SECONDS, FLOOD_PHASE, FLOOD_RATE / FLOOD_PROCESSES), FLOOD_PROCESSES)
    run = gap.summary(out).run
    me = psutil.Process()
    before = me.memory_info().rss
    peak = [before]
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.2):
            peak[0] = max(peak[0], me.memory_info().rss)

    threading.Thread(target=look, daemon=True).start()
    out.write.format("noop").mode("overwrite").save()
    done.set()
    with monitor().store.reading(run) as state:
        said = sum(a.said.get("metrics", 0) for a in state.counted())
        dropped = state.dropped()["metrics"]
        series: dict[str, float] = {}
        for (name, _), s in state.series.items():
            series[name] = series.get(name, 0.0) + s.points[-1][2]
        arrived = sum(s.count for (name, _), s in state.series.items() if name != "loud_units")
    spark.stop()
    loud, quiet = series["loud_units"], series["quiet_units"]
    return [
        f"flood: {said:,} reports of {FLOOD_PROCESSES} processes in {FLOOD_SECONDS / 2:.0f} s "
        f"({said / FLOOD_SECONDS * 2:,.0f}/s): {arrived:,} arrived, {dropped:,} dropped and counted, "
        f"{said - arrived - dropped} unaccounted",
        f"flood: units of work while reporting against while silent: {loud / quiet - 1:+.1%}",
        f"flood: memory of the driver's Python: {before / 2**20:.0f} MiB before, {peak[0] / 2**20:.0f} MiB at most",
    ]


PARTS = {"overhead": overhead, "latency": latency, "flood": flood, "connect": connect}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monitor", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PARTS, []], help="default all")
    parser.add_argument("--repeats", type=int, default=10)
    given = parser.parse_args()
    if len(given.names) != 1:
        print(facts(("pyspark", "pyarrow", "numpy", "torch")), flush=True)
    settle()
    os.environ.setdefault("SPARKGAP_RUNS", str(Path(ROOT) / "benchmarks" / "data" / "runs"))
    if len(given.names) == 1:
        print("\n".join(PARTS[given.names[0]](given.repeats)), flush=True)
        return
    for name in given.names or PARTS:  # a process each: a classic session and Connect do not go together in one
        subprocess.run([sys.executable, "-m", "benchmarks.monitor", name, "--repeats", str(given.repeats)], check=True)


if __name__ == "__main__":
    main()
