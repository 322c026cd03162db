"""The processes of a slot, with real processes: every way to end, and that nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark import cloudpickle

import sparkgap as gap
from sparkgap.scheduled import _processes, asking
from sparkgap.scheduled._output import Output
from sparkgap.scheduled.bench import Bench, Ended, Program

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a child cannot import the tests


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Make benches that are closed, with everything below them, in the end."""
    made: list[Bench] = []

    def make(function: Callable[[Any], Any], **options: Any) -> Bench:
        made.append(Bench(Program(cloudpickle.dumps(function), **options)))
        return made[-1]

    yield make
    for one in made:
        zygote = one._zygote.pid
        one.close()
        assert _processes.descendants(zygote) == []


class Seen:
    """Everything that a bench tells until it is idle."""

    def __init__(self, bench: Bench) -> None:
        self.ended: list[Ended] = []
        self.lines: list[str] = []
        self.said: list[dict[str, Any]] = []
        self._bench = bench

    def until(self, done: Callable[[], bool], seconds: float = 30) -> Seen:
        until = time.monotonic() + seconds
        while not done():
            left = until - time.monotonic()
            assert left > 0, f"not within {seconds} s; until then {self.ended}, {self.lines}"
            news = self._bench.wait(left)
            self.ended += news.ended
            self.lines += [text for _, text in news.printed]
            self.said += news.said
        return self

    def idle(self) -> Seen:
        self.until(lambda: self._bench.idle)
        return self.until(lambda: self._told())

    def _told(self) -> bool:
        news = self._bench.wait(0)  # what happened in the call that made it idle
        self.ended += news.ended
        return True


def run(bench: Bench, *items: Any) -> Seen:
    bench.give(cloudpickle.dumps(list(items)), len(items))
    return Seen(bench).idle()


def values(seen: Seen) -> list[Any]:
    return [pickle.loads(e.value) if e.kind == "ok" else e.kind for e in seen.ended]


def one(bench: Bench, item: Any = 0) -> Ended:
    (ended,) = run(bench, item).ended
    return ended


def test_values_come_in_order_through_one_process(bench):
    worker = bench(lambda x: (x, os.getpid()))
    given = values(run(worker, 3, 1, 2)) + values(run(worker, 5))
    assert [x for x, _ in given] == [3, 1, 2, 5]
    assert len({pid for _, pid in given}) == 1


def test_fresh_takes_a_process_for_each(bench):
    given = values(run(bench(lambda x: (x, os.getpid()), fresh=True), *range(4)))
    assert [x for x, _ in given] == [0, 1, 2, 3]
    assert len({pid for _, pid in given}) == 4


def test_a_result_is_there_before_the_next_item_ends(bench):
    worker = bench(time.sleep)
    worker.give(pickle.dumps([0, 60]), 2)
    seen = Seen(worker)
    seen.until(lambda: len(seen.ended) == 1)
    assert seen.ended[0].position == 0


def test_an_exception_tells_type_text_and_the_users_frames(bench):
    def inner(x):
        raise LookupError(f"no {x}")

    ended = one(bench(lambda x: inner(x)), "thing")
    assert (ended.kind, ended.error, ended.message) == ("exception", "LookupError", "no thing")
    assert "in inner" in ended.traceback
    assert "child.py" not in ended.traceback
    assert ended.started == pytest.approx(time.time(), abs=60)
    assert ended.peak_rss > 1 << 20


def test_exceptions_of_all_sorts(bench):
    class Broken(Exception):
        def __str__(self):
            raise ValueError("no text")

        def __reduce__(self):
            raise ValueError("no pickle")

    def fail(kind):
        raise (KeyboardInterrupt("stop"), Broken(), ValueError("half \ud800"))[kind]

    seen = run(bench(fail), 0, 1, 2).ended
    assert [e.kind for e in seen] == ["exception"] * 3
    assert seen[0].error == "KeyboardInterrupt"
    assert seen[1].message == "(its __str__ raised ValueError)"
    assert seen[2].message == "half \\ud800"


def test_exits(bench):
    def leave(how):
        (sys.exit if how[0] == "sys" else os._exit)(how[1])

    seen = run(bench(leave), ("sys", 3), ("os", 4), ("sys", 0), ("sys", "sorry"), ("os", 0)).ended
    assert [(e.kind, e.exit_code) for e in seen] == [("exit", 3), ("exit", 4), ("exit", 0), ("exit", 1), ("exit", 0)]
    assert "sys.exit(3)" in seen[0].message
    assert "os._exit" in seen[1].message
    assert seen[3].output == "sorry\n"


def test_a_crash_tells_the_signal_and_the_stack_and_the_rest_goes_on(bench):
    def crash(x):
        import faulthandler

        if x == 1:
            print("before")
            faulthandler._sigsegv()
        return x

    seen = run(bench(crash), 0, 1, 2)
    assert values(seen) == [0, "signal", 2]
    ended = seen.ended[1]
    assert ended.signal == signal.SIGSEGV
    assert "SIGSEGV" in ended.message
    assert ended.output.startswith("before\n")
    assert ended.traceback.startswith("Fatal Python error: Segmentation fault")
    assert "in crash" in ended.traceback


def test_sigkill_from_outside_speaks_of_memory(bench):
    ended = one(bench(lambda _: os.kill(os.getpid(), signal.SIGKILL)))
    assert (ended.kind, ended.signal) == ("signal", 9)
    assert "out of memory: peak RSS was" in ended.message


def test_timeout_kills_and_the_rest_goes_on(bench):
    begun = time.monotonic()
    seen = run(bench(time.sleep, timeout=0.5), 0, 60, 0)
    assert time.monotonic() - begun < 20
    assert [e.kind for e in seen.ended] == ["ok", "timeout", "ok"]
    assert "longer than 0.5 s" in seen.ended[1].message
    assert 0.4 < seen.ended[1].seconds < 10


def test_the_limit_of_memory_counts_children_of_the_item(bench):
    def hold(_):
        code = "x = bytearray(300 << 20); x[::4096] = b'x' * len(x[::4096]); import time; time.sleep(60)"
        subprocess.run([sys.executable, "-c", code], check=True)

    ended = one(bench(hold, memory=200 << 20))
    assert ended.kind == "memory"
    assert "the limit is 209,715,200" in ended.message


def test_pages_that_forks_share_count_once(bench):
    def share(_):
        block = os.urandom(100 << 20)
        below = [pid for _ in range(3) if (pid := os.fork()) or time.sleep(1.0) or os._exit(0)]
        for pid in below:
            os.waitpid(pid, 0)
        return len(block)

    assert values(run(bench(share, memory=300 << 20), 0)) == [100 << 20]


def test_results_that_cannot_travel(bench):
    def give(how):
        return {"large": b"x" * 2000, "lock": __import__("threading").Lock(), "lambda": lambda: 7}[how]

    large, lock, function = run(bench(give, result_limit=1500), "large", "lock", "lambda").ended
    assert (large.kind, lock.kind, function.kind) == ("result", "result", "ok")
    assert "takes 2,0" in large.message
    assert "limit is 1,500" in large.message
    assert "of type _thread.lock, cannot be pickled: TypeError" in lock.message
    assert pickle.loads(function.value)() == 7


def test_a_large_value_comes_whole(bench):
    seen = run(bench(lambda n: bytes(n)), 50_000_000, 1)
    assert [len(v) for v in values(seen)] == [50_000_000, 1]


def test_large_items_and_a_large_function(bench):
    table = bytes(5_000_000)
    assert values(run(bench(lambda x: len(x) + len(table)), bytes(20_000_000), b"")) == [25_000_000, 5_000_000]


def test_a_missing_module_is_an_error_of_each_item():
    bench = Bench(Program(b"cno_such_module\nfunction\n."))
    ended = run(bench, 1, 2).ended
    bench.close()
    assert [(e.position, e.kind, e.error) for e in ended] == [
        (0, "exception", "ModuleNotFoundError"),
        (1, "exception", "ModuleNotFoundError"),
    ]
    assert "Install what it needs (no_such_module)" in ended[0].message
    assert "no_such_module" in ended[0].traceback


def test_a_crash_while_unpickling_is_that_of_an_item(bench):
    class Trap:
        def __reduce__(self):
            return os._exit, (5,)

    seen = run(bench(lambda x: x), Trap(), 2)
    assert [(e.position, e.kind, e.exit_code) for e in seen.ended] == [(0, "exit", 5), (1, "exit", 5)]


def test_a_function_of_main(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            from pyspark import cloudpickle
            from sparkgap.scheduled.bench import Bench, Program
            class Child: pass        # a name that we use, too
            def main(x): return Child, x + OFFSET
            OFFSET = 40
            bench = Bench(Program(cloudpickle.dumps(main)))
            bench.give(cloudpickle.dumps([2]), 1)
            while not bench.idle:
                for e in bench.wait(30).ended:
                    kind, value = cloudpickle.loads(e.value)
                    print(e.kind, value, kind is Child)
            bench.close()
            """
        )
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "ok 42 True\n", done.stderr


def test_output_belongs_to_its_item(bench):
    def talk(x):
        print(f"out {x}", flush=True)
        print(f"err {x}", file=sys.stderr)
        os.write(1, b"raw\n")
        os.system(f"echo shell {x}")

    seen = run(bench(talk), *range(20))
    assert [e.output for e in seen.ended] == [f"out {x}\nerr {x}\nraw\nshell {x}\n" for x in range(20)]
    assert seen.lines == [line for x in range(20) for line in (f"out {x}", f"err {x}", "raw", f"shell {x}")]


def test_what_is_printed_without_a_line_end_belongs_to_its_item_too(bench):
    seen = run(bench(lambda x: print(x, end="")), 1, 2, 3)
    assert [e.output for e in seen.ended] == ["1", "2", "3"]
    assert seen.lines == ["1", "2", "3"]


def test_ten_megabytes_of_output_leave_their_end(bench):
    def talk(_):
        for n in range(100_000):
            print(f"{n:099d}")

    ended = one(bench(talk, output_bytes=1000))
    assert ended.kind == "ok"
    assert ended.output == "".join(f"{n:099d}\n" for n in range(99_990, 100_000))


def test_lines_are_seen_while_the_item_runs(bench):
    worker = bench(lambda _: (print("working"), time.sleep(60)))
    worker.give(pickle.dumps([0]), 1)
    seen = Seen(worker)
    seen.until(lambda: "working" in seen.lines)
    assert not worker.idle


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30)), st.integers(0, 20))
def test_output_is_cut_at_the_markers_however_it_comes(texts: list[bytes], sizes: list[int], limit: int) -> None:
    marker = b"\x01\x02\x01\x02\x03\x01"
    texts = [t.replace(b"\x03", b"") for t in texts]
    output, stream, sizes = Output(marker, limit), b"".join(t + marker for t in texts), [*sizes, 1 << 20]
    for size in sizes:
        output.feed(stream[:size])
        stream = stream[size:]
    assert [output.take() for _ in texts] == [t[-limit:].decode(errors="replace") if limit else "" for t in texts]
    assert output.lines() == [
        line.decode(errors="replace")
        for t in texts
        for line in (t.split(b"\n") if t[-1:] != b"\n" else t.split(b"\n")[:-1])
        if t
    ]


def test_what_is_said_comes_while_the_item_runs_and_with_results(bench):
    def report(x):
        import logging

        gap.report(loss=x)
        logging.getLogger("mine").info("told %s", x)
        if x:
            time.sleep(60)

    worker = bench(report)
    worker.give(pickle.dumps([0, 1]), 2)
    seen = Seen(worker)
    seen.until(lambda: len(seen.said) >= 4)
    assert [s["names"] for s in seen.said if s["type"] == "metrics"] == [["loss"], ["loss"]]
    assert [s["text"] for s in seen.said if s["type"] == "log"] == ["told 0", "told 1"]


def test_cancelling_ends_the_item_at_hand_only(bench):
    worker = bench(lambda s: (print("go"), time.sleep(s)))
    worker.give(pickle.dumps([60, 0, 0]), 3)
    seen = Seen(worker)
    seen.until(lambda: "go" in seen.lines)
    assert worker.withdraw() == 2
    worker.kill()
    assert [e.kind for e in seen.idle().ended] == ["cancelled"]
    assert values(run(worker, 0)) == [(None, None)]


def test_withdrawing_at_any_moment_loses_and_doubles_nothing(bench):
    worker = bench(lambda x: x)
    rng = random.Random(7)
    for _ in range(200):
        worker.give(pickle.dumps(list(range(100))), 100)
        seen, stop = Seen(worker), rng.randrange(100)
        seen.until(lambda seen=seen, stop=stop: len(seen.ended) >= stop)
        taken = worker.withdraw()
        positions = [e.position for e in seen.idle().ended]
        assert positions == list(range(100 - taken))


def test_closing_while_the_zygote_imports(bench, tmp_path, monkeypatch):
    (tmp_path / "slow_import.py").write_text("import time; time.sleep(600)")
    monkeypatch.syspath_prepend(str(tmp_path))
    worker, begun = bench(lambda x: x, preload=("slow_import",)), time.monotonic()
    worker.give(pickle.dumps([0]), 1)
    worker.kill()
    assert not worker.wait(0.1)
    worker.close()
    assert time.monotonic() - begun < 5


def test_other_sockets_wake_it(bench):
    worker = bench(time.sleep)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"x")
        assert worker.wait(30, (ours,)).readable == [ours]
        assert not worker.wait(0.01)


def test_a_fork_that_runs_on_writes_no_second_result(bench):
    def fork(x):
        return x, bool(os.fork())

    assert values(run(bench(fork), 1, 2, 3)) == [(1, True), (2, True), (3, True)]


def leave_daemon(path: str) -> None:
    """Start a process that has a session of its own and whose parent has ended."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            Path(path).write_text(str(os.getpid()))
            time.sleep(600)
        os._exit(0)
    while not Path(path).exists() or not Path(path).read_text():
        time.sleep(0.01)


@pytest.mark.parametrize("fresh", [False, True])
def test_no_daemon_outlives(bench, tmp_path, fresh):
    worker = bench(leave_daemon, fresh=fresh)
    assert one(worker, str(tmp_path / "pid")).kind == "ok"
    pid = int((tmp_path / "pid").read_text())
    if fresh:
        assert not alive(pid)
    worker.close()
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 10) -> bool:
    until = time.monotonic() + seconds
    while any(map(alive, pids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_a_killed_zygote_costs_the_item_at_hand(bench):
    worker = bench(lambda s: (print(os.getpid()), time.sleep(s)))
    worker.give(pickle.dumps([0, 60, 0]), 3)
    seen = Seen(worker)
    seen.until(lambda: len(seen.lines) == 2)
    os.kill(worker._zygote.pid, signal.SIGKILL)
    assert [e.kind for e in seen.idle().ended] == ["ok", "signal", "ok"]
    assert "had started" in seen.ended[1].message
    assert gone([int(seen.lines[1])])


def test_a_zygote_killed_while_idle_is_replaced(bench):
    worker = bench(lambda x: x)
    assert values(run(worker, 1)) == [1]
    os.kill(worker._zygote.pid, signal.SIGKILL)
    assert values(run(worker, 2))[-1] == 2


def test_a_killed_worker_leaves_nothing(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, subprocess, sys, time
            from pyspark import cloudpickle
            from sparkgap.scheduled.bench import Bench, Program
            def fn(_):
                below = subprocess.Popen(["sleep", "600"], start_new_session=True)
                print(os.getpid(), os.getppid(), below.pid)
                time.sleep(600)
            bench = Bench(Program(cloudpickle.dumps(fn)))
            bench.give(cloudpickle.dumps([0]), 1)
            while True:
                for _, text in bench.wait(None).printed:
                    print(text, flush=True)
            """
        )
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as worker:
        pids = [int(p) for p in worker.stdout.readline().split()]
        assert len(pids) == 3
        assert all(map(alive, pids))
        worker.kill()
    assert gone(pids)


def test_an_item_that_closes_all_descriptors_ends(bench):
    seen = run(bench(lambda x: os.closerange(3, 100) if x else x), 0, 1, 0)
    assert [e.kind for e in seen.ended][::2] == ["ok", "ok"]
    assert seen.ended[1].kind in ("signal", "exit")


def test_preload_that_fails_is_a_line(bench):
    seen = run(bench(lambda x: "colorsys" in sys.modules, preload=("colorsys", "no_such_module")), 0)
    assert values(seen) == [True]
    assert "no_such_module" in seen.ended[0].output


def test_forks_have_random_numbers_of_their_own(bench):
    def draw(_):
        import numpy as np

        return random.random(), float(np.random.random())

    drawn = values(run(bench(draw, fresh=True, preload=("numpy", "numpy.random", "random")), 1, 2, 3))
    assert len({a for a, _ in drawn}) == len({b for _, b in drawn}) == 3


def test_surroundings_are_those_of_the_worker(bench, tmp_path, monkeypatch):
    values(run(bench(lambda x: x), 0))  # the zygote is there before all of this
    (tmp_path / "shipped_late.py").write_text("WORD = 'late'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MINE", "yes")
    monkeypatch.chdir(tmp_path)
    worker = bench(
        lambda _: (
            __import__("shipped_late").WORD,
            os.getcwd(),
            os.environ["OMP_NUM_THREADS"],
            os.environ["MINE"],
            sys.stdin.read(),
        )
    )
    assert values(run(worker, 0)) == [("late", str(tmp_path), "1", "yes", "")]


def test_a_zygote_serves_later_benches():
    pids = []
    for _ in range(2):
        bench = Bench(Program(cloudpickle.dumps(lambda x: os.getppid())))
        pids += values(run(bench, 0))
        bench.close()
    assert pids[0] == pids[1]


def test_no_descriptor_is_left_open(bench):
    def cycle() -> None:
        bench = Bench(Program(cloudpickle.dumps(lambda x: x), fresh=True))
        run(bench, 1, 2)
        bench.close()

    cycle()
    before = len(os.listdir("/proc/self/fd"))
    cycle()
    assert len(os.listdir("/proc/self/fd")) == before


def test_ten_thousand_items_that_do_nothing(bench):
    worker = bench(lambda x: None)
    run(worker, 0)
    begun, cpu, count = time.monotonic(), time.process_time(), 0
    for _ in range(20):
        worker.give(pickle.dumps(list(range(500))), 500)
        while not worker.idle:
            count += len(worker.wait(None).ended)
    print(json.dumps({"seconds": time.monotonic() - begun, "cpu of the bench": time.process_time() - cpu}))
    assert count == 10_000


def test_a_task_asks_and_is_answered() -> None:
    def work(n: int) -> Any:
        asking.tell({"note": n})
        return asking.ask({"double": n})

    got = []
    with contextlib.closing(Bench(Program(cloudpickle.dumps(work)))) as bench:
        bench.give(cloudpickle.dumps([1, 2, 3]), 3)
        while not bench.idle:
            news = bench.wait(30)
            for _, asked in news.asked:
                if asked["wait"]:
                    bench.answer({"id": "of another question", "value": -1})
                    bench.answer({"id": asked["id"], "value": 2 * asked["question"]["double"]})
                else:
                    assert asked["question"]["note"] in (1, 2, 3)
            got += news.ended
    assert [pickle.loads(e.value) for e in got] == [2, 4, 6]


def test_a_question_that_nobody_answers_has_a_deadline() -> None:
    def work(n: int) -> Any:
        return asking.ask({"anybody": "there?"}, timeout=0.2)

    got = []
    with contextlib.closing(Bench(Program(cloudpickle.dumps(work)))) as bench:
        bench.give(cloudpickle.dumps([1]), 1)
        while not bench.idle:
            got += bench.wait(30).ended
    assert [(e.kind, e.error) for e in got] == [("exception", "sparkgap.scheduled.asking.Unanswered")]
