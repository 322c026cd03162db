"""Block operations on Spark DataFrames: every dtype and framework, all rows, empty partitions, keys of all kinds."""

from __future__ import annotations

import importlib.util
import math
import os

import numpy as np
import pytest

import sparkgap as gap

TYPES = {"i": "int32", "l": "int64", "f": "float32", "d": "float64"}
SQL = {"i": "int", "l": "bigint", "f": "float", "d": "double"}


@pytest.fixture(scope="module")
def df(spark):
    """10 rows in 3 unequal partitions: scalars and vectors of four dtypes, a text, ragged vectors, 2 x 2 matrices."""
    columns = [f"{sql}(id) AS {name}" for name, sql in SQL.items()]
    columns += [f"array({sql}(id), {sql}(2 * id)) AS v{name}" for name, sql in SQL.items()]
    columns += ["concat('row', id) AS s", "array_repeat(double(id), int(id % 3)) AS r", "int(id % 2) AS k"]
    columns += ["array(array(double(id), 1D), array(2D, 3D)) AS m"]
    frame = spark.range(0, 10, 1, 3).selectExpr("id", *columns).persist()
    yield frame
    frame.unpersist()


def ordered(frame, column="id"):
    return frame.toArrow().sort_by(column)


def needs(framework):
    if framework != "numpy" and importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")


def add_all(i, l, f, d, vi, vl, vf, vd):  # noqa: E741, PLR0917
    return {"zi": i + i, "zl": l + l, "zf": f + f, "zd": d + d, "wi": vi + vi, "wl": vl + vl, "wf": vf + vf, "wd": vd + vd}


SCHEMA = [gap.TensorSpec("z" + n, t, ()) for n, t in TYPES.items()] + [
    gap.TensorSpec("w" + n, t, (None,)) for n, t in TYPES.items()
]


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax", "tensorflow"])
@pytest.mark.parametrize("verb", ["map_blocks", "map_rows"])
def test_maps_keep_dtypes_rows_and_order(df, kind, verb, framework):
    needs(framework)
    if kind != "classic" and framework in ("jax", "tensorflow"):
        pytest.skip("a framework in a worker is the same on every kind of session")
    # The process of the tests stays without TensorFlow, where a program would be tried.
    schema = SCHEMA if framework == "tensorflow" else None
    out = getattr(gap, verb)(add_all, df, framework=framework, schema=schema)
    assert out.columns == [*df.columns, *(s.name for s in SCHEMA)]
    table = ordered(out)
    for name, sql in SQL.items():
        assert out.schema["z" + name].dataType.simpleString() == sql
        assert out.schema["w" + name].dataType.elementType.simpleString() == sql
        assert table["z" + name].to_pylist() == [2 * i for i in range(10)]
        assert table["w" + name].to_pylist() == [[2 * i, 4 * i] for i in range(10)]
    assert table["s"].to_pylist() == [f"row{i}" for i in range(10)]


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_reductions_of_all_dtypes(df, framework):
    needs(framework)

    def total(i, l, f, d, vd, m):  # noqa: E741
        return {"i": i.max(), "l": l.sum(), "f": f.sum(), "d": d.sum(), "vd": vd.sum(0), "m": m.sum(0)}

    found = gap.reduce_blocks(total, df, framework=framework, batch_size=2)
    assert {n: found[n].dtype.name for n in TYPES} == TYPES
    assert [found[n].tolist() for n in TYPES] == [9, 45, 45.0, 45.0]
    assert found["vd"].tolist() == [45.0, 90.0]
    assert found["m"].tolist() == [[45.0, 10.0], [20.0, 30.0]]

    def pairs(i_1, i_2, l_1, l_2, f_1, f_2, d_1, d_2):  # noqa: PLR0917
        return {"i": i_1 + i_2, "l": l_1 + l_2, "f": f_1 + f_2, "d": d_1 + d_2}

    rows = gap.reduce_rows(pairs, df, framework=framework)
    assert {n: rows[n].dtype.name for n in TYPES} == TYPES
    assert [rows[n].tolist() for n in TYPES] == [45] * 4


def test_aggregate_by_number_and_text_keys(spark, df):
    total = lambda d, vf: {"d": d.sum(axis=0), "vf": vf.sum(axis=0)}  # noqa: E731
    out = gap.aggregate(total, df.groupBy("k"))
    assert out.columns == ["k", "d", "vf"]
    assert [r.asDict() for r in out.orderBy("k").collect()] == [
        {"k": 0, "d": 20.0, "vf": [20.0, 40.0]},
        {"k": 1, "d": 25.0, "vf": [25.0, 50.0]},
    ]
    by_text = gap.aggregate(lambda l: {"l": l.sum()}, df.groupBy("s", "k")).toArrow().sort_by("s")  # noqa: E741
    assert by_text["s"].to_pylist() == [f"row{i}" for i in range(10)]
    assert by_text["l"].to_pylist() == list(range(10))


def test_null_nan_and_skewed_keys(spark):
    rows = "(1D, 0D), (2D, -0D), (4D, double('nan')), (8D, NULL), (16D, double('nan')), (32D, NULL)"
    frame = spark.sql(f"SELECT * FROM VALUES {rows} AS t(x, key)").repartition(3)
    found = {("nan" if r.key is not None and math.isnan(r.key) else r.key): r.x for r in _sums(frame).collect()}
    assert found == {0.0: 3.0, "nan": 20.0, None: 40.0}
    skewed = spark.range(0, 20_000, 1, 4).selectExpr("if(id % 10 < 9, -1, id) AS key", "1D AS x")
    table = _sums(skewed).toArrow().sort_by("key")
    assert table["key"].to_pylist() == [-1, *range(9, 20_000, 10)]
    assert table["x"].to_pylist() == [18_000.0] + [1.0] * 2_000


def _sums(frame):
    return gap.aggregate(lambda x: {"x": x.sum(axis=0)}, frame.groupBy("key"))


def test_only_groups_by_columns_are_taken(df):
    from pyspark.sql import functions as F

    for grouped in (df.groupBy((F.col("k") % 2).alias("k")), df.groupBy(F.col("k").alias("j")), df.rollup("k"), df.cube("k")):
        with pytest.raises(gap.ConfigurationError, match="works on groups by columns"):
            gap.aggregate(lambda d: {"d": d.sum(axis=0)}, grouped)
    with pytest.raises(gap.ConfigurationError, match="one or more different key columns"):
        gap.aggregate(lambda d: {"d": d.sum(axis=0)}, df.groupBy())


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_frames_empty_partitions_and_partitions_of_one_row(spark, rows):
    frame = spark.range(0, rows, 1, 1).selectExpr("id", "int(7) AS x", "'extra' AS note").repartition(3)
    assert [r.z for r in gap.map_blocks(lambda x: {"z": x + x}, frame).collect()] == [14] * rows
    assert [r.z for r in gap.map_rows(lambda x: {"z": x + x}, frame).collect()] == [14] * rows
    assert gap.reduce_blocks(lambda x: {"x": x.sum(axis=0) * 1}, frame)["x"] == 7 * rows
    sums = gap.aggregate(lambda x: {"x": x.sum(axis=0)}, frame.groupBy("id")).collect()
    assert [(r.id, r.x) for r in sums] == [(0, 7)] * rows
    if rows:
        assert gap.reduce_rows(lambda x_1, x_2: {"x": x_1 + x_2}, frame)["x"] == 7
    else:
        with pytest.raises(gap.DataError, match="the table is empty"):
            gap.reduce_rows(lambda x_1, x_2: {"x": x_1 + x_2}, frame)


def test_a_block_reduction_is_applied_to_partitions_of_one_row_too(spark):
    frame = spark.range(0, 3, 1, 3).selectExpr("double(id + 2) AS x", "'extra' AS note")
    assert gap.reduce_blocks(lambda x: {"x": (x * x).sum() ** 0.5}, frame)["x"] == pytest.approx(29**0.5)


def test_ragged_cells_by_row_and_not_by_block(df):
    table = ordered(gap.map_rows(lambda r, s: {"z": r + 1, "n": len(r), "again": s * len(r)}, df))
    assert table["z"].to_pylist() == [[i + 1.0] * (i % 3) for i in range(10)]
    assert table["n"].to_pylist() == [i % 3 for i in range(10)]
    assert table["again"].to_pylist() == [f"row{i}" * (i % 3) for i in range(10)]
    with pytest.raises(Exception, match=r"different shapes in one block.*Use gap\.map_rows"):
        gap.map_blocks(lambda r: {"z": r}, df).collect()
    found = gap.reduce_rows(lambda r_1, r_2: {"r": np.concatenate([r_1, r_2])}, df)["r"]
    assert found.tolist() == [float(i) for i in range(10) for _ in range(i % 3)]


def test_trimmed_maps(df):
    fewer = gap.map_blocks(lambda d, vf: {"n": np.array([len(d)]), "w": vf[:1] * 0}, df, trim=True, batch_size=2)
    assert fewer.columns == ["n", "w"]
    assert sorted(r.n for r in fewer.collect()) == [1, 1, 2, 2, 2, 2]
    assert {tuple(r.w) for r in fewer.collect()} == {(0.0, 0.0)}
    more = gap.map_blocks(lambda l: {"z": np.repeat(l, 2)}, df, trim=True)  # noqa: E741
    assert sorted(r.z for r in more.collect()) == sorted([*range(10)] * 2)
    constant = gap.map_blocks(lambda: {"z": np.array([2], np.int32)}, df, trim=True)
    assert constant.schema.simpleString() == "struct<z:int>"
    assert [r.z for r in constant.collect()] == [2, 2, 2]


def test_feed_captured_variables_and_several_outputs(df):
    captured = {"add": 3.0}
    out = gap.map_blocks(
        lambda x, y: {"z": x + y + captured["add"], "p": x * y}, df.select("id", "d", "f"), feed={"x": "d", "y": "f"}
    )
    captured["add"] = 100.0
    table = ordered(out)
    assert table["z"].to_pylist() == [2.0 * i + 3 for i in range(10)]
    assert table["p"].to_pylist() == [float(i * i) for i in range(10)]
    assert ordered(gap.map_rows(lambda x: {"z": x + 3}, df, feed={"x": "d"}))["z"].to_pylist() == [i + 3.0 for i in range(10)]


def test_a_model_is_a_program(df):
    model = gap.load(lambda x: {"y": 2 * x})
    for verb in (gap.map_blocks, gap.map_rows):
        assert ordered(verb(model, df, feed={"x": "d"}))["y"].to_pylist() == [2.0 * i for i in range(10)]


def test_two_runs_over_the_same_partitions_give_the_same_bits(spark):
    frame = spark.range(0, 3000, 1, 5).selectExpr("float(sin(id)) AS x", "int(id % 7) AS key")
    runs = [gap.reduce_blocks(lambda x: {"x": x.sum(axis=0)}, frame, batch_size=64)["x"].tobytes() for _ in range(2)]
    assert runs[0] == runs[1]
    keyed = [_sums(frame).toArrow().sort_by("key")["x"].to_pylist() for _ in range(2)]
    assert keyed[0] == keyed[1]


def test_shapes_are_found_kept_and_used(spark, df, tmp_path, capsys):
    from pyspark.sql import functions as F

    known = gap.analyze(df.select("d", "vd", "m", "r", "s"))
    gap.print_schema(known)
    lines = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert lines == {"d": "float64[?]", "vd": "float64[?,2]", "m": "float64[?,2,2]", "r": "float64[?,?]", "s": "str[?]"}
    derived = known.select(F.col("vd").alias("q"), "m").withColumnRenamed("m", "n").where("true").persist()
    mapped = gap.map_blocks(lambda q: {"w": q + 1}, derived)
    derived.unpersist()
    gap.print_schema(mapped)
    lines = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert lines == {"q": "float64[?,2]", "n": "float64[?,2,2]", "w": "float64[?,2]"}
    assert gap.analyze(mapped) is mapped  # nothing is left to look for
    declared = gap.append_shape(df, "vd", [2])
    assert gap.reduce_blocks(lambda vd: {"vd": vd.sum(axis=0)}, declared)["vd"].tolist() == [45.0, 90.0]
    assert gap.reduce_blocks(lambda vd: {"vd": vd.sum(axis=0)}, declared.limit(0))["vd"].tolist() == [0.0, 0.0]
    wrong = gap.append_shape(df, "vd", [3])
    with pytest.raises(Exception, match="has 2 elements, expected 3"):
        gap.map_blocks(lambda vd: {"w": vd + 1}, wrong).collect()
    with pytest.raises(gap.SignatureError, match="rank 1"):
        gap.append_shape(df, "vd", [None, 2])


def test_vectors_dense_and_sparse(spark):
    from pyspark.ml.linalg import Vectors

    rows = [(0, Vectors.dense([1.0, 2.0, 3.0])), (1, Vectors.sparse(3, [1], [5.0]))]
    frame = spark.createDataFrame(rows, ["id", "features"])
    out = ordered(gap.map_blocks(lambda features: {"n": features.sum(axis=1), "w": 2 * features}, gap.analyze(frame)))
    assert out["n"].to_pylist() == [6.0, 5.0]
    assert out["w"].to_pylist() == [[2.0, 4.0, 6.0], [0.0, 10.0, 0.0]]
    total = gap.reduce_blocks(lambda features: {"features": features.sum(axis=0)}, frame)
    assert total["features"].tolist() == [1.0, 7.0, 3.0]


def test_nulls_by_policy(spark):
    frame = spark.sql("SELECT * FROM VALUES (0, 1D), (1, NULL), (2, 3D) AS t(id, x)")
    double = lambda x: {"z": 2 * x}  # noqa: E731
    with pytest.raises(Exception, match="input `x` is null"):
        gap.map_blocks(double, frame).collect()
    assert ordered(gap.map_blocks(double, frame, on_error="null"))["z"].to_pylist() == [2.0, None, 6.0]
    assert ordered(gap.map_rows(double, frame, on_error="skip"))["id"].to_pylist() == [0, 2]
    assert gap.reduce_blocks(lambda x: {"x": x.sum()}, frame, on_error="skip")["x"] == 4.0
    assert ordered(gap.aggregate(lambda x: {"x": x.sum()}, frame.groupBy("id"), on_error="skip"))["id"].to_pylist() == [0, 2]


def test_a_failure_names_the_program_and_its_input(spark):
    frame = spark.range(0, 4, 1, 1).selectExpr("double(id) AS x")

    def picky(x):
        if (x == 3).any():
            raise ArithmeticError("three")
        return {"x": x.sum(axis=0)}

    with pytest.raises(Exception, match=r"ArithmeticError: three.*x: float64 \(4,\)"):
        gap.reduce_blocks(picky, frame)
    with pytest.raises(Exception, match="ArithmeticError: three"):
        gap.map_rows(lambda x: {"y": picky(np.array([x]))["x"]}, frame).collect()


@pytest.mark.classic
def test_a_block_is_a_part_of_a_partition(spark):
    """1.2 GB in one partition, in blocks of 64 rows: the worker holds a few of them."""

    def peak(x):
        with open("/proc/self/status") as status:
            kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        return {"kib": np.array([kib]), "pid": np.array([os.getpid()]), "n": np.array([len(x)])}

    frame = gap.append_shape(spark.range(0, 2000, 1, 1).selectExpr("array_repeat(float(id), 150528) AS x"), "x", [150528])
    rows = gap.map_blocks(peak, frame, trim=True, batch_size=64).collect()
    assert sum(r.n for r in rows) == 2000
    assert max(r.kib for r in rows) - min(r.kib for r in rows) < 400 * 1024
