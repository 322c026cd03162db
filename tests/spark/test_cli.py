"""The command line end to end, each command in a process of its own."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.local
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that doubles x, a table, and a table with one short row."""
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("cli")
    shape = ["batch", 4]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), folder / "net.onnx")
    x = np.arange(40, dtype=np.float32).reshape(10, 4).tolist()
    pq.write_table(pa.table({"id": range(10), "x": x, "more": ["m"] * 10}), folder / "table.parquet")
    x[7] = [1.0, 2.0]
    pq.write_table(pa.table({"id": range(10), "x": x}), folder / "short.parquet")
    return folder


def sparkgap(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparkgap", *arguments, "--master", "local[1]"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)


def test_transform_to_csv(work: Path) -> None:
    done = sparkgap(work, "transform", "net.onnx", "table.parquet", "out.csv", "--input", "x=x", "--output", "twice", "--keep", "id")  # fmt: skip  # noqa: E501
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Written to out.csv\n"
    assert done.stderr.startswith("10 rows in, 10 out, ")
    assert "WARN" not in done.stderr
    rows = [row for part in sorted((work / "out.csv").glob("*.csv")) for row in csv.DictReader(part.open())]
    twice = {int(row["id"]): json.loads(row["twice"]) for row in rows}
    assert twice == {i: [8.0 * i, 8.0 * i + 2, 8.0 * i + 4, 8.0 * i + 6] for i in range(10)}


def test_a_bad_row_is_told_in_one_sentence_and_can_be_skipped(work: Path) -> None:
    done = sparkgap(work, "transform", "net.onnx", "short.parquet", "bad", "--keep", "id", "--boundary", "rows")
    assert (done.returncode, done.stdout) == (1, "")
    first, last = done.stderr.splitlines()
    assert first.startswith("sparkgap: Row ")
    assert "(id=7)" in first
    assert "input `x` has 2 elements, expected 4" in first
    log = Path(last.rpartition(" is in ")[2].rstrip(")"))
    assert "RowError" in log.read_text()
    log.unlink()
    done = sparkgap(work, "transform", "net.onnx", "short.parquet", "good", "--keep", "id", "--on-error", "skip")
    assert done.returncode == 0, done.stderr
    assert "10 rows in, 9 out" in done.stderr
    assert "bad rows: 1 skipped, 0 nulled" in done.stderr
    assert sorted(pq.read_table(work / "good")["id"].to_pylist()) == [0, 1, 2, 3, 4, 5, 6, 8, 9]


def test_explain(work: Path) -> None:
    done = sparkgap(work, "explain", "net.onnx", "table.parquet", "--conf", "spark.sql.shuffle.partitions=3")
    assert done.returncode == 0, done.stderr
    what, _, session = done.stdout.partition("\nsession\n")
    assert "boundary  files" in what
    assert "spark.master" in session
    assert "local[1]" in session
    assert "3  (not chosen by sparkgap, which would take 1: " in session


def test_wrong_column(work: Path) -> None:
    done = sparkgap(work, "transform", "net.onnx", "table.parquet", "none", "--input", "z")
    assert done.returncode == 2
    assert done.stderr.startswith("sparkgap: There is no column `z` for tensor `x`; the columns are id, x, more.")
    assert not (work / "none").exists()


def test_images(work: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("GlobalMaxPool", ["pixels"], ["top"])], "top",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("top", TensorProto.FLOAT, ["batch", 3, 1, 1])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9), work / "top.onnx")
    (work / "photos").mkdir()
    image.new("RGB", (9, 7), (255, 0, 51)).save(work / "photos" / "red.png")
    done = sparkgap(work, "transform", "top.onnx", "photos", "tops", "--image-size", "4x4", "--mean", "0.5", "--std", "0.5")
    assert done.returncode == 0, done.stderr
    (row,) = pq.read_table(work / "tops").to_pylist()
    assert row["path"].endswith("/photos/red.png")
    np.testing.assert_allclose(np.ravel(row["top"]), [1.0, -1.0, -0.6], atol=1e-6)
