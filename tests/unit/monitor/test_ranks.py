"""The ranks of a gang: what is known of them, what limits them, and how it is put on a line and on the page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap.monitor import events
from sparkgap.monitor.events import RankProgress, Task
from sparkgap.monitor.rank_verdict import of_ranks
from sparkgap.monitor.ranks import PHASES, Rank, Ranks
from sparkgap.monitor.state import RunState, fold
from sparkgap.monitor.terminal import Line
from sparkgap.monitor.verdict import of_run
from sparkgap.monitor.web.view import run_view
from sparkgap.monitor.words import of_gang


def said(
    rank: int, time: float = 10.0, phase: str = "compute", *, world: int = 2, attempt: int = 0, stage: int = -1, **more
) -> RankProgress:
    phases = more.pop("phases", {"compute": 8.0, "data": 2.0})
    task = Task(stage, rank, attempt)
    return RankProgress(run="r", time=time, task=task, rank=rank, world=world, phase=phase, phases=phases, host="h", **more)


def ranks_of(*each: dict[str, float]) -> list[Rank]:
    return [Rank(said(number, phases=phases, world=len(each))) for number, phases in enumerate(each)]


class TestRanks:
    def test_later_news_replace_earlier_ones_in_any_order(self) -> None:
        ranks = Ranks()
        for event in (said(0, 2.0, rows=20), said(0, 1.0, rows=10), said(1, 1.0, rows=5)):
            ranks.note(event)
        assert [r.latest.rows for r in ranks.all()] == [20, 5]
        assert ranks.rows == 25

    def test_the_rate_is_that_of_the_last_seconds_and_at_the_end_that_of_all(self) -> None:
        ranks = Ranks()
        for second in range(20):
            ranks.note(
                said(0, float(second), rows=100 * second if second < 10 else 1000 * second, phases={"compute": second + 1.0})
            )
        assert ranks.rate == pytest.approx(1000)
        ranks.note(said(0, 20.0, "done", rows=20_000, phases={"start": 5.0, "compute": 40.0}))
        assert ranks.rate == pytest.approx(500)

    def test_a_gang_that_spark_begins_anew_takes_the_place_of_the_old_one(self) -> None:
        ranks = Ranks()
        for event in (said(0, rows=9, stage=3), said(1, rows=9, stage=3), said(1, 11.0, rows=1, attempt=7, stage=4)):
            ranks.note(event)
        assert [(r.latest.rank, r.latest.rows) for r in ranks.all()] == [(1, 1)]

    def test_the_start_is_no_part_of_the_data_wait(self) -> None:
        (rank,) = ranks_of({"start": 90.0, "data": 2.0, "compute": 8.0})
        assert rank.share("data") == pytest.approx(0.2)

    @pytest.mark.parametrize("number", [-1, 10**9])
    def test_a_number_that_is_no_rank_is_left_out(self, number: int) -> None:
        ranks = Ranks()
        ranks.note(said(number))
        assert not ranks


class TestVerdict:
    @given(st.lists(st.dictionaries(st.sampled_from(list(PHASES)), st.floats(0, 100)), max_size=4))
    def test_always_an_answer_and_a_share_of_one_at_most(self, each: list[dict[str, float]]) -> None:
        found = of_ranks(ranks_of(*each))
        assert 0 <= found.share <= 1 + 1e-9
        assert found.text
        assert bool(found.limit) == bool(found.fix)

    def test_compute_bound(self) -> None:
        found = of_ranks(ranks_of({"start": 3.0, "compute": 86.0, "data": 8.0, "communicate": 6.0}))
        assert (found.limit, found.text) == ("compute", "compute-bound: 86% in the model")

    def test_what_comes_second_is_told_where_it_is_much(self) -> None:
        assert of_ranks(ranks_of({"compute": 60.0, "communicate": 40.0})).text.endswith("(40% waiting for ranks)")

    @pytest.mark.parametrize(
        ("phases", "limit", "text"),
        [
            ({"data": 7.0, "compute": 3.0}, "data", "waits for data: 70%"),
            ({"communicate": 7.0, "compute": 3.0}, "communicate", "bound by communication: 70%"),
            ({"convert": 7.0, "compute": 3.0}, "convert", "bound by converting"),
            ({"validate": 7.0, "compute": 3.0}, "validate", "bound by validation"),
            ({"checkpoint": 7.0, "compute": 3.0}, "checkpoint", "bound by checkpoints"),
            ({"start": 7.0, "compute": 3.0}, "start", "bound by starting: 70%"),
            ({"compute": 0.2}, "", "too short"),
        ],
    )
    def test_the_largest_share_limits(self, phases: dict[str, float], limit: str, text: str) -> None:
        found = of_ranks(ranks_of(phases, phases))
        assert found.limit == limit
        assert found.text.startswith(text)

    def test_one_rank_that_the_others_wait_for(self) -> None:
        fast = {"compute": 4.0, "communicate": 6.0}
        found = of_ranks(ranks_of(fast, {"compute": 10.0}, fast))
        assert found.limit == "slowest rank"
        assert found.text.startswith("waits for the slowest rank: 60% of the others' time goes into waiting for rank 1 on h")
        slow_data = of_ranks(ranks_of(fast, {"data": 8.0, "compute": 2.0}))
        assert "it waits 80% of its time for data" in slow_data.text
        assert "shards" in slow_data.fix

    def test_ranks_that_all_wait_alike_have_no_slowest_one(self) -> None:
        alike = {"compute": 4.0, "communicate": 6.0}
        assert of_ranks(ranks_of(alike, alike)).limit == "communicate"


def training(*more: events.Event) -> RunState:
    """Two ranks in their second epoch of three, in slots of other numbers."""
    told: list[events.Event] = [events.RunStarted(run="r", time=0.0, kind="train", name="fit Net", details={})]
    for rank in (0, 1):
        task = Task(-1, 1 - rank, 5 + rank)
        told.append(events.TaskStarted(run="r", time=1.0, task=task, host="h", pid=rank))
        for time in (9.0, 10.0):
            told.append(
                RankProgress(
                    run="r", time=time, task=task, rank=rank, world=2, phase=("data", "communicate")[rank],
                    rows=int(100 * time), phases={"start": 1.0, "data": 2.0 - rank, "compute": 6.0 + rank}, step=50,
                    epoch=1, epochs=3, host="h",
                )
            )  # fmt: skip
        told.append(events.Metrics(run="r", time=9.5, task=task, names=("loss",), points=((9.5, 50.0, 0.5 - rank / 10),)))
    return fold("r", [*told, *more])


class TestViews:
    def test_the_line_tells_of_epoch_loss_rate_and_each_rank(self) -> None:
        line = Line.of(training())
        assert line is not None
        assert line.live() == (
            "fit Net · epoch 2/3 · loss 0.45 · rank 0 waiting for data, 25% data wait; rank 1 waiting for ranks, 12% data wait"
            " · 2,000 rows · 200 rows/s · compute-bound"
        )
        assert line.epochs == (1, 3)

    def test_many_ranks_are_told_together(self) -> None:
        more = [said(rank, 10.0, "compute", world=6, attempt=rank, epochs=3) for rank in range(2, 6)]
        assert of_gang(training(*more)).endswith("4 computing, 1 waiting for data, 1 waiting for ranks; data wait 12% to 25%")

    def test_the_page_has_a_row_a_rank(self) -> None:
        view = run_view(training())
        assert [(r["rank"], r["phase"], r["epoch"], r["step"], r["status"]) for r in view["ranks"]] == [
            (0, "waiting for data", 1, 50, "running"),
            (1, "waiting for ranks", 1, 50, "running"),
        ]
        assert [round(r["data_wait"], 3) for r in view["ranks"]] == [0.25, 0.125]
        for row in view["ranks"]:
            assert sum(p["share"] for p in row["phases"]) == pytest.approx(1)
        assert (view["rows_out"], view["unit"], view["rate"]) == (2000, "rows", 200.0)
        assert {p["phase"] for p in view["phases"]} == {"start", "data", "compute"}
        assert [line["rank"] for line in view["metrics"][0]["lines"]] == [0, 1]  # slots have other numbers
        assert view["found"]["limit"] == "compute"

    def test_a_rank_whose_process_has_gone_is_lost(self) -> None:
        state = training()
        state.lose(Task(-1, 1, 5), 11.0)
        assert [r["status"] for r in run_view(state)["ranks"]] == ["lost", "running"]

    def test_a_training_that_tells_of_no_rows_counts_ranks(self) -> None:
        task = Task(-1, 0, 1)
        begun = [
            events.RunStarted(run="r", time=0.0, kind="train", name="n", details={}),
            events.TaskStarted(run="r", time=0.0, task=task, host="h", pid=1),
            RankProgress(run="r", time=3.0, task=task, rank=0, world=1, phase="compute", phases={"compute": 3.0}),
        ]
        view = run_view(fold("r", begun))
        assert (view["unit"], view["rows_out"]) == ("ranks", 0)

    def test_writing_shards_has_a_verdict_and_phases_of_its_own(self) -> None:
        task = Task(2, 0, 0)
        stats = {"stage": 2, "rows_in": 10, "rows_out": 10, "seconds": {"read": 9.0, "write": 1.0}}
        state = fold("r", [
            events.RunStarted(run="r", time=0.0, kind="shards", name="shards of x", details={}),
            events.TaskStarted(run="r", time=0.0, task=task, host="h", pid=1),
            events.TaskEnded(run="r", time=10.0, task=task, ok=True, stats=stats),
        ])  # fmt: skip
        assert of_run(state).text == "bound by Spark, which sends the rows: 90% of the tasks' time"
        assert [(p["phase"], p["share"]) for p in run_view(state)["phases"]] == [("read", 0.9), ("write", 0.1)]
