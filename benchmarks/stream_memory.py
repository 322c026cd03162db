"""A table of any size through little memory: `python -m benchmarks.stream_memory [--gb 5]`.

Spark makes rows as they are asked for, and `feed="stream"` gives them to two workers, which train a linear model and may
have 1 GiB of resident memory each. Told are the peaks of each worker's process and of the Python worker of Spark above it, and
whether each row was seen once.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

WIDTH = 128
WORKERS = 2
BATCH = 1024


def peak(pid: int) -> int:
    """Return the largest resident size that a process has had, in bytes."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) << 10


def parent(pid: int) -> int:
    """Return the parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def loop(worker: Any) -> dict[str, int]:
    """Train one epoch; the ids are summed up, so that rows that are lost or come twice are found."""
    import torch

    net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(WIDTH, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    rows = total = 0
    for block in worker.batches(BATCH):
        x = torch.from_numpy(block["x"])
        loss = (net(x)[:, 0] - x[:, 0]).square().sum() / BATCH  # a short last batch may hold no row here
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        worker.report(loss=float(loss))
        rows += len(block["id"])
        total += int(block["id"].sum())
    above = parent(os.getppid())  # this process is a fork of a clean one, which is below Spark's worker
    return {"rows": rows, "total": total, "peak": peak(os.getpid()), "above": peak(above)}


def main() -> int:
    """Run it, and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream_memory", description=__doc__)
    parser.add_argument("--gb", type=float, default=5.0, help="size of the table, in GB of the rows' floats")
    rows = int(parser.parse_args().gb * 1e9) // (4 * WIDTH)
    from pyspark.sql import functions as F

    import sparkgap as gap

    spark = gap.session(f"local[{WORKERS + 1}]", conf={"spark.ui.enabled": "false", "spark.sparkgap.monitor.progress": "none"})
    x = F.array(*[F.rand(seed).cast("float") for seed in range(WIDTH)])
    df = spark.range(0, rows, 1, 16).select("id", x.alias("x"))
    began = time.monotonic()
    result = gap.train(loop, df, feed="stream", workers=WORKERS, memory="1g", returns="all")
    seconds = time.monotonic() - began
    for rank, found in enumerate(result.values):
        sizes = f"peak {found['peak'] / 1e6:,.0f} MB; Spark's Python worker above it {found['above'] / 1e6:,.0f} MB"
        print(f"rank {rank}: {found['rows']:,} rows; {sizes}")
    seen, total = (sum(found[name] for found in result.values) for name in ("rows", "total"))
    exact = seen == rows and total == rows * (rows - 1) // 2
    print(f"{rows * 4 * WIDTH / 1e9:.2f} GB in {seconds:,.0f} s; {seen:,} rows seen of {rows:,} made; each once: {exact}")
    spark.stop()
    return int(not exact)


if __name__ == "__main__":
    sys.exit(main())
