"""`python -m benchmarks [dense photos sentences scalars]`: run benchmarks and print their tables."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.common import Result, Settings, facts, write_json

NAMES = ("dense", "photos", "sentences", "scalars")
PACKAGES = ("pyspark", "pyarrow", "numpy", "pandas", "torch", "sentence-transformers", "xgboost-cpu", "pillow")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which of {', '.join(NAMES)}; default all")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count, after one that warms up")
    parser.add_argument("--rows-scale", type=float, default=1.0, help="1.0 is the size that the claims are about")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a claim is missed")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(NAMES))
    if unknown:
        parser.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return given


def main() -> int:
    """Run what the command line asks for."""
    given = arguments()
    # One thread for every framework in every process that starts from here; Spark's workers do the same by themselves.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings = Settings(given.repeats, given.rows_scale)
    print(facts(PACKAGES), flush=True)
    print(f"- median of {settings.repeats} interleaved rounds after one that warms up\n", flush=True)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="sparkgap-bench-") as cache:
        os.environ["SPARKGAP_CACHE"] = cache
        for name in given.names or NAMES:
            results.append(importlib.import_module(f"benchmarks.{name}").run(settings))
            print(results[-1].text() + "\n", flush=True)
    if given.json:
        write_json(given.json, results)
    return int(given.check and not all(r.kept(c) for r in results for c in r.claims))


if __name__ == "__main__":
    sys.exit(main())
