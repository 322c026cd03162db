"""Local SGD, its outer optimizer and its compression; real gloo groups."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gloo_ranks import run_ranks
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from small_trainables import Regression, images, net, part, points, train, weights

import sparkgap as gap
from sparkgap.cooperative.strategies.all_reduce import AllReduce
from sparkgap.cooperative.strategies.base import Strategy
from sparkgap.cooperative.strategies.compression import Compression, Half, Threshold, TopK
from sparkgap.cooperative.strategies.group import Group
from sparkgap.cooperative.strategies.local_sgd import LocalSGD, OuterSGD

VECTORS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-1000, 1000, width=32))
COMPRESSIONS = [Half(), TopK(0.1), TopK(1.0), Threshold(0.5)]


def pair(group: Group, strategies: list[Strategy], sizes: list[int]) -> list[Any]:
    found = []
    for strategy in strategies:
        for trainable, make in ((Regression(), points), (net("cnn", "sgd"), images)):
            train(strategy.begin(trainable, group), [make(s, s) for s in sizes], group.rank, group.world)
            found.append(weights(trainable))
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_meeting_at_every_step_equals_all_reduce(world: int, tmp_path: Path) -> None:
    same = [AllReduce(), LocalSGD(1), LocalSGD(1, outer=OuterSGD(1.0, 0.0, False))]
    for rank in run_ranks(world, tmp_path, pair, same, [16, 16, 15, 3, 16]):
        for found in (rank[2:4], rank[4:6]):
            for mine, wanted in zip(found, rank[:2], strict=True):
                np.testing.assert_allclose(mine, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sizes", [[16, 15, 16, 16, 8], [16, 15, 16, 16]])
def test_it_is_what_its_definition_says(sizes: list[int], tmp_path: Path) -> None:
    outer = OuterSGD(0.7, 0.9, True)
    cases = [LocalSGD(2), LocalSGD(2, outer=outer), LocalSGD(2, compression=TopK(0.3)), LocalSGD(2, outer, Threshold(0.3))]
    ranks = run_ranks(2, tmp_path, pair, cases, sizes)
    for number, strategy in enumerate(cases):
        wanted = by_hand(sizes, strategy)
        for rank in ranks:
            np.testing.assert_allclose(rank[2 * number], wanted, atol=1e-12, err_msg=str(strategy))


def by_hand(sizes: list[int], strategy: LocalSGD) -> np.ndarray:
    """Two ranks in one process; the outer optimizer is PyTorch's SGD."""
    import torch

    outer, codec = strategy.outer, strategy.compression
    shared = torch.zeros(3, dtype=torch.float64)
    optimizer = torch.optim.SGD([shared], **dataclasses.asdict(outer)) if outer else torch.optim.SGD([shared], lr=1.0)
    ranks, rows, kept = [Regression(), Regression()], [0, 0], [np.zeros(3), np.zeros(3)]
    for step, size in enumerate(sizes, 1):
        for rank, trainable in enumerate(ranks):
            mine = part(points(size, size), rank, 2)
            trainable.apply(trainable.gradients(mine)[1])
            rows[rank] += len(mine["y"])
        meets = step % strategy.period == 0
        if meets or step == len(sizes):
            sent = []
            for rank, trainable in enumerate(ranks):
                change = (shared.numpy() - weights(trainable)) * rows[rank] / sum(rows) * 2 + kept[rank]
                kept[rank] = change if isinstance(codec, Compression) and meets else np.zeros(3)
                sent.append(codec.sum_(change, Group.alone()) if isinstance(codec, Compression) and meets else change)
            shared.grad = torch.from_numpy(sum(sent) / 2)
            optimizer.step()
            for trainable in ranks:
                trainable.load_parameters([shared[:2].numpy(), shared[2:].numpy()])
            rows = [0, 0]
    return shared.numpy() - (outer.lr if outer else 1.0) * sum(kept) / 2


def test_one_worker_is_the_plain_loop() -> None:
    one, plain = net("dense", "momentum"), net("dense", "momentum")
    train(LocalSGD(2).begin(one, Group.alone()), [images(9, s) for s in range(5)])  # type: ignore[arg-type]
    for seed in range(5):
        plain.step(images(9, seed))
    np.testing.assert_array_equal(weights(one), weights(plain))


def learned(group: Group, strategies: list[LocalSGD], steps: int) -> list[np.ndarray]:
    found = []
    for strategy in strategies:
        trainable = Regression(learning_rate=0.05)
        run = strategy.begin(trainable, group)  # type: ignore[arg-type]
        for step in range(steps):
            mine = part(points(32, step), group.rank, group.world)
            run.step(mine, len(mine["y"]), 32)
            if step == steps // 2:  # a checkpoint in the middle; it goes on in another run
                run.finish()
                state, run = run.state(), strategy.begin(trainable, group)  # type: ignore[arg-type]
                assert all(not residual.any() for residual in state["residual"])
                run.load_state(state)
        run.finish()
        found.append(weights(trainable))
    return found


def test_every_kind_learns_and_leaves_equal_ranks(tmp_path: Path) -> None:
    kinds = [LocalSGD(4), LocalSGD(4, outer=OuterSGD(0.7, 0.5)), LocalSGD(3, compression="fp16")]
    kinds += [LocalSGD(2, compression=TopK(0.3)), LocalSGD(2, compression=Threshold(1e-3), outer=OuterSGD(0.7, 0.5))]
    first, second = run_ranks(2, tmp_path, learned, kinds, 120)
    for kind, mine, other in zip(kinds, first, second, strict=True):
        np.testing.assert_array_equal(mine, other)
        np.testing.assert_allclose(mine, [3.14, 1.618, 0], atol=5e-3, err_msg=str(kind))


def averaged(group: Group, average: bool) -> Any:
    trainable = net("dense", "adam")
    run = LocalSGD(2, average_optimizer=average).begin(trainable, group)  # type: ignore[arg-type]
    train(run, [images(s, s) for s in (1, 1, 16, 16)], group.rank, group.world)  # rank 0 has no state at the first meeting
    return {key: float(value["exp_avg"].sum()) for key, value in trainable.state()["optimizer"]["state"].items()}, [
        value["step"].item() for value in trainable.state()["optimizer"]["state"].values()
    ]


def test_the_optimizers_are_averaged(tmp_path: Path) -> None:
    (mine, steps), (other, other_steps) = run_ranks(2, tmp_path, averaged, True)
    assert mine == other
    assert steps == other_steps == [3.0] * 4  # of 2 and 4 steps
    first, second = run_ranks(2, tmp_path, averaged, False)
    assert first != second


def sums(group: Group, codecs: list[Compression]) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for codec in codecs:
        vector = given_to(group.rank)
        found.append((codec.sum_(vector, group), vector))
    return found


def given_to(rank: int) -> np.ndarray:
    return np.random.default_rng(rank).normal(size=101).astype(np.float32)


def test_a_sum_is_of_what_was_sent(tmp_path: Path) -> None:
    ranks = run_ranks(4, tmp_path, sums, COMPRESSIONS)
    for number, codec in enumerate(COMPRESSIONS):
        wanted = sum(given_to(rank) - ranks[rank][number][1] for rank in range(4))
        for total, _ in (rank[number] for rank in ranks):
            np.testing.assert_allclose(total, wanted, atol=4e-3 if codec == Half() else 1e-6)
            np.testing.assert_array_equal(total, ranks[0][number][0])


@given(VECTORS, st.sampled_from(COMPRESSIONS))
def test_what_is_sent_and_what_is_left_add_up(vector: np.ndarray, codec: Compression) -> None:
    left = vector.copy()
    sent = codec.sum_(left, Group.alone())
    np.testing.assert_array_equal(sent + left, vector)


@given(VECTORS, st.floats(0.01, 1))
def test_top_k_sends_the_largest(vector: np.ndarray, ratio: float) -> None:
    places = TopK(ratio).places(vector)
    assert len(set(places.tolist())) == len(places) == int(np.ceil(ratio * len(vector)))
    rest = np.delete(np.abs(vector), places)
    assert not len(rest) or rest.max() <= np.abs(vector)[places].min()


@given(VECTORS, st.floats(0.1, 100))
def test_a_threshold_leaves_only_what_is_smaller(vector: np.ndarray, value: float) -> None:
    sent = Threshold(value).sum_(vector, Group.alone())
    assert (np.abs(vector) < value).all()
    assert (np.abs(sent[sent != 0]) >= value).all()


def test_half_precision_does_not_overflow() -> None:
    left = np.array([1e9, -1e9, 1.0], np.float32)
    assert np.isfinite(Half().sent(left, 4).astype(np.float32) * 4).all()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: LocalSGD(0), "period"),
        (lambda: LocalSGD(compression="gzip"), "compression is 'gzip'"),  # type: ignore[arg-type]
        (lambda: TopK(0), "ratio"),
        (lambda: Threshold(-1), "value"),
        (lambda: OuterSGD(0), "lr"),
    ],
)
def test_options_that_make_no_sense(make: Any, match: str) -> None:
    with pytest.raises(gap.ConfigurationError, match=match):
        make()
