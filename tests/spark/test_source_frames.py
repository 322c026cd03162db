"""`Source.to_df`: Spark itself gives the rows that tasks would read."""

from __future__ import annotations

import datetime
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkgap.data.image_files import images
from sparkgap.data.parquet import FileSource, files
from sparkgap.data.source import Source
from sparkgap.data.spark_scan import Fallback, recognise

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NAN = float("nan")


def assert_same(spark: SparkSession, source: Source, rows: int) -> None:
    batches = [c.batch for s in source.splits(tasks=3) for c in s and source.read(s, columns=source.schema.names, rows=5)]
    got = pa.Table.from_batches(batches, source.schema)
    expected = source.to_df(spark).toArrow()
    assert got.num_rows == rows
    assert expected.schema.names == got.schema.names
    assert counted(got) == counted(expected.cast(got.schema))


def counted(table: pa.Table) -> Counter[Any]:
    columns = [[repr(v) for v in c.to_pylist()] for c in table.columns]
    return Counter(zip(*columns, strict=True))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("lake") / "a {b} [c]*?"
    for day, city in ((1, "Bern"), (2, "a%2Fb"), (3, "__HIVE_DEFAULT_PARTITION__")):
        folder = top / f"day={day}" / f"city={city}"
        folder.mkdir(parents=True)
        data = {
            "x": [1.0, NAN, None, -2.0, 0.1],
            "f": pa.array([0.1, NAN, None, -2.0, 3.0], pa.float32()),
            "s": ["a", "b", None, "ü", ""],
            "i.j": pa.array([1, 2, None, 4, 5], pa.int16()),
            "u": pa.array([1, 200, None, 4, 5], pa.uint8()),
            "d": pa.array([1, 20_000, None, 4, 5], pa.date32()),
            "b": [True, False, None, True, False],
        }
        # without statistics: those of other writers say nothing of NaN, and Spark would skip row groups by them
        pq.write_table(pa.table(data), folder / "p%20 q.parquet", row_group_size=2, write_statistics=False)
    return top


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (None, 15),
        ([("x", ">", 0.5)], 6),
        ([("f", "=", 0.1)], 3),
        ([("f", "in", [0.1, NAN])], 6),
        ([("x", "!=", 1)], 9),
        ([("x", "not in", [1.0])], 9),
        ([("s", ">=", "b")], 6),
        ([("s", "is null")], 3),
        ([("i.j", "in", [1, 5])], 6),
        ([("u", ">", 100)], 3),
        ([("d", ">", datetime.date(2000, 1, 1))], 3),
        ([("b", "=", True), ("day", "<", 3)], 4),
        ([("city", "=", "a/b")], 5),
        ([[("city", "is null"), ("x", "<", 0)], [("day", "=", 1), ("i.j", "is not null")]], 5),
        ([("day", ">", 7)], 0),
    ],
)
def test_filters(spark: SparkSession, lake: Path, where: Any, rows: int) -> None:
    assert_same(spark, files(lake, where=where), rows)


def test_columns_globs_and_several_paths(spark: SparkSession, lake: Path) -> None:
    assert_same(spark, files(lake, columns=["city", "i.j"]), 15)
    assert_same(spark, files([lake / "day=1", lake / "day=3"]), 10)
    assert_same(spark, files(f"file://{str(lake).replace('[', '[[]')}/day=[12]/city=*"), 10)


def test_folders_in_folders(spark: SparkSession, tmp_path: Path) -> None:
    for name in ("a.parquet", "x/b.parquet", "x/y/c.parquet", "_no/d.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        pq.write_table(pa.table({"x": [name]}), tmp_path / name)
    assert_same(spark, files(tmp_path), 3)


@pytest.mark.parametrize(
    "values",
    [
        ["1", "-2", "+3", "007"],
        ["1", str(1 << 31)],
        ["1", "2.5"],
        ["1e3", ".5", "5."],
        ["1e3"],
        ["1.0e1", "7"],
        ["5.5e0", "1"],
        [str(1 << 31), "2.5"],
        ["2024-02-29"],
        ["2023-02-29"],
        ["2024-02-29", "1"],
        ["1", "x", "02"],
        [str(1 << 63)],
        ["true"],
        ["NaN", "1.5"],
        ["Infinity"],
        ["1d"],
        ["2.5f"],
        ["2024-1-5"],
        ["1_000"],
        ["0x10"],
        ["-"],
        ["__HIVE_DEFAULT_PARTITION__", "3"],
        ["2024-02-29", "2024-03-01 10%3A00%3A00"],
    ],
)
def test_types_of_folder_columns(spark: SparkSession, tmp_path: Path, values: list[str]) -> None:
    for value in values:
        (tmp_path / f"p={value}").mkdir()
        pq.write_table(pa.table({"x": [1]}), tmp_path / f"p={value}" / "a.parquet")
    source = files(tmp_path)
    plain = spark.read.parquet(str(tmp_path)).toArrow()
    kind = plain.schema.field("p").type
    if pa.types.is_timestamp(kind) or pa.types.is_decimal(kind):  # here they stay as they are written
        assert source.schema.field("p").type == pa.string()
    else:
        assert source.schema.field("p").type == kind
        assert counted(read(source).select(["p"])) == counted(plain.select(["p"]))
    assert_same(spark, source, len(values))


def read(source: FileSource) -> pa.Table:
    batches = [c.batch for s in source.splits(tasks=1) for c in source.read(s, columns=source.schema.names, rows=5)]
    return pa.Table.from_batches(batches, source.schema)


def test_images(spark: SparkSession, tmp_path: Path) -> None:
    for i, name in enumerate(
        ["a.jpg", "b %20.PNG", "p=1/c [d].jpeg", "p=1/e{1}.webp", "n.txt", "_no.jpg", ".no/x.jpg", "empty.gif"]
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if "empty" in name else bytes([i]) * (i + 1))
    assert_same(spark, images(tmp_path), 5)
    assert_same(spark, images(tmp_path, recursive=False), 3)
    assert_same(spark, images(tmp_path, extensions=[".TXT"]), 1)
    assert_same(spark, images(tmp_path, extensions=None), 6)
    assert_same(spark, images([tmp_path / "b %20.PNG", tmp_path / "p=1"]), 3)
    assert_same(spark, images(f"{tmp_path}/*.jpg"), 1)
    assert images(tmp_path).to_df(spark).schema["modificationTime"].dataType.simpleString() == "timestamp"
    assert math.isclose(images(tmp_path).splits(tasks=1)[0].nbytes, 10, abs_tol=5)


def test_a_connect_session_does_not_show_its_plans(spark: SparkSession, kind: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    found = recognise(spark.read.parquet(str(tmp_path)))
    if kind == "connect":
        assert found == Fallback("the session is a Spark Connect one, which does not show its plans")
    else:
        assert isinstance(found, FileSource)
