"""What the benchmarks share: the session, the limit, interleaved rounds, the table.

A round runs every contender once, in an order drawn by lot, so that whatever slows the machine down slows all of them,
and none always works in the wake of the same other (the JVM collects the garbage of a job after its end). The first
rounds warm up: Spark's JVM compiles for the first ten to twenty jobs, which matters where a job is as short as a second.
The figures are medians over the other rounds, with the slowest and the fastest one.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROOT = Path(__file__).resolve().parent.parent
CORES = 2
UDF, ARROW, ROWS, FILES, AUTO, LIMIT = (
    "predict_batch_udf", "mapInArrow by hand", "sparkgap rows", "sparkgap files", "sparkgap auto", "the limit",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """How to run: rounds that count, size of the data (1.0 is what the claims are about), where data lies."""

    repeats: int = 5
    scale: float = 1.0
    folder: Path = ROOT / "benchmarks" / "data"

    def rows(self, full: int) -> int:
        """Number of rows of a table that has `full` rows at scale 1."""
        return max(64, round(full * self.scale))

    def data(self, name: str, rows: int, make: Callable[[Path], None]) -> Path:
        """Return the folder of a data set, made at first use and used again afterwards."""
        folder = self.folder / f"{name}-{rows}"
        done = folder.with_name(folder.name + ".done")
        if not done.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            make(folder)
            done.touch()
        return folder


@dataclass(frozen=True)
class Contender:
    """One way of doing the work.

    Args:
        name: for the table.
        run: does the work once over all rows and drops the results; the timed part.
        answer: the results as a table with the columns `key` and `y`, in any order, to compare with the others.
    """

    name: str
    run: Callable[[], None]
    answer: Callable[[], pa.Table]


@dataclass(frozen=True)
class Claim:
    """`who` is at least `least` times as fast as `over`."""

    who: str
    over: str
    least: float


@dataclass
class Result:
    """Figures of one benchmark: seconds of each round by contender."""

    title: str
    rows: int
    unit: str
    claims: Sequence[Claim]
    warm_up: int = 1
    seconds: dict[str, list[float]] = field(default_factory=dict)
    difference: dict[str, float] = field(default_factory=dict)

    def rate(self, name: str) -> float:
        """Median rows a second."""
        return self.rows / statistics.median(self.seconds[name])

    def kept(self, claim: Claim) -> bool:
        """Whether the figures bear a claim out."""
        return self.rate(claim.who) >= claim.least * self.rate(claim.over)

    def text(self) -> str:
        """Return a Markdown table and one line for each claim."""
        over = [n for n in (UDF, LIMIT) if n in self.seconds]
        head = ["contender", f"{self.unit}/s", "slowest - fastest", *(f"x {n}" for n in over), "max abs difference"]
        rounds = len(next(iter(self.seconds.values())))
        lines = [f"## {self.title}", "", f"Median of {rounds} rounds, after {self.warm_up} that warm up.", ""]
        lines += [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
        for name in self.difference:  # the contenders' own order
            seconds = self.seconds[name]
            spread = f"{self.rows / max(seconds):,.0f} - {self.rows / min(seconds):,.0f}"
            ratios = [f"{self.rate(name) / self.rate(n):.2f}" for n in over]
            lines.append(_line([name, f"{self.rate(name):,.0f}", spread, *ratios, f"{self.difference[name]:.1e}"]))
        lines.append("")
        for c in self.claims:
            got, mark = self.rate(c.who) / self.rate(c.over), "met" if self.kept(c) else "MISSED"
            lines.append(f"- {c.who} >= {c.least} x {c.over}: {got:.2f}, {mark}")
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**asdict(self), "rate": {n: self.rate(n) for n in self.seconds}}


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def measure(result: Result, contenders: Sequence[Contender], settings: Settings, tolerance: float) -> Result:
    """Check that all contenders give the same answers, then run interleaved rounds.

    Raises:
        RuntimeError: a contender's answers differ from those of the last one, the limit, by more than `tolerance`.
    """
    expected = _sorted(contenders[-1].answer())
    for c in contenders:
        got = _sorted(c.answer())
        if not got[0].equals(expected[0]):
            raise RuntimeError(f"{c.name} gives {len(got[0])} rows, {contenders[-1].name} {len(expected[0])} or others.")
        result.difference[c.name] = worst = float(np.abs(got[1] - expected[1]).max())
        if not worst <= tolerance:
            raise RuntimeError(f"{c.name} is off by {worst:.1e} from {contenders[-1].name}; {tolerance:.0e} is allowed.")
    for number in range(-result.warm_up, settings.repeats):
        for c in random.Random(number).sample(contenders, len(contenders)):
            start = time.perf_counter()
            c.run()
            if number >= 0:
                result.seconds.setdefault(c.name, []).append(time.perf_counter() - start)
    return result


def _sorted(table: pa.Table) -> tuple[pa.ChunkedArray, np.ndarray]:
    table = table.sort_by("key").combine_chunks()
    y = table["y"].combine_chunks()
    values = y if not pa.types.is_nested(y.type) else y.flatten()
    return table["key"], values.to_numpy(zero_copy_only=False).reshape(len(y), -1)


def settle() -> None:
    """Prepare this process, and so all that start from it: the same few cores, one thread for every framework."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("SPARKGAP_CACHE", str(ROOT / "benchmarks" / "data" / "cache"))


def session() -> SparkSession:
    """Return the session that all contenders share: local, one core a task."""
    import sparkgap as gap

    # Functions of these modules are unpickled by reference in Spark's Python workers.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    spark = gap.session(f"local[{CORES}]")
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def spark_contender(name: str, frame: DataFrame) -> Contender:
    """Return a contender that is a DataFrame with the columns `key` and `y`."""
    return Contender(name, lambda: frame.write.format("noop").mode("overwrite").save(), frame.toArrow)


def facts(packages: Sequence[str]) -> str:
    """Describe the machine and the versions, as Markdown."""
    from sparkgap._machine import detect

    machine = detect()
    model = next((x.split(":")[1].strip() for x in _cpuinfo() if x.startswith("model name")), platform.processor())
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in packages)
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    return (
        f"- machine: {model}, {machine.cores} cores, {(machine.memory or 0) / 2**30:.0f} GiB memory, {platform.system()}\n"
        f"- load averages at the start: {load}\n"
        f"- Python {platform.python_version()}, {versions}\n"
        f"- local[{CORES}], one core and one framework thread a task, in every contender"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def write_json(path: Path, results: Sequence[Result]) -> None:
    """Write the figures of several benchmarks to one file."""
    path.write_text(json.dumps([r.json() for r in results], indent=1) + "\n")
