"""Deterministic all-reduce: the same bits for every number of workers."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gloo_ranks import run_ranks
from hypothesis import given
from hypothesis import strategies as st
from small_trainables import Regression, digest, images, net, points, train, weights

import sparkgap as gap
from sparkgap.cooperative.strategies.all_reduce import AllReduce
from sparkgap.cooperative.strategies.deterministic import aligned, micro_batches
from sparkgap.cooperative.strategies.flat import Flat
from sparkgap.cooperative.strategies.group import Group
from sparkgap.cooperative.strategies.tree import TreeSum, tree_all_reduce_

STRATEGY = AllReduce(deterministic=True, virtual_workers=8, seed=3)
CASES = [("dense", "momentum"), ("dense", "adam"), ("cnn", "momentum"), ("cnn", "adam"), ("norm", "adam"), ("dropout", "sgd")]
SIZES = [64, 61, 40, 5, 1, 33]  # even, uneven, and fewer rows than virtual workers
POWERS = st.integers(0, 4).map(lambda e: 1 << e)


def trained(group: Group, resume_after: int | None = None) -> dict[tuple[str, str], tuple[str, list[float]]]:
    import torch

    found = {}
    for kind, optimizer in CASES:
        torch.set_num_threads(2)
        sizes = [s if kind != "norm" else 64 + s for s in SIZES]  # batch normalisation needs two rows a micro-batch
        steps = [images(rows, seed) for seed, rows in enumerate(sizes)]
        trainable = net(kind, optimizer, seed=group.rank)
        run = STRATEGY.begin(trainable, group)
        losses = train(run, steps[:3], group.rank, group.world)
        if resume_after is not None:
            state, run = run.state(), STRATEGY.begin(trainable, group)
            run.load_state(state)
        losses += train(run, steps[3:], group.rank, group.world)
        assert torch.get_num_threads() == STRATEGY.threads
        found[kind, optimizer] = digest(trainable), losses
    return found


def test_the_weights_are_the_same_bits_for_every_number_of_workers(tmp_path: Path) -> None:
    one = run_ranks(1, tmp_path, trained)[0]
    assert len({digest for digest, _ in one.values()}) == len(CASES)
    for world in (2, 4, 8):
        for rank in run_ranks(world, tmp_path, trained, 3 if world == 2 else None):
            assert rank == one


def continued(group: Group, kept: bytes | None, steps: list[dict[str, np.ndarray]]) -> tuple[bytes, str]:
    trainable = net("norm", "adam", seed=group.rank)
    run = STRATEGY.begin(trainable, group)
    if kept:
        arrays, buffers, of_trainable, of_run = pickle.loads(kept)
        trainable.load_parameters(arrays)
        trainable.load_buffers(buffers)
        trainable.load_state(of_trainable)
        run.load_state(of_run)
    train(run, steps, group.rank, group.world)
    state = trainable.parameters(), trainable.buffers(), trainable.state(), run.state()
    return pickle.dumps(state), digest(trainable)


def test_a_resume_may_have_another_number_of_workers(tmp_path: Path) -> None:
    steps = [images(rows, seed) for seed, rows in enumerate([64, 61, 33, 40])]
    kept = run_ranks(2, tmp_path, continued, None, steps[:2])[0][0]
    kept = run_ranks(4, tmp_path, continued, kept, steps[2:3])[0][0]
    through = run_ranks(1, tmp_path, continued, kept, steps[3:])[0][1]
    assert through == run_ranks(1, tmp_path, continued, None, steps)[0][1]


class Noisy(Regression):
    """Tells the random numbers that a forward pass would see."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[float, ...]] = []

    def reseed(self, seed: int) -> None:
        self.own = seed

    def gradients(self, batch: Any) -> tuple[float, list[np.ndarray]]:
        import torch

        self.seen.append((random.random(), np.random.random(), torch.rand(()).item(), self.own))
        return super().gradients(batch)


def test_random_numbers_differ_by_step_and_micro_batch_and_come_again() -> None:
    import torch  # noqa: F401  seeded where it is loaded

    seen = []
    for seed in (1, 1, 2):
        noisy = Noisy()
        run = AllReduce(deterministic=True, virtual_workers=2, seed=seed).begin(noisy, Group.alone())  # type: ignore[arg-type]
        train(run, [points(8), points(8)])
        seen.append(noisy.seen)
        assert all(len(set(numbers)) == 4 for numbers in zip(*noisy.seen, strict=True))
    assert seen[0] == seen[1]
    assert not {n for numbers in seen[0] for n in numbers} & {n for numbers in seen[2] for n in numbers}


def test_it_is_close_to_plain_training(tmp_path: Path) -> None:
    one, plain = Regression(), Regression()
    losses = train(STRATEGY.begin(one, Group.alone()), [points(s, s) for s in SIZES])  # type: ignore[arg-type]
    assert losses == pytest.approx(train(AllReduce().begin(plain, Group.alone()), [points(s, s) for s in SIZES]))  # type: ignore[arg-type]
    np.testing.assert_allclose(weights(one), weights(plain))


def summed(group: Group, sizes: list[int], chunk: int) -> list[np.ndarray]:
    found = []
    for size in sizes:
        vector = leaves(group.world, size)[group.rank].copy()
        tree_all_reduce_(vector, group, chunk)
        found.append(vector)
    return found


def leaves(count: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(size)
    return (rng.normal(size=(count, size)) * 10.0 ** rng.integers(-6, 6, (count, size))).astype(np.float32)


def tree(values: np.ndarray) -> np.ndarray:
    """The oracle: halves are summed by themselves."""
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    return tree(values[:half]) + tree(values[half:])


@pytest.mark.parametrize("world", [2, 4, 8])
def test_messages_between_ranks_follow_the_tree(world: int, tmp_path: Path) -> None:
    sizes = [1, 7, 5000, 20_011, 100_003]  # whole ones, and ones cut into several uneven chunks
    wanted = [tree(leaves(world, size)) for size in sizes]
    for rank in run_ranks(world, tmp_path, summed, sizes, 10_000):
        for found, want in zip(rank, wanted, strict=True):
            np.testing.assert_array_equal(found, want)
    if world > 2:  # the order shows in these numbers
        assert (leaves(world, 5000).sum(0, dtype=np.float32) != wanted[2]).any()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=16, max_size=16), POWERS, st.sampled_from([1.0, 0.3]))
def test_a_rank_sums_its_leaves_in_the_tree(numbers: list[float], count: int, weight: float) -> None:
    values = np.array(numbers, np.float32)[:count, None]
    total = TreeSum(count, lambda: Flat([values[0]]))
    for _ in range(2):  # it begins anew after a sum
        for value in values:
            if value[0] == 0:
                total.push_zero()
            else:
                total.push([value], weight)
        np.testing.assert_array_equal(total.pop().arrays[0], tree(values * np.float32(weight)))


@given(st.integers(1, 300), POWERS, st.data())
def test_micro_batches_are_those_of_the_global_batch(total: int, virtual: int, data: st.DataObject) -> None:
    world = data.draw(st.sampled_from([w for w in (1, 2, 4, 8, 16) if virtual % w == 0]))
    cuts = []
    for rank in range(world):
        start, stop = total * rank // world, total * (rank + 1) // world
        parts = micro_batches(total, virtual, rank, world)
        assert parts[-1].stop == stop - start
        cuts += [(start + p.start, start + p.stop) for p in parts]
    assert cuts == [(v * total // virtual, (v + 1) * total // virtual) for v in range(virtual)]


def too_many(group: Group) -> str:
    with pytest.raises(gap.ConfigurationError) as caught:
        AllReduce(deterministic=True, virtual_workers=2).begin(Regression(), group)  # type: ignore[arg-type]
    return str(caught.value)


def test_a_number_of_workers_that_does_not_divide(tmp_path: Path) -> None:
    assert "4 workers do not divide virtual_workers=2" in run_ranks(4, tmp_path, too_many)[0]


def test_a_batch_that_is_cut_in_another_way() -> None:
    run = STRATEGY.begin(Regression(), Group.alone())  # type: ignore[arg-type]
    with pytest.raises(gap.DataError, match="owns 8"):
        run.step(points(5), 5, 8)


def test_copies_are_aligned() -> None:
    whole = np.arange(101, dtype=np.float32)
    for start in range(1, 20):
        copy: Any = aligned(whole[start:])
        assert copy.ctypes.data % 64 == 0
        np.testing.assert_array_equal(copy, whole[start:])
