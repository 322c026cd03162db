"""Feeds: the batches of each framework are those of NumPy, in the same order, whatever reads them."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

import numpy as np
import pytest
from shard_files import batch, floats, write

import sparkgap as gap
from sparkgap.shards import feeds
from sparkgap.shards.ahead import ahead
from sparkgap.shards.dataset import Shards
from sparkgap.shards.order import Order

ROWS = 53


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    ids = np.arange(ROWS, dtype=np.int32)
    rows = batch(
        id=ids, x=floats([[i, i + 0.5] for i in ids]), s=[f"r{i}" for i in ids], t=floats([[1.0] * (i % 3) for i in ids])
    )
    return write(tmp_path_factory.mktemp("shards"), [rows.slice(0, 20)], [rows.slice(20)], shard_rows=15)


@pytest.fixture(params=["one step a read", "all in one read"])
def read_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "READ_BYTES", {"one step a read": 1, "all in one read": 1 << 20}[request.param])


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_batches_in_the_order_of_the_epoch(shards, prefetch, read_bytes):
    feed = shards.to_numpy(8, seed=3, epoch=2, prefetch=prefetch)
    order = Order(ROWS, 3).epoch(2).positions(0, ROWS)
    assert len(feed) == 7
    positions = []
    for number, found in enumerate(feed):
        rows = order[8 * number : 8 * number + 8]
        assert found["id"].tolist() == rows.tolist()
        assert found["x"].tolist() == [[i, i + 0.5] for i in rows]
        assert found["s"].tolist() == [f"r{i}" for i in rows]
        positions.append(feed.position)
    assert positions == [8, 16, 24, 32, 40, 48, 53]


@pytest.mark.parametrize("shuffle", ["full", "window", None])
def test_workers_share_an_epoch_and_go_on_with_another_number_of_them(shards, shuffle):
    options = {"shuffle": shuffle, "window_rows": 20, "block_rows": 4, "columns": ["id"]}
    whole = [b["id"].tolist() for b in shards.to_numpy(10, **options)]
    two = [shards.to_numpy(10, rank=r, world=2, **options) for r in (0, 1)]
    seen = [[i for feed in two for i in next(feed)["id"].tolist()] for _ in range(3)]
    assert seen == whole[:3]
    three = [list(shards.to_numpy(10, rank=r, world=3, start=two[0].position, **options)) for r in range(3)]
    assert [[i for b in step for i in b["id"].tolist()] for step in zip(*three, strict=True)] == whole[3:]
    for feed in two:
        feed.close()


def test_padded_rows_have_no_weight(shards):
    feed = shards.to_numpy(10, last="pad", columns=["id"])
    found = list(feed)
    assert {len(b["id"]) for b in found} == {10}
    weights = np.concatenate([b["_weight"] for b in found])
    assert weights.dtype == np.float32
    ids = np.concatenate([b["id"] for b in found])
    assert sorted(ids[weights == 1].tolist()) == list(range(ROWS))
    assert (weights == 0).sum() == feed.padded == 7
    assert (shards.to_numpy(10, last="drop").dropped, len(shards.to_numpy(10, last="drop"))) == (3, 5)


def test_a_worker_without_rows_gets_empty_arrays(shards):
    found = [next(shards.to_numpy(10, start=52, rank=r, world=4)) for r in range(4)]
    assert sorted(len(b["id"]) for b in found) == [0, 0, 0, 1]
    assert {b["x"].shape[1:] for b in found} == {(2,)}
    assert {b["s"].dtype for b in found} == {np.dtype(object)}


def test_views_are_the_files_own_rows(shards):
    """Without a copy where a batch lies in one record batch; the same rows either way; nobody can write to the file."""
    viewed = list(shards.to_numpy(5, shuffle=None, copy=False))
    copied = list(shards.to_numpy(5, shuffle=None))
    for one, other in zip(viewed, copied, strict=True):
        assert {n: a.tolist() for n, a in one.items() if a.dtype != object} == {
            n: a.tolist() for n, a in other.items() if a.dtype != object
        }
        assert one["s"].tolist() == other["s"].tolist()
    ranks = [list(shards.to_numpy(7, shuffle=None, copy=False, rank=r, world=3, columns=["id"], start=3)) for r in range(3)]
    ids = [n for parts in zip(*ranks, strict=True) for part in parts for n in part["id"].tolist()]
    assert ids == list(range(3, ROWS))
    assert not all(b["x"].flags.writeable for b in viewed)
    assert all(b["x"].flags.writeable for b in copied)
    tensors = list(shards.to_torch(5, shuffle=None, copy=False, columns=["id", "x"]))
    tensors[0]["x"] += 1  # of its own
    np.testing.assert_equal(next(shards.to_numpy(5, shuffle=None))["x"], copied[0]["x"])


def sparkgap_threads() -> list[threading.Thread]:
    gc.collect()  # what failed tests hold is not meant
    return [t for t in threading.enumerate() if t.name.startswith("sparkgap-feed")]


def test_closing_early_ends_the_thread(shards, monkeypatch):
    monkeypatch.setattr("sparkgap.shards.feeds.READ_BYTES", 1)  # a read a batch: the thread is not at its end
    with shards.to_numpy(4) as feed:
        next(feed)
        assert sparkgap_threads()
    assert not sparkgap_threads()
    with pytest.raises(StopIteration):
        next(feed)
    feed = shards.to_numpy(4)
    next(feed)
    gc.disable()
    try:
        del feed  # dropping it does, too
        assert not [t for t in threading.enumerate() if t.name.startswith("sparkgap-feed")]
    finally:
        gc.enable()


def test_calls_are_made_a_bounded_number_ahead():
    called: list[int] = []
    done = threading.Semaphore(0)

    def call(n: int) -> int:
        called.append(n)
        done.release()
        return n

    items = ahead(call, range(10), 2)
    assert next(items) == 0
    for _ in range(3):
        assert done.acquire(timeout=60)
    assert called == [0, 1, 2]
    items.close()
    assert called == [0, 1, 2]


def test_an_error_comes_where_its_batch_would(tmp_path, monkeypatch):
    ids = batch(id=list(range(30)))
    shards = write(tmp_path, [ids], shard_rows=10)
    Path(shards.path, shards.index.shards[1].file).unlink()
    monkeypatch.setattr(feeds, "READ_BYTES", 1)
    feed = shards.to_numpy(10, shuffle=None)
    assert next(feed)["id"].tolist() == list(range(10))
    with pytest.raises(gap.DataError, match="cannot be read"):
        next(feed)
    assert not sparkgap_threads()


@pytest.mark.parametrize("options", [{"prefetch": -1}, {"batch_size": 0}, {"columns": ["y"]}, {"start": 54}, {"epoch": -1}])
def test_wrong_options_are_told_at_once(shards, options):
    with pytest.raises(gap.ConfigurationError):
        shards.to_numpy(**{"batch_size": 4, **options})


def test_torch(shards):
    torch = pytest.importorskip("torch")
    data = shards.to_torch(8, seed=1, columns=["id", "x", "s", "t"], last="pad")
    for made, expected in zip(data, shards.to_numpy(8, seed=1, last="pad"), strict=True):
        assert made["x"].dtype == torch.float32
        assert np.array_equal(made["x"], expected["x"])
        assert made["id"].tolist() == expected["id"].tolist()
        assert made["s"] == expected["s"].tolist()
        assert [len(t) for t in made["t"]] == [i % 3 for i in expected["id"]]
        assert made["_weight"].tolist() == expected["_weight"].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_torch_loaders_keep_the_order(shards, workers):
    loader_of = pytest.importorskip("torch.utils.data").DataLoader
    data = shards.to_torch(8, seed=1, columns=["id", "x"])
    loader = loader_of(data, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    assert len(loader) == 7
    for epoch, start in ((0, 0), (1, 0), (2, 16)):
        data.set_epoch(epoch, start)
        expected = [b["id"].tolist() for b in shards.to_numpy(8, seed=1, epoch=epoch, start=start)]
        assert [b["id"].tolist() for b in loader] == expected


def test_torch_rows(shards):
    loader_of = pytest.importorskip("torch.utils.data").DataLoader
    data = shards.to_torch(map_style=True, columns=["id", "x", "s"])
    assert len(data) == ROWS
    assert data[7]["x"].tolist() == [7.0, 7.5]
    found = list(loader_of(data, batch_size=20, shuffle=True, num_workers=1))
    assert sorted(i for b in found for i in b["id"].tolist()) == list(range(ROWS))
    assert found[0]["x"].shape == (20, 2)
    assert found[0]["s"] == [f"r{i}" for i in found[0]["id"].tolist()]
    with pytest.raises(gap.ConfigurationError, match="DataLoader"):
        shards.to_torch(8, map_style=True)
    with pytest.raises(gap.ConfigurationError, match="batch_size="):
        shards.to_torch()


def test_jax(shards):
    jax = pytest.importorskip("jax")
    with shards.to_jax(8, seed=1, columns=["id", "x"]) as feed:
        assert len(feed) == 7
        for made, expected in zip(feed, shards.to_numpy(8, seed=1), strict=True):
            assert isinstance(made["x"], jax.Array)
            assert np.array_equal(made["x"], expected["x"])
            assert made["id"].tolist() == expected["id"].tolist()
    assert not sparkgap_threads()
    with pytest.raises(gap.ConfigurationError, match=r"Column `s` is str .*JAX.*columns="):
        shards.to_jax(8)


def test_jax_cuts_no_numbers(tmp_path):
    pytest.importorskip("jax")
    shards = write(tmp_path, [batch(id=[1 << 40])])
    with pytest.raises(gap.ConfigurationError, match=r"Column `id` has 64-bit numbers"):
        shards.to_jax(1)


def test_tensorflow(shards):
    """In a process of its own: TensorFlow and JAX do not go well together in one."""
    import subprocess
    import sys

    pytest.importorskip("tensorflow")
    program = Path(__file__).with_name("tf_feed_program.py")
    done = subprocess.run([sys.executable, program, shards.path], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
