"""Every adapter: transform gives what the framework gives, however the rows are cut and carried."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zoo

import sparkgap as gap

pytestmark = pytest.mark.one_host


@pytest.fixture(scope="module", params=zoo.NAMES)
def case(request, tmp_path_factory):
    """One model with its table, made once for all tests of it."""
    made = zoo.make(request.param, tmp_path_factory.mktemp(request.param))
    made.model = gap.load(made.source, **made.options)
    return made


def run(case, data, **options):
    outputs = case.outputs or (list(case.expected) if len(case.expected) == 1 else None)
    return gap.transform(data, case.model, inputs=case.inputs, outputs=outputs, keep=["id"], **options)


def assert_equal(case, frame):
    rows = frame.toArrow().sort_by("id")
    assert rows["id"].to_pylist() == list(range(zoo.ROWS))
    for name, want in case.expected.items():
        got = np.array(rows[name].to_pylist())
        if want.dtype.kind in "fc":
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, rtol=case.tolerance, atol=case.tolerance)
        else:
            assert got.tolist() == want.tolist()


@pytest.mark.parametrize("partitions", [1, pytest.param(3, marks=pytest.mark.local)])
def test_rows(spark, case, partitions):
    frame = spark.createDataFrame(case.table).repartition(partitions)
    assert_equal(case, run(case, frame, boundary="rows", batch_size=7))


@pytest.mark.local
def test_rows_with_empty_and_one_row_partitions(spark, case):
    # 17 partitions of which several hold one row or none
    frame = (
        spark.createDataFrame(case.table)
        .repartitionByRange(17, "id")
        .where("id % 5 != 3 OR id < 20")
        .unionByName(spark.createDataFrame(case.table).where("id % 5 = 3 AND id >= 20"))
    )
    assert_equal(case, run(case, frame, boundary="rows"))


def test_files(spark, case, tmp_path):
    for number, (first, count) in enumerate([(0, 1), (1, 0), (1, 30), (31, 9)]):
        pq.write_table(case.table.slice(first, count), tmp_path / f"part-{number}.parquet", row_group_size=11)
    frame = run(case, gap.files(str(tmp_path)), batch_size=7)
    assert gap.explain(frame).boundary == "files"
    assert_equal(case, frame)


def test_no_rows_at_all(spark, case):
    empty = spark.createDataFrame(case.table).where("id < 0")
    if not case.model.signature.complete:
        with pytest.raises(gap.ConfigurationError, match="it has no rows"):
            run(case, empty, boundary="rows")
        return
    frame = run(case, empty, boundary="rows")
    assert frame.toArrow().num_rows == 0


def test_column_types_are_what_spark_declares(spark, case):
    frame = run(case, spark.createDataFrame(case.table).limit(3), boundary="rows")
    table = frame.toArrow()
    assert isinstance(table, pa.Table)
    assert table.column_names == ["id", *case.expected]
