"""The index, and files that are not what it says: each kind of damage is told, with the name of the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_files import batch, write

import sparkgap as gap
from sparkgap.shards import format
from sparkgap.shards.dataset import Shards


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return write(tmp_path, [batch(id=list(range(50)))], [batch(id=list(range(50, 60)))])


def index_file(shards: Shards) -> Path:
    return Path(shards.path) / "index.json"


def shard_file(shards: Shards, number: int) -> Path:
    return Path(shards.path) / shards.index.shards[number].file


def test_an_index_comes_back(shards):
    text = index_file(shards).read_text()
    assert format.parse(text, "i") == shards.index
    assert json.loads(text)["fields"] == [{"name": "id", "type": "int64", "dtype": "int64", "shape": []}]


@given(st.data())
def test_a_changed_index_is_never_taken_for_a_whole_one(data):
    import pyarrow as pa

    from sparkgap.tensors.spec import TensorSpec

    index = format.Index(
        pa.schema([("é", pa.int64())]), (TensorSpec("é", "int64", ()),), (format.Shard("a/b", 3, 4, "crc32:0"),)
    )
    text = index.to_json().encode()
    assert format.parse(text, "i") == index
    at = data.draw(st.integers(0, len(text) - 1))
    cut = data.draw(st.booleans())
    changed = text[:at] if cut else text[:at] + data.draw(st.binary(min_size=1, max_size=1)) + text[at + 1 :]
    try:
        same = json.loads(changed) == json.loads(text)
    except ValueError:
        same = False
    if not same:
        with pytest.raises(gap.DataError, match="^i "):
            format.parse(changed, "i")


def test_a_missing_index(tmp_path):
    with pytest.raises(gap.DataError, match=r"There are no shards at .*: it has no index.json"):
        gap.open_shards(tmp_path / "nothing")


def test_an_index_of_something_else(shards):
    index_file(shards).write_text('{"shards": []}')
    with pytest.raises(gap.DataError, match=r"index.json is not an index of shards"):
        gap.open_shards(shards.path)


def test_an_index_of_a_later_version(shards):
    body = json.loads(index_file(shards).read_text())
    index_file(shards).write_text(json.dumps({**body, "version": 2, "writer": "sparkgap 9"}))
    with pytest.raises(gap.DataError, match=r"has version 2 of the format.*reads version 1.*sparkgap 9"):
        gap.open_shards(shards.path)


@pytest.mark.parametrize("file", ["../x", "/etc/passwd", ""])
def test_an_index_leads_nowhere_else(shards, file):
    index = replace(shards.index, shards=(replace(shards.index.shards[0], file=file),))
    index_file(shards).write_text(index.to_json())
    with pytest.raises(gap.DataError, match="not below its folder"):
        gap.open_shards(shards.path)


def test_a_truncated_shard_is_named(shards):
    file = shard_file(shards, 1)
    file.write_bytes(file.read_bytes()[:-8])
    again = gap.open_shards(shards.path)
    assert again.read([0])["id"].tolist() == [0]
    for use in (lambda: again.read([55]), again.verify, again.to_arrow):
        with pytest.raises(gap.DataError, match=f"{file.name} is truncated or changed: it has .* bytes"):
            use()


def test_a_missing_shard_is_named(shards):
    file = shard_file(shards, 0)
    file.unlink()
    again = gap.open_shards(shards.path)
    for use in (lambda: again.read([0]), again.verify):
        with pytest.raises(gap.DataError, match=f"{file.name} cannot be read: No such file"):
            use()


def test_a_damaged_shard_is_named_by_verify(shards):
    file = shard_file(shards, 0)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(gap.DataError, match=f"{file.name} is damaged: its checksum is crc32:"):
        gap.open_shards(shards.path).verify()


def test_a_shard_that_is_no_arrow_file(shards):
    file = shard_file(shards, 0)
    file.write_bytes(b"x" * shards.index.shards[0].bytes)
    with pytest.raises(gap.DataError, match=f"{file.name} is damaged"):
        gap.open_shards(shards.path).read([0])
