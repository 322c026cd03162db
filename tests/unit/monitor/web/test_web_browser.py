"""The page in a real browser: live, drilled into, in history, on a phone."""

from __future__ import annotations

import json
import time

import pytest
from web_runs import TRACEBACK, Making, pictures, rich

from sparkgap.monitor import events
from sparkgap.monitor.events import Task
from sparkgap.monitor.history import History
from sparkgap.monitor.store import Store
from sparkgap.monitor.web.server import serve

SEEN = """(s => { const r = document.querySelector(s)?.getBoundingClientRect();
    return !!r && r.width > 0 && r.top >= 0 && r.bottom <= innerHeight && r.left >= 0 && r.right <= innerWidth })"""
READY = "document.querySelector('.numbers .tile') && document.querySelector('#connection.live')"
HURT = "<img src=x onerror=\"document.title='hurt'\"><script>document.title='hurt'</script>"


@pytest.fixture(autouse=True)
def desk(tab):
    tab.size(1280, 800)
    tab.console.clear()
    yield
    assert tab.console == [], "nothing was refused by the content policy, and no script failed"
    tab.open("about:blank")


def open_run(tab, page, run):
    tab.open(f"{page.url}#/run/{run}")
    tab.until(READY)


def test_no_run_yet_and_the_token_leaves_the_address(tab, page):
    tab.open(page.url)
    tab.until("document.querySelector('#connection.live')")
    assert "No run yet." in tab.text("main")
    assert tab.run("location.search") == ""
    tab.open(f"http://127.0.0.1:{page.port}/")  # the cookie is enough now
    tab.until("document.querySelector('#connection.live')")


def test_a_live_update_arrives_without_a_reload(tab, store, page):
    made = Making(store, "live", time.time(), "net")
    made.stage(2)
    open_run(tab, page, "live")
    tab.run("window.here = 'still'")
    assert "planned" in tab.text(".head")
    task = Task(3, 0, 1)
    made.start(task, 0)
    made.progress(task, 2, 12_345, 2)
    tab.until("document.querySelector('.numbers').innerText.includes('12,345')")
    made.end(task, 3, 23_456, 3)
    tab.until("document.querySelector('.numbers').innerText.includes('1 of 2')")
    assert "23,456" in tab.text(".numbers")
    assert tab.run("window.here") == "still"


def test_a_new_run_appears_in_the_list_and_opens_by_keyboard(tab, store, page):
    tab.open(f"{page.url}#/runs")
    tab.until("document.querySelector('main .empty')")
    rich(store, "r7")
    tab.until("document.querySelector('.runs tbody')?.innerText.includes('13 of 16')")
    tab.until("document.querySelector('.runs tbody').innerText.includes('Compute-bound')")
    line = tab.text(".runs tbody tr")
    for part in ("running", "efficientnet-lite0", "13 of 16", "2 failures"):
        assert part in line
    tab.run("document.querySelector('.runs a').focus()")
    assert tab.run("document.activeElement.innerText") == "efficientnet-lite0"
    tab.key("Enter")
    tab.until(READY)
    assert tab.run("location.hash") == "#/run/r7"


def test_what_matters_is_seen_without_a_click_or_a_scroll(tab, store, page):
    open_run(tab, page, rich(store).run)
    for selector in (
        ".head .status",
        ".numbers",
        ".found",
        ".fix",
        ".strip",
        ".legend .slow",
        ".first .error",
        ".first .message",
    ):
        assert tab.run(f"{SEEN}({json.dumps(selector)})"), f"{selector} is not in the first view"
    for part in ("13 of 16", "139,", "Rows/s", "1 min 0"):
        assert part in tab.text(".numbers")
    assert "Compute-bound" in tab.text(".found")
    assert tab.text(".fix").startswith("Fix: ")
    assert "slowest: in the model" in tab.text(".limits")
    assert "RuntimeError" in tab.text(".first")
    assert "invalid for input of size 98304" in tab.text(".first")


def test_a_failure_opens_to_its_traceback_and_stays_open(tab, store, page):
    made = rich(store)
    open_run(tab, page, made.run)
    assert tab.run("document.querySelector('.failures details').open") is False
    tab.click(".first button")
    assert TRACEBACK.strip().splitlines()[-2].strip() in tab.text(".failures details[open] pre")
    assert tab.run("document.activeElement.tagName") == "SUMMARY"
    made.fail(Task(3, 14, 99), 62, "another one", error="KeyError")
    tab.until("document.querySelectorAll('.failures details').length === 3")
    assert tab.run("document.querySelector('.failures details').open") is True
    assert tab.run("document.activeElement.tagName") == "SUMMARY", "an update does not take the focus away"


def test_the_timeline_tells_attempts_apart_and_gives_details(tab, store, page):
    open_run(tab, page, rich(store).run)
    kinds = tab.run(
        "[...new Set([...document.querySelectorAll('.attempt')].map(g => g.className.baseVal.split('t-')[1]))].sort()"
    )
    assert kinds == ["failed", "lost", "ok", "running"]
    assert "✕" in tab.text(".plot") or tab.run("document.querySelector('.t-failed').textContent.includes('✕')")
    tab.run("document.querySelector('.attempt[tabindex=\"0\"]').focus()")
    first = tab.text(".detail")
    assert first.startswith("Task 0, try 1")
    for part in ("worker-1", "process 40", "rows in", "memory", "processor"):
        assert part in first
    tab.key("ArrowRight")
    assert tab.text(".detail").startswith("Task 1, try 1")


def test_the_gallery_shows_pictures_tables_and_histograms(tab, store, page):
    made = rich(store)
    open_run(tab, page, made.run)
    tab.until("[...document.querySelectorAll('.shown img')].some(i => i.naturalWidth > 0)", "the picture")
    tab.until(
        "document.querySelectorAll('.shown svg').length >= 2 && document.querySelector('.shown th')", "histograms and table"
    )
    assert "otter" in tab.text(".gallery")
    assert "step 3 · task 11" in tab.text(".gallery")
    first = tab.run("document.querySelector('.shown img').src")
    made.show(Task(3, 11, 60), 58, "batch", pictures(4, 8), step=4)
    tab.until(f"document.querySelector('.shown img').src !== {json.dumps(first)}", "the newer picture")
    assert "step 4" in tab.text(".gallery")
    tab.click(".shown [aria-label='Earlier state of batch']")
    tab.until(f"document.querySelector('.shown img').src === {json.dumps(first)}", "the earlier picture again")


def test_logs_are_filtered_by_level_and_text(tab, store, page):
    open_run(tab, page, rich(store).run)
    tab.run("(e => { e.value = '30'; e.dispatchEvent(new Event('change')) })(document.querySelector('.logs select'))")
    assert tab.run("document.querySelectorAll('.logs li').length") == 2
    tab.run("(e => { e.value = 'NO IMAGES'; e.dispatchEvent(new Event('input')) })(document.querySelector('.logs input'))")
    assert tab.run("document.querySelectorAll('.logs li').length") == 1
    assert "3 rows are no images" in tab.text(".logs li")


def test_what_users_wrote_stays_text(tab, store, page):
    made = Making(store, "x", time.time(), HURT, **{HURT: HURT})
    task = Task(3, 0, 1)
    made.start(task, 0, host=HURT)
    made.progress(task, 3, 300, 3, phase=HURT, reasons={HURT: 2}, examples=[HURT], skipped=2)
    made.fail(task, 3, HURT, error=HURT, traceback=HURT)
    made.log(task, 3, HURT, logger=HURT)
    made.metric(task, HURT, [1.0, 2.0], 0, 1)
    made.show(task, 3, HURT, [{HURT: HURT}])
    made.show(task, 3, "text", HURT)
    store.say(events.Metrics(run="x", time=1.0, names=("nan",), points=((1.0, None, float("nan")),)))
    open_run(tab, page, "x")
    tab.until("document.querySelector('.shown th') && document.querySelector('.shown pre')")
    assert tab.run("document.querySelectorAll('main script, main [onerror], main img').length") == 0
    assert tab.run(f"document.querySelector('h1').textContent === {json.dumps(HURT)}")
    tab.open(f"{page.url}#/runs")
    tab.until("document.querySelector('.runs a')")
    assert tab.run("document.querySelectorAll('main script, main [onerror]').length") == 0
    assert "hurt" not in tab.run("document.title").lower() or "<img" in tab.run("document.title")


def test_a_run_of_the_history_opens(tab, tmp_path):
    rich(Store(History(tmp_path)), "20260101-000000-past", began=1.7e9)
    with serve(Store(History(tmp_path))) as page:
        tab.open(f"{page.url}#/runs")
        tab.until("document.querySelector('.runs a')")
        tab.click(".runs a")
        tab.until(READY)
        tab.until("[...document.querySelectorAll('.shown img')].some(i => i.naturalWidth > 0)")
        assert "13 of 16" in tab.text(".numbers")


@pytest.mark.parametrize("width", [360, 390, 768])
def test_a_narrow_screen_does_not_scroll_sideways(tab, store, page, width):
    made = rich(store)
    made.show(Task(3, 1, 1), 60, "a_name_" * 20, [{f"column_{i}": "x" * 40 for i in range(12)}])
    made.fail(Task(3, 1, 1), 60, "/a/path" * 60, error="E" * 120)
    tab.size(width, 844)
    open_run(tab, page, made.run)
    tab.until("document.querySelectorAll('.shown th').length > 10")
    assert tab.run("document.documentElement.scrollWidth") == width
    tab.open(f"{page.url}#/runs")
    tab.until("document.querySelector('.runs a')")
    assert tab.run("document.documentElement.scrollWidth") == width


def test_a_lost_connection_is_said_and_comes_back(tab, store):
    made = Making(store, "r", time.time(), "net")
    page = serve(store, token="fixed")
    port = page.port
    open_run(tab, page, "r")
    page.close()
    tab.until("document.querySelector('#connection.lost')")
    assert "Connection lost" in tab.text("#connection")
    made.start(Task(3, 0, 1), 0)
    made.progress(Task(3, 0, 1), 2, 777, 2)
    with serve(store, port=port, token="fixed"):
        tab.until("document.querySelector('#connection.live') && document.querySelector('.numbers').innerText.includes('777')")
    tab.console.clear()  # the browser notes refused connections


def test_a_run_is_cancelled_on_the_second_click(tab, store, page):
    class Run:
        over = False

        def cancel(self):
            self.over = True
            made.log(None, 1, "somebody cancelled the run")

    made = Making(store, "stoppable", time.time(), "work")
    made.stage(1)
    run = Run()
    store.stoppable("stoppable", run)
    open_run(tab, page, "stoppable")
    tab.until("document.querySelector('button.stop')")
    tab.run("document.querySelector('button.stop').click()")
    assert tab.text("button.stop") == "Really cancel?"
    assert not run.over
    tab.run("document.querySelector('button.stop').click()")
    tab.until("!document.querySelector('button.stop')")
    assert run.over
