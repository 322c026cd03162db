"""WebDataset against the package `webdataset`, and against itself."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from record_files import read, write

from sparkgap._errors import DataError, RowError, SignatureError
from sparkgap.records.tar_files import WebDataset

ARRAYS = pa.list_(pa.list_(pa.float32()))
TABLE = pa.table(
    {
        "__key__": [f"dir/s{i:04d}" for i in range(1500)],
        "cls": pa.array(range(1500), pa.int64()),
        "img.png": pa.array([None if i == 7 else bytes([i % 256]) * (i % 50) for i in range(1500)], pa.binary()),
        "txt": [f"ü {i}" for i in range(1500)],
        "x.npy": pa.array([[[float(i), 1.0]] * (1 + i % 2) for i in range(1500)], ARRAYS),
    }
)


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_there_and_back(tmp_path, compression):
    write(tmp_path / "out", WebDataset(compression), TABLE)
    assert read(tmp_path / "out").equals(TABLE)  # the types are told by the endings
    assert read(tmp_path / "out", columns=["txt", "cls"]).equals(TABLE.select(["txt", "cls"]))


def test_the_package_reads(tmp_path):
    wds = pytest.importorskip("webdataset")
    write(tmp_path / "out", WebDataset(), TABLE)
    rows = list(wds.WebDataset(str(tmp_path / "out" / "part-00000.tar"), shardshuffle=False, empty_check=False).decode())
    assert [r["__key__"] for r in rows] == TABLE["__key__"].to_pylist()
    assert [r["cls"] for r in rows] == list(range(1500))
    assert [r["txt"] for r in rows] == TABLE["txt"].to_pylist()
    assert "img.png" not in rows[7]
    assert np.array_equal(rows[3]["x.npy"], [[3, 1], [3, 1]])


def test_the_package_writes(tmp_path):
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "a.tar.gz")) as out:
        for i in range(20):
            sample = {"__key__": f"k{i}", "cls": i, "json": {"a": i, "b": [1.5]}, "npy": np.full(i % 3, i, np.int16)}
            out.write({**sample, "jpg": b"\xff\xd8" + bytes(i)})
    table = read(tmp_path / "a.tar.gz")
    assert table["cls"].to_pylist() == list(range(20))
    assert table["npy"].to_pylist() == [[i] * (i % 3) for i in range(20)]
    assert table["jpg"][3].as_py() == b"\xff\xd8\0\0\0"
    assert table["json"][0].as_py().replace(" ", "") == '{"a":0,"b":[1.5]}'
    typed = pa.schema([("json", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.float64()))])), ("cls", pa.string())])
    assert read(tmp_path / "a.tar.gz", schema=typed).to_pylist()[4] == {"json": {"a": 4, "b": [1.5]}, "cls": "4"}


def test_keys_are_made_where_there_are_none(tmp_path):
    write(tmp_path / "out", WebDataset(), pa.table({"cls": range(3)}), partition=2)
    assert read(tmp_path / "out")["__key__"].to_pylist() == ["000002000000000", "000002000000001", "000002000000002"]


def members(path: Path, *entries: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, value in entries:
            info = tarfile.TarInfo(name)
            info.size = len(value)
            tar.addfile(info, io.BytesIO(value))
    return path


def test_samples_that_cannot_be_read(tmp_path):
    path = members(
        tmp_path / "a.tar", ("a.cls", b"1"), ("b.cls", b"one"), ("c.cls", b"3"), ("c.cls", b"4"), ("d.CLS", b" 5\n")
    )
    typed = pa.schema([("cls", pa.int64())])
    with pytest.raises(RowError, match=r"Record 1 \(at byte 1024\) of .*a.tar cannot be read: entry `cls` is no int64"):
        read(path, schema=typed)
    assert read(path, schema=typed, skip=True)["cls"].to_pylist() == [1, 5]
    with pytest.raises(DataError, match="Sample 'c' .*two entries `cls`"):
        read(path)


def test_an_entry_that_the_first_samples_do_not_have(tmp_path):
    path = members(tmp_path / "a.tar", *[(f"{i}.cls", b"1") for i in range(120)], ("x.txt", b"new"))
    with pytest.raises(RowError, match="Record 120 .*`txt` is in none of the samples"):
        read(path)


@pytest.mark.parametrize(("stop", "rows"), [(1024 * 7 + 512, 6), (1024 * 7 + 300, 6), (1024 * 7 + 700, 7), (1024 * 8, 7)])
def test_a_tar_that_is_cut_off(tmp_path, stop, rows):
    path = members(tmp_path / "a.tar", *[(f"{i}.cls", b"%d" % i) for i in range(20)])
    path.write_bytes(path.read_bytes()[:stop])
    typed = pa.schema([("cls", pa.int64())])
    with pytest.raises(DataError, match=r"a.tar is damaged at byte \d+: "):
        read(path, schema=typed)
    assert read(path, schema=typed, skip=True)["cls"].to_pylist() == list(range(rows))


def test_a_damaged_header_is_not_the_end(tmp_path):
    path = members(tmp_path / "a.tar", *[(f"{i}.cls", b"%d" % i) for i in range(20)])
    data = bytearray(path.read_bytes())
    data[5 * 1024 + 3] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(DataError, match="a header is wrong"):
        read(path, schema=pa.schema([("cls", pa.int64())]))


def test_compressed_tars(tmp_path):
    plain = members(tmp_path / "a.tar", ("a.cls", b"1"), ("b.cls", b"2")).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "a.tar.zst").write_bytes(pa.compress(plain, codec="zstd", asbytes=True))
    for name in ("a.tar.gz", "a.tar.zst"):
        assert read(tmp_path / name)["cls"].to_pylist() == [1, 2]
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(plain)[:-30])
    with pytest.raises(DataError, match="a.tar.gz is damaged"):
        read(tmp_path / "a.tar.gz", schema=pa.schema([("cls", pa.int64())]))


def test_rows_that_cannot_be_written(tmp_path):
    for keys in (["a", "a"], ["a", "b.c"], ["a", None]):
        with pytest.raises(RowError, match="Row 1 of its partition has the key"):
            write(tmp_path / "out", WebDataset(), pa.table({"__key__": pa.array(keys, pa.string()), "cls": [1, 2]}))
    with pytest.raises(SignatureError, match="`d` is date32"):
        WebDataset().check(pa.schema([("d", pa.date32())]))
