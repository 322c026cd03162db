"""TFRecord against TensorFlow, in a process of its own, and against itself; damage of each kind is named."""

from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from record_files import read, write

from sparkgap._errors import ConfigurationError, DataError, RowError, SignatureError
from sparkgap.records.example_decode import Examples
from sparkgap.records.example_encode import examples
from sparkgap.records.frames import frame
from sparkgap.records.tfrecord_files import TFRecord

TABLE = pa.table(
    {
        "id": pa.array(np.arange(5000) * 2**40 - 7, pa.int64()),
        "x": pa.array([[float(i), 0.5][: i % 3] for i in range(5000)], pa.list_(pa.float32())),
        "name": pa.array([None if i % 5 == 0 else f"ü{i}".encode() * (i % 4) for i in range(5000)], pa.binary()),
        "even": pa.array([i % 2 == 0 for i in range(5000)], pa.bool_()),
    }
)
NEEDS_TF = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed")


def tensorflow(program: str, *arguments: Path) -> str:
    code = f"import sys, tensorflow as tf\nF = tf.train.Feature\n{program}"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@NEEDS_TF
def test_tensorflow_writes(tmp_path):
    tensorflow(
        """
ints, floats, texts = (lambda *v: F(int64_list=tf.train.Int64List(value=v)),
    lambda *v: F(float_list=tf.train.FloatList(value=v)), lambda *v: F(bytes_list=tf.train.BytesList(value=v)))
def feature(i):
    made = {"id": ints(-i), "x": floats(*[i, 0.5][:i % 3]), "names": texts(b"a", b"b%d" % i), "empty": F()}
    return tf.train.Features(feature={k: v for k, v in made.items() if i % 4 or k != "names"})
for compression in ("", "GZIP", "ZLIB"):
    with tf.io.TFRecordWriter(sys.argv[1] + "/one-" + compression, compression) as out:
        for i in range(300):
            out.write(tf.train.Example(features=feature(i)).SerializeToString())
with tf.io.TFRecordWriter(sys.argv[2]) as out:
    for i in range(50):
        steps = tf.train.FeatureList(feature=[ints(*range(k)) for k in range(i % 4)])
        steps = tf.train.FeatureLists(feature_list={"steps": steps})
        context = tf.train.Features(feature={"label": ints(i)})
        out.write(tf.train.SequenceExample(context=context, feature_lists=steps).SerializeToString())
""",
        tmp_path, tmp_path / "sequence.tfrecord",
    )  # fmt: skip
    schema = pa.schema(
        [("id", pa.int32()), ("x", pa.list_(pa.float64())), ("names", pa.list_(pa.string())), ("empty", pa.binary())]
    )
    for compression in ("", "GZIP", "ZLIB"):
        rows = read(tmp_path / f"one-{compression}", schema=schema).to_pylist()
        assert [r["id"] for r in rows] == [-i for i in range(300)]
        assert [r["x"] for r in rows] == [[i, 0.5][: i % 3] for i in range(300)]
        assert [r["names"] for r in rows] == [["a", f"b{i}"] if i % 4 else None for i in range(300)]
        assert {r["empty"] for r in rows} == {None}
    table = read(tmp_path / "sequence.tfrecord")
    assert table.schema.field("steps").type == pa.list_(pa.list_(pa.int64()))
    assert table["steps"].to_pylist() == [[list(range(k)) for k in range(i % 4)] for i in range(50)]
    assert table["label"].to_pylist() == list(range(50))


@NEEDS_TF
def test_tensorflow_reads(tmp_path):
    table = TABLE.slice(0, 900)
    for compression in (None, "gzip", "zlib"):
        write(tmp_path / str(compression), TFRecord(compression=compression), table)
    steps = pa.table({"steps": pa.array([[[1, -2], []], [], None], pa.list_(pa.list_(pa.int64()))), "n": [1, 2, 3]})
    write(tmp_path / "steps", TFRecord(), steps)
    out = tensorflow(
        """
import numpy as np, glob
spec = {"id": tf.io.FixedLenFeature([], tf.int64), "x": tf.io.VarLenFeature(tf.float32),
        "name": tf.io.FixedLenFeature([], tf.string, b"none"), "even": tf.io.FixedLenFeature([], tf.int64)}
for name, compression in (("None", ""), ("gzip", "GZIP"), ("zlib", "ZLIB")):
    data = tf.data.TFRecordDataset(glob.glob(f"{sys.argv[1]}/{name}/part*"), compression)
    rows = [tf.io.parse_single_example(r, spec) for r in data]
    print([[int(r["id"]), tf.sparse.to_dense(r["x"]).numpy().tolist(), r["name"].numpy(), int(r["even"])] for r in rows])
data = tf.data.TFRecordDataset(glob.glob(f"{sys.argv[1]}/steps/part*"))
for r in data:
    message = tf.train.SequenceExample.FromString(r.numpy())
    lists = message.feature_lists.feature_list
    print(list(message.context.feature["n"].int64_list.value),
          [list(f.int64_list.value) for f in lists["steps"].feature] if "steps" in lists else None)
""",
        tmp_path,
    ).splitlines()
    rows = [[r["id"], r["x"], b"none" if r["name"] is None else r["name"], int(r["even"])] for r in table.to_pylist()]
    assert out[:3] == [str(rows)] * 3
    assert out[3:] == ["[1] [[1, -2], []]", "[2] []", "[3] None"]


@pytest.mark.parametrize("compression", [None, "gzip", "zlib"])
def test_there_and_back(tmp_path, compression):
    (made,) = write(tmp_path / "out", TFRecord(compression=compression), TABLE)
    assert (made.rows, made.bytes) == (5000, (tmp_path / "out" / made.name).stat().st_size)
    assert read(tmp_path / "out", schema=TABLE.schema).equals(TABLE)
    assert read(tmp_path / "out", columns=["x", "id"]).equals(TABLE.select(["x", "id"]))


KINDS = {
    "i": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "f": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "b": (pa.binary(), st.binary(max_size=200)),
    "s": (pa.string(), st.text(max_size=40)),
}


@given(st.data())
def test_any_rows_there_and_back(data):
    rows = data.draw(st.integers(1, 12))
    columns = {}
    for name, (kind, values) in KINDS.items():
        for depth in range(3):
            cell = values if depth == 0 else st.lists(values, max_size=4)
            cell = cell if depth < 2 else st.lists(cell, max_size=3)
            made = data.draw(st.lists(st.none() | cell, min_size=rows, max_size=rows))
            full = kind if depth == 0 else pa.list_(kind)
            columns[f"{name}{depth}"] = pa.array(made, full if depth < 2 else pa.list_(full))
    batch = pa.RecordBatch.from_pydict(columns)
    payloads = examples(batch, batch.schema.names)
    ends = np.cumsum([len(p) for p in payloads])
    found = Examples(np.frombuffer(b"".join(payloads) + b"\0", np.uint8), np.concatenate([[0], ends[:-1]]), ends)
    assert pa.RecordBatch.from_arrays([found.column(f) for f in batch.schema], schema=batch.schema).equals(batch)


@given(st.binary(min_size=1, max_size=60))
def test_other_bytes_never_end_but_in_a_value_error(payload):
    try:
        found = Examples(np.frombuffer(payload, np.uint8), np.array([0]), np.array([len(payload)]))
        found.infer()
        for name in found.names:
            found.column(pa.field(name, pa.list_(pa.int64())))
    except ValueError:
        pass


@pytest.fixture
def file(tmp_path):
    write(tmp_path / "out", TFRecord(), TABLE)
    return next((tmp_path / "out").glob("part*"))


def changed(file: Path, at: int, value: int = 0xFF) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= value
    file.write_bytes(data)


def offsets(file: Path) -> list[int]:
    data, at, found = file.read_bytes(), 0, []
    while at < len(data):
        found.append(at)
        at += 16 + int.from_bytes(data[at : at + 8], "little")
    return found


def test_a_record_with_a_wrong_checksum(file):
    at = offsets(file)[4321]
    changed(file, at + 20)
    with pytest.raises(RowError, match=rf"Record 4321 \(at byte {at}\) of {file} cannot be read: .*checksum"):
        read(file, schema=TABLE.schema)
    kept = read(file, schema=TABLE.schema, skip=True)
    assert kept.equals(pa.concat_tables([TABLE.slice(0, 4321), TABLE.slice(4322)]))


def test_a_length_with_a_wrong_checksum(file):
    at = offsets(file)[100]
    changed(file, at + 6)
    with pytest.raises(DataError, match=rf"{file} is damaged at byte {at}: the length"):
        read(file, schema=TABLE.schema)
    assert read(file, schema=TABLE.schema, skip=True).equals(TABLE.slice(0, 100))


@pytest.mark.parametrize("lost", [1, 10, 17])
def test_a_file_that_is_cut_off(file, lost):
    at = offsets(file)[-1]
    file.write_bytes(file.read_bytes()[: at + lost])
    with pytest.raises(DataError, match=rf"damaged at byte {at}: it ends within a record, {lost} bytes after"):
        read(file, schema=TABLE.schema)
    assert read(file, schema=TABLE.schema, skip=True).equals(TABLE.slice(0, 4999))


@pytest.mark.parametrize("press", [gzip.compress, zlib.compress])
def test_compressed_data_that_are_cut_off(file, press):
    file.write_bytes(press(file.read_bytes())[:-20])
    with pytest.raises(DataError, match="damaged at byte .*(cut off|within a record)"):
        read(file, schema=TABLE.schema)


def test_a_record_that_does_not_fit_the_schema(tmp_path):
    table = pa.table({"n": pa.array([[1], [2], [3, 4], [2**40]], pa.list_(pa.int64()))})
    write(tmp_path / "out", TFRecord(), table)
    one = pa.schema([("n", pa.int32())])
    with pytest.raises(RowError, match=r"Record 2 \(at byte \d+\) of .*part-00000.tfrecord .*`n` has 2 values"):
        read(tmp_path / "out", schema=one)
    assert read(tmp_path / "out", schema=one, skip=True).to_pylist() == [{"n": 1}, {"n": 2}]
    with pytest.raises(RowError, match="Record 0 .*`n` is int64_list, and its column is list<.*float"):
        read(tmp_path / "out", schema=pa.schema([("n", pa.list_(pa.float32()))]))


def test_a_feature_that_the_first_records_do_not_have(tmp_path):
    rows = [{"a": 1}] * 1200 + [{"a": 1, "b": 2}]
    write(tmp_path / "out", TFRecord(), pa.Table.from_pylist(rows, pa.schema([("a", pa.int64()), ("b", pa.int64())])))
    with pytest.raises(RowError, match="Record 1200 .*`b` is in none of the records"):
        read(tmp_path / "out")
    assert read(tmp_path / "out", columns=["a"]).num_rows == 1201


def test_records_that_are_no_examples(tmp_path):
    path = tmp_path / "raw.tfrecord"
    path.write_bytes(frame([b"hello", b"\xff" * 40, b""]))
    with pytest.raises(DataError, match=r'cannot be taken apart: .*payload="bytes"'):
        read(path)
    assert read(path, payload="bytes")["record"].to_pylist() == [b"hello", b"\xff" * 40, b""]


def test_decode_of_the_user(tmp_path):
    path = tmp_path / "raw.tfrecord"
    path.write_bytes(frame([b"1,2", b"x,y", b"3,4"]))
    schema = pa.schema([("a", pa.int64()), ("b", pa.int64())])

    def decode(record):
        a, b = record["record"].split(b",")
        return {"a": int(a), "b": int(b)}

    with pytest.raises(RowError, match="Record 1 of .*decode failed with ValueError: invalid literal"):
        read(path, schema=schema, decode=decode, payload="bytes")
    assert read(path, schema=schema, decode=decode, payload="bytes", skip=True)["b"].to_pylist() == [2, 4]


def test_refused_before_work():
    with pytest.raises(SignatureError, match=r"`t` is timestamp.*Cast it"):
        TFRecord().check(pa.schema([("t", pa.timestamp("us"))]))
    with pytest.raises(ConfigurationError, match="compression is 'lz4'"):
        TFRecord(compression="lz4")
    with pytest.raises(ConfigurationError, match=r"tfrecord has no option 'compress'; it has: payload, verify"):
        read("/nowhere", "tfrecord", compress=True)


def test_a_null_in_a_list_is_named(tmp_path):
    with pytest.raises(RowError, match="from row 0 of its partition .*`x` has a null in a list"):
        write(tmp_path / "out", TFRecord(), pa.table({"x": pa.array([[1, None]], pa.list_(pa.int64()))}))
