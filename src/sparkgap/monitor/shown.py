"""What `gap.show` sends: small pictures, tables, tensors and histograms, made from what a user has in hand."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap.monitor.events import KINDS

MAX_PICTURES = 16
MAX_SIDE = 160
"""Longest side of a picture, in pixels, where there are several; one alone may have three times so much."""
MAX_ROWS = 50
MAX_TEXT = 20_000
BINS = 40


class Shown(NamedTuple):
    """Something to look at, ready to be sent.

    Attributes:
        kind: one of `events.KINDS`.
        media: MIME type.
        data: the bytes.
        caption: shape and range, for people.
    """

    kind: str
    media: str
    data: bytes
    caption: str


def prepare(value: Any, kind: str | None = None) -> Shown:
    """Make something small to look at.

    Args:
        value: a picture or a batch of them (array of shape (h, w), (h, w, c), (c, h, w), (n, ...), or Pillow images), a
            table (Arrow, pandas, list of dicts), an array or tensor of any framework, or a text.
        kind: how to show it, one of `events.KINDS`. Default: Pillow images and uint8 arrays with 1, 3 or 4 channels are
            images, other arrays tensors, DataFrames tables, texts text.

    Raises:
        ConfigurationError: there is no such kind, or the value cannot be shown so.
    """
    if kind is not None and kind not in KINDS:
        raise ConfigurationError(f"kind={kind!r} is none of {', '.join(KINDS)}.")
    chosen = kind or _kind(value)
    return _MAKERS[chosen](value)


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    if _is_picture(value) or (isinstance(value, list | tuple) and value and all(map(_is_picture, value))):
        return "image"
    if hasattr(value, "column_names") or hasattr(value, "columns"):
        return "table"
    if isinstance(value, list | tuple) and value and all(isinstance(v, Mapping) for v in value):
        return "table"
    array = _array(value)
    return "image" if array.dtype == np.uint8 and array.ndim in (3, 4) and _channels_last(array) is not None else "tensor"


def _is_picture(value: Any) -> bool:
    return type(value).__module__.startswith("PIL.")


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor, of any device
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise ConfigurationError(
            f"gap.show cannot show a {type(value).__module__}.{type(value).__qualname__}: give an array or tensor, "
            "pictures, a table or a text."
        )
    return array


def _channels_last(array: np.ndarray) -> np.ndarray | None:
    """Return pictures as (..., h, w, c); None where no axis can be that of the channels."""
    if array.shape[-1] in (1, 3, 4):
        return array
    if array.shape[-3] in (1, 3, 4):
        return np.moveaxis(array, -3, -1)
    return None


def _image(value: Any) -> Shown:
    try:
        from PIL import Image
    except ImportError:
        raise ConfigurationError("Pictures need Pillow: pip install 'sparkgap[images]'.") from None
    pictures, shape = _pictures(value)
    count = len(pictures)
    pictures = pictures[:MAX_PICTURES]
    side = MAX_SIDE if len(pictures) > 1 else 3 * MAX_SIDE
    for picture in pictures:
        picture.thumbnail((side, side))
    across = math.ceil(math.sqrt(len(pictures)))
    down = math.ceil(len(pictures) / across)
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    gap = 4 if len(pictures) > 1 else 0
    sheet = Image.new("RGB", (across * (width + gap) - gap, down * (height + gap) - gap), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % across * (width + gap), place // across * (height + gap)))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    more = f", the first {len(pictures)} of {count}" if count > len(pictures) else ""
    return Shown("image", "image/png", out.getvalue(), f"{shape}{more}")


def _pictures(value: Any) -> tuple[list[Any], str]:
    from PIL import Image

    if _is_picture(value):
        return [value.convert("RGB").copy()], f"{value.width} x {value.height} {value.mode}"
    if isinstance(value, list | tuple) and value and all(map(_is_picture, value)):
        return [v.convert("RGB").copy() for v in value[:MAX_PICTURES]] + [None] * (len(value) - MAX_PICTURES), "pictures"
    array = _array(value)
    shape = f"{array.dtype} {array.shape}"
    if array.ndim == 2:
        array = array[None, :, :, None]
    elif array.ndim == 3:
        last = _channels_last(array)
        array = array[..., None] if last is None else last[None]  # (n, h, w) grey, or one picture
    elif array.ndim == 4 and (last := _channels_last(array)) is not None:
        array = last
    else:
        raise ConfigurationError(
            f"An array of shape {array.shape} is no picture: give (h, w), (h, w, c), (c, h, w) or a batch of these, with 1, "
            "3 or 4 channels."
        )
    count, array = len(array), array[:MAX_PICTURES]
    if not count:
        raise ConfigurationError("There is no picture in an empty batch.")
    step = max(1, max(array.shape[1:3]) // (4 * MAX_SIDE))  # huge ones are thinned out first, which costs next to nothing
    pixels = _pixels(array[:, ::step, ::step])
    made = [Image.fromarray(p[..., 0] if p.shape[-1] == 1 else p).convert("RGB") for p in pixels]
    return made + [None] * (count - len(made)), shape


def _pixels(array: np.ndarray) -> np.ndarray:
    """Return bytes; floats from 0 to 1 are scaled by 255, others stretched from their least to their greatest."""
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    values = np.nan_to_num(array.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        values = (values - low) / ((high - low) or 1.0)
    return np.ascontiguousarray((values * 255).round().astype(np.uint8))


def _table(value: Any) -> Shown:
    if hasattr(value, "column_names"):  # pyarrow; polars and others below
        columns, count = list(value.column_names), value.num_rows
        rows = [[row[c] for c in columns] for row in value.slice(0, MAX_ROWS).to_pylist()]
    elif hasattr(value, "head") and hasattr(value, "columns"):
        head = value.head(MAX_ROWS)
        columns, count = [str(c) for c in value.columns], len(value)
        rows = [list(r) for r in (head.rows() if hasattr(head, "rows") else head.itertuples(index=False))]
    elif isinstance(value, Sequence) and all(isinstance(r, Mapping) for r in value):
        columns, count = list(dict.fromkeys(str(k) for r in value[:MAX_ROWS] for k in r)), len(value)
        rows = [[r.get(c) for c in columns] for r in value[:MAX_ROWS]]
    else:
        raise ConfigurationError("A table must be an Arrow or pandas table, or a list of dicts.")
    text = json.dumps({"columns": columns, "rows": [[_cell(v) for v in row] for row in rows]})
    return Shown("table", "application/json", text.encode(), f"{count:,} rows x {len(columns)} columns")


def _cell(value: Any) -> str | float | int | bool | None:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, np.integer):
        return int(value)
    text = str(value)
    return text if len(text) <= 200 else text[:199] + "…"


def _tensor(value: Any) -> Shown:
    array = _array(value)
    found = _histogram_of(array)
    found["corner"] = [[_cell(v) for v in row] for row in _corner(array)]
    return Shown("tensor", "application/json", json.dumps(found).encode(), f"{array.dtype} {array.shape}")


def _corner(array: np.ndarray) -> np.ndarray:
    """Return the first few values, as a matrix."""
    while array.ndim > 2:
        array = array[0] if len(array) else array.reshape(0, 0)
    return np.atleast_2d(array)[:6, :8] if array.size else np.zeros((0, 0))


def _histogram(value: Any) -> Shown:
    array = _array(value)
    return Shown("histogram", "application/json", json.dumps(_histogram_of(array)).encode(), f"{array.dtype} {array.shape}")


def _histogram_of(array: np.ndarray) -> dict[str, Any]:
    values = array.astype(np.float64, copy=False).ravel() if array.dtype.kind != "c" else np.abs(array).ravel()
    finite = values[np.isfinite(values)]
    found: dict[str, Any] = {"shape": list(array.shape), "dtype": str(array.dtype), "missing": int(values.size - finite.size)}
    if finite.size:
        counts, edges = _bins(finite)
        with np.errstate(over="ignore"):
            mean, std = finite.mean(), finite.std()
        found |= {
            "counts": counts, "edges": edges, "zeros": int((finite == 0).sum()),
            "min": float(finite.min()), "max": float(finite.max()), "mean": _finite(mean), "std": _finite(std),
        }  # fmt: skip
    return found


def _bins(values: np.ndarray) -> tuple[list[int], list[float]]:
    """Count values in bins of one width; in one bin where they lie too near to, or too far from, each other."""
    low, high = float(values.min()), float(values.max())
    with np.errstate(over="ignore", invalid="ignore"):
        edges = np.linspace(low, high, BINS + 1)
        if not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
            return [int(values.size)], [low, high]
    return np.histogram(values, edges)[0].tolist(), edges.tolist()


def _finite(value: np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None


def _text(value: Any) -> Shown:
    text = str(value)
    cut = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
    return Shown("text", "text/plain; charset=utf-8", cut.encode(), f"{len(text):,} characters")


_MAKERS: dict[str, Callable[[Any], Shown]] = {
    "image": _image, "table": _table, "tensor": _tensor, "histogram": _histogram, "text": _text,
}  # fmt: skip
