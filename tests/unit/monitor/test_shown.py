"""What `gap.show` makes of values: small, right, and never more than was promised."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from sparkgap import ConfigurationError
from sparkgap.monitor import shown
from sparkgap.monitor.shown import prepare


def picture(made: shown.Shown) -> Image.Image:
    assert (made.kind, made.media) == ("image", "image/png")
    return Image.open(io.BytesIO(made.data))


class TestImages:
    @pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (3, 20, 30), (1, 20, 30, 1), (1, 3, 20, 30)])
    def test_shapes(self, shape: tuple[int, ...]) -> None:
        assert picture(prepare(np.zeros(shape, np.uint8), "image")).size == (30, 20)

    def test_colours_are_kept(self) -> None:
        red = np.zeros((4, 4, 3), np.uint8)
        red[..., 0] = 200
        assert picture(prepare(red)).getpixel((1, 1)) == (200, 0, 0)
        assert picture(prepare(red.astype(np.float32) / 255, "image")).getpixel((1, 1)) == (200, 0, 0)

    def test_normalised_pictures_are_stretched(self) -> None:
        values = np.linspace(-2, 2, 16, dtype=np.float32).reshape(4, 4)
        sheet = picture(prepare(values, "image"))
        assert sheet.getpixel((0, 0)) == (0, 0, 0)
        assert sheet.getpixel((3, 3)) == (255, 255, 255)

    def test_a_batch_is_a_sheet_of_sixteen_at_most(self) -> None:
        made = prepare(np.zeros((40, 64, 64, 3), np.uint8))
        assert "first 16 of 40" in made.caption
        assert picture(made).size == (4 * 64 + 12, 4 * 64 + 12)

    def test_large_ones_are_made_small(self) -> None:
        assert max(picture(prepare(np.zeros((5000, 2500, 3), np.uint8))).size) <= 3 * shown.MAX_SIDE
        assert max(picture(prepare([Image.new("RGB", (900, 100))] * 4)).size) <= 2 * shown.MAX_SIDE + 4

    def test_pillow(self) -> None:
        made = prepare(Image.new("L", (30, 20), 128))
        assert picture(made).getpixel((1, 1)) == (128, 128, 128)
        assert made.caption == "30 x 20 L"

    @pytest.mark.parametrize("shape", [(5,), (2, 2, 2, 2, 2), (0, 8, 8, 3), (2, 5, 5, 5)])
    def test_what_is_none(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ConfigurationError, match=r"no picture|is no picture"):
            prepare(np.zeros(shape, np.uint8), "image")


class TestTables:
    @pytest.mark.parametrize(
        "value",
        [
            pa.table({"a": [1, 2], "b": ["x", None]}),
            pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
            [{"a": 1, "b": "x"}, {"a": 2}],
        ],
        ids=["arrow", "pandas", "dicts"],
    )
    def test_kinds(self, value: Any) -> None:
        made = prepare(value)
        found = json.loads(made.data)
        assert made.kind == "table"
        assert found["columns"] == ["a", "b"]
        assert found["rows"][0] == [1, "x"]
        assert found["rows"][1][0] == 2
        assert made.caption == "2 rows x 2 columns"

    def test_long_ones_are_cut(self) -> None:
        found = json.loads(prepare(pa.table({"a": range(1000), "b": ["y" * 1000] * 1000})).data)
        assert len(found["rows"]) == shown.MAX_ROWS
        assert len(found["rows"][0][1]) == 200


DTYPES = st.sampled_from([np.float32, np.float64, np.int64, np.bool_, np.uint8])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(max_dims=4, max_side=5, min_side=0))


class TestTensors:
    @given(ARRAYS)
    def test_any_array_gives_strict_json(self, array: np.ndarray) -> None:
        for kind in ("tensor", "histogram"):
            found = json.loads(prepare(array, kind).data, parse_constant=pytest.fail)
            assert found["shape"] == list(array.shape)
            finite = int(np.isfinite(array.astype(float)).sum())
            assert sum(found.get("counts", [])) == finite
            assert found["missing"] == array.size - finite

    @pytest.mark.parametrize("values", [[1.4e14], [1e308, -1e308], [1.0, 1.0 + 1e-15], [5e-324, 0.0]])
    def test_ranges_that_have_no_forty_bins(self, values: list[float]) -> None:
        found = json.loads(prepare(np.array(values)).data)
        assert (found["counts"], len(found["edges"])) == ([len(values)], 2)

    def test_framework_tensors(self) -> None:
        found = json.loads(prepare(torch.arange(6.0).reshape(2, 3).requires_grad_()).data)
        assert (found["shape"], found["min"], found["max"], found["mean"]) == ([2, 3], 0.0, 5.0, 2.5)
        assert json.loads(prepare(torch.ones(2, dtype=torch.bfloat16)).data)["max"] == 1.0


def test_texts() -> None:
    made = prepare("x" * 50_000)
    assert (made.kind, len(made.data.decode())) == ("text", shown.MAX_TEXT)
    assert made.caption == "50,000 characters"


@pytest.mark.parametrize("value", [object(), ["a", "b"], {"a": 1}, None])
def test_what_cannot_be_shown_is_said(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="gap.show cannot show a"):
        prepare(value)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ConfigurationError, match="kind='movie' is none of image, table"):
        prepare(np.zeros(3), "movie")
