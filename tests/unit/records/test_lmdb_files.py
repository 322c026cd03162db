"""LMDB against the package `lmdb`."""

from __future__ import annotations

import pyarrow as pa
import pytest
from record_files import read, write

from sparkgap._errors import ConfigurationError, DataError, MissingDependencyError, RowError
from sparkgap.records.lmdb_files import Lmdb

lmdb = pytest.importorskip("lmdb")
TABLE = pa.table({"key": [f"{i:06d}" for i in range(9000)], "value": [bytes([i % 256]) * (i % 5000) for i in range(9000)]})
BYTES = pa.schema([("key", pa.binary()), ("value", pa.binary())])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lmdb") / "out"
    write(folder, Lmdb(), TABLE)  # 22 MB: the map has to grow
    return folder / "part-00000.mdb"


def test_the_package_reads(file):
    with lmdb.open(str(file), subdir=False, readonly=True, lock=False) as env, env.begin() as transaction:
        pairs = list(transaction.cursor())
    assert pairs == list(zip(*TABLE.cast(BYTES).to_pydict().values(), strict=True))


def test_there_and_back(file):
    assert read(file, schema=TABLE.schema).equals(TABLE)
    assert read(file).equals(TABLE.cast(BYTES))
    assert read(file, columns=["value"]).equals(TABLE.select(["value"]))


@pytest.mark.parametrize("subdir", [True, False])
def test_the_package_writes(tmp_path, subdir):
    with lmdb.open(str(tmp_path / "a.lmdb"), subdir=subdir, max_dbs=2) as env:
        with env.begin(write=True) as transaction:
            transaction.put(b"k", b"12")
        other = env.open_db(b"other")
        with env.begin(write=True, db=other) as transaction:
            transaction.put(b"o", b"3")
    assert read(tmp_path, database="other", format="lmdb").to_pylist() == [{"key": b"o", "value": b"3"}]
    with pytest.raises(DataError, match="has no database 'none'"):
        read(tmp_path, database="none", format="lmdb")
    numbers = pa.schema([("n", pa.int64())])
    with pytest.raises(RowError, match="Record 1 of .*decode failed with ValueError"):  # the entry of the other database
        read(tmp_path, schema=numbers, decode=lambda r: {"n": int(r["value"])})
    assert read(tmp_path, schema=numbers, decode=lambda r: {"n": int(r["value"])}, skip=True)["n"].to_pylist() == [12]


def test_a_file_that_is_cut_off(tmp_path, file):
    cut = tmp_path / "cut.mdb"
    cut.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(DataError, match="cut.mdb is cut off: it has 100000 bytes, and says that it needs"):
        read(cut)
    cut.write_bytes(b"\0" * 100_000)
    with pytest.raises(DataError, match="cut.mdb is damaged"):
        read(cut)


@pytest.mark.parametrize(
    ("keys", "message"),
    [(["a", "a"], "has the key b'a' again"), (["a", ""], "a key of 0 bytes"), (["a", "b" * 600], "a key of 600 bytes")],
)
def test_rows_that_cannot_be_written(tmp_path, keys, message):
    with pytest.raises(RowError, match=f"Row 1 of its partition has .*{message[4:]}"):
        write(tmp_path / "out", Lmdb(), pa.table({"key": keys, "value": ["x", "y"]}))


def test_other_columns(tmp_path):
    with pytest.raises(ConfigurationError, match="LMDB has the columns `key` and `value`.* there are: x int64"):
        write(tmp_path / "out", Lmdb(), pa.table({"x": [1]}))


def test_without_the_package(file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(MissingDependencyError, match=r"`lmdb` is needed to read LMDB files.*sparkgap\[records\]"):
        read(file)
