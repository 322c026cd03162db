"""The scheduler against its peers: `python -m benchmarks.tasks [noop second memory search pruned branin data]`.

noop: 10,000 items that do nothing: `gap.run`, one bare mapInArrow job over them, one Spark job an item, joblib-spark.
second: items of one second on two slots: what each costs besides.
memory: resident memory of the driver with 1,000, 10,000 and 100,000 items.
search: 40 trials of 0.2 s two at a time, and trials of one second: `gap.search`, hyperopt's SparkTrials, plain Optuna.
pruned: how soon a trial ends after the decision.
branin: how many trials four at a time need for what a sequential study reaches.
data: a 1 GB array for 16 tasks of one node.

`make bench-tasks` makes the environment and runs all of it.
"""

from __future__ import annotations

import math
import os
import pickle
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


def nothing(n: int) -> int:
    return n


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
    x, y = trial.suggest_float("x", -5, 10), trial.suggest_float("y", 0, 15)
    first = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return first**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def branin(_: Any) -> None:
    import optuna

    import sparkgap as gap

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ratios = []
    for seed in range(11):
        alone = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        alone.optimize(branin_of, n_trials=60)
        sampler = optuna.samplers.TPESampler(seed=100 + seed, constant_liar=True)
        four = gap.search(branin_of, trials=200, parallel=4, sampler=sampler)
        reached = next((n for n, t in enumerate(four.trials, 1) if (t.value or math.inf) <= alone.best_value), 200)
        needed = next(n for n, t in enumerate(alone.trials, 1) if t.value == alone.best_value)
        ratios.append(reached / 60)
        print(f"sequential: {alone.best_value:.4f} at trial {needed} of 60; four at a time: at trial {reached}", flush=True)
    print(f"median ratio to the 60 trials: {statistics.median(ratios):.2f} (wanted: at most 1.3)")


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


PARTS = {"noop": noop, "second": second, "memory": memory, "search": search, "pruned": pruned, "branin": branin, "data": data}


def main() -> None:
    import sparkgap as gap

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    wanted = sys.argv[1:] or list(PARTS)
    for name in wanted:
        print(f"\n{name}", flush=True)
        master = "local[4]" if name == "branin" else "local[16]" if name == "data" else "local[2]"
        spark = gap.session(master, conf={"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"})
        PARTS[name](spark)
        spark.stop()


if __name__ == "__main__":
    main()
