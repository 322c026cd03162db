"""What is known of a run: every task counts once, whatever its attempts did, in whatever order the news came."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from sparkgap.monitor import events, state
from sparkgap.monitor.events import Event, Task
from sparkgap.monitor.state import RunState, fold
from sparkgap.monitor.stats import LATENCY_BOUNDS, TaskStats, add_up


def started(task: Task, time: float = 1.0) -> Event:
    return events.TaskStarted(run="r", time=time, task=task, host="h", pid=1)


def progress(task: Task, rows: int, time: float = 2.0) -> Event:
    return events.Progress(run="r", time=time, task=task, stats=TaskStats(rows_in=rows, rows_out=rows).to_dict())


def ended(task: Task, rows: int, ok: bool = True, time: float = 3.0) -> Event:
    return events.TaskEnded(run="r", time=time, task=task, ok=ok, stats=TaskStats(rows_in=rows, rows_out=rows).to_dict())


@dataclass(frozen=True)
class Life:
    """What happens to one partition: rows of each failed attempt, then of the good one."""

    failed: tuple[int, ...]
    rows: int
    speculative: bool


LIVES = st.lists(
    st.builds(Life, st.lists(st.integers(0, 50), max_size=3).map(tuple), st.integers(0, 100), st.booleans()),
    min_size=1,
    max_size=6,
)


def story(lives: list[Life]) -> list[list[Event]]:
    """One list of events an attempt."""
    attempts, number = [], 0
    for partition, life in enumerate(lives):
        for place, rows in enumerate((*life.failed, life.rows)):
            task = Task(4, partition, number)
            number += 1
            ok = place == len(life.failed)
            attempts.append([started(task), progress(task, rows // 2), ended(task, rows, ok)])
        if life.speculative:
            task = Task(4, partition, number)
            number += 1
            attempts.append([started(task), progress(task, life.rows // 2)])
    return attempts


@given(LIVES, st.randoms(use_true_random=False))
def test_totals_are_the_truth_in_any_order_of_the_senders(lives: list[Life], random) -> None:
    queues = story(lives)
    told = []
    while queues:
        queue = random.choice(queues)
        told.append(queue.pop(0))
        queues = [q for q in queues if q]
    found = fold("r", told)
    assert found.totals().rows_out == sum(life.rows for life in lives)
    assert len(found.counted()) == len(lives)
    assert found.failure_count == 0


@given(LIVES)
def test_the_same_news_twice_change_nothing(lives: list[Life]) -> None:
    told = [e for q in story(lives) for e in q]
    assert fold("r", told + told).totals() == fold("r", told).totals()


def test_a_running_task_counts_with_what_it_has_done() -> None:
    a, b = Task(1, 0, 10), Task(1, 1, 11)
    found = fold("r", [started(a), started(b), ended(a, 100), progress(b, 30)])
    assert found.totals().rows_out == 130
    assert found.status() == "running"


def test_a_lost_task_counts_no_more_and_counts_again_when_it_comes_back() -> None:
    a = Task(1, 0, 10)
    found = fold("r", [started(a), progress(a, 30)])
    found.lose(a, 5.0)
    assert found.totals().rows_out == 0
    assert found.attempts[a].status == "lost"
    found.apply(progress(a, 60, time=6.0))
    assert found.totals().rows_out == 60
    found.apply(ended(a, 90, time=7.0))
    found.lose(a, 8.0)
    assert found.totals().rows_out == 90


def test_the_latest_action_is_what_counts() -> None:
    found = fold("r", [ended(Task(1, 0, 1), 10), ended(Task(5, 0, 2), 20)])
    assert found.totals().rows_out == 20
    assert found.totals(stage=1).rows_out == 10


def test_an_attempt_that_died_unheard_is_known_by_the_next_one() -> None:
    third = events.TaskStarted(run="r", time=5.0, task=Task(1, 0, 12), host="h", pid=3, earlier=2)
    found = fold("r", [started(Task(1, 0, 10)), started(Task(1, 1, 11)), third])
    found.lose(Task(1, 0, 10), 2.0)
    assert found.retries() == 2
    assert fold("r", [third, started(Task(1, 0, 10)), started(Task(1, 0, 11))]).retries() == 0  # copies beside each other


class TestStatus:
    def of(self, *told: Event, count: int | None = None, done: bool = False) -> str:
        found = fold("r", told)
        if count is not None:
            found.apply(events.StageTasks(run="r", time=9.0, stage=1, count=count, done=done))
        return found.status()

    def test_planned(self) -> None:
        assert self.of(events.RunStarted(run="r", time=0.0, kind="transform", name="n")) == "planned"

    def test_between_two_tasks_it_runs(self) -> None:
        assert self.of(ended(Task(1, 0, 1), 1), count=2) == "running"

    def test_done(self) -> None:
        assert self.of(ended(Task(1, 0, 1), 1), ended(Task(1, 1, 2), 1), count=2) == "done"
        assert self.of(ended(Task(1, 0, 1), 1)) == "done"  # nobody tells how many tasks there are

    def test_failed(self) -> None:
        assert self.of(ended(Task(1, 0, 1), 1, ok=False), count=2, done=True) == "failed"
        assert self.of(ended(Task(1, 0, 1), 1, ok=False)) == "failed"

    def test_stopped(self) -> None:
        assert self.of(ended(Task(1, 0, 1), 1), count=2, done=True) == "stopped"  # as with LIMIT


def test_what_is_kept_is_bounded_and_what_is_not_is_counted() -> None:
    found = RunState("r")
    for n in range(state.MAX_SERIES + 5):
        found.apply(events.Metrics(run="r", time=1.0, names=(f"m{n}",), points=((1.0, None, 1.0),)))
    assert len(found.series) == state.MAX_SERIES
    assert found.forgotten["series"] == 5
    for _ in range(state.MAX_FAILURES + 7):
        found.apply(events.Failure(run="r", time=1.0, error="E", message="m"))
    assert (len(found.failures), found.failure_count) == (state.MAX_FAILURES, state.MAX_FAILURES + 7)
    big = state.MAX_ARTIFACT_BYTES // 2 + 1
    for n in range(3):
        found.apply(events.Artifact(run="r", time=1.0, name=str(n), kind="text", media="text/plain", data=b"x" * big))
    assert [a.name for a in found.artifacts] == ["2"]
    for n in range(state.MAX_STAGES + 2):
        found.apply(started(Task(n, 0, n)))
    assert len({t.stage for t in found.attempts}) == state.MAX_STAGES


def test_stats_count_a_phase_that_is_under_way() -> None:
    stats = TaskStats()
    stats.enter("model")
    assert stats.to_dict()["seconds"]["model"] > 0
    assert stats.seconds == {}
    stats.leave("model")
    assert stats.to_dict()["seconds"] == stats.seconds


@given(st.lists(st.floats(0, 200), max_size=50))
def test_latency_buckets(times: list[float]) -> None:
    stats = TaskStats()
    for seconds in times:
        stats.batch_done(seconds)
    total = add_up([stats, stats])
    assert sum(total.latency) == 2 * len(times)
    for place, bound in enumerate(LATENCY_BOUNDS):
        assert sum(stats.latency[: place + 1]) == sum(t <= bound for t in times)
