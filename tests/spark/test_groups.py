"""`gap.run_grouped` on real Spark: every group gets one outcome, in the order of size, whatever the function does."""

from __future__ import annotations

import datetime
import decimal
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparkgap as gap
from sparkgap.monitor import driver
from sparkgap.scheduled.group_models import load_models, routes
from sparkgap.scheduled.group_places import WAVES, pack, places, spark_hash
from sparkgap.scheduled.groups import run_grouped

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def fit(x: np.ndarray, y: np.ndarray) -> list[float]:
    order = np.lexsort((y, x))
    return [float(c) for c in np.polyfit(x[order], y[order], 1)]


def fit_group(key: Any, table: pa.Table) -> list[float]:
    return fit(table["x"].to_numpy(), table["y"].to_numpy())


def count(key: Any, table: pa.Table) -> int:
    return int(table.num_rows)


def tiny(spark: SparkSession, keys: int = 4) -> DataFrame:
    """Return `keys` groups, of 1, 2, 3 ... rows, the last one the largest."""
    return spark.createDataFrame(pa.table({"k": [k for k in range(keys) for _ in range(k + 1)]}))


def series() -> pa.Table:
    random = np.random.default_rng(0)
    sizes = [60_000, *([40] * 49)]
    names = np.repeat([f"series {n}" for n in range(50)], sizes)
    x = random.normal(size=len(names))
    y = 2 * x + np.repeat(np.arange(50), sizes) + random.normal(size=len(names))
    return pa.table({"name": names, "x": x, "y": y, "unused": x}).take(random.permutation(len(names)))


def test_a_model_per_series_equals_the_sequential_result(spark: SparkSession) -> None:
    table = series()
    expected = {name: fit(part["x"].to_numpy(), part["y"].to_numpy()) for name, part in table.to_pandas().groupby("name")}
    run = run_grouped(spark.createDataFrame(table).repartition(3), "name", fit_group, columns=["x", "y"])
    assert run.values() == expected
    outcomes = list(run)
    assert [o.rows for o in outcomes] == [60_000, *([40] * 49)]
    assert (outcomes[0].key, outcomes[0].index, outcomes[0].ok) == ("series 0", 0, True)
    assert all(o.host and o.peak_rss > 1 << 20 and o.started > 1e9 for o in outcomes)
    assert len(run) == 50
    run_seen = driver.monitor().store
    with run_seen.reading(run.run) as state:
        assert state is not None
        assert state.kind == "grouped"
        assert (state.totals().rows_in, state.totals().rows_out) == (table.num_rows, 50)


def test_what_a_function_gets(spark: SparkSession) -> None:
    df = spark.range(6).selectExpr("id % 2 AS `a.b`", "'x' AS s", "id")
    assert run_grouped(df, "a.b", lambda k, t: (k, t.column_names, sorted(t["id"].to_pylist()))).values() == {
        0: (0, ["a.b", "s", "id"], [0, 2, 4]),
        1: (1, ["a.b", "s", "id"], [1, 3, 5]),
    }
    got = run_grouped(df, ["a.b", "s"], lambda k, t: (k, t.column_names), columns=["id"]).values()
    assert got == {(0, "x"): ((0, "x"), ["id"]), (1, "x"): ((1, "x"), ["id"])}


def test_pandas_by_annotation(spark: SparkSession) -> None:
    def work(key: int, frame: pd.DataFrame) -> str:
        return type(frame).__module__ + str(frame["k"].sum())

    def by_class(key: int, frame: Any) -> str:
        return work(key, frame)

    by_class.__annotations__["frame"] = pd.DataFrame  # what is text in this file
    for fn in (work, by_class):
        got = run_grouped(tiny(spark, 3), "k", fn).values()
        assert {k: v[-1] for k, v in got.items()} == {0: "0", 1: "2", 2: "6"}
        assert all(v.startswith("pandas") for v in got.values())


def test_null_keys_form_a_group(spark: SparkSession) -> None:
    rows = [(None, "a"), (None, "a"), (None, None), (1, None), (1, None), (1, None)]
    df = spark.createDataFrame(rows, "k int, s string")
    assert run_grouped(df, "k", count).values() == {None: 3, 1: 3}
    run = run_grouped(df, ["k", "s"], count)
    assert run.values() == {(1, None): 3, (None, "a"): 2, (None, None): 1}
    table = run.to_arrow()
    assert table.column_names[:4] == ["k", "s", "rows", "kind"]
    assert table["k"].to_pylist() == [1, None, None]


def test_types_of_keys(spark: SparkSession) -> None:
    df = spark.sql(
        "SELECT double('NaN') f, date'2024-02-29' d, timestamp'2024-02-29 12:00:00' t, timestamp_ntz'2024-02-29 12:00:00' n, "
        "CAST('1.50' AS decimal(5,2)) m, true b, X'0102' r UNION ALL SELECT double('NaN'), date'2024-02-29', "
        "timestamp'2024-02-29 12:00:00', timestamp_ntz'2024-02-29 12:00:00', CAST(1.5 AS decimal(5,2)), true, X'0102'"
    )
    (outcome,) = run_grouped(df, df.columns, lambda k, t: (k, t.num_rows))
    key, rows = outcome.value
    assert rows == 2
    assert key[0] != key[0]
    assert key[1:] == outcome.key[1:]
    assert (key[1], key[4:]) == (datetime.date(2024, 2, 29), (decimal.Decimal("1.50"), True, b"\x01\x02"))


def test_no_rows(spark: SparkSession) -> None:
    run = run_grouped(tiny(spark).limit(0), "k", count)
    assert run.values() == {}
    assert run.to_arrow().num_rows == 0
    assert run.to_df().count() == 0


def exits(_: Any) -> None:
    sys.exit(3)


def segfaults(_: Any) -> None:
    import faulthandler

    faulthandler._sigsegv()


def is_killed(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def hangs(_: Any) -> None:
    threading.Event().wait(600)


def raises(_: Any) -> None:
    raise KeyError("three")


def gives_a_lock(_: Any) -> Any:
    return threading.Lock()


DEATHS = {
    "exception": (raises, {}, "three"),
    "exit": (exits, {}, "3"),
    "segfault": (segfaults, {}, "SIGSEGV"),
    "killed": (is_killed, {}, "SIGKILL"),
    "timeout": (hangs, {"timeout": 1.0}, "1"),
    "value that cannot be pickled": (gives_a_lock, {}, "pickle"),
}
KINDS = ["exception", "exit", "signal", "signal", "timeout", "result"]


@pytest.mark.parametrize(("name", "ending"), list(zip(DEATHS, KINDS, strict=True)))
def test_each_death_has_a_name_and_the_others_go_on(spark: SparkSession, name: str, ending: str) -> None:
    function, options, words = DEATHS[name]

    def work(key: int, table: pa.Table) -> Any:
        return function(key) if key == 1 else table.num_rows

    run = run_grouped(tiny(spark), "k", work, on_error="collect", **options)
    kinds = {o.key: o.kind for o in run}
    assert kinds == {0: "ok", 1: ending, 2: "ok", 3: "ok"}
    bad = next(o for o in run if o.key == 1)
    assert words in str(bad.error), str(bad.error)
    assert str(bad.error).startswith("Group 1: ")
    with pytest.raises(gap.TaskError, match="Group 1: "):
        run.values()
    rows = {r.k: (r.kind, r.value, r.rows) for r in run.to_df().collect()}
    assert rows == {0: ("ok", 1, 1), 1: (ending, None, 2), 2: ("ok", 3, 3), 3: ("ok", 4, 4)}


def test_the_first_failure_ends_the_run(spark: SparkSession, tmp_path: Path) -> None:
    """The other task hangs: only the alarm can end it, and its process must not go on."""
    folder = str(tmp_path)

    def work(key: int, table: pa.Table) -> int:
        if key == 3:
            while not Path(folder, "begun").exists():
                time.sleep(0.01)
            raise ValueError("three is too much")
        Path(folder, "pid").write_text(str(os.getpid()))
        Path(folder, "begun").touch()
        threading.Event().wait(600)
        return 0

    run = run_grouped(tiny(spark), "k", work)
    with pytest.raises(gap.TaskError, match="Group 3: three is too much") as caught:
        run.values()
    assert "in work" in str(caught.value)
    assert (caught.value.kind, caught.value.error) == ("exception", "ValueError")
    assert gone(int(Path(folder, "pid").read_text()))
    with pytest.raises(gap.TaskError, match="three"):
        list(run)


def gone(pid: int, seconds: float = 30.0) -> bool:
    import psutil

    try:
        psutil.Process(pid).wait(seconds)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_cancel_ends_the_processes(spark: SparkSession, tmp_path: Path) -> None:
    folder = str(tmp_path)

    def work(key: int, table: pa.Table) -> None:
        print("begun", key)
        Path(folder, "new").write_text(str(os.getpid()))
        Path(folder, "new").rename(Path(folder, f"pid-{key}"))
        threading.Event().wait(600)

    run = run_grouped(tiny(spark), "k", work)
    store = driver.monitor().store
    while not list(tmp_path.glob("pid-*")):
        store.wait(store.version, 0.1)
    assert not run.done
    run.cancel()
    assert run.wait(30)
    assert all(gone(int(file.read_text())) for file in tmp_path.glob("pid-*"))
    with pytest.raises(gap.RunCancelledError):
        run.values()


def test_a_group_that_fails_is_tried_again(spark: SparkSession, tmp_path: Path) -> None:
    folder = str(tmp_path)

    def work(key: int, table: pa.Table) -> int:
        tries = len(list(Path(folder).glob(f"{key}-*")))
        Path(folder, f"{key}-{tries}").touch()
        if tries < key:
            raise ValueError(f"try {tries}")
        return int(table.num_rows)

    outcomes = {o.key: o for o in run_grouped(tiny(spark), "k", work, retries=2, on_error="collect")}
    assert {k: (o.kind, o.attempts) for k, o in outcomes.items()} == {
        0: ("ok", 1), 1: ("ok", 2), 2: ("ok", 3), 3: ("exception", 3),
    }  # fmt: skip
    assert outcomes[2].value == 3  # an attempt finds all rows again


def test_too_many_rows_are_refused(spark: SparkSession) -> None:
    kinds = {o.key: (o.kind, o.rows) for o in run_grouped(tiny(spark), "k", count, max_rows=2, on_error="collect")}
    assert kinds == {0: ("ok", 1), 1: ("ok", 2), 2: ("max_rows", 3), 3: ("max_rows", 4)}
    with pytest.raises(gap.TaskError, match="has 4 rows, and max_rows=2"):
        run_grouped(tiny(spark), "k", count, max_rows=2).values()
    only = run_grouped(tiny(spark, 1).union(tiny(spark, 1)), "k", count, max_rows=1, on_error="collect")
    assert [o.kind for o in only] == ["max_rows"]


def test_the_largest_begin_first(spark: SparkSession) -> None:
    def work(key: int, table: pa.Table) -> None:
        time.sleep(0.3)  # so that starting a process is not what decides

    sizes = [300, 100, 700, 60, 80, 2000, 20, 1000]
    df = spark.createDataFrame(pa.table({"k": np.repeat(np.arange(len(sizes)), sizes)})).repartition(3)
    outcomes = list(run_grouped(df, "k", work))
    assert [o.rows for o in outcomes] == sorted(sizes, reverse=True)
    begun = [o.index for o in sorted(outcomes, key=lambda o: o.started)]
    assert all(abs(place - index) <= 1 for place, index in enumerate(begun)), begun  # two slots


def test_rows_are_streamed_not_held(spark: SparkSession) -> None:
    """A group comes in many batches of Spark's, and one table."""
    df = spark.range(50_000).selectExpr("1 AS k", "id", "repeat('x', 100) AS s")
    (outcome,) = run_grouped(df, "k", lambda k, t: (t.num_rows, t["id"].num_chunks > 1, len(set(t["id"].to_pylist()))))
    assert outcome.value == (50_000, True, 50_000)


def test_reports_and_prints_are_seen(spark: SparkSession) -> None:
    def work(key: int, table: pa.Table) -> None:
        gap.report(loss=float(key), step=key)
        print("hello from", key)

    run = run_grouped(tiny(spark, 6), "k", work)
    assert all(o.output == f"hello from {o.key}\n" for o in run)
    with driver.monitor().store.reading(run.run) as state:
        assert state is not None
        points = [p for s in state.series.values() if s.name == "loss" for p in s.points]
        assert len(points) == 6
        assert {f"hello from {n}" for n in range(6)} <= {line.text for line in state.logs}


class Line:
    """A small model: a function of one tensor."""

    def __init__(self, slope: float, start: float) -> None:
        self.slope, self.start = slope, start

    def __call__(self, x: Any) -> dict[str, Any]:
        return {"y": self.slope * x + self.start}


def line(key: Any, table: pa.Table) -> Line:
    return Line(*fit_group(key, table))


def lines(spark: SparkSession) -> DataFrame:
    rows = [(f"s{n}", n % 2, float(x), float(n * x + 1)) for n in range(4) for x in range(5)]
    return spark.createDataFrame(rows, "name string, odd int, x double, y double")


def test_models_come_back_by_key(spark: SparkSession, tmp_path: Path) -> None:
    df = lines(spark)
    models = run_grouped(df, "name", line).models()
    assert sorted(models) == ["s0", "s1", "s2", "s3"]
    assert models["s3"].predict({"x": [1.0, 2.0]})["y"] == pytest.approx([4, 7])
    models.save(tmp_path / "saved")
    with pytest.raises(gap.ConfigurationError, match="something at"):
        models.save(tmp_path / "saved")
    again = load_models(tmp_path / "saved")
    assert {k: m.ref.digest for k, m in again.items()} == {k: m.ref.digest for k, m in models.items()}
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]
    for known in (models, again):
        out = known.transform(df.withColumnRenamed("y", "true"), keep=["name", "x", "true"])
        rows = out.collect()
        assert [(r.name, r.x) for r in rows] == [(r.name, r.x) for r in df.collect()]
        assert all(r.y == pytest.approx(r.true, abs=1e-9) for r in rows)


def test_saved_models_are_whole_without_the_cache(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_grouped(lines(spark), ["name", "odd"], line).models().save(tmp_path / "saved")
    monkeypatch.setenv("SPARKGAP_CACHE", str(tmp_path / "other"))
    models = load_models(tmp_path / "saved")
    assert str(tmp_path / "other") in models["s2", 0].ref.path
    assert models["s2", 0].predict({"x": [2.0]})["y"] == pytest.approx([5])


def test_load_models_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(gap.DataError, match="holds no models"):
        load_models(tmp_path)


def test_two_keys_and_rows_without_a_model(spark: SparkSession) -> None:
    df = lines(spark)
    models = run_grouped(df.where("name <> 's1'"), ["odd", "name"], line).models()
    assert (1, "s3") in models
    out = models.transform(df.drop("y"), inputs={"x": "x"}, on_error="null", batch_size=7)
    got = {(r.name, r.x): r.y for r in out.collect()}
    assert all((y is None) == (name == "s1") for (name, _), y in got.items())
    assert got["s3", 2.0] == pytest.approx(7)
    with pytest.raises(Exception, match="no model for the key"):
        models.transform(df.drop("y")).collect()


def test_estimators_are_models(spark: SparkSession) -> None:
    linear = pytest.importorskip("sklearn.linear_model")

    def work(key: str, frame: pd.DataFrame) -> Any:
        if key == "s1":
            raise ValueError("not this one")
        return linear.LinearRegression().fit(frame[["x"]].to_numpy(), frame["y"])

    df = lines(spark)
    models = run_grouped(df, "name", work, on_error="collect").models()
    assert sorted(models) == ["s0", "s2", "s3"]
    (name,) = [s.name for s in models["s0"].signature.inputs]
    out = models.transform(df.where("name <> 's1'"), inputs={name: ["x"]}, outputs=["guess"])
    assert all(r.guess == pytest.approx(r.y, abs=1e-6) for r in out.collect())


def test_values_that_are_no_models(spark: SparkSession) -> None:
    with pytest.raises(gap.ModelFormatError, match="The value of group 3 is no model"):
        run_grouped(tiny(spark), "k", count).models()
    empty = run_grouped(tiny(spark).limit(0), "k", count).models()
    with pytest.raises(gap.ConfigurationError, match="no model to apply"):
        empty.transform(tiny(spark))


def test_keys_that_choose_no_model(spark: SparkSession) -> None:
    models = run_grouped(lines(spark), "x", lambda key, table: Line(1, 0)).models()
    with pytest.raises(gap.ConfigurationError, match="Cast it to a string"):
        models.transform(lines(spark).drop("y"))


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from(["a", "b", "ab"])), min_size=1, max_size=50))
def test_routes_reach_every_row_once(keys: list[tuple[int, str]]) -> None:
    numbers, names = np.array([k[0] for k in keys]), np.array([k[1] for k in keys], object)
    seen: list[int] = []
    for key, rows in routes([numbers, names]):
        assert all(keys[row] == key for row in rows)
        seen += rows.tolist()
    assert sorted(seen) == list(range(len(keys)))
    assert len(list(routes([numbers, names]))) == len(set(keys))


@pytest.mark.parametrize("most", [3, 10**9])  # the same keys with other rows; other keys
def test_data_that_changes_is_no_silent_loss(spark: SparkSession, most: int) -> None:
    def other(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.record_batch({"k": np.random.default_rng().integers(0, most, batch.num_rows)})

    df = spark.range(500).mapInArrow(other, "k bigint")
    with pytest.raises(gap.RunError, match=r"gives other rows"):
        run_grouped(df, "k", count).values()


@pytest.mark.parametrize(
    ("keys", "options", "words"),
    [
        ("no", {}, "no column `no`"),
        ([], {}, "one column or more"),
        ("a", {}, "cannot be a key"),
        ("value", {}, "Rename it"),
        ("k", {"columns": ["no"]}, "no column `no`"),
        ("k", {"columns": "k"}, "a list of names"),
        ("k", {"timeout": 0}, "seconds above 0"),
        ("k", {"retries": -1}, "not below 0"),
        ("k", {"on_error": "skip"}, "'raise' or 'collect'"),
        ("k", {"memory": "2x"}, "like '2g'"),
        ("k", {"max_rows": 0}, "at least 1"),
        ("k", {"cpus": 0}, "from 1"),
    ],
)
def test_wrong_options_are_named(spark: SparkSession, keys: Any, options: dict[str, Any], words: str) -> None:
    df = spark.range(3).selectExpr("id AS k", "array(id) AS a", "id AS value")
    with pytest.raises(gap.ConfigurationError, match=words):
        run_grouped(df, keys, count, **options)


def test_a_function_that_cannot_be_sent(spark: SparkSession) -> None:
    lock = threading.Lock()
    with pytest.raises(gap.ConfigurationError, match="inside the function"):
        run_grouped(tiny(spark), "k", lambda k, t: lock)


def test_places_are_where_spark_sends_rows(spark: SparkSession) -> None:
    from pyspark.sql import functions as F

    hashes = spark.range(-5, 200).selectExpr("hash(int(id)) h", "int(id) n").collect()
    assert all(spark_hash(r.n) == r.h for r in hashes)
    for partitions in (1, 2, 7, 33):
        wanted = places(partitions)
        df = spark.createDataFrame(pa.table({"place": pa.array(wanted, pa.int32())})).repartition(partitions, "place")
        got = {r.place: r.p for r in df.select("place", F.spark_partition_id().alias("p")).collect()}
        assert got == {place: number for number, place in enumerate(wanted)}


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=200), st.integers(1, 64))
def test_packing(rows: list[int], slots: int) -> None:
    rows = sorted(rows, reverse=True)
    packed = pack(rows, slots)
    assert packed[0] == 0
    assert all(0 <= b - a <= 1 for a, b in pairwise(packed))  # in the order of size, without gaps
    assert packed[-1] <= WAVES * slots
    same = sum(rows) / len(rows)
    full = 2 * sum(rows) / (WAVES * slots)
    for partition in range(packed[-1] + 1):
        weights = [count + same for count, p in zip(rows, packed, strict=True) if p == partition]
        assert len(weights) == 1 or sum(weights[:-1]) < full  # a group is added to what is not full only


def test_transform_takes_models_by_key(spark):
    df = spark.range(40).selectExpr("id % 2 AS k", "float(id) AS x", "id")

    class Times:
        def __init__(self, factor):
            self.factor = factor

        def __call__(self, x):
            return {"y": self.factor * x}

    models = gap.run_grouped(df, "k", lambda key, table: Times(key + 1.0)).models()
    got = gap.transform(df, models, inputs=["x"], keep=["k", "id"]).collect()
    assert len(got) == 40
    assert all(r.y == (r.k + 1) * r.id for r in got)
