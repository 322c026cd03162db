"""What goes wrong, and what the user is told: each case asserts its message, and that nothing else is lost."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sparkgap as gap
from sparkgap import SignatureError, TensorSpec

DOUBLE = gap.Signature((TensorSpec("x", "float64", ()),), (TensorSpec("y", "float64", ()),))
VECTOR = gap.Signature((TensorSpec("x", "float32", (3,)),), (TensorSpec("y", "float64", ()),))
INTS = gap.Signature((TensorSpec("x", "int32", ()),), (TensorSpec("y", "float64", ()),))


def double(x):
    return {"y": x * 2.0}


def total(x):
    return {"y": x.sum(axis=1).astype("float64")}


def frame(spark, sql, rows=10):
    return spark.range(0, rows, 1, 2).selectExpr("id", sql)


BEFORE_A_JOB = {
    "missing column": (
        "double(id) AS xx", double, DOUBLE, {}, SignatureError,
        r"no column `x` for tensor `x`; the columns are id, xx \(did you mean xx\?\)",
    ),
    "kept column missing": (
        "double(id) AS x", double, DOUBLE, {"keep": ["idd"]}, SignatureError,
        r"keep names column `idd`, and the columns are id, x \(did you mean id\?\)",
    ),
    "string into a number": ("string(id) AS x", double, DOUBLE, {}, SignatureError, "`x`.*string.*float64"),
    "decimal": ("CAST(id AS DECIMAL(10,2)) AS x", double, DOUBLE, {}, SignatureError, r"(?i)`x`.*decimal.*CAST\(.*DOUBLE"),
    "timestamp": ("now() AS x", double, DOUBLE, {}, SignatureError, "(?i)`x`.*timestamp.*CAST"),
    "float into an integer": ("double(id) AS x", double, INTS, {}, SignatureError, "(?i)`x`.*double.*int32"),
    "scalar into a vector": ("float(id) AS x", total, VECTOR, {}, SignatureError, r"`x`.*float32 \(batch, 3\)"),
    "matrix into a vector": ("array(array(1f)) AS x", total, VECTOR, {}, SignatureError, r"`x`.*float32 \(batch, 3\)"),
    "two stacked for three": (
        "float(id) AS a, float(id) AS b", total, VECTOR, {"inputs": ["a", "b"]}, SignatureError, r"2.*float32 \(batch, 3\)",
    ),
    "unknown tensor": (
        "double(id) AS x", double, DOUBLE, {"inputs": {"z": "x"}}, gap.ConfigurationError,
        "takes the tensors x; inputs names z",
    ),
    "unknown output": (
        "double(id) AS x", double, DOUBLE, {"outputs": {"yy": "a"}}, gap.ConfigurationError,
        r"no output yy; it gives y \(did you mean y\?\)",
    ),
    "too many output names": (
        "double(id) AS x", double, DOUBLE, {"outputs": ["a", "b"]}, gap.ConfigurationError,
        r"outputs names 2 columns and the model gives 1 tensors \(y\)",
    ),
    "name collision": (
        "double(id) AS x", double, DOUBLE, {"outputs": ["ID"]}, gap.ConfigurationError, "more than one column named ID, id",
    ),
    "batch size of zero": (
        "double(id) AS x", double, DOUBLE, {"batch_size": 0}, gap.ConfigurationError,
        "size is 0; it must be a whole number >= 1",
    ),
    "unknown policy": (
        "double(id) AS x", double, DOUBLE, {"on_error": "ignore"}, gap.ConfigurationError,
        "on_error is 'ignore'; it must be one of raise, null, skip",
    ),
    "unknown boundary": (
        "double(id) AS x", double, DOUBLE, {"boundary": "jvm"}, gap.ConfigurationError,
        "boundary is 'jvm'; it must be one of auto, rows, files",
    ),
    "files of what is no scan": (
        "double(id) AS x", double, DOUBLE, {"boundary": "files"}, gap.ConfigurationError,
        r"boundary='files' is not possible for this DataFrame: .*gap.files\(path\)",
    ),
    "model fails on the first row": (
        "double(id) AS x", lambda x: x.nonsense, None, {}, gap.ConfigurationError,
        r"failed on the first rows .*AttributeError.*It was given x: float64 \(batch\)",
    ),
    "output without a row axis": (
        "double(id) AS x", lambda x: {"y": x.sum()}, None, {}, gap.ModelOutputError, r"`y` has shape \(\) for 1 row",
    ),
    "model returns nothing": ("double(id) AS x", lambda x: None, None, {}, gap.ModelOutputError, "returned None"),
    "output of a type that Spark has not": (
        "double(id) AS x", lambda x: {"y": x + 1j}, None, {}, SignatureError, "complex128",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BEFORE_A_JOB)
def test_refused_on_the_driver(spark, name):
    columns, model, signature, options, error, message = BEFORE_A_JOB[name]
    data = spark.sql(f"SELECT id, {columns} FROM range(0, 10, 1, 2)")
    with pytest.raises(error, match=f"(?s){message}"):
        gap.transform(data, gap.load(model, signature=signature), **options)


def write_onnx(path):
    from onnx import TensorProto, helper, save

    value = lambda n: helper.make_tensor_value_info(n, TensorProto.DOUBLE, ["n"])  # noqa: E731
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [value("x")], [value("y")])
    save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), str(path))


def test_a_truncated_model_file(tmp_path):
    write_onnx(tmp_path / "net.onnx")
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "net.onnx").read_bytes()[:40])
    with pytest.raises(gap.ModelFormatError, match="cut.onnx"):
        gap.load(tmp_path / "cut.onnx")


def test_a_model_file_that_is_not_there(tmp_path):
    with pytest.raises(gap.ModelFormatError, match="no model at .*nothing.onnx"):
        gap.load(tmp_path / "nothing.onnx")


def test_what_is_no_model(tmp_path):
    (tmp_path / "notes.docx").write_bytes(b"hello")
    with pytest.raises(gap.ModelFormatError, match="No adapter recognises .*notes.docx.* Taken are"):
        gap.load(tmp_path / "notes.docx")
    with pytest.raises(gap.ModelFormatError, match="No adapter recognises a builtins.int"):
        gap.load(42)


def test_a_pickle_needs_trust(tmp_path):
    import joblib
    from sklearn.linear_model import LinearRegression

    joblib.dump(LinearRegression().fit([[0.0], [1.0]], [0, 1]), tmp_path / "m.joblib")
    with pytest.raises(gap.UntrustedModelError, match="m.joblib .*any code.* trust=True"):
        gap.load(tmp_path / "m.joblib")
    assert gap.load(tmp_path / "m.joblib", trust=True).adapter == "sklearn"


def test_an_option_that_the_adapter_has_not(tmp_path):
    write_onnx(tmp_path / "net.onnx")
    with pytest.raises(gap.ConfigurationError, match="ONNX Runtime has no option 'mehtod'"):
        gap.load(tmp_path / "net.onnx", mehtod="x")


def test_a_framework_that_is_not_installed(spark, tmp_path, monkeypatch):
    import sys

    write_onnx(tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(gap.MissingDependencyError, match=r"onnxruntime.*pip install 'sparkgap\[onnx\]'"):
        gap.load(tmp_path / "net.onnx")


def test_a_model_file_that_changes_after_load(spark, tmp_path):
    write_onnx(tmp_path / "net.onnx")
    out = gap.transform(frame(spark, "double(id) AS x"), gap.load(tmp_path / "net.onnx"))
    (tmp_path / "net.onnx").write_bytes(b"something else")
    with pytest.raises(Exception, match="model bundle .* is neither at .*net.onnx.* deleted, moved or changed"):
        out.collect()


WHILE_RUNNING = {
    # name: (column, model, signature, bad ids, message for the first of them)
    "null": ("IF(id % 4 = 2, NULL, double(id)) AS x", double, DOUBLE, [2, 6], "input `x` is null"),
    "null in an array": (
        "array(1f, IF(id = 3, NULL, 2f), 3f) AS x", total, VECTOR, [3], "input `x` has a null",
    ),
    "ragged row": (
        "IF(id IN (1, 8), array(1f), array(1f, 2f, 3f)) AS x", total, VECTOR, [1, 8], "input `x` has 1 element.*expected 3",
    ),
    "number out of range": (
        "IF(id = 5, 5000000000, id) AS x", double, INTS, [5], "input `x` .*5000000000.*int32",
    ),
    "NaN where it is refused": (
        "IF(id = 7, double('NaN'), double(id)) AS x", double, DOUBLE, [7], "input `x` has a NaN",
    ),
    "model raises on a row": (
        "double(id) AS x", "fail on 4", DOUBLE, [4], "the model raised ValueError: I do not like 4.0",
    ),
}  # fmt: skip


def fail_on_four(x):
    if (x == 4).any():
        raise ValueError("I do not like 4.0")
    return {"y": x * 2.0}


def running_case(spark, name, policy):
    column, model, signature, bad, message = WHILE_RUNNING[name]
    model = gap.load(fail_on_four if model == "fail on 4" else model, signature=signature)
    policy = gap.OnError(policy, nan="error") if "NaN" in name else policy
    return gap.transform(frame(spark, column), model, keep=["id"], on_error=policy, batch_size=4), bad, message


@pytest.mark.parametrize("name", WHILE_RUNNING)
def test_raise_names_the_row(spark, name):
    out, bad, message = running_case(spark, name, "raise")
    with pytest.raises(Exception, match=rf"(?s)RowError: Row \d+ of partition \d+ \(id={bad[0]}\).*{message}"):
        # partitions fail in any order: look at the one that holds the first bad row
        out.where("true").limit(5).collect() if bad[0] < 5 else out.collect()


@pytest.mark.parametrize("name", WHILE_RUNNING)
def test_skip_leaves_out_exactly_the_bad_rows(spark, name):
    out, bad, message = running_case(spark, name, "skip")
    assert sorted(r.id for r in out.collect()) == [i for i in range(10) if i not in bad]
    summary = gap.summary(out)
    assert (summary.rows_in, summary.rows_out, summary.skipped) == (10, 10 - len(bad), len(bad))
    assert sum(summary.reasons.values()) == len(bad)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(summary.examples[0])


@pytest.mark.parametrize("name", WHILE_RUNNING)
def test_null_keeps_every_row(spark, name):
    out, bad, _ = running_case(spark, name, "null")
    rows = out.orderBy("id").collect()
    assert [r.id for r in rows] == list(range(10))
    assert [r.id for r in rows if r.y is None] == bad


def test_the_error_column_tells_why(spark):
    model = gap.load(fail_on_four, signature=DOUBLE)
    out = gap.transform(frame(spark, "double(id) AS x"), model, on_error=gap.OnError("null", column="_error"))
    why = {r.id: r["_error"] for r in out.collect()}
    assert why.pop(4) == "the model raised ValueError: I do not like 4.0"
    assert set(why.values()) == {None}


def test_the_model_s_own_traceback_is_in_the_message(spark):
    out = gap.transform(frame(spark, "double(id) AS x"), gap.load(fail_on_four, signature=DOUBLE))
    with pytest.raises(Exception, match=r"(?s)model's own traceback.*in fail_on_four"):
        out.collect()


def test_a_model_that_gives_another_number_of_rows_later(spark):
    model = gap.load(lambda x: {"y": x[:1]}, signature=DOUBLE)
    out = gap.transform(frame(spark, "double(id) AS x"), model, on_error="skip")
    with pytest.raises(Exception, match=r"ModelOutputError: Output `y` has shape \(1,\) for a batch of 5 rows"):
        out.collect()


def test_out_of_memory_halves_and_says_so(spark):
    def small_only(x):
        if len(x) > 3:
            raise MemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {"y": x * 2.0}

    out = gap.transform(frame(spark, "double(id) AS x", 64), gap.load(small_only, signature=DOUBLE), batch_size=32)
    assert sorted(r.y for r in out.collect()) == [2.0 * i for i in range(64)]
    summary = gap.summary(out)
    assert summary.total.halvings == 8  # 32 -> 16 -> 8 -> 4 -> 2 in each of two tasks
    assert "batches were halved 8 times; use a smaller batch_size" in str(summary)


def jpeg(color):
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), color).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def pictures(tmp_path):
    """Five pictures: one is cut short, one is no picture at all."""
    for i in range(5):
        raw = jpeg((i * 40, 0, 0))
        (tmp_path / f"{i}.jpg").write_bytes({1: raw[:200], 3: b"hello"}.get(i, raw))
    return tmp_path


RED = gap.Signature((TensorSpec("x", "float32", (3, 8, 8)),), (TensorSpec("red", "float32", ()),))


def red(x):
    return {"red": x[:, 0].mean(axis=(1, 2))}


@pytest.mark.parametrize("boundary", ["files", "rows"])
def test_corrupt_pictures_are_counted_and_the_others_kept(spark, pictures, boundary):
    out = gap.transform(
        gap.images(str(pictures)), gap.load(red, signature=RED), inputs={"x": gap.image("content", size=(8, 8))},
        on_error="skip", boundary=boundary,
    )  # fmt: skip
    rows = {Path(r.path).name: r.red for r in out.collect()}
    assert sorted(rows) == ["0.jpg", "2.jpg", "4.jpg"]
    assert rows["4.jpg"] == pytest.approx(160 / 255, abs=0.02)
    assert gap.summary(out).skipped == 2


def test_a_corrupt_picture_is_named_by_its_file(spark, pictures):
    (pictures / "1.jpg").unlink()
    out = gap.transform(
        gap.images(str(pictures)), gap.load(red, signature=RED), inputs={"x": gap.image("content", size=(8, 8))}
    )
    with pytest.raises(Exception, match=r"(?s)RowError: Row \d+ of .*3\.jpg"):
        out.collect()


def test_a_parquet_file_that_disappears_or_changes(spark, tmp_path):
    for i in range(3):
        pq.write_table(pa.table({"id": [i], "x": [float(i)]}), tmp_path / f"{i}.parquet")
    out = gap.transform(gap.files(str(tmp_path)), gap.load(double, signature=DOUBLE))
    (tmp_path / "1.parquet").unlink()
    with pytest.raises(Exception, match=r"(?s)FileChangedError: .*1\.parquet"):
        out.collect()
    pq.write_table(pa.table({"id": [1, 1], "x": [1.0, 1.0]}), tmp_path / "1.parquet")
    with pytest.raises(Exception, match=r"(?s)FileChangedError: .*1\.parquet"):
        out.collect()


def test_a_row_of_a_file_is_named_by_file_and_row(spark, tmp_path):
    pq.write_table(pa.table({"id": list(range(10)), "x": [float(i) for i in range(10)]}), tmp_path / "t.parquet")
    out = gap.transform(gap.files(str(tmp_path)), gap.load(fail_on_four, signature=DOUBLE), batch_size=3)
    with pytest.raises(Exception, match=r"(?s)RowError: Row 4 of .*t\.parquet \(id=4\)"):
        out.collect()


def test_a_worker_that_is_killed_once_costs_nothing_but_time(spark, kind, tmp_path):
    """Spark tries the task again, where it may (not in local mode, whose tasks have one try)."""
    marker = tmp_path / "killed"

    def die_once(x):
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return {"y": x * 2.0}
        os.kill(os.getpid(), signal.SIGKILL)

    out = gap.transform(frame(spark, "double(id) AS x"), gap.load(die_once, signature=DOUBLE))
    if kind != "cluster":
        with pytest.raises(Exception, match="(?s)Python worker exited unexpectedly"):
            out.collect()
    assert sorted(r.y for r in out.collect()) == [2.0 * i for i in range(10)]
    assert gap.summary(out).rows_in == 10, "the try that died is not counted"


def test_skip_in_a_large_run_loses_nothing_else(spark):
    bad = {i for i in range(5000) if i % 97 == 3}

    def picky(x):
        if np.isin(x, list(bad)).any():
            raise ValueError("bad")
        return {"y": x}

    out = gap.transform(
        frame(spark, "double(id) AS x", 5000), gap.load(picky, signature=DOUBLE), on_error="skip", batch_size=256
    )
    assert {r.id for r in out.collect()} == set(range(5000)) - bad
    assert gap.summary(out).reasons == {"model: ValueError": len(bad)}
