from __future__ import annotations

import datetime
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sparkgap._errors import ConfigurationError, DataError, FileChangedError
from sparkgap.data import image_files
from sparkgap.data.image_files import ImageSource, images
from sparkgap.data.source import Chunk


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i, name in enumerate(
        ["a.jpg", "b.PNG", "deep/c d%.jpeg", "deep/er/e.webp", "notes.txt", "_no.jpg", ".no/x.jpg", "empty.gif"]
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if "empty" in name else name.encode() * (i + 1))
    return tmp_path


def read(source: ImageSource, *, tasks: int = 1, rows: int = 1000, columns: list[str] | None = None) -> list[Chunk]:
    there = pickle.loads(pickle.dumps(source))
    names = columns or there.schema.names
    return [c for split in source.splits(tasks=tasks) for c in there.read(split, columns=names, rows=rows)]


def test_rows(photos: Path) -> None:
    source = images(photos)
    assert (source.name, source.default_keep, source.ignored) == ("image files", ("path",), 1)
    (chunk,) = read(source)
    assert chunk.batch.schema == source.schema
    rows = {Path(r["path"]).name: r for r in chunk.batch.to_pylist()}
    assert set(rows) == {"a.jpg", "b.PNG", "c d%.jpeg", "e.webp", "empty.gif"}
    file = photos / "deep" / "c d%.jpeg"
    stat = file.stat()
    assert rows["c d%.jpeg"] == {
        "path": f"file:{file}",
        "length": stat.st_size,
        "modificationTime": datetime.datetime.fromtimestamp(0, datetime.timezone.utc)
        + datetime.timedelta(milliseconds=stat.st_mtime_ns // 10**6),
        "content": file.read_bytes(),
    }
    assert rows["empty.gif"]["content"] == b""


def test_columns_and_batches(photos: Path) -> None:
    got = read(images(photos), rows=2, columns=["content", "path"])
    assert [c.batch.num_rows for c in got] == [2, 2, 1]
    assert got[0].batch.schema.names == ["content", "path"]
    assert got[0].origin == f"{photos}/a.jpg and 1 files after it"
    assert got[2].origin == str(photos / "empty.gif")
    names = [Path(p).name for c in got for p in c.batch.column("path").to_pylist()]
    assert names == ["a.jpg", "b.PNG", "c d%.jpeg", "e.webp", "empty.gif"]


def test_splits(photos: Path) -> None:
    assert len(images(photos).splits(tasks=1)) == 1
    assert len(images(photos).splits(tasks=3)) == 5  # a file each: whoever is done early takes the next
    assert len(images(photos).splits(tasks=50)) == 5
    assert {Path(p["path"]).name for c in read(images(photos), tasks=4) for p in c.batch.to_pylist()} >= {"a.jpg", "e.webp"}


@pytest.mark.parametrize(
    ("options", "expected", "ignored"),
    [
        ({"recursive": False}, ["a.jpg", "b.PNG", "empty.gif"], 1),
        ({"extensions": ["PNG", ".webp"]}, ["b.PNG", "e.webp"], 4),
        ({"extensions": None}, ["a.jpg", "b.PNG", "c d%.jpeg", "e.webp", "empty.gif", "notes.txt"], 0),
    ],
)
def test_options(photos: Path, options: dict[str, Any], expected: list[str], ignored: int) -> None:
    source = images(photos, **options)
    assert [Path(p["path"]).name for c in read(source) for p in c.batch.select(["path"]).to_pylist()] == expected
    assert source.ignored == ignored


def test_glob_and_lists(photos: Path) -> None:
    source = images([f"{photos}/*.jpg", photos / "deep" / "er"])
    assert [Path(p["path"]).name for c in read(source, columns=["path"]) for p in c.batch.to_pylist()] == ["a.jpg", "e.webp"]


def test_batches_by_bytes_and_files_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        (tmp_path / f"{i:02}.jpg").write_bytes(bytes([i]) * 1000)
    monkeypatch.setattr(image_files, "_BATCH_BYTES", 3500)
    got = read(images(tmp_path))
    assert [c.batch.num_rows for c in got] == [3] * 13 + [1]
    assert [c[0] for chunk in got for c in chunk.batch.column("content").to_pylist()] == list(range(40))
    started: list[str] = []
    plain = image_files._content

    def counted(options: Any, part: Any) -> bytes:
        started.append(part.path)
        return plain(options, part)

    monkeypatch.setattr(image_files, "_content", counted)
    (split,) = images(tmp_path).splits(tasks=1)
    reading = image_files._contents((), split.parts)
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert 1 <= len(started) <= 3


def test_reading_may_stop_early(photos: Path) -> None:
    source = images(photos)
    (split,) = source.splits(tasks=1)
    reading = source.read(split, columns=["content"], rows=1)
    assert next(reading).batch.num_rows == 1
    reading.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("sparkgap-images")]


def test_changed_and_gone(photos: Path) -> None:
    source = images(photos)
    splits = source.splits(tasks=1)
    stat = (photos / "b.PNG").stat()
    os.utime(photos / "b.PNG", ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    with pytest.raises(FileChangedError, match=r"b.PNG on host .* is not what it was"):
        list(source.read(splits[0], columns=["content"], rows=9))
    (photos / "b.PNG").unlink()
    with pytest.raises(FileChangedError, match=r"b.PNG is not there on host"):
        list(source.read(splits[0], columns=["content"], rows=9))


def test_refused(photos: Path) -> None:
    with pytest.raises(DataError, match=r"There is no image at .*: 1 files have other endings than .*\.jpg"):
        images(photos / "notes.txt")
    with pytest.raises(ConfigurationError, match=r"extensions is '\.jpg'; give a list"):
        images(photos, extensions=".jpg")
    with pytest.raises(ConfigurationError, match=r"extensions is \[\]"):
        images(photos, extensions=[])
    with pytest.raises(DataError, match="There is nothing at"):
        images(photos / "none")
    with pytest.raises(ConfigurationError, match="The list of files stayed on the driver"):
        pickle.loads(pickle.dumps(images(photos))).splits(tasks=1)


def test_schema_is_spark_s() -> None:
    assert image_files._SCHEMA.field("modificationTime").type == pa.timestamp("us", "UTC")
