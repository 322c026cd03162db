"""Folders of images, and which format files have."""

from __future__ import annotations

import gzip

import pyarrow as pa
import pytest
from record_files import read, write

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.data import discovery
from sparkgap.records import registry
from sparkgap.records.frames import frame
from sparkgap.records.lmdb_files import Lmdb
from sparkgap.records.tar_files import WebDataset


@pytest.fixture
def pets(tmp_path):
    for name in ("dog/1.jpg", "cat/2.PNG", "cat/deep/3.jpg", "cat/notes.txt"):
        file = tmp_path / "pets" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode())
    return tmp_path / "pets"


def test_the_folder_is_the_class(pets):
    table = read(pets)
    assert table.schema.names == ["path", "label", "label_index", "modificationTime", "length", "content"]
    rows = {r["content"]: (r["label"], r["label_index"], r["length"]) for r in table.to_pylist()}
    assert rows == {b"dog/1.jpg": ("dog", 1, 9), b"cat/2.PNG": ("cat", 0, 9), b"cat/deep/3.jpg": ("cat", 0, 14)}
    assert sorted(read(pets, columns=["label_index"])["label_index"].to_pylist()) == [0, 0, 1]
    assert read(pets, "image_folder", extensions=["txt"])["label"].to_pylist() == ["cat"]


def test_images_without_a_class(pets):
    with pytest.raises(DataError, match=r"lies in no folder below .*gap.images"):
        read(pets / "cat")
    with pytest.raises(ConfigurationError, match=r"columns is \['labels'\]; there are: path, label"):
        read(pets, columns=["labels"])
    with pytest.raises(ConfigurationError, match="image_folder has no option 'size'"):
        read(pets, "image_folder", size=3)


def detected(path) -> str:
    return registry.detect(discovery.discover(path, {}).entries, {})


def test_formats_are_told_by_content_where_names_do_not(tmp_path):
    tar = write(tmp_path / "tar", WebDataset(), pa.table({"cls": [1]}))[0].name
    pytest.importorskip("lmdb")
    base = write(tmp_path / "lmdb", Lmdb(), pa.table({"key": ["a"], "value": ["b"]}))[0].name
    contents = {
        "webdataset": (tmp_path / "tar" / tar).read_bytes(),
        "lmdb": (tmp_path / "lmdb" / base).read_bytes(),
        "tfrecord": frame([b"abc"]),
    }
    for name, content in contents.items():
        (tmp_path / "train-00000-of-00001").write_bytes(content)
        assert detected(tmp_path / "train-00000-of-00001") == name
        if name != "lmdb":
            (tmp_path / "train-00000-of-00001").write_bytes(gzip.compress(content))
            assert detected(tmp_path / "train-00000-of-00001") == name
    (tmp_path / "train-00000-of-00001").write_bytes(b"hello")
    with pytest.raises(DataError, match="of no known format.*image_folder, lmdb, mds, tfrecord, webdataset"):
        detected(tmp_path / "train-00000-of-00001")


def test_an_unknown_format(pets):
    with pytest.raises(ConfigurationError, match="format is 'csv'; it must be one of image_folder, lmdb, mds, tfrecord"):
        read(pets, "csv")
