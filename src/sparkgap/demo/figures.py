"""Pieces of the page: bars, pictures, tables. Every text that goes in is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_THUMBNAIL = (448, 448)  # pixels: twice what the network gets, for sharp screens


def bar(share: float) -> str:
    """Draw a share of 0…1; decoration, so the number stands beside it as text."""
    return f'<span class="bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span>'


def stack(seconds: Mapping[str, float]) -> str:
    """Draw phases as parts of one bar, in order; decoration, as for `bar`."""
    total = sum(seconds.values()) or 1.0
    parts = "".join(
        f'<i class="{escape(phase)}" style="width:{100 * value / total:.2f}%"></i>' for phase, value in seconds.items()
    )
    return f'<span class="stack" aria-hidden="true">{parts}</span>'


def thumbnail(file: Path, alt: str) -> str:
    """Return the middle square of a photograph, which the network sees, as an image inside the page."""
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        picture = ImageOps.fit(ImageOps.exif_transpose(opened).convert("RGB"), _THUMBNAIL)
    return _picture(picture, alt, "JPEG", "image/jpeg", "photo")


def digit(pixels: np.ndarray, alt: str) -> str:
    """Return one digit, (28, 28) in 0…1, as an image inside the page."""
    return _picture(_grey(pixels), alt, "PNG", "image/png", "digit")


def sheet(pixels: np.ndarray, columns: int, alt: str) -> str:
    """Return digits, (n, 28, 28) in 0…1, as one image of so many columns; what does not fill a row is left out."""
    rows = len(pixels) // columns
    grid = pixels[: rows * columns].reshape(rows, columns, *pixels.shape[1:]).swapaxes(1, 2)
    return _picture(_grey(grid.reshape(rows * pixels.shape[1], -1)), alt, "PNG", "image/png", "sheet")


def confusion(counts: np.ndarray) -> str:
    """Return the confusion matrix as a table: a row is what it is, a column what was read."""
    head = "".join(f'<th scope="col">{n}</th>' for n in range(len(counts)))
    body = "".join(
        f'<tr><th scope="row">{n}</th>{"".join(_cell(int(count), right=n == m) for m, count in enumerate(row))}</tr>'
        for n, row in enumerate(counts)
    )
    return f'<thead><tr><th scope="col"><span class="unseen">is / read as</span></th>{head}</tr></thead><tbody>{body}</tbody>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return (what, value) pairs as a description list."""
    return "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in pairs)


def explanation(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return (subject, choice, reason) triples as rows of a table."""
    return "".join(
        f'<tr><th scope="row">{escape(subject)}</th><td>{escape(choice)}{_reason(why)}</td></tr>'
        for subject, choice, why in rows
    )


def _reason(why: str) -> str:
    return f' <span class="why">{escape(why)}</span>' if why else ""


def _cell(count: int, *, right: bool) -> str:
    kind = "right" if right else "wrong" if count else "none"
    return f'<td class="{kind}">{count}</td>'


def _grey(pixels: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def _picture(picture: Image, alt: str, form: str, mime: str, kind: str) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **({"quality": 82, "progressive": True} if form == "JPEG" else {"optimize": True}))
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = picture.size
    return f'<img class="{kind}" src="data:{mime};base64,{data}" width="{width}" height="{height}" alt="{escape(alt)}">'
