"""The panel of ranks in a real browser: live, and on a phone."""

from __future__ import annotations

import time

import pytest
from web_runs import Making

from sparkgap.monitor import events
from sparkgap.monitor.events import RankProgress, Task

HOST = "a-machine-with-a-long-name.example.org"


@pytest.fixture(autouse=True)
def desk(tab):
    tab.size(1280, 800)
    tab.console.clear()
    yield
    assert tab.console == [], "nothing was refused by the content policy, and no script failed"
    tab.open("about:blank")


class Gang(Making):
    """Two ranks."""

    def tell(self, at, rank, phase, rows, **phases):
        told = RankProgress(
            run=self.run, time=self.began + at, task=Task(-1, rank, rank), rank=rank, world=2, phase=phase, phases=phases,
            rows=rows, step=rows // 10, epoch=0 if rows < 200 else 1, epochs=3, host=HOST,
        )  # fmt: skip
        self.say(told)

    def loss(self, at, rank, value):
        now = self.began + at
        points = ((now, at, value),)
        self.say(events.Metrics(run=self.run, time=now, task=Task(-1, rank, rank), names=("loss",), points=points))


@pytest.fixture
def gang(store):
    made = Gang(store, "gang", time.time() - 30, "fit Net", "train")
    made.stage(2, stage=-1)
    for rank in (0, 1):
        made.start(Task(-1, rank, rank), 0, HOST)
        made.tell(5, rank, "compute", 100, start=2.0, data=1.0, compute=2.0)
        made.loss(5, rank, 0.75)
    return made


def test_each_rank_tells_what_it_does_while_it_runs(tab, page, gang):
    tab.open(f"{page.url}#/run/gang")
    tab.until("document.querySelectorAll('.gang tbody tr').length === 2")
    assert "epoch 1 of 3 · loss 0.750" in tab.text(".ranks .bar")
    assert "33 %" in tab.text(".gang tbody tr")  # of three seconds, after the start
    gang.tell(10, 0, "data", 200, start=2.0, data=5.0, compute=3.0)
    gang.tell(10, 1, "communicate", 200, start=2.0, data=1.0, compute=3.0, communicate=4.0)
    tab.until("document.querySelector('.gang tbody tr').innerText.includes('waiting for data')")
    tab.until("document.querySelector('.gang tbody tr + tr').innerText.includes('waiting for ranks')")
    assert "40 rows/s in all" in tab.text(".ranks .bar")
    assert "epoch 2 of 3" in tab.text(".gang tbody tr")
    label = tab.run("document.querySelector('.gang tbody .strip').getAttribute('aria-label')")
    assert label == "Rank 0: starting 20 %, waiting for data 50 %, computing 30 %"
    colours = tab.run("[...document.querySelectorAll('.gang .piece')].map(p => getComputedStyle(p).backgroundColor)")
    assert "rgba(0, 0, 0, 0)" not in colours  # each phase has one
    assert "the ranks' time" in tab.text(".limits").lower()
    assert "2 ranks" in tab.text(".curves")


@pytest.mark.parametrize(("width", "dark"), [(360, False), (390, True), (768, False)])
def test_ranks_fit_on_a_narrow_screen(tab, page, gang, width, dark):
    tab.size(width, 844, dark)
    tab.open(f"{page.url}#/run/gang")
    tab.until("document.querySelectorAll('.gang tbody tr').length === 2")
    assert tab.run("document.documentElement.scrollWidth") == width
    assert tab.run("document.querySelector('.gang .strip').getBoundingClientRect().width") > 0.7 * min(width, 400)
