from __future__ import annotations

import enum
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.cooperative.checkpoints import Checkpoints, rng_state, set_rng_state
from sparkgap.cooperative.tensor_file import decode, encode
from sparkgap.shards import whole_files


def state(step, size=50):
    return {"weights": [np.arange(size, dtype="f4") + step, np.float64(step)], "name": "net", "steps": step}


def assert_state(found, step):
    assert found.step == step
    np.testing.assert_array_equal(found.state["weights"][0], np.arange(50, dtype="f4") + step)


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def through(value):
    content = np.frombuffer(bytearray(b"".join(encode(value, {}))), np.uint8)
    return decode(content)[0]


arrays = hn.arrays(
    st.sampled_from(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", "c8", ">f4"]),
    hn.array_shapes(min_dims=0, min_side=0, max_side=4),
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | arrays
keys = st.text() | st.integers() | st.booleans() | st.none()
values = st.recursive(
    leaves, lambda v: st.lists(v) | st.dictionaries(keys, v, max_size=4) | st.lists(v).map(tuple), max_leaves=12
)


def assert_equal(found, value):
    assert type(found) is type(value)
    if isinstance(value, dict):
        assert list(found) == list(value)
        assert [type(k) for k in found] == [type(k) for k in value]
        assert_equal(list(found.values()), list(value.values()))
    elif isinstance(value, list | tuple):
        assert len(found) == len(value)
        for one, other in zip(found, value, strict=True):
            assert_equal(one, other)
    elif isinstance(value, np.ndarray):
        assert found.dtype == value.dtype.newbyteorder("=")
        assert found.shape == value.shape
        assert found.tobytes() == value.astype(found.dtype).tobytes()
        assert found.flags.aligned
        assert found.flags.writeable
    else:
        assert found == value or (found != found and value != value)


@given(values)
def test_what_is_kept_comes_back(value):
    assert_equal(through(value), value)


def test_tensors_of_all_frameworks_come_back_and_others_can_read_the_file(tmp_path):
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    value = {
        "half": torch.ones(3, dtype=torch.bfloat16), "turned": torch.arange(6.0).reshape(2, 3).T, "scalar": torch.tensor(3),
        "none": torch.zeros(0, 2), "one": np.float32(2),
    }  # fmt: skip
    kept = Checkpoints(tmp_path)
    kept.save(1, value, {"loss": 0.5})
    found = kept.latest()
    for name in ("half", "turned", "scalar", "none"):
        assert torch.equal(found.state[name], value[name])
        assert found.state[name].dtype is value[name].dtype
    assert type(found.state["one"]) is np.float32
    assert found.facts == {"loss": 0.5}
    assert torch.equal(safetensors.load_file(found.name)["turned"], value["turned"])


def test_names_that_look_alike_are_told_apart():
    value = {"a": {"b": np.ones(1)}, "a.b": np.zeros(1), "__metadata__": np.ones(2), "a.b~1": np.full(1, 7)}
    assert_equal(through(value), value)


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(("value", "message"), [
    ({"net": {"size": object()}}, r"cannot hold 'net.size', a builtins.object"),
    ({"all": [np.array(["a"])]}, r"cannot hold 'all.0', a numpy.ndarray.*dtype is str"),
    ({(1, 2): 3}, "Use strings or numbers as the keys"),
    ({"c": Colour.RED}, "cannot hold 'c'.*Save IntEnum"),
    ({"set": {1}}, "a builtins.set"),
])  # fmt: skip
def test_what_cannot_be_kept_is_named(value, message, tmp_path):
    with pytest.raises(ConfigurationError, match=message):
        Checkpoints(tmp_path).save(1, value)
    assert not files(tmp_path)


def test_options_that_make_no_sense(tmp_path):
    for keep in (0, -1, 1.5, True):
        with pytest.raises(ConfigurationError, match="keep is"):
            Checkpoints(tmp_path, keep)
    with pytest.raises(ConfigurationError, match="step is -1"):
        Checkpoints(tmp_path).save(-1, {})
    with pytest.raises(ConfigurationError, match="facts of a checkpoint must be plain JSON"):
        Checkpoints(tmp_path).save(1, {}, {"x": np.ones(2)})


@pytest.mark.parametrize("place", ["local", "memory", "fsspec-local"])
def test_the_last_ones_are_kept_anywhere(place, tmp_path):
    path = {
        "local": tmp_path / "new" / "er",
        "memory": f"memory://{uuid.uuid4().hex}/run",
        "fsspec-local": f"local://{tmp_path}/x",
    }[place]
    kept = Checkpoints(path, keep=2)
    assert kept.latest() is None
    assert kept.steps() == []
    for step in (0, 5, 10, 15):
        kept.save(step, state(step))
    assert kept.steps() == [10, 15]
    assert_state(Checkpoints(path).latest(), 15)
    kept.save(15, {**state(15), "again": True})
    assert kept.latest().state["again"]
    assert kept.steps() == [10, 15]
    assert len(kept._folder.files()) == 2


def test_an_earlier_step_does_not_delete_itself(tmp_path):
    """A training that was taken up again from before writes steps below those of the one that failed."""
    for step in (8, 9):
        Checkpoints(tmp_path, keep=1).save(step, state(step))
    again = Checkpoints(tmp_path, keep=1)
    again.save(6, state(6))
    assert again.steps() == [6, 9]
    again.save(10, state(10))
    assert again.steps() == [10]


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "grow"])
def test_a_damaged_last_one_is_passed_over_with_a_warning(damage, tmp_path, caplog):
    kept = Checkpoints(tmp_path)
    kept.save(1, state(1))
    kept.save(2, state(2))
    last = tmp_path / files(tmp_path)[-1]
    content = bytearray(last.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    last.write_bytes({"truncate": content[:-1], "flip": content, "empty": b"", "grow": content + b"x"}[damage])
    with caplog.at_level(logging.WARNING):
        assert_state(kept.latest(), 1)
    assert f"Checkpoint {last} is damaged and passed over" in caplog.text
    first = tmp_path / files(tmp_path)[0]
    first.write_bytes(b"")
    with pytest.raises(DataError, match=rf"All checkpoints in {tmp_path} are damaged: .*step-0+2-.*step-0+1-"):
        kept.latest()
    kept.save(3, state(3))
    assert_state(kept.latest(), 3)


def test_truncation_at_every_byte_leaves_the_one_before(tmp_path):
    kept = Checkpoints(tmp_path)
    kept.save(1, state(1))
    kept.save(2, state(2))
    last = tmp_path / files(tmp_path)[-1]
    content = last.read_bytes()
    for size in range(len(content)):
        last.write_bytes(content[:size])
        assert kept.latest().step == 1
    last.write_bytes(content)
    assert kept.latest().step == 2


def test_what_was_pruned_by_another_while_it_was_read_is_looked_for_anew(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path, keep=1)
    kept.save(1, state(1))
    read = whole_files.WholeFiles.read

    def slow(self, file):
        monkeypatch.setattr(whole_files.WholeFiles, "read", read)
        kept.save(2, state(2))
        return read(self, file)

    monkeypatch.setattr(whole_files.WholeFiles, "read", slow)
    assert_state(kept.latest(), 2)


def test_no_permission_is_not_taken_for_damage(tmp_path, monkeypatch):
    kept = Checkpoints(tmp_path)
    kept.save(1, state(1))

    def refused(self, file):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(whole_files.WholeFiles, "read", refused)
    with pytest.raises(DataError, match="Permission denied"):
        kept.latest()


WRITER = """
import sys, numpy as np
from sparkgap.cooperative.checkpoints import Checkpoints
kept = Checkpoints(sys.argv[1], keep=int(sys.argv[2]))
for step in range(int(sys.argv[3]), 10**6, int(sys.argv[4])):
    kept.save(step, {"x": np.full(3 << 20, step, "f4"), "step": step})
    print(step, flush=True)
"""


def writer(*arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_a_killed_writer_leaves_the_one_before_and_its_rest_is_removed(tmp_path):
    for attempt in range(4):
        process = writer(tmp_path, 2, 1 + 100 * attempt, 1)
        told = [int(process.stdout.readline()) for _ in range(2)][-1]
        half_written = False
        while not half_written and process.poll() is None:
            half_written = any(p.name.endswith(".tmp") and _size(p) > attempt << 21 for p in tmp_path.iterdir())
        process.send_signal(signal.SIGKILL)
        told = [told, *map(int, process.communicate()[0].split())][-1]
        found = Checkpoints(tmp_path).latest()
        assert found.step >= told
        assert (found.state["x"] == found.state["step"]).all()
    Checkpoints(tmp_path).save(10**7, {})
    assert not [n for n in files(tmp_path) if n.endswith(".tmp")]


def _size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def test_two_writers_at_once_do_not_harm_each_other(tmp_path):
    writers = [writer(tmp_path, 2, first, 2) for first in (0, 1)]
    kept = Checkpoints(tmp_path)
    try:
        for _ in range(4):
            for process in writers:
                assert process.stdout.readline().strip()
            found = kept.latest()
            assert (found.state["x"] == found.step).all()
    finally:
        for process in writers:
            assert process.poll() is None
            process.kill()
            process.communicate()


def test_a_temporary_file_in_use_is_left_alone(tmp_path, monkeypatch):
    """Another writer begins, saves and ends while one is between writing and renaming."""
    rename, kept = os.rename, Checkpoints(tmp_path, keep=1)

    def late(source, target):
        monkeypatch.setattr(os, "rename", rename)
        other = threading.Thread(target=Checkpoints(tmp_path).save, args=(7, state(7)))
        other.start()
        other.join()
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    kept.save(8, state(8))
    assert_state(kept.latest(), 8)
    assert len(files(tmp_path)) == 1


def test_temporaries_of_old_on_file_systems_without_locks(monkeypatch):
    path = f"memory://{uuid.uuid4().hex}"
    kept = Checkpoints(path, keep=1)
    kept.save(1, state(1))
    import fsspec

    memory = fsspec.filesystem("memory")
    left = f"{path.removeprefix('memory:/')}/{whole_files._temporary(kept._folder.files()[0])}"
    memory.pipe(left, b"half")
    kept.save(2, state(2))
    assert memory.exists(left)
    monkeypatch.setattr(whole_files, "_STALE_SECONDS", -1)
    kept.save(3, state(3))
    assert not memory.exists(left)
    assert kept.steps() == [3]


FULL = """
import resource, sys, numpy as np
from sparkgap._errors import DataError
from sparkgap.cooperative.checkpoints import Checkpoints
kept = Checkpoints(sys.argv[1])
kept.save(1, {"x": np.ones(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    kept.save(2, {"x": np.ones(100_000)})
except DataError as error:
    print(error)
assert kept.latest().step == 1
"""


def test_a_full_disk_is_told_and_harms_nothing(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], env=environment, capture_output=True, text=True, check=True)
    assert f"Checkpoint {tmp_path}/step-000000000002-" in done.stdout
    assert "There is no space left. Free some, lower keep= (it is 3)" in done.stdout
    assert len(files(tmp_path)) == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written.*Check the path"):
        Checkpoints(tmp_path / "file" / "folder").save(1, {})


def test_generators_go_on_where_they_were(tmp_path):
    torch = pytest.importorskip("torch")

    def draw():
        return random.random(), np.random.random(), np.random.normal(), torch.rand(3).tolist()

    draw()
    kept = Checkpoints(tmp_path)
    kept.save(1, {"rng": rng_state()})
    expected = [draw() for _ in range(3)]
    set_rng_state(kept.latest().state["rng"])
    assert [draw() for _ in range(3)] == expected
