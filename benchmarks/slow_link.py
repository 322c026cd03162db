"""Strategies of training between two hosts with a slow link: `python -m benchmarks.slow_link [--delay-ms 5] [--mbit 100]`.

A real Spark standalone cluster with a worker in each of two network namespaces (see `link`); one rank on each. Every strategy
trains the same network (0.67 million parameters, 2.7 MB) on the same rows for as many epochs. Needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.link import ADDRESSES, Link
from benchmarks.training import BATCH, network, shards

MASTER = f"spark://{ADDRESSES[0]}:7077"
EPOCHS = 3


def strategies() -> dict[str, Any]:
    """Return what is compared."""
    import sparkgap as gap

    return {
        "AllReduce()": gap.AllReduce(),
        "LocalSGD(period=8)": gap.LocalSGD(period=8),
        "LocalSGD(period=8, compression='fp16')": gap.LocalSGD(period=8, compression="fp16"),
        "LocalSGD(period=8, compression=TopK(0.01))": gap.LocalSGD(period=8, compression=gap.TopK(0.01)),
        "LocalSGD(period=32, outer=OuterSGD())": gap.LocalSGD(period=32, outer=gap.OuterSGD()),
        "ParameterServer(staleness=4)": gap.ParameterServer(staleness=4),
    }


def inner(path: str) -> None:
    """Train with each strategy; the driver, on the first host."""
    import sparkgap as gap

    os.environ["PYSPARK_PYTHON"] = sys.executable  # of the executors, too
    host = {"spark.driver.host": ADDRESSES[0], "spark.driver.bindAddress": ADDRESSES[0], "spark.ui.enabled": "false"}
    gap.session(MASTER, conf={**host, "spark.executor.memory": "1g"})
    train, held = gap.open_shards(path + "/train"), gap.open_shards(path + "/held")
    first = None
    for name, strategy in strategies().items():
        began = time.monotonic()
        model = gap.fit(
            network(), train, inputs=["x"], label="y", loss="cross_entropy", optimizer="sgd", learning_rate=0.05,
            epochs=EPOCHS, batch_size=BATCH, workers=2, strategy=strategy, validation=held, metrics=["accuracy"],
        )  # fmt: skip
        seconds = sorted(h["seconds"] for h in model.history)[EPOCHS // 2]
        first = first or seconds
        accuracy = model.history[-1]["val_accuracy"]
        print(
            f"{name:46} {seconds:7.2f} s an epoch  {first / seconds:6.1f} x  accuracy {accuracy:.3f}  "
            f"whole {time.monotonic() - began:6.1f} s", flush=True,
        )  # fmt: skip


def cluster(link: Link, log: Any) -> list[subprocess.Popen[str]]:
    """Start a master and a worker on the first host, and a worker on the second."""
    import pyspark

    from sparkgap._java import find_java
    from sparkgap._launch import newest_java

    spark_class = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "SPARK_HOME": str(Path(pyspark.__file__).parent),
        "JAVA_HOME": str(find_java(newest=newest_java(pyspark.__version__)).home), "PYSPARK_PYTHON": sys.executable,
    }  # fmt: skip
    deploy = "org.apache.spark.deploy"
    commands = [
        (0, [f"{deploy}.master.Master", "--host", ADDRESSES[0], "--port", "7077", "--webui-port", "0"]),
        *((h, [f"{deploy}.worker.Worker", MASTER, "--host", ADDRESSES[h], "-c", "1", "-m", "2g", "--webui-port", "0"])
          for h in (0, 1)),
    ]  # fmt: skip
    return [
        link.start(h, [spark_class, *c], env=environment, stdout=log, stderr=log, cwd=log.name + ".d") for h, c in commands
    ]


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay-ms", type=float, default=5)
    parser.add_argument("--mbit", type=float, default=100)
    parser.add_argument("--inner")
    options = parser.parse_args()
    if options.inner:
        inner(options.inner)
        return
    with tempfile.TemporaryDirectory() as folder:
        make = "import sys; from benchmarks.slow_link import make; make(sys.argv[1])"
        subprocess.run([sys.executable, "-c", make, folder], check=True)
        Path(folder, "log.d").mkdir()
        with Link(options.delay_ms / 1e3, options.mbit) as link, open(Path(folder, "log"), "w") as log:
            servers = cluster(link, log)
            try:
                command = [sys.executable, "-m", "benchmarks.slow_link", "--inner", folder]
                print(json.dumps(vars(options)), flush=True)
                code = link.start(0, command).wait()
            finally:
                for server in servers:
                    server.terminate()
                    server.wait()
        sys.exit(code)


def make(folder: str) -> None:
    """Write the rows to train on, and those that are held out."""
    shards(folder + "/train", rows=20_000)
    shards(folder + "/held", rows=4_000, seed=1)


if __name__ == "__main__":
    main()
