"""All-reduce on N ranks is one process with the whole batch; real gloo groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gloo_ranks import run_ranks
from small_trainables import Regression, images, net, part, points, torch_net, train, weights

import sparkgap as gap
from sparkgap.cooperative.strategies.all_reduce import AllReduce
from sparkgap.cooperative.strategies.group import Group

SIZES = [16, 15, 3, 1, 16]  # uneven parts, and on 4 ranks some that are empty


def make(kind: str, seed: int = 0) -> Any:
    return Regression(start=float(seed)) if kind == "regression" else net(kind, "sgd", seed)


def batches_of(kind: str) -> list[dict[str, np.ndarray]]:
    return [(points if kind == "regression" else images)(rows, seed) for seed, rows in enumerate(SIZES)]


def several(group: Group, kinds: list[str]) -> dict[str, Any]:
    found = {}
    for kind in kinds:
        trainable = make(kind, seed=group.rank)  # rank 0's start counts
        losses = train(AllReduce().begin(trainable, group), batches_of(kind), group.rank, group.world)
        found[kind] = weights(trainable), losses
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_equals_one_process_with_the_whole_batch(world: int, tmp_path: Path) -> None:
    kinds = ["regression", "dense", "cnn"]
    ranks = run_ranks(world, tmp_path, several, kinds)
    for kind in kinds:
        alone = make(kind)
        losses = []
        for batch in batches_of(kind):
            loss, gradients = alone.gradients(batch)
            alone.apply(gradients)
            losses.append(loss)
        for found, _ in (r[kind] for r in ranks):
            np.testing.assert_allclose(found, weights(alone), atol=1e-6, rtol=0)
            np.testing.assert_array_equal(found, ranks[0][kind][0])
        if kind == "regression":
            np.testing.assert_allclose(ranks[-1][kind][1], losses)


def buffers(group: Group) -> dict[str, Any]:
    found = {}
    for kind in ("regression", "norm"):
        trainable = make(kind)
        train(AllReduce().begin(trainable, group), batches_of(kind)[:4], group.rank, group.world)
        found[kind] = [b.copy() for b in trainable.buffers()]
    return found


def test_buffers_are_averaged_and_counters_kept(tmp_path: Path) -> None:
    first, second = run_ranks(2, tmp_path, buffers)
    for kind, arrays in first.items():
        for mine, other in zip(arrays, second[kind], strict=True):
            np.testing.assert_array_equal(mine, other)
    mean, count = first["regression"]
    alone = [Regression(), Regression()]
    for rank, trainable in enumerate(alone):
        for batch in batches_of("regression")[: 3 + rank]:  # rank 0 has no rows of the fourth
            trainable.gradients(part(batch, rank, 2))
    np.testing.assert_allclose(mean, (alone[0].buffers()[0] + alone[1].buffers()[0]) / 2)
    assert count == 3
    assert first["norm"][-1] == 3


def other_models(group: Group) -> str:
    with pytest.raises(gap.ConfigurationError) as caught:
        AllReduce().begin(Regression(2 + group.rank), group)
    return str(caught.value)


def test_ranks_with_other_models_are_refused(tmp_path: Path) -> None:
    assert "Ranks [1] have another model than rank 0" in run_ranks(2, tmp_path, other_models)[0]


class TwoHeads:
    """A net whose second head only takes part where x says so."""

    @staticmethod
    def make() -> Any:
        import torch
        from torch import nn

        class Heads(nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two = nn.Linear(64, 5), nn.Linear(64, 5)

            def forward(self, x: Any) -> Any:
                flat = x.flatten(1)
                return self.two(flat) if flat[0, 0] > 0 else self.one(flat)

        torch.manual_seed(0)
        return torch_net(Heads(), lambda p: torch.optim.SGD(p, lr=0.1))


def unused(group: Group) -> tuple[np.ndarray, np.ndarray]:
    steps = batches_of("dense")
    for batch in steps:
        batch["x"][:, 0, 0, 0] = np.linspace(-1, 1, len(batch["x"]))  # rank 0 uses one head, rank 1 the other
    trainable = TwoHeads.make()
    train(AllReduce(find_unused_parameters=True).begin(trainable, group), steps, group.rank, group.world)
    alone = TwoHeads.make()
    for batch in steps:
        mean = [np.zeros_like(p) for p in alone.parameters()]
        for half in (part(batch, rank, 2) for rank in range(2)):
            for total, gradient in zip(mean, alone.gradients(half)[1] if len(half["y"]) else [], strict=False):
                total += gradient * np.float32(len(half["y"]) / len(batch["y"]))
        alone.apply(mean)
    return weights(trainable), weights(alone)


def test_parameters_that_a_rank_does_not_use(tmp_path: Path) -> None:
    for found, wanted in run_ranks(2, tmp_path, unused):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bucket_mb": 0}, "bucket_mb"),
        ({"virtual_workers": 8}, "deterministic=True only"),
        ({"deterministic": True, "virtual_workers": 6}, "power of two"),
        ({"deterministic": True, "threads": 0}, "threads"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], match: str) -> None:
    with pytest.raises(gap.ConfigurationError, match=match):
        AllReduce(**options)


def test_a_batch_that_is_not_what_is_said_of_it() -> None:
    run = AllReduce().begin(Regression(), Group.alone())  # type: ignore[arg-type]
    with pytest.raises(gap.DataError, match="4 rows of 8"):
        run.step(points(5), 4, 8)
