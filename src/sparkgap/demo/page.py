"""The page that shows what came out: one file, nothing from the network."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from datetime import datetime
from html import escape
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from sparkgap import __version__
from sparkgap.demo import digits, figures, photos, sentences, talk

if TYPE_CHECKING:
    from sparkgap.demo import DemoResult
    from sparkgap.demo.digits import Misread
    from sparkgap.demo.measure import Pass, Timing
    from sparkgap.demo.photos import Guess, Seen
    from sparkgap.demo.sentences import Answer, Near

# Phase of the summary -> words. The first ones follow each other in a task's main thread …
_MAIN = {
    "load": "loading the model",
    "starved": "waiting for input",
    "model": "in the model",
    "encode": "encoding",
    "write": "writing",
}
# … and these go on beside it.
_BESIDE = {"read": "reading", "decode": "decoding"}
_SHEET_COLUMNS = 16
_WAYS = {
    "files": "The DataFrame is a plain scan of files, so the executors read them without sending a pixel through the JVM.",
    "rows": "Here the rows come through the JVM.",
}


def render(result: DemoResult) -> str:
    """Return the page as HTML."""
    template = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
    seen, read, found = result.photos, result.digits, result.sentences
    coffee = seen.seen[0].guesses[0]
    passes = list(_passes({"Photographs": seen.timing, "Digits": read.timing, "Sentences": found.timing}))
    phases = _MAIN | _BESIDE
    return template.substitute(
        seconds=f"{result.seconds:.0f}",
        start="the start of Spark included" if result.started else "with Spark running already",
        when=datetime.now().astimezone().strftime("%-d %B %Y, %H:%M"),
        versions=escape(_versions()),
        best_label=escape(coffee.label),
        best_probability=_percent(coffee.probability),
        accuracy=f"{read.accuracy:.2%}".replace("%", " %"),
        digits=f"{read.timing.rows:,}",
        right=f"{read.timing.rows - len(read.misread):,}",
        sentences=f"{found.count:,}",
        fastest=talk.rate(read.timing),
        photo_count=len(seen.seen),
        photos="".join(_card(one) for one in seen.seen),
        photos_code=escape(photos.CODE),
        photos_facts=_facts(seen.timing, "photographs"),
        digits_way=escape(_WAYS[read.timing.explanation.boundary]),
        digits_code=escape(digits.CODE),
        digits_facts=_facts(read.timing, "digits"),
        sheet=figures.sheet(read.shown, _SHEET_COLUMNS, "Some of the handwritten digits, from zeros to nines"),
        confusion=figures.confusion(read.confusion),
        misread_count=len(read.misread),
        misread="".join(_misread(one) for one in read.misread),
        sentences_code=escape(sentences.CODE),
        sentences_facts=_facts(found.timing, "sentences"),
        answers="".join(_answer(one) for one in found.answers),
        legend="".join(f'<li><i class="{phase}"></i>{words}</li>' for phase, words in phases.items()),
        passes="".join(_bars(title, one) for title, one in passes),
        phase_heads="".join(f'<th scope="col">{words}</th>' for words in phases.values()),
        phase_rows="".join(_row(title, one) for title, one in passes),
        explain_photos=figures.explanation(seen.timing.explanation.rows),
        explain_digits=figures.explanation(read.timing.explanation.rows),
        explain_sentences=figures.explanation(found.timing.explanation.rows),
        credits="".join(f"<li>{escape(p.name)}: {escape(p.credit)}</li>" for p in photos.PHOTOS),
    )


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %") if share >= 0.001 else "< 0.1 %"


def _versions() -> str:
    names = {"pyspark": "PySpark", "torch": "PyTorch", "sentence-transformers": "sentence-transformers", "pyarrow": "PyArrow"}
    found = [f"{title} {version(name)}" for name, title in names.items()]
    return ", ".join([f"sparkgap {__version__}", *found, f"Python {platform.python_version()}"])


def _card(seen: Seen) -> str:
    best = seen.guesses[0]
    alt = f"{seen.photo.shows}; the network says {best.label}"
    return (
        f'<li class="card">{figures.thumbnail(seen.file, alt)}<h3>{escape(seen.photo.shows)}</h3>'
        f'<ol class="guesses">{"".join(_guess(g) for g in seen.guesses)}</ol></li>'
    )


def _guess(guess: Guess) -> str:
    return (
        f'<li><span class="label">{escape(guess.label)}</span> <span class="number">{_percent(guess.probability)}</span>'
        f"{figures.bar(guess.probability)}</li>"
    )


def _misread(one: Misread) -> str:
    said = f"{one.digit}, read as {one.read}"
    return (
        f"<li><figure>{figures.digit(one.pixels, f'Handwritten digit: {said}')}<figcaption>{said} "
        f'<span class="number">({_percent(one.probability)})</span></figcaption></figure></li>'
    )


def _answer(answer: Answer) -> str:
    near = "".join(_near(one) for one in answer.nearest)
    return f'<li class="answer"><h3>“{escape(answer.question)}”</h3><ol>{near}</ol></li>'


def _near(near: Near) -> str:
    return (
        f'<li><p>{escape(near.text)}</p><p class="source"><span class="number">{near.similarity:.2f}</span>'
        f"{figures.bar(max(near.similarity, 0.0))}<span>{escape(near.source)}</span></p></li>"
    )


def _facts(timing: Timing, what: str) -> str:
    return figures.facts(
        [
            ("first run, model loading included", f"{timing.first.seconds:.1f} s"),
            ("the same again", f"{timing.again.seconds:.2f} s"),
            (f"{what} a second", talk.rate(timing)),
            ("boundary", timing.explanation.boundary),
        ]
    )


def _passes(parts: Mapping[str, Timing]) -> Iterator[tuple[str, Pass]]:
    for title, timing in parts.items():
        yield f"{title}, first run", timing.first
        yield f"{title}, again", timing.again


def _bars(title: str, one: Pass) -> str:
    spent = one.summary.seconds
    main, beside = _pick(spent, _MAIN), _pick(spent, _BESIDE)
    most = sorted(main.items(), key=lambda item: -item[1])[:2]
    words = ", ".join(f"{_MAIN[phase]} {value:.2f} s" for phase, value in most if value > 0)
    return (
        f'<div><dt><span>{escape(title)}</span><span class="number">{sum(main.values()):.2f} s</span></dt>'
        f"<dd>{figures.stack(main)}{figures.stack(beside)}mostly: {escape(words) or 'not told'}</dd></div>"
    )


def _row(title: str, one: Pass) -> str:
    cells = "".join(f"<td>{value:.2f}</td>" for value in _pick(one.summary.seconds, _MAIN | _BESIDE).values())
    return f'<tr><th scope="row">{escape(title)}</th>{cells}</tr>'


def _pick(spent: Mapping[str, float], phases: Mapping[str, str]) -> dict[str, float]:
    return {phase: spent.get(phase, 0.0) for phase in phases}
