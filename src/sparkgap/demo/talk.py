"""What the demo says while it runs: plain words, on a terminal and in a log alike."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sparkgap.demo import DemoResult
    from sparkgap.demo.digits import DigitsResult
    from sparkgap.demo.measure import Timing
    from sparkgap.demo.photos import PhotosResult
    from sparkgap.demo.sentences import SentencesResult

_BAR = 24  # characters
_LOG_WIDTH = 110  # where there is no terminal to ask


def console() -> Console:
    """Make the console: as wide as the terminal, or a fixed width in a log."""
    found = Console(highlight=False, soft_wrap=False)
    return found if found.is_terminal else Console(highlight=False, width=_LOG_WIDTH)


def welcome(out: Console, output: Path) -> None:
    """Say what is coming."""
    out.print()
    out.print("[bold]sparkgap demo[/]: three real models over three real tables, on Spark")
    out.print(f"Models and data come out of installed packages; results go to {escape(str(output))}")


def session(out: Console, spark: SparkSession, seconds: float | None) -> None:
    """Say where it runs, and how long Spark took to start where it did so here."""
    where = spark.conf.get("spark.master", None) or "Spark Connect"
    ready = f", ready after {seconds:.1f} s" if seconds is not None else ""
    out.print(f"Spark {spark.version} on {where}{ready} (Python {platform.python_version()})")


def photos(out: Console, result: PhotosResult) -> None:
    """Tell what is on the photographs."""
    model = f"EfficientNet-Lite0, which knows 1,000 things (torch {version('torch')})"
    _heading(out, "1 of 3  Photographs", f"{len(result.seen)} image files, through {model}")
    table = _table("what it is", "what the network says", "", "")
    for seen in result.seen:
        best = seen.guesses[0]
        table.add_row(seen.photo.shows, f"[bold]{escape(best.label)}[/]", _bar(best.probability), f"{best.probability:.1%}")
    out.print(Padding(table, (0, 0, 0, 2)))
    _timing(out, result.timing, "photographs")


def digits(out: Console, result: DigitsResult) -> None:
    """Tell how many digits were read right."""
    model = f"ccexam's MNIST classifier (torch {version('torch')})"
    _heading(out, "2 of 3  Digits", f"{result.timing.rows:,} handwritten digits in Parquet, through {model}")
    right = result.timing.rows - len(result.misread)
    out.print(f"  [bold]{right:,} of {result.timing.rows:,} read right: {result.accuracy:.2%}[/], counted by Spark")
    wrong = ", ".join(f"{m.digit} as {m.read}" for m in result.misread)
    out.print(f"  read wrong: {wrong or 'none'}")
    _timing(out, result.timing, "digits")


def sentences(out: Console, result: SentencesResult) -> None:
    """Tell the nearest sentence of each question."""
    model = f"MiniLM (sentence-transformers {version('sentence-transformers')})"
    _heading(out, "3 of 3  Sentences", f"{result.count} sentences about data sets, through {model}")
    table = _table("asked", "nearest sentence", "similarity")
    for answer in result.answers:
        near = answer.nearest[0]
        table.add_row(escape(answer.question), f"[bold]{escape(near.text)}[/]", f"{near.similarity:.2f}")
    out.print(Padding(table, (0, 0, 0, 2)))
    _timing(out, result.timing, "sentences")


def farewell(out: Console, result: DemoResult) -> None:
    """Say where the results are."""
    out.print()
    out.print(f"[bold green]Done in {result.seconds:.0f} s.[/] Open the page to see it all:")
    out.print(f"  {escape(result.page.as_uri())}", soft_wrap=True)
    out.print(f"The tables are beside it: {', '.join(sorted(p.name for p in result.page.parent.glob('*.parquet')))}")


def rate(timing: Timing) -> str:
    """Return rows a second as text."""
    return f"{timing.rate:,.0f}" if timing.rate >= 10 else f"{timing.rate:.1f}"


def _heading(out: Console, title: str, work: str) -> None:
    out.print()
    out.print(f"[bold cyan]{title}[/]")
    out.print(f"  {escape(work)}")


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, justify="right" if title in ("", "similarity") else "left", overflow="fold")
    return table


def _bar(share: float) -> str:
    full = round(share * _BAR)
    return f"[cyan]{'█' * full}[/][dim]{'·' * (_BAR - full)}[/]"


def _timing(out: Console, timing: Timing, what: str) -> None:
    out.print(
        f"  first run {timing.first.seconds:.1f} s, loading the model included; "
        f"again {timing.again.seconds:.2f} s: {rate(timing)} {what} a second"
    )
    out.print(f"  boundary: [bold]{timing.explanation.boundary}[/] ({escape(timing.explanation.reason)})")
