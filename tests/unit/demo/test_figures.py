from __future__ import annotations

import base64
import io
import re

import numpy as np
from PIL import Image

from sparkgap.demo import figures


def test_bar_is_as_long_as_the_share() -> None:
    assert figures.bar(0.944) == '<span class="bar" aria-hidden="true"><i style="width:94.4%"></i></span>'


def test_stack_fills_the_width() -> None:
    widths = [float(w) for w in re.findall(r"width:([\d.]+)%", figures.stack({"load": 3.0, "model": 1.0}))]
    assert widths == [75.0, 25.0]


def test_stack_of_nothing() -> None:
    assert "width:0.00%" in figures.stack({"load": 0.0})


def test_texts_are_escaped() -> None:
    evil = '<script>alert("x")</script>'
    pixels = np.zeros((28, 28), np.float32)
    for drawn in (
        figures.digit(pixels, evil),
        figures.facts([(evil, evil)]),
        figures.explanation([(evil, evil, evil)]),
        figures.stack({evil: 1.0}),
    ):
        assert "<script" not in drawn
        assert '"x"' not in drawn


def test_sheet_lays_digits_out_row_by_row() -> None:
    digits = np.stack([np.full((2, 2), value / 10, np.float32) for value in range(5)])
    drawn = figures.sheet(digits, 2, "digits")
    encoded = re.search(r"base64,([^\"]+)", drawn)
    assert encoded is not None
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded[1]))))
    assert picture.shape == (4, 4)  # the fifth fills no row
    assert picture[::2, ::2].tolist() == [[0, 26], [51, 76]]


def test_confusion_marks_right_and_wrong() -> None:
    drawn = figures.confusion(np.array([[5, 0], [1, 4]]))
    assert drawn.count('class="right"') == 2
    assert '<tr><th scope="row">1</th><td class="wrong">1</td><td class="right">4</td></tr>' in drawn
    assert drawn.count('class="none"') == 1
