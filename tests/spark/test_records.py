"""Records of other tools' formats, by Spark: each row once, in and out; damage is told to the driver."""

from __future__ import annotations

import functools
import io
import os
import signal
from pathlib import Path

import pytest

import sparkgap as gap
from sparkgap.records.read import read_records
from sparkgap.records.write import write_records

COLUMNS = {
    "tfrecord": ("id", "float(id) AS f", "sequence(0, int(id % 3)) AS tokens",
                 "concat('ü', id) AS `the name.s`", "id % 2 = 0 AS even"),
    "webdataset": ("printf('%05d', id) AS `__key__`", "id AS cls", "array(float(id), 0.5f) AS `x.npy`",
                   "concat('ü', id) AS txt"),
    "lmdb": ("binary(printf('%05d', id)) AS key", "binary(repeat('x', int(id))) AS value"),
    "mds": ("id", "float(id) AS f", "array(float(id), 0.5f) AS x", "concat('ü', id) AS `the name.s`",
            "CAST(id AS SMALLINT) AS s"),
}  # fmt: skip


def uneven(spark, format: str, rows: int = 100):
    """Partitions of very different sizes, some of them empty."""
    df = spark.range(0, rows, 1, 1).selectExpr("id", "int(sqrt(id) / 4) AS p")
    return df.repartition(5, "p").selectExpr(*COLUMNS[format])


def rows(df) -> list[str]:
    return sorted(str(row.asDict()) for row in df.collect())


@pytest.mark.parametrize("format", COLUMNS)
def test_there_and_back(spark, tmp_path, format):
    if format == "lmdb":
        pytest.importorskip("lmdb")
    df = uneven(spark, format)
    written = write_records(df, tmp_path / "out", format)
    assert written.rows == 100
    assert 2 <= len(written.files) <= 5
    seen = {f.name: f.stat().st_size for f in (tmp_path / "out").iterdir() if f.name.startswith("part")}
    assert sorted(seen) == list(written.files)
    assert sum(seen.values()) == written.bytes
    back = read_records(tmp_path / "out", schema=df.schema, spark=spark)
    assert back.dtypes == df.dtypes
    assert rows(back) == rows(df)
    told = read_records(tmp_path / "out", spark=spark)
    assert sorted(told.columns) == sorted(df.columns)
    assert told.count() == 100


def test_several_folders_and_a_text_as_schema(spark, tmp_path):
    for name in ("a", "b"):
        write_records(uneven(spark, "tfrecord"), tmp_path / name, "tfrecord", columns=["id", "tokens"], compression="gzip")
    df = read_records([tmp_path / "a", tmp_path / "b"], schema="tokens array<int>, id int", spark=spark)
    assert df.dtypes == [("tokens", "array<int>"), ("id", "int")]
    assert df.selectExpr("sum(id)", "count(*)").first() == (9900, 200)


def test_what_is_there_is_not_touched_unless_said(spark, tmp_path):
    write_records(uneven(spark, "mds"), tmp_path / "out", "mds")
    with pytest.raises(gap.ConfigurationError, match="There are files at .*out.* overwrite=True"):
        write_records(uneven(spark, "mds"), tmp_path / "out", "mds")
    write_records(uneven(spark, "mds", 30), tmp_path / "out", "mds", overwrite=True)
    assert read_records(tmp_path / "out", spark=spark).count() == 30
    (tmp_path / "out" / "mine.txt").write_text("hello")
    with pytest.raises(gap.ConfigurationError, match=r"e.g. mine.txt.*only its own are replaced"):
        write_records(uneven(spark, "mds"), tmp_path / "out", "mds", overwrite=True)


def test_a_row_that_cannot_be_written(spark, tmp_path):
    df = spark.range(0, 10, 1, 1).selectExpr("IF(id = 7, NULL, id) AS id")
    with pytest.raises(gap.RowError, match="row 0 of its partition .*column `id`: it has a null"):
        write_records(df, tmp_path / "out", "mds")
    assert list((tmp_path / "out").iterdir()) == []


def once(batches, mark: Path):
    """Kill the task's worker when it has read all rows, the first time."""
    yield from batches
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_task_that_is_tried_again_leaves_no_double(spark, kind, tmp_path):
    if kind != "cluster":
        pytest.skip("a local master tries no task again")
    df = spark.range(0, 50, 1, 1).mapInArrow(functools.partial(once, mark=tmp_path / "died"), "id long")
    written = write_records(df, tmp_path / "out", "tfrecord")
    assert (written.rows, written.files) == (50, ("part-00000.tfrecord",))
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["_SUCCESS", "part-00000.tfrecord"]
    assert read_records(tmp_path / "out", spark=spark).selectExpr("sum(id)").first()[0] == 1225


def test_damage_is_told_to_the_driver(spark, tmp_path):
    written = write_records(uneven(spark, "tfrecord"), tmp_path / "out", "tfrecord")
    file = tmp_path / "out" / written.files[-1]
    file.write_bytes(file.read_bytes()[:-5])
    schema = uneven(spark, "tfrecord").schema
    with pytest.raises(Exception, match=rf"DataError: .*{file.name} is damaged at byte \d+: it ends within a record"):
        read_records(tmp_path / "out", schema=schema, spark=spark).collect()
    assert read_records(tmp_path / "out", schema=schema, on_error="skip", spark=spark).count() == 99


def test_a_function_of_the_user(spark, tmp_path):
    df = spark.range(20).selectExpr("binary(concat(id, ',', id * 2)) AS record")
    write_records(df, tmp_path / "out", "tfrecord", payload="bytes")

    def decode(record):
        a, b = record["record"].split(b",")
        return {"a": int(a), "b": int(b)}

    back = read_records(tmp_path / "out", payload="bytes", schema="a bigint, b bigint", decode=decode, spark=spark)
    assert back.selectExpr("sum(b) = 2 * sum(a)", "count(*)").first() == (True, 20)


def test_images_and_vectors_into_shards(spark, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for i in range(6):
        content = io.BytesIO()
        image.new("RGB", (4, 4), (i, 0, 0)).save(content, "PNG")
        folder = tmp_path / "pets" / ("cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(content.getvalue())
    df = read_records(tmp_path / "pets", columns=["label", "label_index", "content"], spark=spark)
    assert sorted({(r.label, r.label_index) for r in df.collect()}) == [("cat", 0), ("dog", 1)]
    shards = gap.write_shards(df, tmp_path / "shards")
    assert sorted(shards.read(range(6))["label_index"].tolist()) == [0, 0, 0, 1, 1, 1]

    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    vectors = spark.range(3).select("id", array_to_vector(F.array(F.col("id").cast("double"), F.lit(1.0))).alias("v"))
    write_records(vectors, tmp_path / "vectors", "tfrecord")
    assert read_records(tmp_path / "vectors", spark=spark).orderBy("id").first().v == [0.0, 1.0]
