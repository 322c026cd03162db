"""Awkward Parquet: a DataFrame is either read by Python with the same rows and types, or left to Spark with the reason."""

from __future__ import annotations

import datetime
import decimal
import math
import os
import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparkgap.data.parquet import FileSource
from sparkgap.data.spark_scan import Fallback, recognise

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = [pytest.mark.classic, pytest.mark.local]  # plans are made on the driver

NAN = float("nan")


def frozen(value: Any) -> Any:
    """A value that can be counted: NaN and -0.0 get names, lists and structs become tuples."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else ("-0.0" if value == 0 and math.copysign(1, value) < 0 else value)
    if isinstance(value, dict):
        return tuple((k, frozen(v)) for k, v in value.items())
    return tuple(frozen(v) for v in value) if isinstance(value, list) else value


def counted(table: pa.Table) -> Counter[Any]:
    columns = [c.to_pylist() for c in table.columns]
    return Counter(tuple(frozen(v) for v in row) for row in zip(*columns, strict=True))


def read(source: FileSource, tasks: int = 3, rows: int = 7) -> pa.Table:
    """All rows, through pickles, as tasks would read them; every batch checked."""
    splits = pickle.loads(pickle.dumps(source.splits(tasks=tasks)))
    there = pickle.loads(pickle.dumps(source))
    batches = []
    for split in splits:
        for chunk in there.read(split, columns=source.schema.names, rows=rows):
            assert 0 < chunk.batch.num_rows <= rows
            assert chunk.batch.schema == source.schema
            batches.append(chunk.batch)
    return pa.Table.from_batches(batches, source.schema)


def assert_same(df: DataFrame, *, rows: int | None = None) -> FileSource:
    found = recognise(df)
    assert isinstance(found, FileSource), found
    expected = df.toArrow()
    got = read(found)
    assert [(f.name, f.type) for f in got.schema] == [(f.name, f.type) for f in expected.schema]
    assert counted(got) == counted(expected)
    assert rows is None or got.num_rows == rows
    assert found.frame is df
    return found


def assert_fallback(df: DataFrame, reason: str) -> None:
    found = recognise(df)
    assert isinstance(found, Fallback), found
    assert re.search(reason, found.reason), found.reason


@pytest.fixture(scope="module")
def mixed(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Written by Spark: every plain type with nulls, NaN, -0.0; two folders deep."""
    folder = str(tmp_path_factory.mktemp("mixed") / "a table, with spaces")
    rows = []
    for i in range(40):
        real = [1.5, NAN, -0.0, 0.0, None, math.inf, -2.25, 5.0][i % 8]
        rows.append(
            (
                i if i % 11 else None, i % 100, i * 800, i << 40, real, real, None if i % 7 == 3 else f"näme {i % 5}",
                [True, False, None][i % 3], bytes([i]), [float(i), None, 2.5] if i % 9 else None,
                (i, [f"x{i}"]) if i % 4 else None, datetime.date(2020, 1, 1 + i % 28), [[i], []], i % 3,
                ["a b", "c/d=e%f", None, "ü.x"][i % 4],
            )
        )  # fmt: skip
    schema = (
        "id int, tiny tinyint, small smallint, big bigint, f float, d double, s string, b boolean, raw binary, "
        "a array<float>, st struct<x:int, y:array<string>>, day date, nest array<array<bigint>>, p int, q string"
    )
    spark.createDataFrame(rows, schema).coalesce(1).write.partitionBy("p", "q").parquet(folder)
    return folder


FILTERS = [
    "p = 1", "p in (0, 2) and q is null", "q = 'c/d=e%f'", "q is not null or id > 20", "not (p = 1)",
    "p <> 1 and q <> 'a b'", "id > 10 and id <= 30", "id is null", "tiny < 5", "small >= 3000", "big = 1099511627776",
    "5 > tiny", "f > 1.0f", "d >= 5.0d", "d < 5.0", "d <= 1.5", "d <> 1.5", "not (d > 1.5)", "d in (1.5, 5.0)",
    "d not in (1.5, 5.0)", "s = 'näme 1'", "s > 'näme 2'", "s in ('näme 1', null)",
    "s not in ('näme 1', null) or id > 35", "b", "not b", "day >= date'2020-01-15'",
    "day in (date'2020-01-03', date'2020-01-04')", "a is null", "b = false or s is null",
    "st is not null and nest is not null", "id in (1,2,3,4,5,6,7,8,9,10,12,13)",
    "not (id in (1,2,3,4,5,6,7,8,9,10,12,13,null) or tiny < 20) or id = 5",
    "s in ('näme 1','b','c','d','e','f','g','h','i','j','k')",
    "(id > 35 or s = 'näme 0') and not (p = 2 and q = 'ü.x')",
    "day in (date'2020-01-01',date'2020-01-02',date'2020-01-03',"
    "date'2020-01-04',date'2020-01-05',date'2020-01-06',date'2020-01-07',date'2020-01-08',date'2020-01-09',date'2020-01-10',date'2020-01-11')",

]  # fmt: skip


class TestSame:
    def test_everything(self, spark: SparkSession, mixed: str) -> None:
        assert_same(spark.read.parquet(mixed), rows=40)

    @pytest.mark.parametrize("condition", FILTERS)
    def test_filters(self, spark: SparkSession, mixed: str, condition: str) -> None:
        assert_same(spark.read.parquet(mixed).where(condition).select("id", "d", "s", "q", "p"))

    def test_renamed_reordered_dropped_twice_the_same(self, spark: SparkSession, mixed: str) -> None:
        df = spark.read.parquet(mixed)
        df = df.select("q", df.a.alias("x"), "p", df.a.alias("y"), "id").where("id > 3").withColumnRenamed("id", "a.b `c`")
        found = assert_same(df.drop("p"))
        assert found.schema.names == ["q", "x", "y", "a.b `c`"]

    def test_filter_above_and_below_a_renaming(self, spark: SparkSession, mixed: str) -> None:
        df = spark.read.parquet(mixed).where("id > 3").selectExpr("id as d", "d as id").where("id < 3.0 and d < 30")
        assert_same(df)

    def test_only_partition_columns(self, spark: SparkSession, mixed: str) -> None:
        assert_same(spark.read.parquet(mixed).select("p", "q"), rows=40)

    def test_partition_column_filter_only_reads_its_folders(self, spark: SparkSession, mixed: str) -> None:
        found = assert_same(spark.read.parquet(mixed).where("p = 1"))
        parts = [part for split in found.splits(tasks=9) for part in split.parts]
        assert parts
        assert all("/p=1/" in part.path for part in parts)

    def test_one_folder_and_globs(self, spark: SparkSession, mixed: str) -> None:
        assert_same(spark.read.parquet(mixed + "/p=1"))
        assert_same(spark.read.parquet(mixed + "/p=*/q=a*"))
        assert_same(spark.read.option("basePath", mixed).parquet(mixed + "/p=0", mixed + "/p=2"))

    def test_zstd_gzip_and_several_row_groups(self, spark: SparkSession, tmp_path: Path) -> None:
        for codec in ("zstd", "gzip", "lz4", "uncompressed"):
            folder = str(tmp_path / codec)
            wide = spark.range(3000).selectExpr("id", "array_repeat(cast(rand(1) as float), 20) a", "cast(id as string) s")
            wide.coalesce(1).write.option("compression", codec).option("parquet.block.size", 4096).parquet(folder)
            found = assert_same(spark.read.parquet(folder).where("id >= 1000 or s = '5'"))
            assert len(found.splits(tasks=4)) >= 4

    def test_files_of_pyarrow(self, spark: SparkSession, tmp_path: Path) -> None:
        fixed = pa.array([[1, 2], None, [3, 4], [5, 6]], pa.list_(pa.float32(), 2))
        table = pa.table(
            {
                "dict": pa.array(["a", None, "b", "a"]).dictionary_encode(),
                "large": pa.array(["x", "y", None, "z"], pa.large_string()),
                "view": pa.array([b"x", b"longer than twelve bytes", None, b""], pa.binary_view()),
                "fixed": fixed,
                "biglist": pa.array([[1.0], [], None, [NAN, None]], pa.large_list(pa.float64())),
                "day": pa.array([1, None, -1, 20000], pa.date32()),
                "st": pa.array([{"x": [1], "y": "a"}, None, {"x": None, "y": None}, {"x": [], "y": ""}]),
                "strs": pa.array([[{"k": 1}], None, [], [None, {"k": None}]], pa.list_(pa.struct([("k", pa.int16())]))),
                "req": pa.array([1, 2, 3, 4], pa.int8()),
            },
            schema=None,
        )
        schema = table.schema.set(8, pa.field("req", pa.int8(), nullable=False))
        pq.write_table(table.cast(schema), tmp_path / "a.parquet", row_group_size=2)
        pq.write_table(table.cast(schema), tmp_path / "b.parquet", version="1.0", compression="gzip")
        assert_same(spark.read.parquet(str(tmp_path)), rows=8)
        assert_same(spark.read.parquet(str(tmp_path)).where("req > 1 and dict = 'a'"), rows=2)

    def test_required_columns_and_old_element_names(self, spark: SparkSession, tmp_path: Path) -> None:
        kind = pa.list_(pa.field("item", pa.float32(), nullable=False))
        table = pa.table({"x": pa.array([[1, 2], [3]], kind)}, schema=pa.schema([pa.field("x", kind, nullable=False)]))
        pq.write_table(table, tmp_path / "a.parquet", use_compliant_nested_type=False)
        assert_same(spark.read.parquet(str(tmp_path)), rows=2)

    def test_empty_files_and_no_files_left(self, spark: SparkSession, tmp_path: Path) -> None:
        schema = pa.schema([("x", pa.int64())])
        pq.write_table(pa.table({"x": [1, 2]}, schema), tmp_path / "a.parquet")
        pq.write_table(schema.empty_table(), tmp_path / "b.parquet")
        (tmp_path / "c.parquet").touch()
        (tmp_path / "_hidden.parquet").write_bytes(b"no parquet")
        (tmp_path / ".hidden.parquet").write_bytes(b"no parquet")
        assert_same(spark.read.parquet(str(tmp_path)), rows=2)
        assert_same(spark.read.parquet(str(tmp_path)).where("x > 100"), rows=0)
        assert_same(spark.read.parquet(str(tmp_path / "b.parquet")), rows=0)

    def test_names_of_files_folders_and_columns(self, spark: SparkSession, tmp_path: Path) -> None:
        odd = tmp_path / "Ünï cödé 100% {a} [b]" / "dots.in.it"
        odd.mkdir(parents=True)
        table = pa.table({"a b": [1, 2], "c.d": [3, 4], "c": pa.array([{"d": 5}, {"d": 6}]), "ключ": ["x", "y"]})
        pq.write_table(table, odd / "part 1+%20.parquet")
        df = spark.read.option("__globPaths__", "false").parquet(str(odd))
        assert_same(df, rows=2)
        assert_same(df.where("`c.d` > 3"), rows=1)
        assert_same(df.select("c"), rows=2)

    def test_columns_not_used_do_not_matter(self, spark: SparkSession, tmp_path: Path) -> None:
        folder = str(tmp_path / "t")
        spark.sql("select 1 id, current_timestamp() ts, 1.5BD dec, map('a', 1) m").write.parquet(folder)
        assert_same(spark.read.parquet(folder).select("id"), rows=1)

    def test_vectors(self, spark: SparkSession, tmp_path: Path) -> None:
        from pyspark.ml.linalg import Vectors

        folder = str(tmp_path / "t")
        vectors = [Vectors.dense([1.0, NAN]), Vectors.sparse(4, [1, 3], [2.0, 3.0]), None]
        spark.createDataFrame([(i, v) for i, v in enumerate(vectors)], _vector_schema()).write.parquet(folder)
        df = spark.read.parquet(folder)
        assert_same(df.where("i < 2"), rows=2)  # toArrow itself fails on a null vector
        found = recognise(df)
        assert isinstance(found, FileSource)
        assert read(found).sort_by("i").column("v").to_pylist()[2] is None

    def test_views_and_tables(self, spark: SparkSession, mixed: str) -> None:
        spark.read.parquet(mixed).where("id > 5").createOrReplaceTempView("scan_view")
        assert_same(spark.sql("select id as number, s from scan_view where p = 1"))
        spark.read.parquet(mixed).write.saveAsTable("scan_table")
        try:
            assert_same(spark.table("scan_table").where("p = 2"))
            assert_same(spark.sql("select a, p from scan_table"), rows=40)
        finally:
            spark.sql("drop table scan_table")

    def test_column_in_file_and_in_folder(self, spark: SparkSession, tmp_path: Path) -> None:
        for p in (1, 2):
            (tmp_path / f"p={p}").mkdir()
            pq.write_table(pa.table({"x": [p], "p": pa.array([99], pa.int32()), "y": [0]}), tmp_path / f"p={p}" / "a.parquet")
        df = spark.read.parquet(str(tmp_path))
        found = assert_same(df, rows=2)
        assert found.schema.names == ["x", "p", "y"]
        assert_same(df.where("p = 2"), rows=1)

    def test_partition_values_of_other_types(self, spark: SparkSession, tmp_path: Path) -> None:
        df = spark.range(4).selectExpr("id", "id << 40 l", "date_add(date'2024-02-28', int(id)) day", "id % 2 = 0 flag")
        df.write.partitionBy("l", "day", "flag").parquet(str(tmp_path / "t"))
        assert_same(spark.read.parquet(str(tmp_path / "t")), rows=4)
        assert_same(spark.read.parquet(str(tmp_path / "t")).where("day > date'2024-02-29' and l > 5"), rows=2)
        typed = "id long, l long, day date, flag boolean"
        assert_same(spark.read.schema(typed).parquet(str(tmp_path / "t")).where("flag"), rows=2)


def _vector_schema() -> Any:
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.types import IntegerType, StructField, StructType

    return StructType([StructField("i", IntegerType()), StructField("v", VectorUDT())])


PLANS: list[tuple[str, Callable[[DataFrame], DataFrame], str]] = [
    ("limit", lambda df: df.limit(3), "the step GlobalLimit"),
    ("sample", lambda df: df.sample(0.5, seed=1), "the step Sample"),
    ("union", lambda df: df.union(df), "the step Union"),
    ("join", lambda df: df.alias("l").join(df.alias("r"), "id").select("id"), "the step Join"),
    ("aggregate", lambda df: df.groupBy("p").count(), "the step Aggregate"),
    ("sort", lambda df: df.orderBy("id"), "the step Sort"),
    ("repartition", lambda df: df.repartition(2), "the step Repartition"),
    ("distinct", lambda df: df.select("id").distinct(), "the step Aggregate"),
    ("explode", lambda df: df.selectExpr("explode(a)"), "the step Generate"),
    ("computed", lambda df: df.selectExpr("id + 1"), r"a column is computed \(Add\)"),
    ("literal", lambda df: df.selectExpr("id", "1 as one"), r"a column is computed \(Literal\)"),
    ("field", lambda df: df.select("st.x"), r"a column is computed \(GetStructField\)"),
    ("cast", lambda df: df.selectExpr("cast(id as double)"), r"a column is computed \(Cast\)"),
    ("metadata", lambda df: df.select("id", "_metadata"), "uses the hidden column _metadata"),
    ("metadata field", lambda df: df.select("_metadata.file_name"), r"a column is computed \(GetStructField\)"),
    ("metadata filter", lambda df: df.where("_metadata.file_size > 1").select("id"), "a filter uses GetStructField"),
    ("two of a name", lambda df: df.select("id", "id"), "two of its columns are named id"),
    ("null-safe", lambda df: df.where("s <=> 'a'"), "a filter uses EqualNullSafe"),
    ("like", lambda df: df.where("s like 'n%'"), "a filter uses StartsWith"),
    ("two columns", lambda df: df.where("id = p"), "compares id with something that is not a plain value"),
    ("arithmetic", lambda df: df.where("id + 1 > 3"), "a filter uses Add"),
    ("binary", lambda df: df.where("raw = X'01'"), "compares raw, which is binary"),
    ("nested", lambda df: df.where("a = array(1.0f)"), "compares a, which is array"),
    ("float zero", lambda df: df.where("d = 0.0d"), "compares d, a float column, with zero or NaN"),
    ("float NaN", lambda df: df.where("d = double('NaN')"), "compares d, a float column, with zero or NaN"),
    ("random", lambda df: df.where("rand(1) > 0.5"), "a filter uses Rand"),
    ("collation", lambda df: df.where("s collate UNICODE_CI = 'NÄME 1'"), "a filter uses Cast|a filter uses Collate"),
    (
        "collation of a value",
        lambda df: df.where("s = 'NÄME 1' collate UNICODE_CI"),
        "a filter uses Cast|a filter uses Collate",
    ),
    ("nothing", lambda df: df.where("false"), "the step LocalRelation"),
]


class TestFallback:
    @pytest.mark.parametrize(("plan", "reason"), [p[1:] for p in PLANS], ids=[p[0] for p in PLANS])
    def test_plans(self, spark: SparkSession, mixed: str, plan: Callable[[DataFrame], DataFrame], reason: str) -> None:
        assert_fallback(plan(spark.read.parquet(mixed)), reason)

    def test_not_files(self, spark: SparkSession) -> None:
        assert_fallback(spark.range(3), "the step Range")
        assert_fallback(spark.createDataFrame([(1,)], "x int"), "the step LogicalRDD|the step LocalRelation")

    def test_observed(self, spark: SparkSession, mixed: str) -> None:
        from pyspark.sql import functions as F

        assert_fallback(spark.read.parquet(mixed).observe("m", F.count("*").alias("n")), "the step CollectMetrics")

    def test_cached(self, spark: SparkSession, mixed: str) -> None:
        df = spark.read.parquet(mixed).select("id", "tiny").cache()
        try:
            assert_fallback(df, "the step InMemoryRelation")
        finally:
            df.unpersist(blocking=True)
        assert_same(spark.read.parquet(mixed).select("id", "tiny"))

    def test_stream(self, spark: SparkSession, mixed: str) -> None:
        df = spark.readStream.schema("id int").parquet(mixed)
        assert_fallback(df, "the DataFrame is a stream")

    def test_other_formats(self, spark: SparkSession, tmp_path: Path) -> None:
        spark.range(3).write.orc(str(tmp_path / "orc"))
        assert_fallback(spark.read.orc(str(tmp_path / "orc")), "read by OrcFileFormat")
        spark.range(3).write.json(str(tmp_path / "json"))
        assert_fallback(spark.read.json(str(tmp_path / "json")), "read by JsonFileFormat")

    def test_second_version_of_the_reader(self, spark: SparkSession, mixed: str) -> None:
        before = spark.conf.get("spark.sql.sources.useV1SourceList")
        spark.conf.set("spark.sql.sources.useV1SourceList", "")
        try:
            assert_fallback(spark.read.parquet(mixed), "the step DataSourceV2")
        finally:
            spark.conf.set("spark.sql.sources.useV1SourceList", before)

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("mergeSchema", "true"), ("ignoreCorruptFiles", "true"), ("ignoreMissingFiles", "false"),
            ("datetimeRebaseMode", "LEGACY"), ("int96RebaseMode", "CORRECTED"), ("parquet.encryption.footer.key", "k"),
        ],
    )  # fmt: skip
    def test_options(self, spark: SparkSession, mixed: str, key: str, value: str) -> None:
        assert_fallback(spark.read.option(key, value).parquet(mixed), f"with the option {key.lower()}={value}")

    @pytest.mark.parametrize(
        "key",
        [
            "spark.sql.parquet.mergeSchema", "spark.sql.files.ignoreCorruptFiles", "spark.sql.files.ignoreMissingFiles",
            "spark.sql.parquet.fieldId.read.enabled", "spark.sql.parquet.binaryAsString",
        ],
    )  # fmt: skip
    def test_settings(self, spark: SparkSession, mixed: str, key: str) -> None:
        df = spark.read.parquet(mixed)
        spark.conf.set(key, "true")
        try:
            assert_fallback(df, f"the session has {key}=true")
        finally:
            spark.conf.unset(key)

    def test_encryption(self, spark: SparkSession, mixed: str) -> None:
        spark.conf.set("parquet.crypto.factory.class", "org.apache.parquet.crypto.keytools.PropertiesDrivenCryptoFactory")
        try:
            assert_fallback(spark.read.parquet(mixed), "parquet.crypto.factory.class")
        finally:
            spark.conf.unset("parquet.crypto.factory.class")

    @pytest.mark.parametrize(
        ("expression", "reason"),
        [
            ("timestamp'2020-01-01 00:00:00'", "column c is timestamp"),
            ("timestamp_ntz'2020-01-01 00:00:00'", "column c is timestamp_ntz"),
            ("1.5BD", r"column c is decimal\(2,1\)"),
            ("map('a', 1)", "column c is map"),
            ("array(named_struct('m', map('a', 1)))", "column c is array"),
            ("interval '1' year", "column c is interval year"),
            ("'a' collate UNICODE_CI", "column c is char, varchar, collated"),
        ],
    )
    def test_types(self, spark: SparkSession, tmp_path: Path, expression: str, reason: str) -> None:
        spark.sql(f"select {expression} as c").write.parquet(str(tmp_path / "t"))
        assert_fallback(spark.read.parquet(str(tmp_path / "t")), reason)

    def test_char_and_varchar(self, spark: SparkSession) -> None:
        spark.sql("create table scan_chars (a char(3), v varchar(4), i int) using parquet")
        try:
            spark.sql("insert into scan_chars values ('a', 'b', 1)")
            assert_fallback(spark.table("scan_chars").select("a"), "a column is computed")
            assert_fallback(spark.table("scan_chars").select("v"), "column v is char, varchar")
            assert_same(spark.table("scan_chars").select("i"), rows=1)
        finally:
            spark.sql("drop table scan_chars")

    def test_buckets(self, spark: SparkSession) -> None:
        spark.range(10).write.bucketBy(2, "id").saveAsTable("scan_buckets")
        try:
            assert_fallback(spark.table("scan_buckets"), "the table is bucketed")
        finally:
            spark.sql("drop table scan_buckets")

    @pytest.mark.parametrize(
        ("second", "reason"),
        [
            ({"x": pa.array([1], pa.int32()), "s": ["a"]}, "column x is int32 in .*b.parquet, and long for Spark"),
            ({"s": ["a"]}, "b.parquet has no column x"),
            ({"X": [1], "s": ["a"]}, "b.parquet has no column x"),
            ({"x": [1], "X": [2], "s": ["a"]}, "b.parquet has columns that differ only in case: x"),
            ({"x": [1], "s": [b"a"]}, "column s is binary in .*b.parquet, and string for Spark"),
        ],
    )
    def test_files_of_several_schemas(self, spark: SparkSession, tmp_path: Path, second: dict[str, Any], reason: str) -> None:
        pq.write_table(pa.table({"x": [1], "s": ["a"]}), tmp_path / "a.parquet")
        pq.write_table(pa.table(second), tmp_path / "b.parquet")
        df = spark.read.schema("x long, s string").parquet(str(tmp_path))
        assert_fallback(df, reason)

    @pytest.mark.parametrize(
        ("column", "reason"),
        [
            (pa.array([1], pa.uint8()), "column x is uint8 .* and short for Spark"),
            (pa.array([1], pa.uint32()), "column x is uint32 .* and long for Spark"),
            (pa.array([1], pa.uint64()), r"column x is decimal\(20,0\)"),
            (pa.array([1], pa.timestamp("us")), "column x is timestamp_ntz"),
            (pa.array([1], pa.timestamp("us", "UTC")), "column x is timestamp"),
            (pa.array([1], pa.duration("us")), r"column x is duration\[us\] .* and long for Spark"),
            (pa.array([decimal.Decimal("1.5")]), r"column x is decimal\(2,1\)"),
            (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int32())), "column x is map"),
        ],
    )
    def test_other_types_of_pyarrow(self, spark: SparkSession, tmp_path: Path, column: pa.Array, reason: str) -> None:
        pq.write_table(pa.table({"x": column}), tmp_path / "a.parquet")
        assert_fallback(spark.read.parquet(str(tmp_path)), reason)

    def test_int96(self, spark: SparkSession, tmp_path: Path) -> None:
        pq.write_table(
            pa.table({"x": pa.array([1], pa.timestamp("ns"))}), tmp_path / "a.parquet", use_deprecated_int96_timestamps=True
        )
        assert_fallback(spark.read.parquet(str(tmp_path)), "column x is timestamp")

    def test_dates_that_may_be_rebased(self, spark: SparkSession, tmp_path: Path) -> None:
        key = "spark.sql.parquet.datetimeRebaseModeInRead"
        pq.write_table(pa.table({"x": pa.array([-200_000], pa.date32())}), tmp_path / "a.parquet")
        assert_same(spark.read.parquet(str(tmp_path)))
        spark.conf.set(key, "LEGACY")
        try:
            assert_fallback(spark.read.parquet(str(tmp_path)), "has dates and was not written by Spark")
        finally:
            spark.conf.unset(key)

    def test_dates_of_the_old_calendar(self, spark: SparkSession, tmp_path: Path) -> None:
        key = "spark.sql.parquet.datetimeRebaseModeInWrite"
        before = spark.conf.get(key)
        spark.conf.set(key, "LEGACY")
        try:
            spark.sql("select date'1200-01-01' x, array(date'1200-01-01') y").write.parquet(str(tmp_path / "t"))
        finally:
            spark.conf.set(key, before)
        assert_fallback(spark.read.parquet(str(tmp_path / "t")).select("x"), "has dates in the old calendar")
        assert_fallback(spark.read.parquet(str(tmp_path / "t")).select("y"), "has dates in the old calendar")

    def test_table_with_partitions(self, spark: SparkSession) -> None:
        spark.range(4).selectExpr("id", "id % 2 as p").write.partitionBy("p").saveAsTable("scan_parts")
        try:
            assert_fallback(spark.table("scan_parts"), "listed by CatalogFileIndex|partitions are in the catalog")
            assert_fallback(spark.table("scan_parts").where("p = 1"), "the table's partitions are in the catalog")
        finally:
            spark.sql("drop table scan_parts")

    def test_collated_column_in_a_filter(self, spark: SparkSession) -> None:
        spark.sql(
            "create table scan_words (w string collate UNICODE_CI, a array<string collate UTF8_LCASE>, i int) using parquet"
        )
        try:
            spark.sql("insert into scan_words values ('a', array('b'), 1)")
            words = spark.table("scan_words")
            assert_fallback(words.where("w = 'A'").select("i"), "compares w with something that is not a plain value")
            assert_fallback(words.where("w is not null").select("i"), "column w is char, varchar, collated")
            assert_fallback(spark.table("scan_words").select("a"), "column a is char, varchar, collated")
        finally:
            spark.sql("drop table scan_words")

    def test_struct_with_other_fields(self, spark: SparkSession, tmp_path: Path) -> None:
        pq.write_table(pa.table({"x": pa.array([{"a": 1, "b": 2}])}), tmp_path / "a.parquet")
        for fields in ("b:long,a:long", "a:long", "a:long,b:long,c:long", "A:long,b:long"):
            df = spark.read.schema(f"x struct<{fields}>").parquet(str(tmp_path))
            assert_fallback(df, "column x is struct<a: int64, b: int64> in .*a.parquet, and struct for Spark")

    def test_old_layout_of_lists(self, spark: SparkSession, tmp_path: Path) -> None:
        spark.conf.set("spark.sql.parquet.writeLegacyFormat", "true")
        try:
            spark.sql("select array(1, null) x").write.parquet(str(tmp_path / "t"))
        finally:
            spark.conf.unset("spark.sql.parquet.writeLegacyFormat")
        assert_fallback(spark.read.parquet(str(tmp_path / "t")), "column x has another layout .*: x.bag.array")

    def test_float_filter_on_statistics_without_nan(self, spark: SparkSession, tmp_path: Path) -> None:
        pq.write_table(pa.table({"x": [1.0, NAN]}), tmp_path / "a.parquet")
        assert_fallback(
            spark.read.parquet(str(tmp_path)).where("x > 5"), "filters x, a float column, and .* not written by Spark"
        )
        assert_same(spark.read.parquet(str(tmp_path)).where("x is not null"), rows=2)

    def test_columns_that_differ_in_case(self, spark: SparkSession, tmp_path: Path) -> None:
        spark.conf.set("spark.sql.caseSensitive", "true")
        try:
            pq.write_table(pa.table({"x": [1], "X": [2], "y": [3]}), tmp_path / "a.parquet")
            assert_fallback(spark.read.parquet(str(tmp_path)).select("x"), "differ only in case: x")
            assert_same(spark.read.parquet(str(tmp_path)).select("y"))
        finally:
            spark.conf.unset("spark.sql.caseSensitive")

    def test_partition_column_of_type_double(self, spark: SparkSession, tmp_path: Path) -> None:
        spark.sql("select 1 x, 1.5d p").write.partitionBy("p").parquet(str(tmp_path / "t"))
        assert_fallback(spark.read.parquet(str(tmp_path / "t")), "the partition column p is double")
        assert_same(spark.read.parquet(str(tmp_path / "t")).select("x"))

    def test_changed_and_deleted_files(self, spark: SparkSession, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"x": [1]}), path)
        df = spark.read.parquet(str(tmp_path))
        assert_same(df)
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 5_000_000))
        assert_fallback(df, "a.parquet changed after Spark listed it")
        path.unlink()
        assert_fallback(df, r"cannot see .*a.parquet \(No such file")

    def test_too_many_files(self, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in "abc":
            pq.write_table(pa.table({"x": [1]}), tmp_path / f"{name}.parquet")
        monkeypatch.setattr("sparkgap.data.spark_scan.MOST_FILES", 2)
        assert_fallback(spark.read.parquet(str(tmp_path)), "there are 3 files; the driver looks at no more than 2")

    def test_broken_footer(self, spark: SparkSession, tmp_path: Path) -> None:
        pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
        df = spark.read.schema("x long").parquet(str(tmp_path))
        stat = (tmp_path / "a.parquet").stat()
        (tmp_path / "a.parquet").write_bytes(b"\0" * stat.st_size)
        os.utime(tmp_path / "a.parquet", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert_fallback(df, "the driver's Python cannot read the files: .*a.parquet")
