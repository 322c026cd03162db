"""The demo, end to end: what it promises to a stranger is what comes out."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest

from sparkgap import demo
from sparkgap.demo import photos

if TYPE_CHECKING:
    from pathlib import Path

    from pyspark.sql import SparkSession

# Reads its own files and packages, on this machine; the first test waits for the whole demo.
pytestmark = [pytest.mark.local, pytest.mark.timeout(600)]

_VOID = {"meta", "img", "path", "br", "hr", "link", "input"}
_LOADS = {"src", "srcset", "poster", "data", "action", "background", "xlink:href"}


class _Page(HTMLParser):
    """Collects what the tests ask about, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: dict[str, int] = {}
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(found)
        if tag == "a":
            self.links.append(str(found.get("href")))
        elif "href" in found:
            self.loads.append(str(found["href"]))
        self.loads += [str(value) for name, value in found.items() if name in _LOADS]
        if "id" in found:
            self.ids.append(str(found["id"]))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def result(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> demo.DemoResult:
    return demo.run(tmp_path_factory.mktemp("demo output"))


@pytest.fixture(scope="module")
def page(result: demo.DemoResult) -> _Page:
    found = _Page()
    found.feed(result.page.read_text(encoding="utf-8"))
    found.close()
    assert found.open == []
    return found


def test_coffee_is_espresso(result: demo.DemoResult) -> None:
    coffee = result.photos.seen[0]
    assert coffee.photo.name == "coffee.png"
    assert coffee.guesses[0].label == "espresso"
    assert coffee.guesses[0].probability == pytest.approx(0.944, abs=0.005)


def test_every_photograph_has_three_labels_likeliest_first(result: demo.DemoResult) -> None:
    best = [seen.guesses[0].label for seen in result.photos.seen]
    assert best == ["espresso", "tripod", "moped", "Egyptian cat", "palace", "daisy", "missile", "bobsled"]
    for seen in result.photos.seen:
        shares = [guess.probability for guess in seen.guesses]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1


def test_digits_are_read(result: demo.DemoResult) -> None:
    digits = result.digits
    assert digits.timing.rows == 5000
    assert digits.accuracy == pytest.approx(0.9986, abs=1e-9)
    assert digits.confusion.sum(axis=1).tolist() == [500] * 10
    assert int(np.trace(digits.confusion)) == 4993
    assert len(digits.misread) == 7
    assert all(m.digit != m.read for m in digits.misread)
    assert digits.timing.first.summary.total.batch_rows == 64


def test_nearest_sentences_mean_the_same(result: demo.DemoResult) -> None:
    nearest = {answer.question: answer.nearest[0] for answer in result.sentences.answers}
    assert "space shuttle" in nearest["a woman who travelled to space"].text
    assert nearest["ancient money"].text == "Greek coins from Pompeii."
    assert "house value" in nearest["how expensive are homes?"].text
    assert all(0 < near.similarity < 1 for near in nearest.values())
    for answer in result.sentences.answers:
        assert len(answer.nearest) == 3
        assert [n.similarity for n in answer.nearest] == sorted((n.similarity for n in answer.nearest), reverse=True)


def test_boundaries(result: demo.DemoResult) -> None:
    parts = (result.photos, result.digits, result.sentences)
    assert [part.timing.explanation.boundary for part in parts] == ["files", "files", "rows"]


def test_the_second_run_loads_no_model(result: demo.DemoResult) -> None:
    for part in (result.photos, result.digits, result.sentences):
        assert part.timing.first.summary.rows_out == part.timing.again.summary.rows_out == part.timing.rows
        assert part.timing.first.summary.total.model_loads >= 1
        assert part.timing.again.summary.seconds["load"] < part.timing.first.summary.seconds["load"]


def test_tables_are_written(result: demo.DemoResult, spark: SparkSession) -> None:
    folder = result.page.parent
    rows = {p.stem: spark.read.parquet(str(p)).count() for p in folder.glob("*.parquet")}
    sentences = result.sentences.count
    assert 100 < sentences < 1000
    assert rows == {
        "photos": 8 * 3,
        "digits": 5000,
        "digits-read": 5000,
        "sentences": sentences + 6,
        "nearest": 6 * 3,
    }


def test_session_is_left_running(result: demo.DemoResult, spark: SparkSession) -> None:
    assert not result.started
    assert spark.range(3).count() == 3


def test_page_needs_nothing_from_outside(page: _Page) -> None:
    assert all(load.startswith("data:image/") for load in page.loads)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_page_style_loads_nothing(result: demo.DemoResult) -> None:
    text = result.page.read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text


def test_every_image_is_described(page: _Page, result: demo.DemoResult) -> None:
    assert len(page.images) == 8 + 1 + len(result.digits.misread)
    assert all(image["alt"] and image["width"] and image["height"] for image in page.images)
    assert len({image["alt"] for image in page.images}) >= 8


def test_every_table_has_a_caption(page: _Page) -> None:
    assert page.tags["table"] == page.tags["caption"] == 5


def test_page_tells_the_results(page: _Page) -> None:
    text = " ".join("".join(page.text).split())
    for told in (
        "espresso",
        "99.86 %",
        "Greek coins from Pompeii.",
        "in the model",
        "danielbuechele, CC BY 2.0",
        "running already.",
    ):
        assert told in text


def test_page_is_one_document(page: _Page, result: demo.DemoResult) -> None:
    assert page.tags["h1"] == 1
    assert len(page.ids) == len(set(page.ids))
    assert "$" not in result.page.read_text(encoding="utf-8").replace("($100,000)", "")


def test_running_again_overwrites(result: demo.DemoResult, spark: SparkSession) -> None:
    before = result.photos.parquet
    folder: Path = before.parent
    again = photos.run(spark, folder)
    assert again.parquet == before
    assert spark.read.parquet(str(before)).count() == 24
