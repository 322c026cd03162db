"""Training on shards against torchrun and the limit: `python -m benchmarks.training [start speed feed deterministic]`.

start: from the call to the end of two ranks that do one all-reduce: `gap.train`, first and later in a session; torchrun.
speed: rows a second of two workers that train an MLP: `gap.fit`; torchrun with a loop by hand on the same shards.
feed: rows a second of shards as batches: in order, shuffled; against the same batches of one array in the page cache.
deterministic: the price of weights that do not depend on the number of workers: a network of 5.8 million parameters.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

ROWS, WIDTH, CLASSES = 60_000, 784, 10
BATCH = 256
REPEATS = 5

ALL_REDUCE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.ones(3)
dist.all_reduce(x)
dist.destroy_process_group()
"""
LOOP = """
import json, sys, time
import torch, torch.distributed as dist
import sparkgap as gap
torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
shards = gap.open_shards(sys.argv[1])
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(),
                          torch.nn.Linear(512, 10))
net = torch.nn.parallel.DistributedDataParallel(net)
optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
speeds = []
for epoch in range(3):
    began, rows = time.perf_counter(), 0
    for block in shards.to_numpy(int(sys.argv[2]), epoch=epoch, rank=rank, world=world):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(block["x"])), torch.from_numpy(block["y"]))
        loss.backward()
        optimizer.step()
        rows += len(block["y"])
    dist.barrier()
    speeds.append(rows * world / (time.perf_counter() - began))
if rank == 0:
    print(json.dumps(speeds))
dist.destroy_process_group()
"""


def torchrun(script: str, *arguments: str) -> str:
    """Run a script in two processes, and return what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "script.py")
        file.write_text(script)
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            "2",
            "--standalone",
            str(file),
            *arguments,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def told(name: str, found: list[float], unit: str) -> float:
    """Say the median of some figures with their spread, and return it."""
    middle = statistics.median(found)
    print(f"{name:58} {middle:12,.3f} {unit}  ({min(found):,.3f} to {max(found):,.3f})", flush=True)
    return middle


def timed(work: Callable[[], Any], repeats: int = REPEATS) -> list[float]:
    """Return the seconds of each of some repeats."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return found


def network(width: int = 512) -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(WIDTH, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(),
        torch.nn.Linear(width, CLASSES),
    )  # fmt: skip


def shards(folder: str, rows: int = ROWS, seed: int = 0) -> Any:
    """Write the table as shards, by Spark: ten clouds of points that overlap a little."""
    import sparkgap as gap

    centres = np.random.default_rng(0).normal(size=(CLASSES, WIDTH))
    rng = np.random.default_rng([seed, 1])
    y = rng.integers(0, CLASSES, rows)
    x = (rng.normal(size=(rows, WIDTH)) + 0.1 * centres[y]).astype("f4")
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), WIDTH).cast(pa.list_(pa.float32()))
    df = gap.session().createDataFrame(pa.table({"x": flat, "y": pa.array(y)}))
    return gap.write_shards(df.repartition(2), folder)


def start(_: Any) -> None:
    import sparkgap as gap

    def work(worker: Any) -> None:
        worker.average(np.ones(3))

    gap.session()
    first = timed(lambda: gap.train(work, workers=2), 1)[0]
    print(f"gap.train, the first of a session                          {first:12,.3f} s")
    ours = told("gap.train, later ones", timed(lambda: gap.train(work, workers=2)), "s")
    theirs = told("torchrun", timed(lambda: torchrun(ALL_REDUCE)), "s")
    print(f"gap.train takes {first / theirs:.2f} x torchrun at first, then {ours / theirs:.2f} x (wanted: at most 1.5)")


def speed(data: Any) -> None:
    import sparkgap as gap

    ours, theirs = [], []
    for _ in range(REPEATS):
        model = gap.fit(
            network(), data, inputs=["x"], label="y", loss="cross_entropy", optimizer="sgd", learning_rate=0.05, epochs=3,
            batch_size=BATCH, workers=2,
        )  # fmt: skip
        ours.append(max(h["rows_per_second"] for h in model.history))
        theirs.append(max(json.loads(torchrun(LOOP, data.path, str(BATCH)))))
    ratio = told("gap.fit", ours, "rows/s") / told("torchrun, a loop by hand on the same shards", theirs, "rows/s")
    print(f"gap.fit has {ratio:.2f} of torchrun's rows a second (wanted: at least 0.95)")


def feed(data: Any) -> None:
    """Read batches, and look at every number once; the array is a memory-mapped file, as the shards are."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, np.concatenate([b["x"] for b in data.to_numpy(10_000, shuffle=None)]))
        file.flush()
        _feed(data, np.load(file.name, mmap_mode="r"))


def _feed(data: Any, whole: np.ndarray) -> None:
    order = np.random.default_rng(0).permutation(ROWS)
    starts = range(0, ROWS, BATCH)

    def look(batches: Iterable[np.ndarray]) -> None:
        for batch in batches:
            batch.max()

    def ours(**options: Any) -> Iterable[np.ndarray]:
        return (block["x"] for block in data.to_numpy(BATCH, columns=["x"], **options))

    pairs = {
        "in order, views": (lambda: ours(shuffle=None, copy=False), lambda: (whole[i : i + BATCH] for i in starts)),
        "in order, copied": (lambda: ours(shuffle=None), lambda: (np.array(whole[i : i + BATCH]) for i in starts)),
        "shuffled": (ours, lambda: (whole[order[i : i + BATCH]] for i in starts)),
    }
    for name, (of_shards, of_array) in pairs.items():
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(9):
            for rate, batches in zip(rates, (of_shards, of_array), strict=True):
                rate.append(ROWS / timed(lambda batches=batches: look(batches()), 1)[0])  # type: ignore[misc]
        ratio = told(f"shards, {name}", rates[0], "rows/s") / told(f"one mapped array, {name}", rates[1], "rows/s")
        print(f"shards have {ratio:.2f} of one contiguous array {name} (wanted: 0.9)")


def deterministic(data: Any) -> None:
    import sparkgap as gap

    def seconds(strategy: Any) -> float:
        model = gap.fit(
            network(1900), data, inputs=["x"], label="y", loss="cross_entropy", optimizer="sgd", learning_rate=0.01,
            epochs=2, batch_size=1024, workers=2, strategy=strategy,
        )  # fmt: skip
        return float(min(h["seconds"] for h in model.history))

    plain, fixed = [], []
    for _ in range(3):
        plain.append(seconds(gap.AllReduce()))
        fixed.append(seconds(gap.AllReduce(deterministic=True, virtual_workers=8)))
    price = told("deterministic, 8 virtual workers", fixed, "s") / told("plain all-reduce", plain, "s")
    print(f"the deterministic strategy takes {price:.2f} x (wanted: at most 1.3)")


PARTS = {"start": start, "speed": speed, "feed": feed, "deterministic": deterministic}


def main() -> None:
    """Run what the command line asks for."""
    chosen = sys.argv[1:] or list(PARTS)
    with tempfile.TemporaryDirectory() as folder:
        data = None if chosen == ["start"] else shards(folder + "/shards")
        for name in chosen:
            print(f"\n{name}", flush=True)
            PARTS[name](data)


if __name__ == "__main__":
    main()
