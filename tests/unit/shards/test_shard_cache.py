"""Shards of remote stores: fetched once a machine, within a limit, whatever crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pytest
from shard_files import batch, write

import sparkgap as gap
from sparkgap.shards.cache import ShardCache
from sparkgap.shards.dataset import Shards


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPARKGAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is reached through fsspec by a relative address, as a remote one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / f"store-{uuid.uuid4().hex}"  # file systems are kept by their address for the process


@pytest.fixture
def shards(store: Path, home: Path) -> Shards:
    made = write(f"local://{store.name}", [batch(id=list(range(40)))], shard_rows=10)
    assert len(list(store.rglob("*.arrow"))) == 4
    return made


def held(home: Path) -> list[Path]:
    return sorted(home.glob("*.arrow"), key=lambda f: f.stat().st_mtime_ns)


def test_shards_are_fetched_when_they_are_read(shards, home):
    assert not held(home)
    assert shards.read([5, 15])["id"].tolist() == [5, 15]
    assert len(held(home)) == 2
    shards.verify()
    assert len(held(home)) == 4
    assert {f.name for f in home.iterdir() if f.suffix != ".arrow" and not f.name.startswith("lock-")} == set()


def test_a_second_reader_needs_the_store_no_more(shards, home, store):
    shards.read(np.arange(40))
    for file in (store).rglob("*.arrow"):
        file.unlink()
    assert gap.open_shards(shards.path).read(np.arange(40))["id"].tolist() == list(range(40))


def test_the_shard_used_longest_ago_goes_first(shards, home):
    size = shards.index.shards[0].bytes
    small = gap.open_shards(shards.path, cache_bytes=2 * size)
    first = small.slice(0, 10)["id"]
    small.read([10])
    names = [f.name for f in held(home)]
    gap.open_shards(shards.path, cache_bytes=2 * size).read([5])  # used again
    small.read([25])
    left = [f.name for f in held(home)]
    assert names[0] in left
    assert names[1] not in left
    assert len(left) == 2
    assert first.tolist() == list(range(10))
    gap.open_shards(shards.path, cache_bytes=1).read([35])
    assert len(held(home)) == 1


def test_a_damaged_shard_is_never_in_the_cache(shards, home, store):
    file = store / shards.index.shards[0].file
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(gap.DataError, match=f"{file.name} is damaged"):
        shards.read([0])
    file.write_bytes(content[:-1])
    with pytest.raises(gap.DataError, match=f"{file.name} is truncated"):
        shards.read([0])
    file.unlink()
    with pytest.raises(gap.DataError, match=f"{file.name} cannot be fetched"):
        shards.read([0])
    assert not list(home.glob("*.arrow")) + list(home.glob("*.part"))


CUT_OFF = """
import os, signal, sys
import sparkgap.shards.cache as cache
import sparkgap as gap
cache.verify = lambda *a: os.kill(os.getpid(), signal.SIGKILL)  # the download is there, under its other name
gap.open_shards(sys.argv[1]).read([0])
"""


def test_a_download_that_was_cut_off_is_made_again(shards, home):
    done = subprocess.run([sys.executable, "-c", CUT_OFF, shards.path], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(home.glob("*.part"))) == 1
    assert not held(home)
    shards.read([35])  # another shard: what is left of a dead process is removed
    assert not list(home.glob("*.part"))
    assert shards.read([0])["id"].tolist() == [0]


READ_ALL = """
import sys, numpy as np, sparkgap as gap
shards = gap.open_shards(sys.argv[1], cache_bytes=int(sys.argv[2]))
for seed in range(20):
    for found in shards.to_numpy(7, seed=seed):
        pass
shards._maps._open.clear()
assert shards.read(np.arange(40))["id"].tolist() == list(range(40))
"""


@pytest.mark.parametrize("limit", [1, 1 << 30])
def test_many_processes_share_the_cache(shards, home, limit):
    command = [sys.executable, "-c", READ_ALL, shards.path, str(limit)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    assert not list(home.glob("*.part"))


def test_a_shard_in_use_is_not_deleted(shards, home):
    shards.read([0])
    cache = ShardCache(shards._folder, 1)
    with cache._locked(held(home)[0].stem):
        assert not cache._delete(held(home)[0])
    assert cache._delete(held(home)[0])


def test_the_limit_from_the_environment(shards, monkeypatch):
    monkeypatch.setenv("SPARKGAP_SHARD_CACHE_BYTES", "lots")
    with pytest.raises(gap.ConfigurationError, match="SPARKGAP_SHARD_CACHE_BYTES is 'lots'"):
        gap.open_shards(shards.path)


def test_a_cache_that_cannot_be_written(shards, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SPARKGAP_CACHE", str(tmp_path / "file"))
    with pytest.raises(gap.DataError, match="cannot be fetched into .*SPARKGAP_CACHE"):
        shards.read([0])


def test_memory_of_fsspec(home):
    place = f"memory://shards/{uuid.uuid4().hex}"
    shards = write(place, [batch(id=[1, 2])])
    assert shards.read([1])["id"].tolist() == [2]
    shards.remove()
    assert not [f for f in fsspec.filesystem("memory").find(place) if os.fspath(f).endswith("arrow")]
