"""The parameter server; real gloo groups."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gloo_ranks import run_ranks
from hypothesis import given
from hypothesis import strategies as st
from small_trainables import Regression, images, net, part, points, train, weights

import sparkgap as gap
from sparkgap.cooperative.strategies.all_reduce import AllReduce
from sparkgap.cooperative.strategies.base import Strategy
from sparkgap.cooperative.strategies.group import Group
from sparkgap.cooperative.strategies.local_sgd import OuterSGD
from sparkgap.cooperative.strategies.parameter_server import Adagrad, ParameterServer
from sparkgap.cooperative.strategies.server_shard import Push, Shard, sum_rows


class Embedding(Regression):
    """``y = (table[id] * x).sum() + b``: of the table, a batch reaches few rows."""

    def __init__(self, rows: int = 20, learning_rate: float = 0.3) -> None:
        super().__init__(1, learning_rate)
        self._values = [np.zeros((rows, 2)), np.zeros(1)]

    def gradients(self, batch: Any) -> tuple[float, list[np.ndarray]]:
        table, b = self._values
        error = (table[batch["id"]] * batch["x"]).sum(1) + b - batch["y"]
        slope = np.zeros_like(table)
        np.add.at(slope, batch["id"], 2 * error[:, None] * batch["x"] / len(error))
        return float((error**2).mean()), [slope, np.array([2 * error.mean()])]


def lookups(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {**points(rows, seed), "id": rng.integers(0, 20, rows)}


MODELS = {"regression": (Regression, points), "cnn": (lambda: net("cnn", "sgd"), images), "table": (Embedding, lookups)}


def trained(group: Group, strategies: list[tuple[Strategy, str]], sizes: list[int]) -> list[np.ndarray]:
    found = []
    for strategy, model in strategies:
        make, data = MODELS[model]
        trainable = make()  # type: ignore[operator]
        run = strategy.begin(trainable, group)
        train(run, [data(s, s) for s in sizes[:2]], group.rank, group.world)
        state, run = run.state(), strategy.begin(trainable, group)
        run.load_state(state)
        train(run, [data(s, s) for s in sizes[2:]], group.rank, group.world)
        found.append(weights(trainable))
    return found


@pytest.mark.parametrize("world", [1, 2, 4])
def test_in_step_it_equals_all_reduce(world: int, tmp_path: Path) -> None:
    cases: list[tuple[Strategy, str]] = []
    for model, rate in (("regression", 0.1), ("cnn", 0.1), ("table", 0.3)):
        sparse = ((0, "id"),) if model == "table" else ()
        cases += [(s, model) for s in (
            AllReduce(), ParameterServer(sparse=sparse), ParameterServer(sharded=False, sparse=sparse),
            ParameterServer(server_optimizer=OuterSGD(rate, 0.0, False), sparse=sparse),
        )]  # fmt: skip
    for rank in run_ranks(world, tmp_path, trained, cases, [16, 15, 3, 16]):
        for first in range(0, len(cases), 4):
            for other in rank[first + 1 : first + 4]:
                np.testing.assert_allclose(other, rank[first], atol=1e-6, rtol=0)


def test_a_server_optimizer_keeps_its_memory(tmp_path: Path) -> None:
    cases = [(ParameterServer(server_optimizer=o), "regression") for o in (OuterSGD(0.05, 0.9, True), Adagrad(0.3))]
    cases += [(ParameterServer(0, Adagrad(0.3), sparse=sparse), "table") for sparse in ((), ((0, "id"),))]
    sizes = [16, 15, 3, 16]
    wanted = [by_hand(cases[0][0].server_optimizer, sizes), by_hand(cases[1][0].server_optimizer, sizes)]
    for rank in run_ranks(2, tmp_path, trained, cases, sizes):
        for found, want in zip(rank, wanted, strict=False):
            np.testing.assert_allclose(found, want, atol=1e-9)
        np.testing.assert_allclose(rank[3], rank[2], atol=1e-9)  # Adagrad leaves rows alone that no batch reaches


def by_hand(optimizer: Any, sizes: list[int]) -> np.ndarray:
    """PyTorch's optimizers, in one process."""
    import torch

    values = torch.zeros(3, dtype=torch.float64)
    made = (
        torch.optim.Adagrad([values], lr=0.3)
        if isinstance(optimizer, Adagrad)
        else torch.optim.SGD([values], lr=0.05, momentum=0.9, nesterov=True)
    )
    trainable = Regression()
    for size in sizes:
        trainable.load_parameters([values[:2].numpy(), values[2:].numpy()])
        values.grad = torch.from_numpy(np.concatenate(trainable.gradients(points(size, size))[1]))
        made.step()
    return values.numpy()


def learned(group: Group, strategies: list[ParameterServer]) -> list[np.ndarray]:
    found = []
    for strategy in strategies:
        trainable = Regression(learning_rate=0.05)
        train(strategy.begin(trainable, group), [points(32, s) for s in range(150)], group.rank, group.world)  # type: ignore[arg-type]
        found.append(weights(trainable))
    return found


def test_out_of_step_it_learns_and_leaves_equal_ranks(tmp_path: Path) -> None:
    kinds = [ParameterServer(2), ParameterServer(math.inf), ParameterServer(1, OuterSGD(0.05, 0.0, False))]
    first, *others = run_ranks(4, tmp_path, learned, kinds)
    for number, found in enumerate(first):
        np.testing.assert_allclose(found, [3.14, 1.618, 0], atol=5e-3, err_msg=str(kinds[number]))
        for other in others:
            np.testing.assert_array_equal(other[number], found)


def one_fails(group: Group) -> str:
    import torch

    run = ParameterServer().begin(Regression(), group)  # type: ignore[arg-type]
    mine = part(points(18), group.rank, group.world)
    said = "the first to go"
    if group.rank == 1:
        run.step(mine, 6, 18)
    while group.rank != 1:
        try:  # it may be gone before the others have finished their first step
            run.step(mine, 6, 18)
        except RuntimeError as error:
            said = str(error)
            break
    torch.distributed.destroy_process_group()  # while threads wait for messages
    return said


def test_a_rank_that_goes_is_noticed_and_all_processes_end(tmp_path: Path) -> None:
    first, second, third = run_ranks(3, tmp_path, one_fails)
    assert second == "the first to go"
    for said in (first, third):
        assert any(words in said for words in ("Connection", "lost a worker")), said


def test_one_worker_is_the_plain_loop() -> None:
    one, plain = net("dense", "momentum"), net("dense", "momentum")
    train(ParameterServer(math.inf).begin(one, Group.alone()), [images(9, s) for s in range(5)])
    for seed in range(5):
        plain.step(images(9, seed))
    np.testing.assert_array_equal(weights(one), weights(plain))


def shard(staleness: float, world: int = 2) -> Shard:
    return Shard([np.zeros(2)], [np.zeros((3, 1))], [], world=world, staleness=staleness, optimizer=None)


def change(value: float) -> Push:
    return Push([np.full(2, value)], [np.array([1])], [np.array([[value]])])


def test_who_is_too_far_ahead_waits_for_the_slowest() -> None:
    kept = shard(staleness=1)
    kept.push(0, change(1.0))
    assert kept.pull(1, [np.array([1, 2])])[0].tolist() == [1, 1]  # one step ahead
    kept.push(0, change(1.0))
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(kept.pull(2, [np.array([1])])))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert not found
    kept.push(1, change(5.0))
    thread.join(30)
    assert [a.ravel().tolist() for a in found[0]] == [[7, 7], [7]]


def test_in_step_nothing_changes_until_all_have_come() -> None:
    kept = shard(staleness=0)
    kept.push(0, change(1.0))
    assert kept.pull(0, [np.array([1])])[0].tolist() == [0, 0]
    kept.push(1, change(2.0))
    assert kept.settled(1)[1].tolist() == [[0], [3], [0]]


def test_who_waits_hears_of_a_lost_worker() -> None:
    kept = shard(staleness=0)
    kept.push(0, change(1.0))
    kept.fail(ConnectionError("gone"))
    with pytest.raises(gap.RunError, match="lost a worker: gone"):
        kept.pull(1, [np.array([1])])


@given(st.lists(st.lists(st.integers(0, 9), unique=True), min_size=1, max_size=5))
def test_rows_are_summed_once_each(rows: list[list[int]]) -> None:
    given_rows = [np.array(sorted(r), np.int64) for r in rows]
    given_values = [np.arange(len(r), dtype=np.float64)[:, None] + 1 for r in rows]
    found, total = sum_rows(given_rows, given_values)
    table, wanted = np.zeros((10, 1)), np.zeros((10, 1))
    table[found] += total
    for numbers, values in zip(given_rows, given_values, strict=True):
        wanted[numbers] += values
    np.testing.assert_array_equal(table, wanted)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"staleness": -1}, "staleness"), ({"staleness": 1.5}, "staleness"), ({"server_optimizer": "adam"}, "server_optimizer")],
)
def test_options_that_make_no_sense(options: dict[str, Any], match: str) -> None:
    with pytest.raises(gap.ConfigurationError, match=match):
        ParameterServer(**options)


def test_sparse_must_name_a_table_and_a_column_of_its_rows() -> None:
    with pytest.raises(gap.ConfigurationError, match="names no 2-D parameter"):
        ParameterServer(sparse=((1, "id"),)).begin(Embedding(), Group.alone())  # type: ignore[arg-type]
    run = ParameterServer(server_optimizer=Adagrad(), sparse=((0, "id"),)).begin(Embedding(5), Group.alone())  # type: ignore[arg-type]
    with pytest.raises(gap.DataError, match="from 0 to 4"):
        run.step(lookups(16, 0), 16, 16)
