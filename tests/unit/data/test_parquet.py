from __future__ import annotations

import datetime
import os
import pickle
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkgap._errors import ConfigurationError, DataError, FileChangedError
from sparkgap.data import filters
from sparkgap.data.parquet import FileSource, files
from sparkgap.data.source import Chunk, Split

HOST = socket.gethostname()


def chunks(source: FileSource, *, tasks: int = 2, rows: int = 1000, columns: Sequence[str] | None = None) -> list[Chunk]:
    splits: tuple[Split, ...] = pickle.loads(pickle.dumps(source.splits(tasks=tasks)))
    there: FileSource = pickle.loads(pickle.dumps(source))
    names = source.schema.names if columns is None else columns
    return [c for split in splits for c in there.read(split, columns=names, rows=rows)]


def table(source: FileSource, **options: Any) -> pa.Table:
    return pa.Table.from_batches([c.batch for c in chunks(source, **options)], None if "columns" in options else source.schema)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1000 rows in 2 files of 5 row groups each: id counts through, x is a list, s is sometimes null."""
    folder = tmp_path_factory.mktemp("numbers")
    for k in range(2):
        ids = np.arange(k * 500, k * 500 + 500)
        rows = {
            "id": ids,
            "x": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(ids, 4).astype(np.float32)), 4).cast(
                pa.list_(pa.float32())
            ),
            "s": pa.array([None if i % 10 == 0 else f"s{i % 7}" for i in ids]),
        }
        pq.write_table(pa.table(rows), folder / f"{k}.parquet", row_group_size=100)
    return folder


class TestRead:
    @settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(tasks=st.integers(1, 40), rows=st.integers(1, 300), low=st.integers(-5, 1010))
    def test_every_row_once_with_its_number(self, numbers: Path, tasks: int, rows: int, low: int) -> None:
        source = files(numbers, columns=["x", "id"], where=[("id", ">=", low), ("id", "!=", 777)])
        got = []
        for chunk in chunks(source, tasks=tasks, rows=rows):
            assert 0 < chunk.batch.num_rows <= rows
            assert chunk.batch.schema.names == ["x", "id"]
            base = 500 if chunk.origin == str(numbers / "1.parquet") else 0
            ids = chunk.batch.column("id").to_pylist()
            assert [base + chunk.row_number(i) for i in range(len(ids))] == ids
            assert chunk.batch.column("x").to_pylist() == [[float(i)] * 4 for i in ids]
            got += ids
        assert got == [i for i in range(max(0, low), 1000) if i != 777]

    def test_columns_in_the_order_asked(self, numbers: Path) -> None:
        source = files(numbers)
        assert source.schema == pa.schema([("id", pa.int64()), ("x", pa.list_(pa.float32())), ("s", pa.string())])
        assert table(source, columns=["s", "id"]).column_names == ["s", "id"]
        assert source.default_keep is None

    def test_only_row_groups_that_can_match(self, numbers: Path) -> None:
        parts = [p for s in files(numbers, where=[("id", ">", 720), ("id", "<", 810)]).splits(tasks=1) for p in s.parts]
        assert [(p.path, p.groups) for p in parts] == [(str(numbers / "1.parquet"), (2, 3))]
        assert files(numbers, where=[("id", ">", 5000)]).splits(tasks=4) == ()

    def test_row_groups_are_cut_only_for_more_tasks(self, numbers: Path) -> None:
        for tasks, expected in ((1, 1), (4, 10), (10, 10), (64, 10)):
            assert len(files(numbers).splits(tasks=tasks)) == expected
        assert sum(s.rows or 0 for s in files(numbers).splits(tasks=3)) == 1000

    def test_a_large_row_group_is_cut(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"id": np.arange(5000)}), tmp_path / "one.parquet")
        source = files(tmp_path, where=[("id", ">", 10)])
        splits = source.splits(tasks=7)
        assert [(s.parts[0].start, s.parts[0].stop) for s in splits][:2] == [(0, 714), (714, 1428)]
        got = chunks(source, tasks=7, rows=333)
        assert [c.row_number(i) for c in got for i in range(c.batch.num_rows)] == list(range(11, 5000))
        assert pa.Table.from_batches([c.batch for c in got])["id"].to_pylist() == list(range(11, 5000))

    def test_batches_hold_at_most_one_row_group(self, numbers: Path) -> None:
        assert {c.batch.num_rows for c in chunks(files(numbers), rows=1 << 20)} == {100}

    def test_bytes_are_those_of_the_columns(self, numbers: Path) -> None:
        (all_of_it,) = files(numbers).splits(tasks=1)
        (one,) = files(numbers, columns=["s"]).splits(tasks=1)
        assert one.nbytes < all_of_it.nbytes / 3
        metas = [pq.read_metadata(p).row_group(g) for p in numbers.iterdir() for g in range(5)]
        assert all_of_it.nbytes == sum(m.column(j).total_compressed_size for m in metas for j in range(3))

    def test_max_bytes(self, numbers: Path) -> None:
        splits = files(numbers).splits(tasks=1, max_bytes=3 * files(numbers).splits(tasks=10)[0].nbytes)
        assert all(sum(len(p.groups or ()) for p in s.parts) <= 3 for s in splits)

    def test_types_of_writers(self, tmp_path: Path) -> None:
        data = {
            "dict": pa.array(["a", None]).dictionary_encode(), "view": pa.array(["x", "y"], pa.string_view()),
            "u8": pa.array([[1], None], pa.list_(pa.uint8())), "fixed": pa.array([[1, 2], None], pa.list_(pa.float32(), 2)),
            "large": pa.array(["p", "q"], pa.large_string()),
        }  # fmt: skip
        pq.write_table(pa.table(data), tmp_path / "a.parquet")
        got = table(files(tmp_path))
        kinds = [pa.string(), pa.string(), pa.list_(pa.uint8()), pa.list_(pa.float32(), 2), pa.large_string()]
        assert got.schema.types == kinds
        assert got.to_pydict() == {name: array.to_pylist() for name, array in data.items()}

    def test_dots_in_names(self, tmp_path: Path) -> None:
        data = pa.table({"c.d": [1, 2], "c": pa.array([{"d": 3}, {"d": 4}])})
        pq.write_table(data, tmp_path / "a.parquet")
        assert table(files(tmp_path)).equals(data)
        assert table(files(tmp_path, columns=["c"], where=[("c.d", "=", 2)])).to_pylist() == [{"c": {"d": 4}}]

    def test_nulls_and_nan_in_filters(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"x": [1.0, float("nan"), None, 3.0]}), tmp_path / "a.parquet")
        assert table(files(tmp_path, where=[("x", ">", 5.0)])).num_rows == 1  # NaN, as in Spark
        assert table(files(tmp_path, where=[("x", "not in", [1.0])])).num_rows == 2
        assert table(files(tmp_path, where=[("x", "is null")])).to_pylist() == [{"x": None}]


class TestFolders:
    @pytest.fixture
    def folders(self, tmp_path: Path) -> Path:
        for day, city, rows in ((1, "Bern", 3), (1, "a%2Fb", 2), (2, "__HIVE_DEFAULT_PARTITION__", 4)):
            folder = tmp_path / f"day={day}" / f"city={city}"
            folder.mkdir(parents=True)
            pq.write_table(pa.table({"x": np.arange(rows)}), folder / "part.parquet")
        (tmp_path / "_SUCCESS").touch()
        return tmp_path

    def test_columns(self, folders: Path) -> None:
        source = files(folders)
        assert source.schema == pa.schema([("x", pa.int64()), ("day", pa.int32()), ("city", pa.string())])
        got = table(source).to_pylist()
        assert len(got) == 9
        assert {(r["day"], r["city"]) for r in got} == {(1, "Bern"), (1, "a/b"), (2, None)}

    def test_only_folder_columns(self, folders: Path) -> None:
        assert table(files(folders, columns=["city"]))["city"].to_pylist() == ["Bern"] * 3 + ["a/b"] * 2 + [None] * 4

    @pytest.mark.parametrize(
        ("where", "rows", "read"),
        [
            ([("day", "=", 1)], 5, 2),
            ([("city", "is null")], 4, 1),
            ([("city", "!=", "Bern")], 2, 1),
            ([("city", "=", "Bern"), ("x", ">", 0)], 2, 1),
            ([[("city", "=", "Bern")], [("x", ">=", 3)]], 4, 2),
            ([("day", ">", 9)], 0, 0),
        ],
    )
    def test_filters(self, folders: Path, where: Any, rows: int, read: int) -> None:
        source = files(folders, where=where)
        assert table(source).num_rows == rows
        assert len([p for s in source.splits(tasks=9) for p in s.parts]) <= max(read, 3)
        if filters.columns(source.where) == frozenset():
            assert len([p for s in source.splits(tasks=9) for p in s.parts]) == read

    def test_one_folder_given_is_no_column(self, folders: Path) -> None:
        assert files(folders / "day=1").schema.names == ["x", "city"]
        assert files(f"{folders}/day=*/city=Bern").schema.names == ["x"]

    def test_folder_wins_over_file(self, tmp_path: Path) -> None:
        (tmp_path / "p=5").mkdir()
        pq.write_table(pa.table({"p": [1], "x": [2]}), tmp_path / "p=5" / "a.parquet")
        source = files(tmp_path)
        assert source.schema == pa.schema([("p", pa.int32()), ("x", pa.int64())])
        assert table(source).to_pylist() == [{"p": 5, "x": 2}]

    def test_dates(self, tmp_path: Path) -> None:
        for day in ("2024-01-31", "2024-02-01"):
            (tmp_path / f"d={day}").mkdir()
            pq.write_table(pa.table({"x": [1]}), tmp_path / f"d={day}" / "a.parquet")
        source = files(tmp_path, where=[("d", ">", datetime.date(2024, 1, 31))])
        assert table(source).to_pylist() == [{"x": 1, "d": datetime.date(2024, 2, 1)}]

    def test_different_folders(self, folders: Path) -> None:
        pq.write_table(pa.table({"x": [1]}), folders / "day=1" / "stray.parquet")
        with pytest.raises(
            DataError, match=r"stray.parquet lies in folders for the columns \['day'\], .* for \['day', 'city'\]"
        ):
            files(folders)


class TestRefused:
    def test_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "_x.parquet").touch()
        (tmp_path / "empty.parquet").touch()
        with pytest.raises(DataError, match=r"There is no Parquet file at .*: 1 files, all empty"):
            files(tmp_path)

    def test_not_parquet(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_text("this is not a Parquet file at all")
        with pytest.raises(DataError, match=rf"a.txt cannot be read on host {HOST}: .*Is it complete"):
            files(tmp_path)

    def test_truncated_later_file(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
        (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
        with pytest.raises(DataError, match=r"b.parquet cannot be read on host"):
            files(tmp_path).splits(tasks=1)

    @pytest.mark.parametrize(
        ("second", "columns", "message"),
        [
            ({"x": [1]}, None, r"b.parquet lacks `y`, which the first file has. Name the columns .*mergeSchema"),
            ({"x": [1], "y": [1], "z": [1]}, None, "b.parquet has `z`, which the first file has not"),
            ({"x": ["1"], "y": [1]}, None, "b.parquet: column `x` is string, in the first file it is int64"),
            (
                {"x": pa.array([1], pa.int32()), "y": [1]},
                ["x"],
                "b.parquet: column `x` is int32, in the first file it is int64",
            ),
            ({"y": [1]}, ["x"], "b.parquet lacks `x`"),
        ],
    )
    def test_other_schema(self, tmp_path: Path, second: dict[str, Any], columns: list[str] | None, message: str) -> None:
        pq.write_table(pa.table({"x": [1], "y": [2]}), tmp_path / "a.parquet")
        pq.write_table(pa.table(second), tmp_path / "b.parquet")
        with pytest.raises(DataError, match=message):
            files(tmp_path, columns=columns).splits(tasks=1)

    def test_other_schema_that_does_not_matter(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"x": [1], "y": [2]}), tmp_path / "a.parquet")
        pq.write_table(pa.table({"z": [1], "x": [3]}), tmp_path / "b.parquet")
        assert table(files(tmp_path, columns=["x"])).to_pydict() == {"x": [1, 3]}

    def test_columns_twice_in_a_file(self, tmp_path: Path) -> None:
        pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"]), tmp_path / "a.parquet")
        with pytest.raises(DataError, match=r"a.parquet has several columns named x"):
            files(tmp_path)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ("x", "columns is 'x'; give a list of names"),
            ([], r"columns is \[\]"),
            (["x", "nope"], "columns names 'nope'; the files have: id, x, s"),
            (["x", "x"], "columns names a column twice"),
        ],
    )
    def test_columns(self, numbers: Path, columns: Any, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            files(numbers, columns=columns)

    def test_plan_in_a_task(self, numbers: Path) -> None:
        there = pickle.loads(pickle.dumps(files(numbers)))
        assert there == files(numbers)
        assert len(pickle.dumps(there)) < 2500
        with pytest.raises(ConfigurationError, match="The list of files stayed on the driver"):
            there.splits(tasks=1)


class TestChanged:
    @pytest.fixture
    def planned(self, tmp_path: Path) -> tuple[Path, FileSource, tuple[Split, ...]]:
        pq.write_table(pa.table({"x": np.arange(100)}), tmp_path / "a.parquet")
        source = files(tmp_path)
        return tmp_path / "a.parquet", source, source.splits(tasks=1)

    def read(self, source: FileSource, splits: tuple[Split, ...]) -> int:
        return sum(c.batch.num_rows for s in splits for c in source.read(s, columns=["x"], rows=10))

    def test_gone(self, planned: tuple[Path, FileSource, tuple[Split, ...]]) -> None:
        path, source, splits = planned
        assert self.read(source, splits) == 100
        path.unlink()
        with pytest.raises(FileChangedError, match=rf"a.parquet is not there on host {HOST}. Was it deleted"):
            self.read(source, splits)

    def test_other_size(self, planned: tuple[Path, FileSource, tuple[Split, ...]]) -> None:
        path, source, splits = planned
        pq.write_table(pa.table({"x": np.arange(500)}), path)
        with pytest.raises(FileChangedError, match=r"a.parquet on host .* is not what it was when the work was planned"):
            self.read(source, splits)

    def test_other_time(self, planned: tuple[Path, FileSource, tuple[Split, ...]]) -> None:
        path, source, splits = planned
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 2_000_000))
        with pytest.raises(FileChangedError, match=rf"planned were {stat.st_size} bytes changed at {stat.st_mtime_ns}"):
            self.read(source, splits)

    def test_before_planning(self, planned: tuple[Path, FileSource, tuple[Split, ...]]) -> None:
        path, _, _ = planned
        source = files(path)
        pq.write_table(pa.table({"x": np.arange(500)}), path)
        with pytest.raises(FileChangedError, match="is not what it was"):
            source.splits(tasks=1)

    def test_damaged_pages(self, planned: tuple[Path, FileSource, tuple[Split, ...]]) -> None:
        path, source, splits = planned
        stat = path.stat()
        data = bytearray(path.read_bytes())
        data[4:60] = b"\xff" * 56
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        with pytest.raises(DataError, match=rf"a.parquet cannot be read on host {HOST}"):
            self.read(source, splits)


def test_many_files_are_units_whose_footers_the_tasks_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(9):
        pq.write_table(pa.table({"x": np.arange(i * 10, i * 10 + 10)}), tmp_path / f"{i}.parquet", row_group_size=5)
    monkeypatch.setattr("sparkgap.data.footers._MANY", 8)
    source = files(tmp_path, where=[("x", ">=", 42)])
    splits = source.splits(tasks=3)
    assert [len(s.parts) for s in splits] == [1] * 9
    assert {p.groups for s in splits for p in s.parts} == {None}
    assert table(source)["x"].to_pylist() == list(range(42, 90))
    assert chunks(source)[0].row_number(0) == 2
    pq.write_table(pa.table({"y": [1]}), tmp_path / "9.parquet")
    with pytest.raises(DataError, match=r"9.parquet has 0 columns named `x`, one was expected; it has: y"):
        table(files(tmp_path))


def test_remote_files() -> None:
    memory = fsspec.filesystem("memory")
    try:
        for p in (1, 2):
            with memory.open(f"/lake/t/p={p}/a b.parquet", "wb") as out:
                pq.write_table(pa.table({"x": np.arange(300)}), out, row_group_size=100)
        source = files("memory://lake/t", where=[("p", "=", 2), ("x", ">=", 150)])
        got = chunks(source, rows=64)
        assert {c.origin for c in got} == {"memory://lake/t/p=2/a b.parquet"}
        assert [c.row_number(i) for c in got for i in range(c.batch.num_rows)] == list(range(150, 300))
        memory.rm("/lake/t/p=2", recursive=True)
        with pytest.raises(FileChangedError, match=r"memory://lake/t/p=2/a b.parquet is not there"):
            chunks(source)
    finally:
        memory.store.clear()


def test_file_uri_and_lists(numbers: Path) -> None:
    paths = [f"file://{numbers}/1.parquet", numbers / "0.parquet"]
    assert table(files(paths))["id"].to_pylist() == [*range(500, 1000), *range(500)]
    assert table(files(f"{numbers}/[0]*.parquet")).num_rows == 500


def test_options_stay_out_of_the_repr(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    try:
        with memory.open("/lake/x.parquet", "wb") as out:
            pq.write_table(pa.table({"x": [1]}), out)
        source = files("memory://lake/x.parquet", storage_options={"secret": "hunter2"})
        assert table(source).num_rows == 1
        assert "hunter2" not in repr(source)
    finally:
        memory.store.clear()
