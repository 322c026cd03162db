"""MDS: bytes that mosaicml-streaming 0.13 wrote, and against itself."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from record_files import read, write

from sparkgap._errors import DataError, RowError, SignatureError
from sparkgap.records.mds_files import Mds

TABLE = pa.table(
    {
        "id": pa.array(range(600), pa.int64()),
        "half": pa.array([i / 2 for i in range(600)], pa.float32()),
        "small": pa.array([i % 100 for i in range(600)], pa.int16()),
        "text": [f"ü{i}" for i in range(600)],
        "raw": pa.array([bytes(i % 9) for i in range(600)], pa.binary()),
        "x": pa.array([[float(i)] * (1 + i % 3) for i in range(600)], pa.list_(pa.float32())),
        "grid": pa.array([[[i, 1], [2, 3]] for i in range(600)], pa.list_(pa.list_(pa.int64()))),
        "more": pa.array(
            [{"a": i, "b": ["c"]} for i in range(600)], pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])
        ),
    }
)
META = {
    "column_encodings": ["ndarray:float32:3", "int", "str", "ndarray"],
    "column_names": ["f", "i", "s", "x"],
    "column_sizes": [12, 8, None, None],
    "format": "mds", "size_limit": 800, "version": 2,
}  # fmt: skip
"""The config of a shard of two samples that MDSWriter wrote: `i` 0 and 1, `s` "ü0" and "ü1", `x` int16 arange(i + 1)."""
SAMPLES = (
    b"\x03\0\0\0\x05\0\0\0" + bytes(12) + bytes(8) + b"\xc3\xbc0" + b"\x11\x04\x01\0\0",
    b"\x03\0\0\0\x07\0\0\0" + b"\0\0\x80?" * 3 + b"\x01" + bytes(7) + b"\xc3\xbc1" + b"\x11\x04\x02\0\0\x01\0",
)


@pytest.fixture
def foreign(tmp_path):
    config = json.dumps(META).encode()
    ends = np.cumsum([16 + len(config), *map(len, SAMPLES)]).astype("<u4")
    data = b"\x02\0\0\0" + ends.tobytes() + config + b"".join(SAMPLES)
    (tmp_path / "shard.00000.mds").write_bytes(data)
    raw = {"basename": "shard.00000.mds", "bytes": len(data), "hashes": {"xxh64": "5d02012bca1422ac"}}
    shard = {**META, "compression": None, "hashes": ["xxh64"], "raw_data": raw, "samples": 2, "zip_data": None}
    (tmp_path / "index.json").write_text(json.dumps({"version": 2, "shards": [shard]}))
    return tmp_path


def test_what_the_package_writes(foreign):
    rows = read(foreign).to_pylist()
    assert rows == [{"f": [0, 0, 0], "i": 0, "s": "ü0", "x": [0]}, {"f": [1, 1, 1], "i": 1, "s": "ü1", "x": [0, 1]}]
    wide = pa.schema([("x", pa.list_(pa.float64())), ("i", pa.int32())])
    assert read(foreign, schema=wide).to_pylist() == [{"x": [0.0], "i": 0}, {"x": [0.0, 1.0], "i": 1}]


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_there_and_back(tmp_path, compression):
    made = write(tmp_path / "out", Mds(compression, shard_bytes=10_000), TABLE)
    assert len(made) > 3
    assert sum(m.rows for m in made) == 600
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert [s["raw_data"]["basename"] for s in index["shards"]] == [m.name.removesuffix(".zstd") for m in made]
    back = read(tmp_path / "out", schema=TABLE.schema)
    assert back.equals(TABLE)
    told = read(tmp_path / "out")
    assert told.select(["id", "half", "small", "text", "raw", "x", "grid"]).equals(TABLE.drop_columns(["more"]))
    assert json.loads(told["more"][3].as_py()) == {"a": 3, "b": ["c"]}


def test_a_shard_is_cut_for_several_tasks(tmp_path):
    from sparkgap.records.read import open_source

    write(tmp_path / "out", Mds(), TABLE)
    source = open_source(tmp_path / "out", "auto", None, ["id"], None, False, None, {})
    splits = source.splits(tasks=4)
    assert len(splits) == 4
    rows = [c.batch["id"].to_pylist() for s in splits for c in source.read(s, columns=["id"], rows=1000)]
    assert [i for row in rows for i in row] == list(range(600))


def test_an_index_of_folders(foreign, tmp_path):
    inner = tmp_path / "3"
    inner.mkdir()
    index = json.loads((foreign / "index.json").read_text())
    (foreign / "shard.00000.mds").rename(inner / "shard.00000.mds")
    (inner / "index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="shard.00000.mds, which is not there"):
        read(foreign)
    (foreign / "index.json").unlink()
    assert read(foreign).num_rows == 2
    index["shards"][0]["raw_data"]["basename"] = "3/shard.00000.mds"
    (foreign / "index.json").write_text(json.dumps(index))
    assert read(foreign).num_rows == 2  # once: the index at the top stands for that of the folder


def test_damage(tmp_path):
    (made,) = write(tmp_path / "out", Mds(), TABLE)
    file = tmp_path / "out" / made.name
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match="part-00000.mds is damaged at byte 0: its sha1 is"):
        read(file.parent, schema=TABLE.schema)
    file.write_bytes(data[:-3])
    with pytest.raises(DataError, match=rf"part-00000.mds is damaged at byte {len(data) - 3}: it has"):
        read(file.parent, schema=TABLE.schema)
    assert read(file.parent, schema=TABLE.schema, skip=True).num_rows == 0
    (file.parent / "index.json").write_text('{"shards": [')
    with pytest.raises(DataError, match="index.json is no index of MDS shards, or is damaged"):
        read(file.parent)


def test_a_value_that_does_not_fit(foreign):
    with pytest.raises(
        RowError, match="Record 0 of .*shard.00000.mds cannot be read: column `x` does not fit int8: an array of"
    ):
        read(foreign, schema=pa.schema([("x", pa.int8())]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (pa.array([1, None]), "`v`: it has a null, and MDS has none"),
        (pa.array([[1], []], pa.list_(pa.int64())), "`v`: it has an array without elements"),
        (pa.array([[[1], [2, 3]]], pa.list_(pa.list_(pa.int64()))), "`v`: its lists differ in length"),
    ],
)
def test_rows_that_cannot_be_written(tmp_path, values, message):
    with pytest.raises(RowError, match=f"from row 0 of its partition .*column {message}"):
        write(tmp_path / "out", Mds(), pa.table({"v": values}))


def test_types_without_an_encoding():
    with pytest.raises(SignatureError, match="`d` is date32"):
        Mds().check(pa.schema([("d", pa.date32())]))
