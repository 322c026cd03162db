"""Placed data: written once, mapped by all, not to be written to."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sparkgap._errors import ConfigurationError, DataError, FileChangedError
from sparkgap.models import bundle
from sparkgap.scheduled import placed
from sparkgap.scheduled.placed import fetch, place


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKGAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "placed"


ARRAYS = {
    "plain": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12).reshape(3, 4)),
    "strided": np.arange(3_000_000).reshape(1000, 3000)[::2, ::3],
    "reversed": np.arange(5)[::-1],
    "broadcast": np.broadcast_to(np.arange(4), (3, 4)),
    "empty": np.zeros((0, 3), "f4"),
    "scalar": np.array(7),
    "text": np.array(["a", "bcd"]),
    "dates": np.array(["2020", "2021"], "M8[D]"),
    "big endian": np.arange(5, dtype=">i4"),
    "fields": np.array([(1, 2.0), (3, 4.0)], [("a", "i4"), ("b", "f8")]),
    "long": np.arange(2_000_000, dtype="i8"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_mapped_read_only(name):
    array = ARRAYS[name]
    found = fetch(pickle.loads(pickle.dumps(place(array))))
    assert isinstance(found, np.memmap)
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)
    assert found.flags.f_contiguous or not array.flags.f_contiguous
    with pytest.raises(ValueError, match="read-only"):
        found[...] = found


def test_a_file_is_what_numpy_would_have_saved(tmp_path):
    for array in ARRAYS.values():
        np.save(tmp_path / "numpy.npy", array)
        assert (Path(place(array).path) / "0.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_equal_content_is_written_once(cache):
    first = place(np.arange(1000))
    file = Path(first.path) / "0.npy"
    before = file.stat()
    long_ago = time.time() - 10 * 86_400
    os.utime(first.path, (long_ago, long_ago))
    os.utime(cache, (long_ago, long_ago))
    again = place(np.repeat(np.arange(1000), 2)[::2])
    assert again == first
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert cache.stat().st_mtime == pytest.approx(long_ago), "nothing was written, not even for a while"
    assert Path(first.path).stat().st_mtime > long_ago + 86_400, "it is in use"
    assert place(np.arange(1000.0)).digest != first.digest
    assert place([np.arange(1000)]).digest != place((np.arange(1000),)).digest
    assert not list(cache.glob("placing-*")), "nothing half done is left"


def test_a_dict_list_or_tuple_comes_back_as_it_was():
    x, y = np.arange(3), pa.table({"a": [1, 2]})
    found = fetch(place({"x": x, "y": y}))
    assert list(found) == ["x", "y"]
    assert found["y"] == y
    assert [type(fetch(place(kind([x, x])))) for kind in (list, tuple)] == [list, tuple]
    assert fetch(place({})) == {}
    assert place({"x": x, "y": x}).digest != place({"y": x, "x": x, "z": x}).digest


def test_a_table_lies_in_the_mapped_file():
    words = pa.chunked_array([pa.array(["a", "b"]).dictionary_encode(), pa.array(["c"]).dictionary_encode()])
    table = pa.table({"n": np.arange(3), "w": words, "l": [[1], None, [2, 3]]})
    before = pa.total_allocated_bytes()
    big = place(pa.table({"n": np.arange(2_000_000)}))
    found = fetch(big)
    assert pa.total_allocated_bytes() - before < 100_000
    assert found["n"][1_999_999].as_py() == 1_999_999
    again = fetch(place(table))
    assert again.to_pydict() == table.to_pydict()
    assert again.schema == table.schema
    assert fetch(place(table.to_batches()[0])).num_rows == 2


def test_a_pandas_frame_comes_back_over_the_mapped_file():
    frame = pd.DataFrame({"n": np.arange(1_000_000), "x": 0.5, "s": "text"}, index=np.arange(1_000_000)[::-1])
    ref = place(frame)
    found = fetch(ref)
    pd.testing.assert_frame_equal(found, frame)
    assert not found["n"].to_numpy().flags.writeable


class Odd:
    pass


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (Odd(), "of type Odd, which cannot be placed. Taken are numpy arrays"),
        ({"m": Odd()}, "The value m of data="),
        ({1: np.arange(3)}, "keys of a dict of data are text, got 1"),
        ([1, 2], "The value 0 of data= is of type int"),
        (np.array([[1], None], object), "Python objects.*np.stack"),
        (np.array([("a",)], [("f", object)]), "Python objects"),
        (np.ma.masked_array([1], [1]), "is masked"),
        (pd.DataFrame({"a": [1, "x", Odd()]}), "cannot be made an Arrow table"),
        ("/no/such/place", "no such file or folder"),
        ("s3://bucket/data", "addresses, such as s3://"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_what_cannot_be_placed_is_refused_and_nothing_is_written(value, says, cache):
    with pytest.raises(ConfigurationError, match=says):
        place(value)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_type_that_npy_cannot_name_is_refused():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(ConfigurationError, match=r"bfloat16.*array\.view\('u2'\)"):
        place(np.ones(3, ml_dtypes.bfloat16))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "cats").mkdir(parents=True)
    (folder / "cats" / "1.bin").write_bytes(b"cat")
    (folder / "all.txt").write_text("1")
    (folder / ".complete").touch()
    (tmp_path / "elsewhere").write_text("linked")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    return folder


def test_a_path_is_used_where_it_lies(photos, cache):
    ref = place(str(photos))
    assert fetch(ref) == photos
    assert ref.nbytes == 3 + 1 + 6
    assert fetch(place(photos / "all.txt")) == photos / "all.txt"
    assert not cache.exists(), "nothing was copied"


def test_a_path_that_changed_is_told(photos):
    ref = place(photos)
    (photos / "cats" / "2.bin").write_bytes(b"new")
    with pytest.raises(FileChangedError, match="photos is not there on this machine, or not as it was"):
        fetch(ref)


def test_what_the_machine_does_not_see_comes_from_the_artifact(photos, tmp_path, monkeypatch):
    refs = [place(photos), place(photos / "all.txt"), place({"x": np.arange(5)})]
    sent = [replace(ref, path=f"/nowhere/{Path(ref.path).name}", artifact=str(placed.archive(ref))) for ref in refs]
    monkeypatch.setenv("SPARKGAP_CACHE", str(tmp_path / "executor"))
    monkeypatch.setattr(bundle, "find_artifact", Path)
    folder, file, arrays = map(fetch, sent)
    assert folder.is_relative_to(tmp_path / "executor")
    assert (folder / "cats" / "1.bin").read_bytes() == b"cat"
    assert (folder / "link").read_text() == "linked"
    assert (folder / ".complete").exists(), "the user's own file"
    assert file.read_text() == "1"
    assert arrays["x"].tolist() == [0, 1, 2, 3, 4]
    for ref in sent:
        Path(ref.artifact).unlink()
        Path(ref.artifact).touch()
    assert fetch(sent[0]) == folder, "the second task finds it unpacked"


def test_a_placed_value_that_is_gone_is_told():
    ref = place(np.arange(3))
    with pytest.raises(FileChangedError, match="Make the run again"):
        fetch(replace(ref, path="/nowhere"))


def test_two_that_place_the_same_at_once_agree():
    array = np.arange(3_000_000)
    with ThreadPoolExecutor(4) as pool:
        refs = list(pool.map(place, [array] * 4))
    assert len(set(refs)) == 1
    assert np.array_equal(fetch(refs[0]), array)


def test_a_full_disk_is_told_and_leaves_nothing(cache):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(DataError, match="cannot be written into .*placed: .*SPARKGAP_CACHE"):
            place(np.arange(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(cache.iterdir()) == []


def test_what_nobody_used_for_long_is_pruned(cache):
    old = place(np.arange(3))
    os.utime(old.path, (0, 0))
    place(np.arange(4))
    assert not Path(old.path).exists()


PLACE = """
import resource, sys
import numpy as np
from sparkgap.scheduled.placed import place
import pyarrow, numpy.ma
array = {array}
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
place(array)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
"""


@pytest.mark.parametrize("array", ["np.ones(25_000_000)", "np.ones((2, 25_000_000))[:, ::2]", "np.ones((5, 5_000_000)).T"])
def test_placing_200_mb_takes_no_second_copy_in_memory(array):
    out = subprocess.run([sys.executable, "-c", PLACE.format(array=array)], check=True, capture_output=True, text=True)
    assert int(out.stdout) < 40_000, "KiB"


FETCH = """
import pickle, sys
from sparkgap.scheduled.placed import fetch
array = fetch(pickle.loads(bytes.fromhex(sys.argv[1])))
print(array.sum(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells what processes share")
def test_four_processes_that_fetch_200_mb_need_200_mb():
    ref = place(np.ones(25_000_000))
    command = [sys.executable, "-c", FETCH, pickle.dumps(ref).hex()]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    try:
        assert [p.stdout.readline() for p in processes] == ["25000000.0\n"] * 4
        shares = [_pss(p.pid, ref.path) for p in processes]
    finally:
        for process in processes:
            process.communicate()
    assert min(shares) > 40_000
    assert 190_000 < sum(shares) < 210_000, f"KiB: {shares}"


def _pss(pid: int, path: str) -> int:
    """What a process accounts for of the mappings of the files below a path, in KiB."""
    found, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0] and not line.split(maxsplit=1)[0].endswith(":"):
            inside = path in line
        elif inside and line.startswith("Pss:"):
            found += int(line.split()[1])
    return found
