"""A model as a column expression: three ways give the same, several outputs give a struct."""

from __future__ import annotations

import numpy as np
import pytest

import sparkgap as gap
from sparkgap import TensorSpec

PAIR = gap.Signature(
    (TensorSpec("a", "float64", ()), TensorSpec("b", "float64", ())),
    (TensorSpec("sum", "float64", ()), TensorSpec("both", "float32", (2,))),
)


def pair(a, b):
    return {"sum": a + b, "both": np.stack([a, b], axis=1).astype("float32")}


@pytest.fixture
def points(spark):
    frame = spark.range(0, 50, 1, 3).selectExpr("id", "double(id) AS a", "double(id * id) AS b", "string(id) AS name")
    frame.createOrReplaceTempView("points")
    return frame


def test_select_sql_and_transform_are_equal(spark, points):
    model = gap.load(pair, signature=PAIR)
    total = gap.udf(model, outputs={"sum": "sum"}, batch_size=7)
    spark.udf.register("total", total)
    selected = points.select("id", total("a", "b").alias("sum")).orderBy("id").collect()
    queried = spark.sql("SELECT id, total(a, b) AS sum FROM points ORDER BY id").collect()
    transformed = gap.transform(points, model, keep=["id"], outputs={"sum": "sum"}).orderBy("id").collect()
    assert selected == queried == transformed
    assert [r["sum"] for r in selected] == [float(i + i * i) for i in range(50)]


def test_several_outputs_are_a_struct(spark, points):
    out = points.select("id", gap.udf(gap.load(pair, signature=PAIR))("a", "b").alias("r"))
    assert out.schema["r"].dataType.simpleString() == "struct<sum:double,both:array<float>>"
    row = out.where("id = 7").first()
    assert (row.r["sum"], row.r.both) == (56.0, [7.0, 49.0])


def test_a_chain_of_models(spark, points):
    double = gap.udf(lambda a: {"y": 2 * a}, like=points)
    assert points.select(double(double("a")).alias("y")).where("y = 196").count() == 1


def test_scalar_columns_are_stacked(spark, points):
    norm = gap.udf(lambda x: {"norm": np.hypot(x[:, 0], x[:, 1])}, inputs=["a", "b"], like=points)
    row = points.select(norm("a", "b").alias("n")).where("n > 20").orderBy("n").first()
    assert row.n == pytest.approx(np.hypot(5, 25))


def test_null_policy(spark, points):
    total = gap.udf(gap.load(pair, signature=PAIR), outputs={"sum": "sum"}, on_error="null")
    from pyspark.sql import functions as F

    out = points.select("id", total(F.when(F.col("id") != 3, F.col("a")), "b").alias("y")).orderBy("id").collect()
    assert [r.id for r in out if r.y is None] == [3]


def test_a_filter_after_it_and_no_rows(spark, points):
    total = gap.udf(gap.load(pair, signature=PAIR), outputs={"sum": "sum"})
    assert points.where("id < 0").select(total("a", "b")).collect() == []
    assert points.withColumn("y", total("a", "b")).where("y < 3").count() == 2


def test_refusals(spark, points):
    with pytest.raises(gap.ConfigurationError, match="does not tell its outputs. Pass like=df"):
        gap.udf(lambda a: a)
    with pytest.raises(gap.ConfigurationError, match="A column expression gives one value a row"):
        gap.udf(gap.load(pair, signature=PAIR), on_error="skip")


def test_a_wrong_number_or_type_of_columns(spark, points):
    total = gap.udf(gap.load(pair, signature=PAIR))
    with pytest.raises(Exception, match=r"takes 2 columns \(a, b\); it was called with 1"):
        points.select(total("a")).collect()
    with pytest.raises(Exception, match=r"(?s)SignatureError: .*`a`.*string"):
        points.select(total("name", "b")).collect()


def test_raise_names_the_row(spark, points):
    def fail(a, b):
        if (a == 9).any():
            raise ValueError("not nine")
        return pair(a, b)

    with pytest.raises(Exception, match=r"(?s)RowError: Row \d+ of partition \d+ .*not nine"):
        points.select(gap.udf(gap.load(fail, signature=PAIR))("a", "b")).collect()
