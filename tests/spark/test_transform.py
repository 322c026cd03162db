"""The embedded transform: batch sizes, memory, what travels, which columns stay, what is told afterwards."""

from __future__ import annotations

import datetime
import decimal
import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

import sparkgap as gap
from sparkgap.embedded import api

X = gap.Signature((gap.TensorSpec("x", "float32", (3,)),), (gap.TensorSpec("y", "float32", ()),))


def with_sizes(x):
    return {"size": np.full(len(x), len(x)), "pid": np.full(len(x), os.getpid())}


def capture_plan(monkeypatch):
    """Keep the plans that transform makes."""
    plans = []
    original = api._frame

    def keep(plan, decision, spark):
        plans.append(plan)
        return original(plan, decision, spark)

    monkeypatch.setattr(api, "_frame", keep)
    return plans


@pytest.mark.parametrize("size", [1, 7, 128])
def test_the_batch_size_is_the_true_one(spark, size):
    frame = spark.range(0, 1000, 1, 3).selectExpr("id", "float(id) AS x")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "50")
    try:
        rows = gap.transform(frame, with_sizes, keep=["id"], batch_size=size).toArrow().sort_by("id")["size"].to_pylist()
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    for first, last in ((0, 333), (333, 666), (666, 1000)):
        full = (last - first) // size * size
        assert rows[first:last] == [size] * full + [last - first - full] * (last - first - full)


def test_rows_larger_than_sparks_byte_cap_do_not_cut_a_batch(spark):
    # 300 rows of 602 112 bytes: Spark sends at most 64 MiB (111 rows) at a time.
    frame = spark.range(0, 300, 1, 1).selectExpr("id", "array_repeat(float(id), 150528) AS x")
    sizes = gap.transform(frame, lambda x: {"n": np.full(len(x), len(x))}, keep=["id"], batch_size=128).toArrow()
    assert sizes.sort_by("id")["n"].to_pylist() == [128] * 256 + [44] * 44


STREAM = """
import re, sys
import numpy as np
import sparkgap as gap

def peak(x):
    with open("/proc/self/status") as status:
        kib = int(re.search(r"VmHWM:\\s+(\\d+)", status.read())[1])
    return {"peak": np.full(len(x), kib), "sum": x[:, :10].sum(axis=1)}

spark = gap.session("local[1]", conf={"spark.ui.enabled": "false"})
frame = spark.range(0, 5000, 1, 1).selectExpr("id", "array_repeat(float(id), 150528) AS x")
out = gap.transform(frame, peak, keep=[], batch_size=128).selectExpr("max(peak)", "count(*)", "sum(sum)").first()
print(*out)
"""


@pytest.mark.local
def test_a_large_partition_streams_in_bounded_memory():
    """5 000 rows of 602 112 bytes in one partition (3 GB), in a worker that has done nothing before."""
    done = subprocess.run([sys.executable, "-c", STREAM], capture_output=True, text=True, check=True)
    peak, count, total = (float(v) for v in done.stdout.split())
    assert count == 5000
    assert total == pytest.approx(10 * 5000 * 4999 / 2, rel=1e-4)
    assert peak < 600 * 1024, f"the worker took {peak / 1024:.0f} MiB"


def test_a_large_model_is_in_no_closure_and_loads_once_in_a_worker(spark, monkeypatch):
    weights = np.arange(62_500_000, dtype="float64")  # 500 MB
    plans = capture_plan(monkeypatch)

    def model(x):
        return {"y": x * weights[-1], "pid": np.full(len(x), os.getpid())}

    frame = spark.range(0, 64, 1, 16).selectExpr("id", "double(id) AS x")
    out = gap.transform(frame, model, keep=["id"])
    (plan,) = plans
    assert plan.model.nbytes > 500_000_000
    assert len(pickle.dumps(plan)) < 10_000
    table = out.toArrow()
    assert sorted(table["y"].to_pylist()) == [i * 62_499_999.0 for i in range(64)]
    summary = gap.summary(out)
    assert summary.tasks == 16
    workers = len(set(table["pid"].to_pylist()))  # Spark takes any idle one, and earlier jobs may have left more than two
    assert summary.total.model_loads == workers < summary.tasks


def test_a_model_that_executors_cannot_see_travels_as_an_artifact_once(spark, monkeypatch):
    """As on a cluster without a shared file system: the driver's path does not exist for executors."""
    monkeypatch.setattr("sparkgap._spark.shares_files_with_executors", lambda spark: False)
    plans = capture_plan(monkeypatch)
    hidden = api.shipped

    def hide(model, spark):
        from dataclasses import replace

        return replace(hidden(model, spark), path="/nowhere/" + model.ref.digest)

    monkeypatch.setattr(api, "shipped", hide)
    frame = spark.range(8).selectExpr("id", "double(id) AS x")
    factor = np.random.default_rng().random()
    out = gap.transform(frame, lambda x: {"y": x * factor}, keep=["id"]).toArrow().sort_by("id")
    assert out["y"].to_pylist() == [i * factor for i in range(8)]
    assert plans[0].model.artifact == f"{plans[0].model.digest}.tar"


def test_kept_columns_of_every_type_come_back_as_they_were(spark):
    from pyspark.sql import Row

    frame = spark.createDataFrame(
        [
            Row(
                id=i,
                x=float(i),
                when=datetime.datetime(2020, 1, 1, 12, i),
                day=datetime.date(1999, 12, 31),
                price=decimal.Decimal("12.34"),
                tags=["a", None],
                pair=Row(left=1, right="b"),
                bag={"k": i},
                raw=b"\x00\xff",
                none=None if i else "there",
            )
            for i in range(5)
        ]
    )
    out = gap.transform(frame, lambda x: {"y": x + 1})
    assert out.schema.fields[:-1] == frame.schema.fields
    want = [(*r, r.x + 1) for r in frame.orderBy("id").collect()]
    assert [tuple(r) for r in out.orderBy("id").collect()] == want


def test_columns_with_odd_names(spark):
    frame = spark.range(3).selectExpr("id AS `a.b`", "float(id) AS `x ``y`")
    out = gap.transform(frame, lambda x: {"out 1": x}, inputs=["x `y"])
    assert out.columns == ["a.b", "x `y", "out 1"]
    assert sorted(r[2] for r in out.collect()) == [0.0, 1.0, 2.0]


def test_ml_vectors_feed_and_stay(spark):
    from pyspark.ml.linalg import Vectors

    vectors = [Vectors.dense([1.0, 2.0, 3.0]), Vectors.sparse(3, [1], [5.0])]
    frame = spark.createDataFrame([(i, v) for i, v in enumerate(vectors)], ["id", "x"])
    out = gap.transform(frame, lambda x: {"y": x.sum(axis=1)}).orderBy("id")
    assert out.schema["x"] == frame.schema["x"]
    assert [(r.x, r.y) for r in out.collect()] == [(vectors[0], 6.0), (vectors[1], 5.0)]


def test_outputs_of_every_rank_and_as_bytes(spark):
    def shapes(x):
        n = len(x)
        return {
            "r0": x.astype("int16"),
            "r1": np.tile(np.arange(2, dtype="float32"), (n, 1)),
            "r2": np.ones((n, 2, 3)),
            "r3": np.ones((n, 1, 2, 3), dtype=bool),
            "raw": np.arange(6 * n, dtype="<i4").reshape(n, 2, 3),
        }

    frame = spark.range(0, 4, 1, 1).selectExpr("double(id) AS x")
    names = {"r0": "r0", "r1": "r1", "r2": "r2", "r3": "r3", "raw": ("raw", "binary")}
    out = gap.transform(frame, shapes, keep=[], outputs=names)
    assert [f.dataType.simpleString() for f in out.schema] == [
        "smallint", "array<float>", "array<array<double>>", "array<array<array<boolean>>>", "binary",
    ]  # fmt: skip
    rows = out.collect()
    assert rows[2].r1 == [0.0, 1.0]
    assert np.frombuffer(rows[3].raw, "<i4").tolist() == [18, 19, 20, 21, 22, 23]


def test_ragged_rows_are_scored_in_groups_of_equal_shape(spark):
    seen = gap.Signature((gap.TensorSpec("x", "float64", (None,)),), (gap.TensorSpec("s", "float64", ()),))
    model = gap.load(lambda x: {"s": x.sum(axis=1)}, signature=seen)
    frame = spark.range(0, 20, 1, 1).selectExpr("id", "transform(sequence(0, int(id % 4)), i -> double(id)) AS x")
    rows = gap.transform(frame, model, keep=["id"]).orderBy("id").collect()
    assert [r.s for r in rows] == [float(i * (i % 4 + 1)) for i in range(20)]


def test_a_model_with_a_fixed_batch_gets_full_batches(spark):
    def only_four(x):
        assert len(x) == 4
        return {"y": x * 2}

    given = gap.Signature((gap.TensorSpec("x", "float64", ()),), (gap.TensorSpec("y", "float64", ()),), batch=4)
    model = gap.load(only_four, signature=given)
    frame = spark.range(0, 10, 1, 1).selectExpr("id", "double(id) AS x")
    assert [r.y for r in gap.transform(frame, model).orderBy("id").collect()] == [2.0 * i for i in range(10)]
    with pytest.raises(gap.ConfigurationError, match="batch_size is 6 and this model takes exactly 4 rows"):
        gap.transform(frame, model, batch_size=6)


def test_it_is_lazy(spark, tmp_path):
    marker = tmp_path / "ran"

    def touch(x):
        marker.touch()
        return {"y": x.sum(axis=1)}

    frame = spark.range(3).selectExpr("array(1f, 2f, 3f) AS x")
    out = gap.transform(frame, gap.load(touch, signature=X))
    assert not marker.exists()
    out.collect()
    assert marker.exists()


def test_the_frame_can_be_used_many_times_and_limited(spark):
    out = gap.transform(spark.range(0, 1000, 1, 2).selectExpr("double(id) AS x"), lambda x: {"y": x})
    assert out.count() == 1000
    assert len(out.limit(3).collect()) == 3
    assert out.where("y < 10").count() == 10
    assert out.join(out, "x").count() == 1000


def test_summary_tells_rows_batches_and_phases(spark):
    frame = spark.range(0, 100, 1, 4).selectExpr("double(id) AS x")
    out = gap.transform(frame, lambda x: {"y": x}, batch_size=10)
    assert "No summary yet" in str(gap.summary(out))
    out.collect()
    summary = gap.summary(out)
    assert (summary.tasks, summary.rows_in, summary.rows_out, summary.total.batches) == (4, 100, 100, 12)
    assert summary.total.batch_rows == 10
    assert {"read", "decode", "model", "encode", "write"} <= set(summary.seconds)
    assert "100 rows in, 100 out, 4 tasks, 12 batches of up to 10 rows" in str(summary)
    out.where("x < 50").collect()
    assert gap.summary(out).rows_in == 100, "a second action is told by itself, not added"


def test_explain_tells_what_and_why(spark):
    out = gap.transform(spark.range(3).selectExpr("double(id) AS x"), lambda x: {"y": x}, batch_size=64)
    text = str(gap.explain(out))
    assert re.search(r"boundary\s+rows\s+\(files is not possible: ", text)
    assert re.search(r"batch\s+64", text)
    assert re.search(r"threads\s+1", text)
    with pytest.raises(gap.ConfigurationError, match="wants the DataFrame that gap.transform returned"):
        gap.explain(out.select("y"))
    with pytest.raises(gap.ConfigurationError, match="wants the DataFrame that gap.transform returned"):
        gap.summary(out.select("y"))


def test_framework_threads_are_the_cpus_of_the_task(spark):
    import torch

    class Threads(torch.nn.Module):
        def forward(self, x):
            return torch.full((len(x),), torch.get_num_threads())

    out = gap.transform(spark.range(0, 4, 1, 2).selectExpr("float(id) AS x"), Threads(), outputs=["threads"])
    assert {r.threads for r in out.collect()} == {1}


@pytest.mark.local
def test_models_of_frameworks_that_cannot_share_a_process(spark, tmp_path):
    """TensorFlow, then Keras on JAX, then TensorFlow again, in the same Spark workers."""
    import zoo

    for name in ("saved_model", "keras_jax", "saved_model"):
        folder = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        case = zoo.make(name, folder)
        frame = spark.createDataFrame(case.table).repartition(2)
        out = gap.transform(frame, gap.load(case.source, **case.options), inputs=case.inputs, outputs=["out"], keep=["id"])
        got = np.array(out.toArrow().sort_by("id")["out"].to_pylist())
        np.testing.assert_allclose(got, case.expected["out"], rtol=1e-6, atol=1e-6)


def test_an_arrow_table_made_by_hand_is_refused_with_the_way_out():
    with pytest.raises(gap.ConfigurationError, match="got a pyarrow.lib.Table. .*spark.createDataFrame"):
        gap.transform(pa.table({"x": [1.0]}), lambda x: x)
