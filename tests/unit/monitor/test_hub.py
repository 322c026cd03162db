"""From a task to the store: over TCP and over files, with hubs that die, strangers, garbage, full disks, floods."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sparkgap as gap
from sparkgap.monitor import events, reporter, sending, wire
from sparkgap.monitor.events import Task
from sparkgap.monitor.history import History
from sparkgap.monitor.hub import Follower, Hub
from sparkgap.monitor.sending import FolderSender, NoSender, Sender, TcpSender
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.store import Store

HERE = "127.0.0.1"


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def hub(store: Store) -> Iterator[Hub]:
    made = Hub(store, HERE)
    yield made
    made.close()


def until(store: Store, what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait for news until something is true."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen"
        store.wait(store.version, 0.2)
    return found


def attempt(store: Store, run: str = "r", task: Task = Task(1, 0, 7)) -> Any:  # noqa: B008 - a value
    with store.reading(run) as state:
        return state.attempts.get(task) if state is not None else None


def work(sender: Sender, run: str = "r", task: Task = Task(1, 0, 7), rows: int = 5, ok: bool = True) -> bool:  # noqa: B008
    """One task that says a little."""
    mine = reporter.Reporter()
    begun = mine.begin(sender, run, task, TaskStats(*task))
    begun.stats.rows_in = begun.stats.rows_out = rows
    begun.add_point((begun.next_number(), time.time(), None, {"loss": 0.5}))
    return mine.end(begun, ok)


class TestTcp:
    def test_all_is_there_when_the_task_ends(self, store: Store, hub: Hub) -> None:
        assert work(TcpSender(hub.address(HERE)))
        assert attempt(store).status == "ok"
        with store.reading("r") as state:
            assert state.totals().rows_out == 5
            assert [s.count for s in state.series.values()] == [1]

    def test_progress_is_live(self, store: Store, hub: Hub) -> None:
        mine = reporter.Reporter()
        begun = mine.begin(TcpSender(hub.address(HERE)), "r", Task(1, 0, 7), TaskStats(1, 0, 7))
        begun.stats.rows_out = 11
        until(store, lambda: (a := attempt(store)) and a.stats.rows_out == 11)
        begun.stats.rows_out = 22
        until(store, lambda: attempt(store).stats.rows_out == 22)
        assert attempt(store).status == "running"
        mine.end(begun, True)

    def test_a_process_that_dies_is_lost(self, store: Store, hub: Hub) -> None:
        child = multiprocessing.get_context("spawn").Process(target=_begin_and_die, args=(hub.address(HERE),))
        child.start()
        child.join(60)
        until(store, lambda: (a := attempt(store)) and a.status == "lost")

    def test_a_hub_that_was_away_gets_everything_once(self, store: Store) -> None:
        first = Hub(store, HERE)
        port, address = first.port, first.address(HERE)
        sender = TcpSender(address)
        assert work(sender, task=Task(1, 0, 7))
        first.close()
        assert not work(sender, task=Task(1, 1, 8))
        second = Hub(store, HERE, port)
        second._token = address.token
        try:
            deadline = time.monotonic() + 20
            while not sender.ready():
                assert time.monotonic() < deadline
                store.wait(store.version, 0.1)
            assert work(sender, task=Task(1, 2, 9))
            with store.reading("r") as state:
                assert sorted(a.task.partition for a in state.counted()) == [0, 1, 2]
                assert state.totals().rows_out == 15
        finally:
            second.close()

    def test_an_absent_hub_costs_next_to_nothing_and_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        with socket.create_server((HERE, 0)) as taken:
            port = taken.getsockname()[1]
        sender = TcpSender(wire.Address(HERE, port, "t"))
        with caplog.at_level(logging.WARNING, "sparkgap.monitor"):
            for n in range(20):
                assert not work(sender, task=Task(1, n, n))
        assert len([r for r in caplog.records if "goes on without it" in r.message]) == 1

    def test_a_frame_twice_counts_once(self, store: Store) -> None:
        told = [events.encode(events.Log(run="r", time=1.0, level="INFO", logger="l", text=str(n))) for n in range(3)]
        assert store.receive("s", "r", 0, told) == 2
        assert store.receive("s", "r", 0, told) == 2
        assert store.receive("s", "r", 2, told) == 4
        with store.reading("r") as state:
            assert state.log_count == 5


class TestStrangers:
    def connect(self, hub: Hub) -> socket.socket:
        made = socket.create_connection((HERE, hub.port), timeout=10)
        assert len(made.recv(wire.NONCE_BYTES)) == wire.NONCE_BYTES
        return made

    def test_wrong_token(self, store: Store, hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
        wrong = wire.Address(HERE, hub.port, "guess")
        with caplog.at_level(logging.WARNING, "sparkgap.monitor"):
            for _ in range(3):
                assert not work(TcpSender(wrong))
        assert store.runs() == []
        assert len([r for r in caplog.records if "did not know the token" in r.message]) == 1

    @pytest.mark.parametrize(
        "raw",
        [
            struct.pack(">I", 1 << 30) + b"x" * 100,
            struct.pack(">I", 8) + b"not json",
            struct.pack(">I", 6) + json.dumps([1, 2]).encode(),
            struct.pack(">I", 2) + b"\xff\xfe",
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        ],
        ids=["1 GB frame", "no JSON", "no object", "no text", "HTTP"],
    )
    def test_garbage(self, store: Store, hub: Hub, raw: bytes) -> None:
        with self.connect(hub) as connection:
            connection.sendall(raw)
            try:
                while connection.recv(100):
                    pass
            except ConnectionResetError:
                pass
        assert work(TcpSender(hub.address(HERE)))  # the hub lives
        assert store.runs() == ["r"]

    def test_garbage_of_one_who_knows_the_token(self, store: Store, hub: Hub) -> None:
        with self.connect_known(hub) as connection:
            good = events.encode(events.Log(run="r", time=1.0, level="INFO", logger="l", text="good"))
            for number, told in enumerate(({"type": "log"}, {"type": "log", "run": "other", "time": 1.0}, good)):
                connection.sendall(wire.packed(wire.frame("s", "r", number, [told])))
            acks = b""
            while len(acks) < 24:
                acks += connection.recv(24)
        assert store.rejected == 2
        with store.reading("r") as state:
            assert [line.text for line in state.logs] == ["good"]

    def connect_known(self, hub: Hub) -> socket.socket:
        made = socket.create_connection((HERE, hub.port), timeout=10)
        proof = wire.proof(hub.address(HERE).token, made.recv(wire.NONCE_BYTES))
        made.sendall(wire.packed(json.dumps({"proof": proof}).encode()))
        assert made.recv(1) == b"y"
        return made


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> tuple[Path, Path]:
        paths = tmp_path / "cert.pem", tmp_path / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=driver",
             "-keyout", paths[1], "-out", paths[0]], check=True, capture_output=True,
        )  # fmt: skip
        return paths

    def test_events_cross_encrypted(self, store: Store, certificate: tuple[Path, Path]) -> None:
        hub = Hub(store, HERE, certificate=certificate)
        try:
            assert work(TcpSender(hub.address(HERE)))
            assert attempt(store).status == "ok"
            with socket.create_connection((HERE, hub.port), timeout=10) as plain:
                plain.sendall(b"x" * 100)
                try:
                    got = plain.recv(100)
                except ConnectionResetError:
                    got = b""
            assert len(got) < wire.NONCE_BYTES  # a TLS alert at most
        finally:
            hub.close()

    def test_another_hub_is_not_taken_for_the_drivers(
        self, store: Store, certificate: tuple[Path, Path], tmp_path: Path
    ) -> None:
        hub = Hub(store, HERE, certificate=certificate)
        try:
            other = ssl.get_server_certificate((HERE, hub.port))
            assert other.strip() == certificate[0].read_text().strip()
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=driver",
                 "-keyout", tmp_path / "k", "-out", tmp_path / "c"], check=True, capture_output=True,
            )  # fmt: skip
            address = hub.address(HERE)
            wrong = wire.Address(HERE, address.port, address.token, certificate=(tmp_path / "c").read_text())
            assert not work(TcpSender(wrong))
            assert store.runs() == []
        finally:
            hub.close()


class TestFolder:
    def test_what_executors_write_arrives(self, store: Store, tmp_path: Path) -> None:
        follower = Follower(store, tmp_path)
        try:
            follower.follow("r")
            assert work(FolderSender(str(tmp_path)))
            until(store, lambda: (a := attempt(store)) and a.status == "ok")
        finally:
            follower.close()

    def test_a_line_that_is_not_whole_yet_is_read_later(self, store: Store, tmp_path: Path) -> None:
        follower = Follower(store, tmp_path)
        follower.close()
        follower.follow("r")
        log = events.Log(run="r", time=1.0, level="INFO", logger="l", text="☃" * 10)
        line = wire.frame("s", "r", 0, [events.encode(log)]) + b"\n"
        with (tmp_path / "r" / "s.jsonl").open("ab", buffering=0) as file:
            for byte in range(len(line)):
                with store.reading("r") as state:
                    assert state is None
                file.write(line[byte : byte + 1])
                follower.look()
        with store.reading("r") as state:
            assert state.log_count == 1

    def test_a_cut_line_costs_only_itself(self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        follower = Follower(store, tmp_path)
        follower.close()
        follower.follow("r")
        sender = FolderSender(str(tmp_path))
        assert work(sender, task=Task(1, 0, 1))
        (path,) = (tmp_path / "r").glob("*.jsonl")
        with path.open("ab") as file:
            file.write(b'{"version":1,"sen')
        sender._torn = True
        assert work(sender, task=Task(1, 1, 2))
        follower.look()
        assert store.rejected == 1
        with store.reading("r") as state:
            assert state.totals().rows_out == 10

    def test_a_file_that_grows_no_more_is_of_a_process_that_is_gone(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        follower = Follower(store, tmp_path)
        follower.close()
        follower.follow("r")
        begun = reporter.Attempted(FolderSender(str(tmp_path)), "r", Task(1, 0, 7), TaskStats(1, 0, 7))
        begun.say(events.TaskStarted(run="r", time=time.time(), task=begun.task, host="h", pid=1))
        begun.sender.send("r", begun.take())
        follower.look()
        assert attempt(store).status == "running"
        monkeypatch.setattr("sparkgap.monitor.hub.SILENT_SECONDS", -1.0)
        follower.look()
        assert attempt(store).status == "lost"
        begun.over(True)
        begun.sender.send("r", begun.take())
        follower.look()
        assert attempt(store).status == "ok"  # it was only slow

    def test_a_folder_that_cannot_be_written_is_said_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (tmp_path / "file").write_text("")
        sender = FolderSender(str(tmp_path / "file"))
        with caplog.at_level(logging.WARNING, "sparkgap.monitor"):
            assert not work(sender)
            assert not work(sender)
        assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1


class TestHistory:
    def test_a_run_can_be_read_again(self, tmp_path: Path) -> None:
        store = Store(History(tmp_path))
        hub = Hub(store, HERE)
        try:
            store.say(events.RunStarted(run="r", time=1.0, kind="transform", name="net"))
            assert not (tmp_path / "r").exists()  # planned only
            assert work(TcpSender(hub.address(HERE)))
        finally:
            hub.close()
        assert History(tmp_path / "r").read("..") is None
        assert History(tmp_path).read("") is None
        again = History(tmp_path).read("r")
        assert again is not None
        assert (again.name, again.status(), again.totals().rows_out) == ("net", "done", 5)
        assert [s.count for s in again.series.values()] == [1]

    def test_a_full_disk_is_said_once_and_costs_only_the_history(self, caplog: pytest.LogCaptureFixture) -> None:
        store = Store(History(Path("/dev/full/runs")))
        hub = Hub(store, HERE)
        try:
            with caplog.at_level(logging.WARNING, "sparkgap.monitor"):
                for n in range(3):
                    assert work(TcpSender(hub.address(HERE)), task=Task(1, n, n))
        finally:
            hub.close()
        with store.reading("r") as state:
            assert state.totals().rows_out == 15
        assert len([r for r in caplog.records if "cannot be written" in r.message]) == 1

    def test_old_runs_make_room(self, tmp_path: Path) -> None:
        (tmp_path / "somebodys own folder").mkdir()
        (tmp_path / "somebodys own folder" / "thesis.tex").write_text("x")
        for n in range(6):
            store = Store(History(tmp_path, keep_runs=3))
            store.receive("s", f"r{n}", 0, [events.encode(events.Log(run=f"r{n}", time=1.0, level="I", logger="l", text="t"))])
            past = time.time() - 100 + n
            os.utime(tmp_path / f"r{n}", (past, past))
        assert History(tmp_path).runs() == ["r3", "r4", "r5"]
        assert (tmp_path / "somebodys own folder" / "thesis.tex").exists()

    def test_senders_do_not_choose_paths(self, tmp_path: Path) -> None:
        store = Store(History(tmp_path / "runs"))
        told = [events.encode(events.Log(run="r", time=1.0, level="I", logger="l", text="t"))]
        store.receive("../../evil", "r", 0, told)
        assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.jsonl")] == ["runs/r/_.._evil.jsonl"]


class TestFlood:
    def test_what_is_dropped_is_counted_exactly(self, store: Store, hub: Hub) -> None:
        mine = reporter.Reporter()
        begun = mine.begin(TcpSender(hub.address(HERE)), "r", Task(1, 0, 7), TaskStats(1, 0, 7))
        total = 40_000

        def flood() -> None:
            for n in range(total // 4):
                gap.report(float(n), loss=float(n))

        threads = [threading.Thread(target=flood) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert mine.end(begun, True)
        found = attempt(store)
        with store.reading("r") as state:
            arrived = sum(s.count for s in state.series.values())
        assert found.said["metrics"] == total
        assert arrived + found.dropped.get("metrics", 0) == total
        assert 0 < arrived < total

    def test_of_a_flood_a_sample_is_kept_and_how_it_ended(self, monkeypatch: pytest.MonkeyPatch) -> None:
        begun = reporter.Attempted(NoSender(), "r", Task(1, 0, 7), TaskStats(1, 0, 7))
        monkeypatch.setattr(reporter, "at_hand", begun)

        def points() -> dict[tuple[str, ...], list[float]]:
            told = [e for e in begun.take() if isinstance(e, events.Metrics)]
            return {m.names: [p[2] for p in m.points] for m in told}

        for n in range(10_000):
            gap.report(loss=float(n))
        assert points() == {("loss",): [float(n) for n in range(9_750, 10_000)]}
        assert begun.flooded
        for n in range(10_000, 15_000):
            gap.report(loss=float(n))
            gap.report(accuracy=n / 20_000)
        kept = points()
        assert len(kept["loss",]) + len(kept["accuracy",]) <= reporter.FLOODED_METRICS + reporter.NEWEST
        assert min(kept["loss",]) < 12_000, "a sample of all of it"
        assert (max(kept["loss",]), max(kept["accuracy",])) == (14_999.0, 14_999 / 20_000)
        gap.report(loss=1.0)
        assert points()["loss",] == [1.0]
        assert not begun.flooded
        gap.report(loss=2.0)
        assert points()["loss",] == [2.0]
        begun.over(True)
        last = begun.take()[-1]
        assert isinstance(last, events.TaskEnded)
        assert last.said["metrics"] == 20_002
        assert last.dropped["metrics"] == 20_002 - 250 - len(kept["loss",]) - len(kept["accuracy",]) - 2

    def test_failures_stay_where_logs_go(self, store: Store, hub: Hub) -> None:
        mine = reporter.Reporter()
        begun = mine.begin(NoSender(), "r", Task(1, 0, 7), TaskStats(1, 0, 7))
        begun.say(events.Failure(run="r", time=1.0, task=begun.task, error="E", message="the one"))
        for n in range(2000):
            begun.say(events.Log(run="r", time=1.0, task=begun.task, level="INFO", logger="l", text=str(n)))
        begun.sender = TcpSender(hub.address(HERE))
        assert mine.end(begun, False)
        with store.reading("r") as state:
            assert [f.message for f in state.failures] == ["the one"]
            assert state.log_count == reporter.MAX_OTHERS["log"]
            assert state.dropped() == {"log": 2000 - reporter.MAX_OTHERS["log"]}
            assert state.logs[-1].text == "1999"  # the oldest went


def _begin_and_die(address: wire.Address) -> None:
    sender = sending.TcpSender(address)
    begun = reporter.Attempted(sender, "r", Task(1, 0, 7), TaskStats(1, 0, 7))
    assert sender.send("r", begun.take(), wait=10.0)
    os._exit(9)
