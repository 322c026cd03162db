"""`python -m benchmarks.peers [daft ray mlflow]`: sparkgap and other libraries on the same files, in one run."""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import dense
from benchmarks.common import AUTO, FILES, ROOT, Claim, Contender, Settings, facts, settle, write_json

PEERS = {"daft": "Daft", "ray": "Ray Data", "mlflow": "MLflow spark_udf"}


class Peer:
    """A peer's process: warm between its rounds, idle during those of the others."""

    def __init__(self, name: str, folder: Path, log: IO[bytes]) -> None:
        python = ROOT / f".venv-{name}" / "bin" / "python"
        command = [str(python), "-m", f"benchmarks.peers.{name}_peer", str(folder)]
        self._name, self._log = name, log
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )

    def contender(self) -> Contender:
        """Return it as a contender."""
        return Contender(PEERS[self._name], lambda: self._ask("run"), self._answer)

    def _answer(self) -> pa.Table:
        with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
            self._ask(f"answer {file.name}")
            return pq.read_table(file.name)

    def _ask(self, line: str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        print(line, file=self.process.stdin, flush=True)
        if self.process.stdout.readline().strip() != "done":
            self.process.wait()
            text = Path(self._log.name).read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{self._name} ended with {self.process.returncode}. The end of its log:\n{text}")

    def close(self) -> None:
        """End the process by ending its input."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=120)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks/peers/run", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*PEERS, []], metavar="name", help=f"of {', '.join(PEERS)}; default all")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count, after those that warm up")
    parser.add_argument("--rows-scale", type=float, default=1.0, help="1.0 is 200 000 rows")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def main() -> None:
    """Run."""
    given = arguments()
    print(facts(("pyspark", "pyarrow", "numpy", "torch")), flush=True)
    settle()
    with ExitStack() as stack:

        def peers(folder: Path) -> Sequence[Contender]:
            made = []
            for name in given.names or PEERS:
                log = stack.enter_context(tempfile.NamedTemporaryFile(prefix=f"peer-{name}-", suffix=".log"))
                peer = Peer(name, folder, log)
                stack.callback(peer.close)
                made.append(peer.contender())
            return made

        result = dense.run(Settings(given.repeats, given.rows_scale), peers)
    result.claims = [Claim(who, over, 1.0) for who in (FILES, AUTO) for over in PEERS.values() if over in result.seconds]
    print("\n" + result.text())
    if given.json:
        write_json(given.json, [result])


if __name__ == "__main__":
    main()
