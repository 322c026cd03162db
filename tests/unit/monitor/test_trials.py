"""What is known of the trials of a search: news add up, the best come first, and memory is bounded."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sparkgap.monitor import events
from sparkgap.monitor.events import Trial
from sparkgap.monitor.history import History
from sparkgap.monitor.store import Store
from sparkgap.monitor.trials import MAX_BEST, MAX_LATEST, MAX_PARAMS, SLACK, Trials, dominated


def told(number: int, state: str = "running", *values: float, **more: object) -> Trial:
    return Trial(run="r", time=100.0 + number, number=number, state=state, values=values, **more)  # type: ignore[arg-type]


def fold(*news: Trial, directions: str = "minimize") -> Trials:
    trials = Trials()
    trials.aim(directions)
    for event in news:
        trials.note(event)
    return trials


def order(trials: Trials) -> list[int]:
    return [known.number for known, _ in trials.ranked()]


def test_news_of_a_trial_add_up() -> None:
    trials = fold(
        told(3, started=90.0),
        told(3, params={"x": 0.5}, distributions={"x": {"low": 0.0, "high": 1.0, "log": False}}),
        told(3, report=(2.0, 0.7)),
        told(3, params={"kind": "round"}, distributions={"kind": {"choices": ["round"]}}),
        told(3, "complete", 0.25, seconds=4.0),
    )
    known = trials.kept[3]
    assert (known.state, known.values, known.report, known.started, known.seconds) == ("complete", (0.25,), (2.0, 0.7), 90, 4)
    assert known.params == {"x": 0.5, "kind": "round"}
    assert list(trials.distributions) == ["x", "kind"]


def test_what_has_ended_stays_as_it_is() -> None:
    trials = fold(told(1), told(1, "failed", note="no memory"), told(1, params={"x": 1}), told(1, "complete", 2.0))
    assert (trials.kept[1].state, trials.kept[1].note, trials.kept[1].params) == ("failed", "no memory", {})
    assert +trials.counts == {"failed": 1}


def test_a_trial_that_was_cut_off_has_its_time() -> None:
    trials = fold(told(1, started=91.0), told(1, "failed"))
    assert trials.kept[1].seconds == 10.0


def test_the_best_come_first_and_the_unfinished_last() -> None:
    news = [told(0, "complete", 3.0), told(1, "failed"), told(2, "complete", 1.0), told(3, "pruned", 0.1), told(4)]
    assert order(fold(*news)) == [2, 0, 4, 3, 1]
    assert order(fold(*news, directions="maximize")) == [0, 2, 4, 3, 1]


def test_of_several_objectives_the_front_comes_first() -> None:
    news = [told(0, "complete", 1.0, 1.0), told(1, "complete", 2.0, 5.0), told(2, "complete", 3.0, 4.0)]
    trials = fold(*news, directions="minimize, maximize")
    assert [(known.number, rank) for known, rank in trials.ranked()] == [(0, 0), (1, 0), (2, 1)]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12), st.integers(1, 2))
def test_ranks_by_their_definition(values: list[tuple[int, int]], objectives: int) -> None:
    rows = [v[:objectives] for v in values]
    signs = (1, -1)[:objectives]

    def beats(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        pairs = [(s * x, s * y) for s, x, y in zip(signs, a, b, strict=True)]
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    assert dominated(rows, ("minimize", "maximize")[:objectives]) == [sum(beats(a, b) for a in rows) for b in rows]


def test_of_very_many_the_best_the_latest_and_the_running_are_kept() -> None:
    count = 3 * (MAX_BEST + MAX_LATEST)
    trials = fold(told(0), *(told(n, "complete", float(n)) for n in range(1, count)))
    assert len(trials.kept) <= MAX_BEST + MAX_LATEST + SLACK
    assert {0, *range(1, MAX_BEST + 1), *range(count - MAX_LATEST, count)} <= set(trials.kept)
    assert (trials.total, trials.counts["complete"], trials.counts["running"]) == (count, count - 1, 1)


def test_names_of_parameters_are_bounded() -> None:
    trials = fold(*(told(1, params={f"x{n}": n}, distributions={f"x{n}": {"choices": [n]}}) for n in range(3 * MAX_PARAMS)))
    assert len(trials.kept[1].params) == len(trials.distributions) == MAX_PARAMS


def test_ranges_grow() -> None:
    def of(**about: object) -> Trial:
        return told(1, distributions={"x": about})

    assert fold(of(low=1, high=2, log=True), of(low=0.5, high=1, log=True)).distributions["x"] == {
        "low": 0.5, "high": 2, "log": True,
    }  # fmt: skip
    assert fold(of(choices=[1, "a"]), of(choices=[True, "a"])).distributions["x"] == {"choices": [1, "a", True]}


def test_the_history_gives_them_back(tmp_path: Path) -> None:
    store = Store(History(tmp_path))
    details = {"direction": "maximize"}
    store.say(events.RunStarted(run="r", time=99.0, kind="search", name="f", details=details))
    for event in (told(0, params={"x": None}), told(0, "complete", float("inf")), told(1, "complete", 2.0), told(2, "pruned")):
        store.say(event)
    again = History(tmp_path).read("r")
    with store.reading("r") as state:
        assert state is not None
        assert again is not None
        assert again.trials.ranked() == state.trials.ranked()
        assert again.trials.directions == ("maximize",)
        assert order(again.trials) == [0, 1, 2]
