"""`gap.fit` on real Spark: what it learns is what one process would learn, whatever the strategy and the framework."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

import sparkgap as gap

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROWS = 512
WEIGHTS = np.array([3.14, 1.618], "f4")


@pytest.fixture(scope="module")
def plane(spark: SparkSession) -> DataFrame:
    """y = 3.14 x1 + 1.618 x2."""
    x = np.random.default_rng(0).normal(size=(ROWS, 2)).astype("f4")
    columns = {"x": list(x), "y": x @ WEIGHTS}
    return spark.createDataFrame(pa.table({name: pa.array(values) for name, values in columns.items()}))


def linear() -> Any:
    torch.manual_seed(1)
    return torch.nn.Linear(2, 1)


def fitted(data: Any, model: Any = None, **options: Any) -> Any:
    chosen = {
        "inputs": ["x"], "label": "y", "loss": "mse", "optimizer": "sgd", "learning_rate": 0.1, "batch_size": 32,
        "epochs": 6, "workers": 2,
    }  # fmt: skip
    return gap.fit(model or linear(), data, **{**chosen, **options})


def digest(module: Any) -> str:
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in module.parameters())).hexdigest()


@pytest.mark.parametrize(
    "strategy",
    [
        gap.AllReduce(), gap.AllReduce(deterministic=True), gap.LocalSGD(period=4), gap.ParameterServer(),
        gap.LocalSGD(period=4, outer=gap.OuterSGD(lr=0.9, momentum=0.5)),
    ],
    ids=["all_reduce", "deterministic", "local", "parameter_server", "local-outer"],
)  # fmt: skip
def test_every_strategy_learns_the_plane(spark: SparkSession, plane: DataFrame, strategy: Any) -> None:
    model = fitted(plane, strategy=strategy, epochs=12)
    np.testing.assert_allclose(model.trained.weight.detach().numpy()[0], WEIGHTS, atol=0.005)
    out = gap.transform(plane, model, inputs=["x"], keep=["y"]).toArrow()
    np.testing.assert_allclose(np.array(out["output"].to_pylist())[:, 0], out["y"].to_numpy(), atol=0.02)


def test_one_worker_is_the_plain_loop(spark: SparkSession, plane: DataFrame, tmp_path: Path) -> None:
    shards = gap.write_shards(plane, tmp_path / "shards")
    net = linear()
    local = copy.deepcopy(net)
    optimizer = torch.optim.SGD(local.parameters(), lr=0.1)
    for epoch in range(3):
        for block in shards.to_numpy(50, seed=7, epoch=epoch):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(local(torch.from_numpy(block["x"]))[:, 0], torch.from_numpy(block["y"])).backward()
            optimizer.step()
    model = fitted(shards, net, batch_size=50, epochs=3, workers=1, seed=7)
    assert digest(model.trained) == digest(local)
    assert model.best == 2
    two = fitted(shards, net, batch_size=50, epochs=3, workers=2, seed=7)
    for mine, other in zip(two.trained.parameters(), local.parameters(), strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), other.detach().numpy(), atol=1e-6)


def test_weights_are_the_same_bits_for_any_number_of_workers(spark: SparkSession, plane: DataFrame, tmp_path: Path) -> None:
    def net() -> Any:
        torch.manual_seed(2)
        return torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(64, 1))

    shards = gap.write_shards(plane, tmp_path / "shards")
    found = {
        digest(fitted(shards, net, strategy=gap.AllReduce(deterministic=True), optimizer="adam", workers=n, epochs=2).trained)
        for n in (1, 2)
    }
    assert len(found) == 1


def test_validation_best_epoch_and_early_end(spark: SparkSession, plane: DataFrame) -> None:
    told: list[float] = []

    def enough(figures: Any) -> bool:
        return bool(figures["epoch"] == 3)

    model = fitted(plane, validation=0.25, epochs=50, metrics=["mae"], on_epoch=enough)
    assert [h["epoch"] for h in model.history] == [0, 1, 2, 3]
    assert model.history[3]["val_loss"] < model.history[0]["val_loss"]
    assert model.history[3]["val_mae"] < 0.5
    assert isinstance(model, gap.Model)
    assert not told
    worse = fitted(plane, validation=0.25, epochs=50, learning_rate=1e-9, patience=2)
    assert len(worse.history) <= 10, "it gets hardly better, so it ends soon"


def test_a_training_that_ended_is_not_done_again(spark: SparkSession, plane: DataFrame, tmp_path: Path) -> None:
    first = fitted(plane, linear(), epochs=2, checkpoint=tmp_path / "kept", checkpoint_every=5)
    again = fitted(plane, linear(), epochs=2, checkpoint=tmp_path / "kept")
    assert digest(first.trained) == digest(again.trained)
    longer = fitted(plane, linear(), epochs=4, checkpoint=tmp_path / "kept")
    whole = fitted(plane, linear(), epochs=4)
    assert digest(longer.trained) == digest(whole.trained)
    assert len(longer.history) == 4


def test_a_loss_that_is_not_finite_is_the_cause(spark: SparkSession, plane: DataFrame) -> None:
    with pytest.raises(
        gap.RankError, match=r"raised sparkgap._errors.DataError: The loss is (nan|inf) in step \d+ .*Lower the learning rate"
    ):
        fitted(plane, learning_rate=1e20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "mean"}, "no loss 'mean'"),
        ({"optimizer": "sdg"}, "no optimizer 'sdg'"),
        ({"epochs": 0}, "epochs=0"),
        ({"validation": 1.5}, r"validation=1\.5"),
        ({"last": "pad"}, "last='pad'"),
        ({"model": 3}, "no model that can be trained"),
    ],
)
def test_bad_options_are_told_before_anything_runs(spark: SparkSession, plane: DataFrame, options: Any, message: str) -> None:
    with pytest.raises(gap.ConfigurationError, match=message):
        fitted(plane, **options)


KERAS = """
import json
import numpy as np
import pyarrow as pa
import sparkgap as gap

def net():
    import keras
    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])

x = np.random.default_rng(0).normal(size=(512, 2)).astype("f4")
table = pa.table({"x": pa.array(list(x)), "y": pa.array(x @ np.array([3.14, 1.618], "f4"))})
spark = gap.session("local[2]")
df = spark.createDataFrame(table)
model = gap.fit(net, df, inputs="x", label="y", loss="mse", optimizer="sgd", learning_rate=0.1, epochs=6, workers=2)
print(json.dumps(np.asarray(model.trained.get_weights()[0])[:, 0].tolist()))
spark.stop()
"""


@pytest.mark.classic
@pytest.mark.local
def test_keras_learns_the_plane(tmp_path: Path) -> None:
    """In a process of its own: one process has one backend of Keras, and other tests want others."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("Keras is not installed")
    script = tmp_path / "program.py"
    script.write_text(KERAS)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), WEIGHTS, atol=0.005)


@pytest.mark.classic
def test_jax_learns_the_plane(spark: SparkSession, plane: DataFrame) -> None:
    pytest.importorskip("jax")

    def apply(params: Any, x: Any) -> Any:
        return x @ params["w"] + params["b"]

    model = fitted(plane, (apply, {"w": np.zeros((2, 1), "f4"), "b": np.zeros(1, "f4")}))
    out = gap.transform(plane, model, inputs=["x"], keep=["y"]).toArrow()
    found = np.array(out[next(n for n in out.column_names if n != "y")].to_pylist()).reshape(-1)
    np.testing.assert_allclose(found, out["y"].to_numpy(), atol=0.02)
