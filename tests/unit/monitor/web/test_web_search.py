"""A search on the page: figures of the view, then the leaderboard and the parallel axes in a real browser."""

from __future__ import annotations

import json
import time

import pytest
from web_runs import Making, searching

from sparkgap.monitor import events
from sparkgap.monitor.history import History
from sparkgap.monitor.store import Store
from sparkgap.monitor.web.plain import finite
from sparkgap.monitor.web.server import serve
from sparkgap.monitor.web.view import run_view

HURT = "<img src=x onerror=\"document.title='hurt'\"><script>document.title='hurt'</script>"
READY = "document.querySelector('.board tbody tr') && document.querySelector('.axes svg .trial')"
ROW = "[...document.querySelectorAll('.board tbody tr')]"


@pytest.fixture
def look(tab, page):
    """Open a run, wait for its leaderboard; at the end nothing may have gone wrong in the browser."""
    tab.size(1280, 900)
    tab.console.clear()

    def opened(run):
        tab.open(f"{page.url}#/run/{run}")
        tab.until(READY)
        return tab

    yield opened
    assert tab.console == []
    tab.open("about:blank")


def view_of(store, run):
    with store.reading(run) as state:
        return run_view(state)


def numbers(tab):
    return tab.run(f"{ROW}.map(r => Number(r.dataset.trial))")


def test_the_view_has_best_first_and_only_json(store):
    made = Making(store, "s", time.time(), "f", "search", direction="maximize")
    for number, value in enumerate((1.0, float("inf"), 3.0)):
        made.say(events.Trial(run="s", time=1.0, number=number, state="complete", values=(value,), params={"x": None}))
    made.say(events.Trial(run="s", time=1.0, number=3, params={"y": "z" * 999}, report=(2.0, None)))
    view = view_of(store, "s")
    assert view["unit"] == "trials"
    found = view["search"]
    assert [row[0] for row in found["trials"]] == [1, 2, 0, 3]
    assert found["trials"][0][3] == ["inf"]
    assert [axis["name"] for axis in found["axes"]] == ["x", "y"]
    assert found["trials"][1][found["columns"].index("params")] == [[None], None]
    assert len(json.dumps(finite(found), allow_nan=False)) < 2000


def test_thousands_of_trials_stay_small(store):
    view = view_of(store, searching(store, 1800).run)
    assert view["search"]["total"] == 1800
    assert len(view["search"]["trials"]) <= 1250
    assert len(json.dumps(finite(view["search"]))) < 400_000


def test_other_runs_have_no_search(store):
    Making(store, "t", time.time())
    assert view_of(store, "t")["search"] is None


def test_best_first_with_state_value_time_and_parameters(look, store):
    tab = look(searching(store).run)
    best = view_of(store, "20260802-091500-5e6f7a8b")["search"]["trials"]
    assert numbers(tab) == [row[0] for row in best[:10]]
    first = tab.text(".board tbody tr").replace("\n", " ").replace("\t", " ")
    for part in (str(best[0][0]), "complete", "0.0", " s"):
        assert part in first
    assert str(best[0][0]) in tab.text(".best")
    heads = tab.text(".board thead")
    for name in ("learning_rate", "optimizer", "momentum", "value"):
        assert name in heads
    assert "Trials" in tab.text(".numbers")
    assert "4 running" in tab.text(".numbers")
    assert "Rows" not in tab.text(".numbers")
    assert "Working" in tab.text(".limits")
    assert "model" not in tab.text(".limits").lower()


def test_failed_and_pruned_are_told_apart_and_can_be_left_out(look, store):
    tab = look(searching(store).run)
    for state in ("complete", "pruned", "failed", "running"):
        assert tab.run(f"document.querySelectorAll('.paths .trial.{state}').length") > 0
    tab.click(".chip[data-key='state-complete']")
    tab.click(".chip[data-key='state-running']")
    assert tab.run("document.querySelectorAll('.paths .trial.complete, .paths .trial.running').length") == 0
    assert "CUDA out of memory" in tab.text(".board tbody")
    assert set(tab.run("[...document.querySelectorAll('.board .status')].map(s => s.classList[1])")) == {"failed", "pruned"}


def test_sorted_by_a_column_the_other_way_and_back(look, store):
    tab = look(searching(store).run)
    best = numbers(tab)
    tab.click("[data-key='sort-number']")
    assert numbers(tab) == list(range(10))
    assert tab.run("document.querySelector('.board th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    tab.click("[data-key='sort-number']")
    assert numbers(tab) == list(range(119, 109, -1))
    tab.click("[data-key='sort-number']")
    assert numbers(tab) == best
    tab.click(".below button")
    assert len(numbers(tab)) == 60


def test_a_row_shows_its_line_and_a_line_its_row(look, store):
    tab = look(searching(store).run)
    tab.run(f"{ROW}[2].querySelector('button').focus()")
    third = numbers(tab)[2]
    assert tab.text(".search .pointed").startswith(f"Trial {third}")
    assert tab.run("document.querySelectorAll('.over .dot').length") >= 6
    tab.run("""(svg => { const r = svg.getBoundingClientRect(); const d = svg.querySelector('.paths .trial.v0:last-child')
        .getAttribute('d').split(/[ML ]/).filter(Boolean).map(Number);
        svg.dispatchEvent(new PointerEvent('pointermove', { clientX: r.left + d[0], clientY: r.top + d[1] })) })
        (document.querySelector('.axes svg'))""")
    assert tab.text(".search .pointed").startswith("Trial ")
    tab.run("document.querySelector('.axes svg').dispatchEvent(new PointerEvent('pointerleave', { pointerType: 'mouse' }))")
    assert tab.text(".search .pointed").startswith("Point at")
    tab.run("document.querySelector('.axes svg').focus()")
    for place in (0, 1):
        tab.key("ArrowRight")
        assert tab.run("document.querySelector('.board tr.chosen').dataset.trial") == str(numbers(tab)[place])
        assert tab.text(".search .pointed").startswith(f"Trial {numbers(tab)[place]}")


def test_a_range_of_an_axis_chooses_lines_and_rows(look, store):
    tab = look(searching(store).run)
    everything = tab.text(".below")
    tab.run("""(grip => { const r = grip.getBoundingClientRect(); const at = (type, share) =>
        grip.dispatchEvent(new PointerEvent(type, { pointerId: 1, clientX: r.left + 9, clientY: r.top + share * r.height }));
        grip.setPointerCapture = () => {};
        at('pointerdown', 0.0); at('pointermove', 0.3); at('lostpointercapture', 0.3) })
        (document.querySelectorAll('.grip')[1])""")
    assert tab.run("document.querySelectorAll('.band').length") == 1
    out = tab.run("document.querySelectorAll('.paths .out').length")
    assert 0 < out < 120
    assert tab.text(".below") != everything
    assert f"of {120 - out} chosen trials" in tab.text(".below")
    assert min(tab.run(f"{ROW}.map(r => Number(r.querySelector('[data-label=layers]').innerText))")) >= 5
    tab.click(".scale button")
    assert tab.text(".below") == everything


def test_news_arrive_and_keep_what_is_chosen(look, store):
    made = searching(store)
    tab = look(made.run)
    tab.run(f"{ROW}[1].querySelector('button').focus()")
    second = numbers(tab)[1]
    made.say(events.Trial(run=made.run, time=time.time(), number=500, state="complete", values=(0.001,), params={"layers": 3}))
    tab.until(f"{ROW}[0].dataset.trial === '500'")
    assert tab.run("document.querySelector('.board tr.chosen').dataset.trial") == str(second)
    assert tab.run("document.activeElement.dataset.key") == f"trial-{second}"
    assert "0.001" in tab.text(".best")


def test_a_value_axis_for_each_objective(look, store):
    tab = look(searching(store, 60, objectives=2).run)
    names = tab.run("[...document.querySelectorAll('.axes .name')].map(n => n.firstChild.textContent)")
    assert names[-2:] == ["value 1", "value 2"]
    assert "trials are best" in tab.text(".best")
    assert tab.run("document.querySelectorAll('.board .star').length") > 1
    before = tab.run("document.querySelector('.paths').outerHTML")
    tab.run("(e => { e.value = '1'; e.dispatchEvent(new Event('change')) })(document.querySelector('.colours select'))")
    assert tab.run("document.querySelector('.paths').outerHTML") != before


@pytest.mark.parametrize(("width", "dark"), [(360, False), (390, True), (768, False)])
def test_a_narrow_screen_does_not_scroll_sideways(look, tab, store, width, dark):
    made = searching(store)
    name = "a_parameter_with_a_long_name_" * 3
    made.say(
        events.Trial(run=made.run, time=time.time(), number=400, state="complete", values=(0.01,), params={name: "x" * 90})
    )
    look(made.run)
    tab.size(width, 844, dark)
    tab.until(f"document.querySelector('.axes svg').getBoundingClientRect().right <= {width}")
    assert tab.run("document.documentElement.scrollWidth") == width


def test_what_users_wrote_stays_text(look, store):
    made = Making(store, "x", time.time(), HURT, "search", study=HURT)
    for number in range(3):
        made.say(
            events.Trial(
                run="x", time=1.0, number=number, state=("complete", "failed", "running")[number], values=(1.0,)[: 1 - number],
                params={HURT: HURT}, distributions={HURT: {"choices": [HURT]}}, note=HURT,
            )
        )  # fmt: skip
    tab = look("x")
    tab.run(f"{ROW}[0].querySelector('button').focus()")
    assert tab.run("document.querySelectorAll('main script, main [onerror], main img').length") == 0


def test_odd_searches_are_drawn(look, store):
    made = Making(store, "odd", time.time(), "f", "search")
    for number, params in enumerate(({}, {"c": 1.0}, {"c": 1.0, "m": True}, {"m": 2}, {"m": None}, {"n": float("1e300")})):
        made.say(events.Trial(run="odd", time=1.0, number=number, state="complete", values=(5.0,), params=params))
    tab = look("odd")
    assert tab.run("document.querySelectorAll('.paths .trial').length") == 6
    assert "NaN" not in tab.run("document.querySelector('.axes').innerHTML")
    assert len(numbers(tab)) == 6


def test_a_search_of_the_history_opens(tab, tmp_path):
    tab.size(1280, 900)
    searching(Store(History(tmp_path)), 30, "20260101-000000-past")
    with serve(Store(History(tmp_path))) as page:
        tab.open(f"{page.url}#/runs")
        tab.until("document.querySelector('.runs tbody')?.innerText.includes('trials')")
        tab.click(".runs a")
        tab.until(READY)
        assert len(numbers(tab)) == 10
    tab.open("about:blank")
