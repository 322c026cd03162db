"""`python -m benchmarks [dense photos sentences scalars]`: run benchmarks and print their tables."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from benchmarks.common import Result, Settings, facts, settle, write_json

NAMES = ("dense", "photos", "sentences", "scalars")
PACKAGES = ("pyspark", "pyarrow", "numpy", "pandas", "torch", "sentence-transformers", "xgboost-cpu", "pillow")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which of {', '.join(NAMES)}; default all")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count, after those that warm up")
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
    settings = Settings(given.repeats, given.rows_scale)
    print(facts(PACKAGES) + "\n", flush=True)  # before `settle`: the machine's cores, not ours
    settle()
    results: list[Result] = []
    for name in given.names or NAMES:
        results.append(importlib.import_module(f"benchmarks.{name}").run(settings))
        print(results[-1].text() + "\n", flush=True)
    if given.json:
        write_json(given.json, results)
    return int(given.check and not all(r.kept(c) for r in results for c in r.claims))


if __name__ == "__main__":
    sys.exit(main())
