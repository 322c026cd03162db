"""Inside a task: report, show, logging, print; what is sent, what stays as it was, and what never raises."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pytest

import sparkgap as gap
from sparkgap.embedded import worker
from sparkgap.models.base import Runtime
from sparkgap.models.process import ProcessPredictor
from sparkgap.monitor import events, load, reporter, sending, task
from sparkgap.monitor.events import Event
from sparkgap.monitor.state import fold
from sparkgap.monitor.stats import TaskStats
from sparkgap.monitor.wire import Address

ADDRESS = Address("", 0, "", folder="nowhere")


class Kept:
    """A sender that keeps what it is given."""

    def __init__(self) -> None:
        self.told: list[Event] = []

    def ready(self) -> bool:
        return True

    def send(self, run: str, told: Sequence[Event], wait: float = 0.0) -> bool:
        self.told += told
        return True

    def of(self, kind: type[Event]) -> list:
        return [e for e in self.told if isinstance(e, kind)]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    made = Kept()
    monkeypatch.setattr(task, "sender", lambda address: made)
    return made


def test_what_is_said_is_sent(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    with task.telling(ADDRESS, "r", TaskStats(1, 2, 3)):
        gap.report(loss=0.5, step=7)
        gap.report(8, loss=np.float32(0.25), bad="text")
        gap.report(loss=float("nan"))
        gap.show("matrix", np.eye(3))
        print("two\nlines")
        sys.stderr.write("bar 10%\rbar 100%\n")
        logging.getLogger("mine").info("for %s", "you")
        logging.getLogger("mine").debug("not this")
    points = [p[1:] for m in kept.of(events.Metrics) for p in m.points]
    assert points == [(7, 0.5), (8, 0.25), (None, None)]
    assert [a.name for a in kept.of(events.Artifact)] == ["matrix"]
    texts = [(line.level, line.logger, line.text) for line in kept.of(events.Log) if line.logger != "sparkgap.monitor"]
    assert texts == [
        ("PRINT", "stdout", "two"), ("PRINT", "stdout", "lines"), ("PRINT", "stderr", "bar 100%"), ("INFO", "mine", "for you"),
    ]  # fmt: skip
    (ended,) = kept.of(events.TaskEnded)
    assert ended.ok
    assert ended.said["metrics"] == 3
    assert capsys.readouterr().out == "two\nlines\n"  # and it went where it goes anyway


def test_afterwards_all_is_as_before(kept: Kept) -> None:
    before = sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)
    with pytest.raises(ZeroDivisionError), task.telling(ADDRESS, "r", TaskStats()):
        _ = 1 / 0
    assert (sys.stdout, sys.stderr, logging.getLogger().level, list(logging.getLogger().handlers)) == before
    assert reporter.at_hand is None
    (failure,) = kept.of(events.Failure)
    assert failure.error == "ZeroDivisionError"
    assert "1 / 0" in failure.traceback
    assert not kept.of(events.TaskEnded)[0].ok


def test_a_task_whose_rows_nobody_wants_any_more_is_no_failure(kept: Kept) -> None:
    def rows() -> Iterator[int]:
        with task.telling(ADDRESS, "r", TaskStats()):
            yield 1
            yield 2

    generator = rows()
    next(generator)
    generator.close()
    assert kept.of(events.Failure) == []
    assert kept.of(events.TaskEnded)[0].ok


def test_nothing_is_told_where_there_is_no_way() -> None:
    with task.telling(None, "r", TaskStats()) as begun:
        assert begun is None
        assert reporter.at_hand is None


def test_things_of_one_name_are_shown_four_times_a_second_at_most(kept: Kept) -> None:
    with task.telling(ADDRESS, "r", TaskStats()):
        for _ in range(50):
            gap.show("a", "text")
        gap.show("b", "text")
    (ended,) = kept.of(events.TaskEnded)
    arrived = [a.name for a in kept.of(events.Artifact)]
    assert arrived.count("b") == 1
    assert len(arrived) + ended.dropped["artifact"] == ended.said["artifact"] == 51


@pytest.mark.parametrize("value", [object(), np.zeros((2, 2, 2, 2, 2)), {"a"}])
def test_what_cannot_be_shown_is_logged(kept: Kept, value: object, caplog: pytest.LogCaptureFixture) -> None:
    with task.telling(ADDRESS, "r", TaskStats()):
        gap.show("odd", value, kind="image")
    assert kept.of(events.Artifact) == []
    assert "gap.show('odd')" in caplog.text


def test_a_sender_that_fails_fails_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "sender", lambda address: sending.NoSender())
    with task.telling(ADDRESS, "r", TaskStats()):
        gap.report(x=1)


def test_a_model_in_a_process_of_its_own_is_heard(kept: Kept) -> None:
    def model(x: np.ndarray) -> dict[str, np.ndarray]:
        import sparkgap

        sparkgap.report(3, inside=float(x[0]))
        sparkgap.show("there", x)
        print("printed there", flush=True)
        return {"y": x}

    predictor = ProcessPredictor(gap.load(model).ref, Runtime())
    try:
        with task.telling(ADDRESS, "r", TaskStats(1, 2, 3)):
            predictor.predict({"x": np.array([7.0, 8.0])})
            deadline = time.monotonic() + 30
            while not any(line.text == "printed there" for line in kept.of(events.Log)):
                assert time.monotonic() < deadline
                threading.Event().wait(0.05)  # what is printed comes by another way than the answer
    finally:
        predictor.close()
    assert [p[1:] for m in kept.of(events.Metrics) for p in m.points] == [(3, 7.0)]
    (shown,) = kept.of(events.Artifact)
    assert (shown.run, shown.name, shown.task) == ("r", "there", (1, 2, 3))


def test_a_forked_child_does_not_speak_for_its_parent(kept: Kept) -> None:
    with task.telling(ADDRESS, "r", TaskStats()):
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=lambda: queue.put(reporter.at_hand is None))
        child.start()
        assert queue.get(timeout=30) is True
        child.join(30)


def test_memory_and_gpus() -> None:
    assert load.memory() > 10 << 20
    found = load.gpus()
    assert ("reason" in found) != ("devices" in found)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError(), pa.ArrowInvalid("cut"), OSError("cut")])
def test_rows_that_break_off_are_no_failure_of_the_task(kept: Kept, error: Exception) -> None:
    """As with LIMIT: Spark closes the connection, sometimes in the middle of a batch."""

    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"x": [1.0]})
        raise error

    with pytest.raises(task.TakenAway, match="broke off"), task.telling(ADDRESS, "r", TaskStats()):
        list(worker._received(batches()))
    assert not kept.of(events.Failure)
    (ended,) = kept.of(events.TaskEnded)
    assert ended.ok is None
    assert fold("r", kept.told).attempts[ended.task].status == "lost"


def test_a_missing_file_of_an_earlier_function_is_a_failure() -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch({"x": [1.0]})
        open("/nowhere/at all")

    with pytest.raises(FileNotFoundError):
        list(worker._received(batches()))


def test_a_long_phase_is_told_while_it_lasts(kept: Kept) -> None:
    with task.telling(ADDRESS, "r", TaskStats(1, 2, 3)) as begun:
        with task.phase(begun, "loading the model"):
            assert begun is not None
            during = fold("r", begun.take())
        after = fold("r", begun.take())
    assert [a.phase for a in during.attempts.values()] == ["loading the model"]
    assert [a.phase for a in after.attempts.values()] == [""]
    with task.phase(None, "nobody is told"):
        pass
