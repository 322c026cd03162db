"""What the benchmarks share: the session, the limit, interleaved rounds, the table.

A round runs every contender once, in turn, so that whatever slows the machine down slows all of them. One round
warms up; the figures are medians over the others, with the slowest and the fastest round.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROOT = Path(__file__).resolve().parent.parent
CORES = 2
UDF, ARROW, ROWS, FILES, AUTO, LIMIT = (
    "predict_batch_udf", "mapInArrow by hand", "sparkgap rows", "sparkgap files", "sparkgap auto", "the limit",
)  # fmt: skip

Score = Callable[[Any], Iterable[pa.RecordBatch]]


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
        lines = [f"## {self.title}", "", _line(head), _line(["---", *["---:"] * (len(head) - 1)])]
        for name, seconds in self.seconds.items():
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
    for number in range(settings.repeats + 1):
        for c in contenders:
            start = time.perf_counter()
            c.run()
            if number:
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


class Limit:
    """What no library can beat: plain warm processes, one framework thread each, no Spark.

    Args:
        opener: called once in each process, loads the model and returns what scores one job.
        jobs: pieces of the work, taken one by one by whichever process is free.
    """

    def __init__(self, opener: Callable[[], Score], jobs: Sequence[Any]) -> None:
        self._jobs = jobs
        self._pool = multiprocessing.get_context("spawn").Pool(CORES, _open, (opener,))

    def contender(self) -> Contender:
        """Return it as a contender."""
        return Contender(LIMIT, self._run, self._answer)

    def _run(self) -> None:
        for _ in self._pool.imap_unordered(_count, self._jobs):
            pass

    def _answer(self) -> pa.Table:
        return pa.Table.from_batches([b for part in self._pool.imap(_batches, self._jobs) for b in part])

    def close(self) -> None:
        """End the processes."""
        self._pool.close()
        self._pool.join()


_score: Score


def _open(opener: Callable[[], Score]) -> None:
    global _score
    one_thread()
    _score = opener()


def _count(job: Any) -> int:
    return sum(batch.num_rows for batch in _score(job))


def _batches(job: Any) -> list[pa.RecordBatch]:
    return list(_score(job))


def one_thread() -> None:
    """Give Arrow and torch one thread in this process."""
    import torch

    torch.set_num_threads(1)
    pa.set_cpu_count(1)


def row_groups(folder: Path) -> list[tuple[str, int]]:
    """Return all (file, number of the row group) of a folder."""
    files = sorted(str(p) for p in folder.glob("*.parquet"))
    return [(f, n) for f in files for n in range(pq.ParquetFile(f).num_row_groups)]


def read_group(job: tuple[str, int], rows: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read one row group in batches of `rows` rows."""
    # A small buffer in place of the whole row group: measured to be the faster way on local files.
    with pq.ParquetFile(job[0], pre_buffer=False, buffer_size=256 << 10) as file:
        yield from file.iter_batches(rows, row_groups=[job[1]], columns=list(columns), use_threads=False)


def lists(values: np.ndarray) -> pa.Array:
    """Return a matrix as an Arrow list column, without copying."""
    rows, width = values.shape
    offsets = np.arange(0, (rows + 1) * width, width, dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


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


