"""joblib's `Parallel` and scikit-learn's `n_jobs` on real Spark."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

import sparkgap as gap
from sparkgap.monitor import driver

joblib = pytest.importorskip("joblib")
pytest.importorskip("sklearn")

from joblib import Parallel, delayed  # noqa: E402
from joblib.parallel import BatchedCalls  # noqa: E402

from sparkgap.scheduled import joblib_call  # noqa: E402
from sparkgap.scheduled.joblib_backend import SparkBackend, parallel_backend  # noqa: E402

pytestmark = pytest.mark.one_host


if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No thread of a run outlives its call."""
    yield
    ours = [t for t in threading.enumerate() if t.name.startswith(("sparkgap-joblib", "sparkgap-run", "sparkgap-slot"))]
    for thread in ours:
        thread.join(20)
    assert not [t.name for t in ours if t.is_alive()]


def where(n: int) -> tuple[int, int]:
    return n, os.getpid()


def square(n: int) -> int:
    return n * n


@pytest.mark.parametrize("n_jobs", [1, 2, -1, None])
def test_calls_come_back_in_order(spark: SparkSession, n_jobs: int | None) -> None:
    with parallel_backend():
        found = Parallel(n_jobs=n_jobs)(delayed(where)(n) for n in range(200))
    assert [n for n, _ in found] == list(range(200))
    assert ({pid for _, pid in found} == {os.getpid()}) is (n_jobs == 1)


def test_by_name(spark: SparkSession) -> None:
    with joblib.parallel_config("sparkgap", n_jobs=2, cpus=1):
        parallel = Parallel()
        assert isinstance(parallel._backend, SparkBackend)
        assert parallel(delayed(square)(n) for n in range(5)) == [0, 1, 4, 9, 16]
        assert parallel([]) == []


def test_one_parallel_many_calls(spark: SparkSession) -> None:
    with parallel_backend(), Parallel(n_jobs=2) as parallel:
        assert parallel(delayed(square)(n) for n in range(5)) == [0, 1, 4, 9, 16]
        with pytest.raises(ZeroDivisionError):
            parallel(delayed(divmod)(1, 1 - n) for n in range(5))
        assert parallel(delayed(square)(n) for n in range(3)) == [0, 1, 4]


def test_results_as_they_come(spark: SparkSession) -> None:
    with parallel_backend():
        one = Parallel(n_jobs=2, return_as="generator")(delayed(square)(n) for n in range(30))
        two = Parallel(n_jobs=2, return_as="generator_unordered")(delayed(square)(n) for n in range(30, 60))
        first = next(one)  # two calls at the same time, in one block; the first must not keep its slots while it is not read
        assert sorted(two) == [n * n for n in range(30, 60)]
        assert [first, *one] == [n * n for n in range(30)]


def test_an_idle_run_ends_and_another_goes_on(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib_call, "IDLE_SECONDS", 0.05)
    before = set(history_of_runs())
    backend = SparkBackend(nesting_level=0)
    backend._n_jobs = 2
    for n in range(2):
        batch = BatchedCalls([delayed(square)(n + 5)], backend.get_nested_backend())
        assert backend.submit(batch).get(60) == [(n + 5) ** 2]
        assert backend._call is not None
        backend._call._thread.join(30)  # nobody closes it
        assert not backend._call._thread.is_alive()
    backend.stop_call()
    assert len(set(history_of_runs()) - before) == 2


def history_of_runs() -> list[str]:
    history = driver.monitor().store.history
    assert history is not None
    return history.runs()


class OddError(Exception):
    """Cannot be rebuilt from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def fail(n: int, error: type[Exception], *arguments: Any) -> int:
    if n == 7:
        raise error(*arguments)
    return n


def test_an_exception_keeps_its_type(spark: SparkSession) -> None:
    with parallel_backend(), pytest.raises(KeyError, match="seven") as caught:
        Parallel(n_jobs=2)(delayed(fail)(n, KeyError, "seven") for n in range(20))
    assert isinstance(caught.value.__cause__, gap.TaskError)
    assert "in fail" in caught.value.__cause__.traceback


def test_an_exception_that_cannot_be_rebuilt(spark: SparkSession) -> None:
    with parallel_backend(), pytest.raises(gap.TaskError, match="OddError: 1 and 2") as caught:
        Parallel(n_jobs=2)(delayed(fail)(n, OddError, 1, 2) for n in range(20))
    assert "in fail" in caught.value.traceback


def die(n: int) -> int:
    if n == 3:
        os._exit(5)
    return n


def test_a_task_that_dies(spark: SparkSession) -> None:
    with parallel_backend(), pytest.raises(gap.TaskError) as caught:
        Parallel(n_jobs=2)(delayed(die)(n) for n in range(6))
    assert caught.value.kind == "exit"


def hang() -> None:
    threading.Event().wait(600)


def test_a_batch_takes_too_long(spark: SparkSession) -> None:
    with parallel_backend(timeout=0.5), pytest.raises(gap.TaskError) as caught:
        Parallel(n_jobs=2)(delayed(hang)() for _ in range(2))
    assert caught.value.kind == "timeout"


def test_a_batch_is_tried_again(spark: SparkSession, tmp_path: Path) -> None:
    folder = str(tmp_path)

    def work(n: int, how: str) -> int:
        tries = len(list(Path(folder).glob(f"{how}-{n}-*")))
        Path(folder, f"{how}-{n}-{tries}").touch()
        if tries < n and how == "exit":
            os._exit(1)
        if tries < n:
            raise ValueError(f"try {tries}")
        return n

    with parallel_backend(retries=2):
        for how in ("exit", "raise"):
            assert Parallel(n_jobs=2, batch_size=1)(delayed(work)(n, how) for n in range(3)) == [0, 1, 2]
        with pytest.raises(ValueError, match="try 2"):
            Parallel(n_jobs=2, batch_size=1)(delayed(work)(n, "raise much") for n in [5, 0])


def inside(n: int) -> tuple[list[int], int, set[int]]:
    values = Parallel(n_jobs=8)(delayed(where)(n + m) for m in range(4))
    threads = Parallel(n_jobs=8)(delayed(threading.get_native_id)() for m in range(50))
    return [v for v, _ in values], len({pid for _, pid in values} - {os.getpid()}), set(threads)


def test_parallel_inside_a_task(spark: SparkSession) -> None:
    with parallel_backend():
        found = Parallel(n_jobs=2)(delayed(inside)(n) for n in range(3))
    assert [values for values, *_ in found] == [[n, n + 1, n + 2, n + 3] for n in range(3)]
    assert all(others == 0 and len(threads) == 1 for _, others, threads in found)


def test_a_task_of_several_cores_has_so_many_threads(spark: SparkSession) -> None:
    threads, n_jobs = SparkBackend(cpus=2, nesting_level=0).get_nested_backend()
    assert n_jobs is None
    again = pickle.loads(pickle.dumps(threads))
    assert (again.effective_n_jobs(8), again.effective_n_jobs(1)) == (2, 1)
    with joblib.parallel_config(backend=again):
        assert Parallel(n_jobs=8)(delayed(square)(n) for n in range(5)) == [0, 1, 4, 9, 16]


def test_grid_search_finds_the_same(spark: SparkSession) -> None:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    x, y = load_digits(return_X_y=True)
    x, y = x[:600], y[:600]
    grid = {"C": [0.1, 1.0, 10.0], "gamma": [1e-3, 1e-2]}
    alone = GridSearchCV(SVC(), grid, cv=3, n_jobs=1).fit(x, y)
    with parallel_backend(preload=("sklearn.svm",)):
        found = GridSearchCV(SVC(), grid, cv=3, n_jobs=-1).fit(x, y)
    assert found.best_params_ == alone.best_params_
    assert np.array_equal(found.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert np.array_equal(found.predict(x), alone.predict(x))
    with driver.monitor().store.reading(history_of_runs()[-1]) as state:
        assert state is not None
        assert (state.kind, state.name) == ("run", "_fit_and_score")


def test_cross_val_score(spark: SparkSession) -> None:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    x, y = load_iris(return_X_y=True)
    alone = cross_val_score(LogisticRegression(max_iter=500), x, y, cv=4)
    with parallel_backend():
        assert np.array_equal(cross_val_score(LogisticRegression(max_iter=500), x, y, cv=4), alone)


def alive_with(mark: str) -> list[int]:
    processes = psutil.process_iter(["environ"])
    return [p.pid for p in processes if (p.info["environ"] or {}).get("SPARKGAP_TEST_MARK") == mark]


@pytest.mark.parametrize("how", ["iterator", "generator"])
def test_an_interrupt_leaves_no_slot_busy(spark: SparkSession, tmp_path: Path, how: str) -> None:
    folder = str(tmp_path)

    def work(n: int) -> None:
        Path(folder, str(os.getpid())).touch()
        if n:
            threading.Event().wait(600)

    def calls() -> Iterator[Any]:
        store = driver.monitor().store
        yield delayed(work)(1)
        yield delayed(work)(1)
        if how == "iterator":
            while len(list(tmp_path.iterdir())) < 2:
                store.wait(store.version, 0.1)
            raise KeyboardInterrupt

    with parallel_backend():
        if how == "iterator":
            with pytest.raises(KeyboardInterrupt):
                Parallel(n_jobs=2, pre_dispatch="all", batch_size=1)(calls())
        else:
            results = Parallel(n_jobs=2, return_as="generator", batch_size=1)(delayed(work)(n) for n in range(3))
            assert next(results) is None
            with pytest.warns(UserWarning, match="have been cancelled"):
                results.close()
        assert not [file.name for file in tmp_path.iterdir() if psutil.pid_exists(int(file.name))]
        assert Parallel(n_jobs=2)(delayed(square)(n) for n in range(4)) == [0, 1, 4, 9]


def test_a_run_that_is_cancelled_elsewhere(spark: SparkSession) -> None:
    seen: list[Any] = []

    def calls() -> Iterator[Any]:
        yield from (delayed(square)(n) for n in range(4))
        seen[0]._call._run.cancel()
        yield from (delayed(square)(n) for n in range(4))

    with parallel_backend():
        parallel = Parallel(n_jobs=2, pre_dispatch="all", batch_size=1)
        parallel._initialize_backend()
        seen.append(parallel._backend)
        with pytest.raises(gap.RunCancelledError):
            parallel(calls())


@pytest.mark.parametrize(
    ("options", "words"),
    [({"timeout": 0}, "seconds above 0"), ({"retries": -1}, "from 0"), ({"parallel": 0}, "at least one task")],
)
def test_wrong_options_are_named(spark: SparkSession, options: dict[str, Any], words: str) -> None:
    with pytest.raises(gap.ConfigurationError, match=words), parallel_backend(**options):
        Parallel(n_jobs=2)(delayed(square)(n) for n in range(3))


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(gap.ConfigurationError, match="The options are: parallel, cpus"):
        joblib.parallel_config("sparkgap", cores=2)
