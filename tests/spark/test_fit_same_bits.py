"""Deterministic training on real Spark: the same bits with any number of workers, after a kill, and after a resume.

Eight ranks need eight slots, so the sessions of other tests are too small: this one has its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.local, pytest.mark.timeout(600)]

PROGRAM = '''
import hashlib, json, os, signal, sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import sparkgap as gap

folder = Path(sys.argv[1])
KILLED_IN, EPOCHS, EVERY = 7, 2, 3  # steps: five an epoch, so the second epoch, and off the checkpoints


def network(flag=None):
    import torch
    from torch import nn

    class Fuse(nn.Module):
        """Lets rank 1 die in a step, once."""

        calls = 0

        def forward(self, x):
            self.calls += self.training
            steps = self.calls // (8 // int(os.environ["WORLD_SIZE"]))
            if flag and self.training and os.environ["RANK"] == "1" and steps == KILLED_IN and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return x

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3), Fuse(), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
        nn.Linear(216, 3),
    )


def fitted(workers, checkpoint=None, flag=None, epochs=EPOCHS, **options):
    return gap.fit(
        partial(network, flag), shards, inputs=["x"], label="y", loss="cross_entropy", optimizer="adam", batch_size=64,
        epochs=epochs, workers=workers, strategy=gap.AllReduce(deterministic=True), checkpoint=checkpoint,
        checkpoint_every=EVERY if checkpoint else None, **options,
    )


def told(model):
    whole = hashlib.sha256()
    for value in model.trained.state_dict().values():
        whole.update(value.numpy().tobytes())
    return [whole.hexdigest(), model.best, model.attempts]


def killed(workers, then):
    """Die without being begun anew, and go on with another number of workers."""
    kept, flag = folder / f"kept-{workers}-{then}", folder / f"flag-{workers}-{then}"
    try:
        fitted(workers, kept, flag, restarts=0)
    except gap.RankError as error:
        assert error.kind == "signal", error
        return told(fitted(then, kept, flag))
    raise AssertionError("no rank died")


def one_epoch(workers, then):
    kept = folder / f"ended-{workers}-{then}"
    first = told(fitted(workers, kept, epochs=1))
    return [first, told(fitted(then, kept))]


rng = np.random.default_rng(0)
x = rng.normal(size=(315, 64)).astype("f4")  # the last batch of an epoch has 59 rows, which eight do not divide
y = rng.integers(0, 3, 315)
spark = gap.session("local[8]", conf={"spark.ui.enabled": "false", "spark.driver.memory": "1g"})
shards = gap.write_shards(spark.createDataFrame(pa.table({"x": pa.array(list(x)), "y": pa.array(y)})), folder / "shards")
found = {str(n): told(fitted(n)) for n in (1, 2, 4, 8)}
found["killed"] = told(fitted(2, folder / "kept", folder / "flag"))
found["killed, then 4"] = killed(2, 4)
found["ended"], found["ended, then 4"] = one_epoch(2, 4)
spark.stop()
print(json.dumps(found))
'''


def test_the_same_bits_with_any_number_of_workers_after_a_kill_and_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable}
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path)], capture_output=True, text=True, check=False, timeout=580,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    found = json.loads(done.stdout.splitlines()[-1])
    half = found.pop("ended")
    assert half[0] != found["1"][0]
    assert {digest for digest, _, _ in found.values()} == {found["1"][0]}
    assert {best for _, best, _ in found.values()} == {1}, "the weights are those of the second epoch"
    assert {how: attempts for how, (_, _, attempts) in found.items() if attempts != 1} == {"killed": 2}
