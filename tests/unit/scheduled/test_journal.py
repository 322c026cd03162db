"""What was appended is there again: at once, after a crash at any byte, and for one run at a time."""

from __future__ import annotations

import errno
import logging
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.scheduled.journal import Journal, Record


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def written(path: Path, count: int, function: str = "f") -> list[int]:
    """Append outcomes and return the size of the file before and after each."""
    sizes = []
    with Journal.open(path, function) as journal:
        sizes.append(path.stat().st_size)
        for number in range(count):
            journal.append(number, name(number), b"payload %d" % number * 3, b"item")
            journal.flush()
            sizes.append(path.stat().st_size)
    return sizes


@pytest.mark.parametrize("named", [True, False])
def test_outcomes_are_read_by_index_before_and_after_they_are_written(tmp_path, named):
    journal = Journal.open(tmp_path / "j", "f") if named else Journal.temporary()
    with journal:
        journal.append(7, name(1), b"seven", b"item 7")
        journal.append(2, name(2), b"", b"")
        journal.append(3, name(3), bytes(3_000_000))
        journal.append(4, name(4), bytes(range(250)) * 40)
        for _ in range(2):
            identity = name if named else lambda number: b""
            assert journal.read(7) == Record(7, identity(1), b"item 7", b"seven")
            assert journal.read(2) == Record(2, identity(2), b"", b"")
            assert journal.read(3) == Record(3, identity(3), b"", bytes(3_000_000))
            assert journal.read(4).payload == bytes(range(250)) * 40
            journal.flush(sync=True)
        assert list(journal.order()) == [7, 2, 3, 4]
        assert len(journal) == 4
        assert 7 in journal
        assert 0 not in journal
        for missing in (0, 8, -1):
            with pytest.raises(KeyError):
                journal.read(missing)


SIZES = st.sampled_from((0, 1, 5_000, 200_000, 300_000))


@given(st.lists(st.tuples(st.integers(0, 30), SIZES), max_size=30), st.integers(0, 30))
def test_outcomes_are_read_many_at_a_time(told, flushed):
    with Journal.temporary() as journal:
        kept = {}
        for place, (index, size) in enumerate(told):
            kept[index] = bytes([place]) * size
            journal.append(index, b"", kept[index], b"item" * (place % 2))
            if place == flushed:
                journal.flush()
        for index in range(31):
            if index not in kept:
                with pytest.raises(KeyError):
                    journal.read_on(index)
                continue
            found = journal.read_on(index)
            assert found == [kept[n] for n in range(index, index + len(found))]
            assert found


def test_small_outcomes_are_read_with_one_look():
    with Journal.temporary() as journal:
        journal.append_all((n, b"", b"x" * 20, b"") for n in range(3000))
        journal.flush()
        assert journal.read_on(10) == [b"x" * 20] * 2990


def test_of_two_outcomes_of_an_index_the_later_counts():
    with Journal.temporary() as journal:
        journal.append(0, b"", b"first")
        journal.append(0, b"", b"second")
        assert journal.read(0).payload == b"second"
        assert list(journal.order()) == [0]


def test_a_temporary_journal_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Journal.temporary() as journal:
        journal.append(0, b"", b"x")
        journal.flush()
        assert list(tmp_path.iterdir()) == []


def test_a_later_run_adopts_what_an_earlier_one_finished(tmp_path):
    written(tmp_path / "j", 5)
    with Journal.open(tmp_path / "j", "f") as journal:
        known = journal.known()
        assert len(journal) == 0
        assert sorted(known) == [name(n) for n in range(5)]
        journal.adopt(40, name(4))
        journal.append(41, name(9), b"new")
        assert journal.read(40) == Record(40, name(4), b"item", b"payload 4" * 3)
        assert list(journal.order()) == [40, 41]
        with pytest.raises(KeyError):
            journal.adopt(0, name(8))
    with Journal.open(tmp_path / "j", "f") as journal:
        assert len(journal.known()) == 6


def test_the_last_record_of_an_identity_decides_whether_it_is_finished(tmp_path):
    with Journal.open(tmp_path / "j", "f") as journal:
        for payload, identity in ((b"failed", 1), (b"ok", 1), (b"ok", 2), (b"failed", 2), (b"failed", 3)):
            journal.append(0, name(identity), payload)
    with Journal.open(tmp_path / "j", "f") as journal:
        known = journal.known(lambda payload: payload == b"ok")
        assert list(known) == [name(1)]
        journal.adopt(0, name(1))
        assert journal.read(0).payload == b"ok"
        assert name(2) not in known


@given(st.dictionaries(st.integers(0, 3) | st.integers((1 << 128) - 2, (1 << 128) - 1) | st.just(1 << 64), st.booleans()))
def test_known_is_a_mapping_like_a_dict(tmp_path_factory, kept):
    path = tmp_path_factory.mktemp("known") / "j"
    with Journal.open(path, "f") as journal:
        for number, ok in kept.items():
            journal.append(0, name(number), b"\1" if ok else b"\0")
    with Journal.open(path, "f") as journal:
        known = journal.known(lambda payload: payload == b"\1")
        assert set(known) == {name(n) for n, ok in kept.items() if ok}
        assert all(known[i] > 0 for i in known)
        assert len(set(known.values())) == len(known)


def test_an_end_torn_at_any_byte_is_cut_off(tmp_path, caplog):
    path = tmp_path / "j"
    sizes = written(path, 4)
    whole = path.read_bytes()
    for cut in range(sizes[-3], sizes[-1]):
        path.write_bytes(whole[:cut])
        caplog.clear()
        with Journal.open(path, "f") as journal:
            left = sum(size <= cut for size in sizes[1:])
            assert sorted(journal.known()) == [name(n) for n in range(left)]
            assert bool(caplog.records) == (cut not in sizes), "a warning exactly where something was cut"
            journal.append(0, name(50), b"after the crash")
        with Journal.open(path, "f") as journal:
            assert len(journal.known()) == left + 1


def test_a_creation_torn_at_any_byte_is_begun_again(tmp_path):
    path = tmp_path / "j"
    written(path, 0)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with Journal.open(path, "f") as journal:
            journal.append(0, name(1), b"x")
        with Journal.open(path, "f") as journal:
            assert list(journal.known()) == [name(1)]


def test_zeros_after_the_end_are_cut_off(tmp_path, caplog):
    path = tmp_path / "j"
    written(path, 3)
    with open(path, "ab") as file:
        file.write(bytes(5000))
    with Journal.open(path, "f") as journal:
        assert len(journal.known()) == 3
        journal.append(0, name(9), b"shorter than what was cut off")
    assert "5000 bytes after 3 whole outcomes" in caplog.text
    caplog.clear()
    Journal.open(path, "f").close()
    assert caplog.text == ""


def test_a_flipped_byte_in_the_last_record_is_a_torn_end_and_before_it_an_error(tmp_path):
    path = tmp_path / "j"
    sizes = written(path, 3)
    whole = path.read_bytes()
    for at in range(sizes[1], sizes[3]):
        damaged = bytearray(whole)
        damaged[at] ^= 0x41
        path.write_bytes(damaged)
        if at >= sizes[2]:
            with Journal.open(path, "f") as journal:
                assert len(journal.known()) == 2
            continue
        with pytest.raises(DataError, match=rf"damaged at byte {sizes[1]}, after 1 whole .* truncate -s {sizes[1]} '"):
            Journal.open(path, "f")
        assert path.read_bytes()[sizes[1] :] == bytes(damaged[sizes[1] :]), "nothing was changed"
    subprocess.run(["truncate", "-s", str(sizes[1]), path], check=True)
    with Journal.open(path, "f") as journal:
        assert len(journal.known()) == 1


def test_a_payload_that_is_a_journal_is_not_taken_for_records(tmp_path):
    written(tmp_path / "inner", 3)
    with Journal.open(tmp_path / "j", "f") as journal:
        journal.append(0, name(0), b"x")
        journal.append(1, name(1), (tmp_path / "inner").read_bytes())
    whole = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(whole[:-1])
    with Journal.open(tmp_path / "j", "f") as journal:
        assert list(journal.known()) == [name(0)]


def test_damage_while_the_run_goes_on_is_seen_when_read(tmp_path):
    with Journal.open(tmp_path / "j", "f") as journal:
        journal.append(0, name(0), b"abcdefgh")
        journal.flush()
        whole = (tmp_path / "j").read_bytes()
        with open(tmp_path / "j", "r+b") as file:
            file.write(whole.replace(b"abc", b"abd"))
        with pytest.raises(DataError, match="damaged at byte"):
            journal.read(0)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=40), st.booleans()), max_size=8), max_size=5), st.data()
)
def test_journal_equals_a_dict_through_runs_and_crashes(tmp_path_factory, runs, data):
    path = tmp_path_factory.mktemp("model") / "j"
    lasting: list[tuple[int, bytes]] = []
    for run in runs:
        with Journal.open(path, "f") as journal:
            model = dict(lasting)
            assert {k: journal._at(v, 0).payload for k, v in journal.known().items()} == {name(k): v for k, v in model.items()}
            ends, here = [], {}
            for index, payload, flushed in run:
                journal.append(index, name(index), payload)
                here[index] = payload
                if flushed:
                    journal.flush()
                ends.append(journal._written + len(journal._buffer))
            assert {index: journal.read(index).payload for index in here} == here
            assert list(journal.order()) == list(dict.fromkeys(index for index, _, _ in run))
            begin = journal._earlier[-1] if journal._earlier else 0
        size = path.stat().st_size
        cut = data.draw(st.integers(min(ends[0], size) if ends else size, size), label="bytes that outlive the crash")
        os.truncate(path, cut)
        assert begin <= cut
        lasting += [(index, payload) for (index, payload, _), end in zip(run, ends, strict=True) if end <= cut]


HOLD = """
import sys
from sparkgap.scheduled.journal import Journal
journal = Journal.open(sys.argv[1], "f")
journal.append(0, bytes(16), b"from the other process")
journal.flush()
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_has_the_journal(tmp_path):
    path = tmp_path / "j"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(ConfigurationError, match=rf"in use by process {other.pid} on {os.uname().nodename}\. "):
            Journal.open(path, "f")
        other.kill()
    with Journal.open(path, "f") as journal:
        assert len(journal.known()) == 1
        with pytest.raises(ConfigurationError, match=f"process {os.getpid()} on"):
            Journal.open(path, "f")


def test_a_journal_of_another_function_is_refused(tmp_path):
    written(tmp_path / "j", 1, "pkg.train")
    with pytest.raises(ConfigurationError, match=r"outcomes of pkg\.train, and this run is of pkg\.score"):
        Journal.open(tmp_path / "j", "pkg.score")
    Journal.open(tmp_path / "j", "pkg.train").close()


@pytest.mark.parametrize("content", [b"hello", b"a,b\n1,2\n", b"[1]\n", b'{"format": "other"}\n', b"\x89PNG\r\n"])
def test_another_file_is_refused_and_left_as_it_is(tmp_path, content):
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not a journal"):
        Journal.open(tmp_path / "j", "f")
    assert (tmp_path / "j").read_bytes() == content


def test_a_later_version_is_refused(tmp_path):
    written(tmp_path / "j", 1)
    (tmp_path / "j").write_bytes((tmp_path / "j").read_bytes().replace(b'"version": 1', b'"version": 2'))
    with pytest.raises(ConfigurationError, match="version 2 of the format"):
        Journal.open(tmp_path / "j", "f")


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    for path in (tmp_path / "no" / "j", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be opened"):
            Journal.open(path, "f")


def test_a_full_disk_is_told_and_what_was_appended_stays_readable(tmp_path):
    """The limit of the size of files stands for a full disk: the system really writes only a part."""
    path = tmp_path / "j"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal.open(path, "f")
    journal.append(0, name(0), b"before")
    journal.flush()
    safe = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (safe + 1000, limits[1]))  # Python ignores SIGXFSZ, and gets EFBIG
    try:
        journal.append(1, name(1), bytes(2000))
        with pytest.raises(DataError, match=r"The journal .*j cannot be written: .* free space") as caught:
            journal.flush()
        assert caught.value.__cause__.errno == errno.EFBIG
        assert path.stat().st_size == safe, "no torn record is left"
        assert journal.read(0).payload == b"before"
        assert journal.read(1).payload == bytes(2000)
        journal.append(2, name(2), b"goes on")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.close()
    with Journal.open(path, "f") as journal:
        assert len(journal.known()) == 3


def test_a_journal_that_cannot_be_written_at_its_end_lets_go_of_the_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal.open(tmp_path / "j", "f")
    journal.append(0, name(0), bytes(5000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(DataError):
            journal.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.close()
    Journal.open(tmp_path / "j", "f").close()


def test_nothing_is_added_to_a_closed_journal():
    journal = Journal.temporary()
    journal.close()
    with pytest.raises(DataError, match="is closed"):
        journal.append(0, b"", b"x")


def test_one_thread_reads_what_another_appends():
    count, wrong = 20_000, []
    appended = threading.Semaphore(0)
    with Journal.temporary() as journal:

        def reader():
            for at in range(count):
                appended.acquire()
                index = journal.order()[at]
                if journal.read(index).payload != b"%d" % index * 20:
                    wrong.append(index)

        thread = threading.Thread(target=reader)
        thread.start()
        for index in reversed(range(count)):
            journal.append(index, b"", b"%d" % index * 20)
            appended.release()
            if index % 1000 == 0:
                journal.flush()
        thread.join()
    assert wrong == []


def test_memory_is_sixteen_bytes_an_item(caplog):
    import tracemalloc

    caplog.set_level(logging.WARNING)
    with Journal.temporary() as journal:
        tracemalloc.start()
        try:
            for index in range(100_000):
                journal.append(index, b"", b"x" * 100)
            journal.flush()
            assert tracemalloc.get_traced_memory()[0] < 100_000 * 16 * 1.25 + 50_000
        finally:
            tracemalloc.stop()
