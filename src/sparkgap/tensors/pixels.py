"""Bytes of a picture to an array of pixels, as people see it. Pillow does the work; imported by `image.py`."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from sparkgap._optional import need

if TYPE_CHECKING:
    from PIL.Image import Image

# Only what is named: Pillow would also run Ghostscript for EPS, and guess at dozens of rarer formats.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP")
_ORIENTATION: Final = 0x0112
_METHODS: Final = {
    2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90",
}  # fmt: skip
# OpenCV's numbers of 8-bit pixel formats -> Pillow's mode and the order of bytes.
_OPENCV: Final = {0: ("L", "L"), 16: ("RGB", "BGR"), 24: ("RGBA", "BGRA")}


class NotAPicture(Exception):
    """A value is no picture that can be read; the text is the end of a sentence."""


def read(data: bytes | memoryview, draft: tuple[int, int] | None = None) -> Image:
    """Decode a picture, its first frame where it has several, and turn it as its EXIF orientation says.

    Args:
        data: the bytes of the file.
        draft: (height, width) that suffices: JPEG is then decoded at 1/2, 1/4 or 1/8 of its size where that
            still gives both.

    Raises:
        NotAPicture: the bytes are of no known format, are damaged, or announce far too many pixels.
    """
    pil = need("PIL.Image", extra="images", why="to decode images")
    if not len(data):
        raise NotAPicture("is empty (0 bytes)")
    try:
        picture: Image = pil.open(io.BytesIO(data), formats=FORMATS)
        if draft is not None:
            side = max(draft)  # the picture may be turned afterwards
            picture.draft(None, (side, side))
        picture.load()
        method = _METHODS.get(_orientation(picture))
        return picture if method is None else picture.transpose(pil.Transpose[method])
    except pil.UnidentifiedImageError as error:
        raise NotAPicture(
            "is not an image that can be read as JPEG, PNG, WebP, TIFF, GIF or BMP "
            f"({len(data)} bytes, starts with {bytes(data[:8])!r})"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow's readers raise whatever damaged bytes lead them to
        raise NotAPicture(f"cannot be decoded as an image ({len(data)} bytes): {type(error).__name__}: {error}") from error


def read_struct(height: int, width: int, channels: int, mode: int, data: bytes | memoryview) -> Image:
    """Make a picture of the fields of a row of Spark's image data source: OpenCV's modes, rows of BGR.

    Raises:
        NotAPicture: the mode is none of 8 bits, or the data has another length than the sizes say.
    """
    pil = need("PIL.Image", extra="images", why="to decode images")
    if mode not in _OPENCV:
        raise NotAPicture(
            f"is an image struct of OpenCV mode {mode}; only CV_8UC1 (0), CV_8UC3 (16) and CV_8UC4 (24) are read"
        )
    target, order = _OPENCV[mode]
    if channels != len(order) or height <= 0 or width <= 0 or len(data) != height * width * channels:
        raise NotAPicture(
            f"is an image struct of {height} x {width} pixels with {channels} channels (mode {mode}), "
            f"but its data has {len(data)} bytes"
        )
    picture: Image = pil.frombytes(target, (width, height), bytes(data), "raw", order)
    return picture


def flatten(picture: Image, mode: str, background: tuple[int, int, int]) -> Image:
    """Return the picture in mode RGB or L: depth scaled to 8 bits, transparent parts over the background.

    Raises:
        NotAPicture: its values have no known range.
    """
    pil = need("PIL.Image", extra="images", why="to decode images")
    if picture.mode.startswith("I;16"):
        # 65535 / 255 = 257: the whole range is kept, and rounded.
        deep = np.asarray(picture).astype(np.uint32)
        picture = pil.fromarray(((deep + 128) // 257).astype(np.uint8))
    if picture.mode in ("I", "F", "LAB"):
        raise NotAPicture(
            f"has pixels of Pillow mode {picture.mode}, which have no agreed range of 8-bit values; convert it before"
        )
    try:
        if picture.has_transparency_data:
            clear = picture.convert("RGBA")
            picture = pil.new("RGBA", picture.size, (*background, 255))
            picture.alpha_composite(clear)
            picture = picture.convert("RGB")
        return picture if picture.mode == mode else picture.convert(mode)
    except ValueError as error:
        raise NotAPicture(f"cannot be converted from Pillow mode {picture.mode} to {mode}: {error}") from error


def resize(
    picture: Image,
    size: tuple[int, int],
    *,
    fit: str,
    crop_ratio: float,
    filter_name: str,
    background: tuple[int, int, int],
) -> Image:
    """Return the picture at exactly `size` (height, width); for the other arguments see `image`."""
    pil = need("PIL.Image", extra="images", why="to decode images")
    height, width = size
    scaled = fitted((picture.height, picture.width), size, fit, crop_ratio)
    if scaled != (picture.height, picture.width):
        picture = picture.resize((scaled[1], scaled[0]), pil.Resampling[filter_name.upper()])
    if scaled == size:
        return picture
    top, left = round((height - scaled[0]) / 2), round((width - scaled[1]) / 2)
    if fit == "cover":
        return picture.crop((-left, -top, width - left, height - top))
    frame: Image = pil.new("RGB", (width, height), background).convert(picture.mode)
    frame.paste(picture, (left, top))
    return frame


def fitted(have: tuple[int, int], want: tuple[int, int], fit: str, crop_ratio: float) -> tuple[int, int]:
    """Return the (height, width) to scale a picture to before it is cropped or framed to `want`."""
    if fit == "stretch":
        return want
    ratio = crop_ratio if fit == "cover" else 1.0
    box = (round(want[0] / ratio), round(want[1] / ratio))
    # Of the two scales that make one side fit exactly, cover takes the larger and contain the smaller.
    by_height = (box[1] * have[0] <= box[0] * have[1]) == (fit == "cover")
    if by_height:
        return box[0], max(box[0] * have[1] // have[0], 1)
    return max(box[1] * have[0] // have[1], 1), box[1]


def _orientation(picture: Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except (SyntaxError, ValueError, TypeError, struct.error):
        return 1  # damaged metadata says nothing about how the picture lies; the pixels are whole
