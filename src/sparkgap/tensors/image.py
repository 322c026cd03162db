"""The image decoder: a column of JPEG, PNG, WebP, TIFF, GIF or BMP files becomes one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from sparkgap._errors import ConfigurationError, SignatureError
from sparkgap.tensors import fit as fitting
from sparkgap.tensors import pixels
from sparkgap.tensors.casts import cast, castable, kind, numpy_dtype
from sparkgap.tensors.decoder import BadRows, Decoder, RaggedRows
from sparkgap.tensors.kinds import is_binary, plain
from sparkgap.tensors.spec import Dim, TensorSpec

if TYPE_CHECKING:
    from PIL.Image import Image

_CHANNELS = {"RGB": 3, "L": 1}
_CHOICES = {
    "layout": ("CHW", "HWC"),
    "mode": tuple(_CHANNELS),
    "resize": ("nearest", "bilinear", "bicubic", "lanczos"),
    "fit": ("stretch", "cover", "contain"),
    "dtype": ("uint8", "float16", "bfloat16", "float32", "float64"),
}
_STRUCT = ("height", "width", "nChannels", "mode", "data")


@dataclass(frozen=True)
class ImageDecoder(Decoder):
    """What `image` returns; see there for the fields."""

    column: str
    _: KW_ONLY
    size: tuple[int, int] | None = None
    layout: str = "CHW"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: float | None = None
    dtype: str = "float32"
    mode: str = "RGB"
    resize: str = "bilinear"
    fit: str = "stretch"
    crop_ratio: float = 1.0
    background: tuple[int, int, int] = (255, 255, 255)
    draft: bool = False

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                given = getattr(self, name)
                raise ConfigurationError(f"image: {name} is one of {', '.join(choices)}; got {given!r}.")
        _check_numbers(self)

    @property
    def columns(self) -> tuple[str, ...]:
        """The one column."""
        return (self.column,)

    def resolve(self, spec: TensorSpec, types: Mapping[str, pa.DataType]) -> TensorSpec:
        """Return the tensor of the pictures; see `Decoder.resolve`."""
        arrow = fitting.column_type(self.column, types, spec)
        if not is_binary(arrow) and not _is_struct(arrow):
            fact = "pictures are read from binary columns and from Spark's image struct"
            remedy = "Read the files as binary, e.g. spark.read.format('binaryFile'), and use column `content`."
            raise fitting.refusal(self.column, arrow, spec, fact, remedy)
        found = TensorSpec(spec.name, self.dtype, self._shape(self.size or (None, None)))
        self._check(found, spec)
        return spec.merge(found)

    def decode(self, batch: pa.RecordBatch, spec: TensorSpec) -> np.ndarray:
        """Return the tensor of the pictures; see `Decoder.decode`."""
        array = plain(batch.column(self.column))
        dtype = spec.dtype or self.dtype
        shape = self._shape(self.size or (None, None)) if spec.shape is None else spec.shape
        if not len(array):
            return np.empty((0, *(d or 0 for d in shape)), numpy_dtype(dtype))
        pictures, reasons = self._pictures(array, shape)
        if reasons:
            raise BadRows(reasons)
        shapes = [self._shape(p.shape[:2]) for p in pictures]
        if len(set(shapes)) > 1:
            raise RaggedRows(shapes)  # type: ignore[arg-type]  # the sizes of decoded pictures are known
        return cast(cast(self._numbers(pictures, shapes[0]), self.dtype), dtype)

    def _pictures(self, array: pa.Array, shape: tuple[Dim, ...]) -> tuple[list[np.ndarray], dict[int, str]]:
        """Return pixels as (height, width, channel) in uint8, and why rows have none."""
        pictures, reasons = [], {}
        draft = self._draft()
        for row in range(len(array)):
            try:
                pixel = self._pixels(_open(array, row, draft))
                wrong = self._mismatch(pixel, shape)
            except pixels.NotAPicture as error:
                wrong = str(error)
            if wrong:
                reasons[row] = wrong
            else:
                pictures.append(pixel)
        return pictures, reasons

    def _pixels(self, picture: Image) -> np.ndarray:
        picture = pixels.flatten(picture, self.mode, self.background)
        if self.size is not None:
            picture = pixels.resize(
                picture,
                self.size,
                fit=self.fit,
                crop_ratio=self.crop_ratio,
                filter_name=self.resize,
                background=self.background,
            )
        array = np.asarray(picture)
        return array if array.ndim == 3 else array[:, :, None]

    def _numbers(self, pictures: list[np.ndarray], shape: tuple[Dim, ...]) -> np.ndarray:
        """Lay pictures of one size into one array of this layout, in uint8, float32 or float64."""
        # Narrower floats are rounded once, at the end.
        dtype = self.dtype if self.dtype in ("uint8", "float64") else "float32"
        out: np.ndarray = np.empty((len(pictures), *(d or 0 for d in shape)), dtype)
        # Written through a view in the order of the pixels, whatever the layout.
        view = out.transpose(0, 2, 3, 1) if self.layout == "CHW" else out
        # (x * scale - mean) / std = factor * x + shift
        scale = 1 / 255 if self.scale is None else self.scale
        mean, std = np.array(self.mean or (0.0,)), np.array(self.std or (1.0,))
        factor, shift = (scale / std).astype(dtype), (-mean / std).astype(dtype)
        for target, picture in zip(view, pictures, strict=True):
            if dtype == "uint8":
                target[...] = picture
            else:
                np.multiply(picture, factor, out=target)
                np.add(target, shift, out=target)
        return out

    def _shape(self, size: Sequence[Dim]) -> tuple[Dim, ...]:
        channels = _CHANNELS[self.mode]
        return (channels, *size) if self.layout == "CHW" else (*size, channels)

    def _draft(self) -> tuple[int, int] | None:
        """Return the (height, width) that JPEG must be decoded to at least: twice what is needed."""
        if not self.draft or self.size is None:
            return None
        height, width = (2 * round(d / self.crop_ratio) for d in self.size)
        return height, width

    def _check(self, found: TensorSpec, spec: TensorSpec) -> None:
        """Raise SignatureError where pictures of this decoder cannot be the spec's tensor."""
        assert found.shape is not None
        start = f"image(`{self.column}`) gives {found.describe()}, which cannot feed tensor `{spec.name}` ({spec.describe()})"
        if spec.dtype is not None and not castable(self.dtype, spec.dtype):
            hint = 'Pass dtype="uint8" for raw pixels.' if kind(spec.dtype) == "int" else "Change the model's input."
            raise SignatureError(f"{start}. {hint}")
        if spec.shape is None or _agree(spec.shape, found.shape):
            return
        other = "HWC" if self.layout == "CHW" else "CHW"
        turned = ImageDecoder(column=self.column, size=self.size, layout=other, mode=self.mode)
        if _agree(spec.shape, turned._shape(self.size or (None, None))):
            raise SignatureError(f'{start}. Pass layout="{other}".')
        raise SignatureError(f'{start}. Change size=(height, width), mode ("RGB" or "L") or layout.')

    def _mismatch(self, picture: np.ndarray, shape: tuple[Dim, ...]) -> str | None:
        have = self._shape(picture.shape[:2])
        if _agree(have, shape):
            return None
        height, width = shape[1:] if self.layout == "CHW" else shape[:2]
        return (
            f"is an image of {picture.shape[0]} x {picture.shape[1]} pixels, expected {height or '?'} x {width or '?'}; "
            "pass size=(height, width) to image() to resize"
        )


def image(
    column: str,
    *,
    size: int | Sequence[int] | None = None,
    layout: Literal["CHW", "HWC"] = "CHW",
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    scale: float | None = None,
    dtype: str = "float32",
    mode: Literal["RGB", "L"] = "RGB",
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear",
    fit: Literal["stretch", "cover", "contain"] = "stretch",
    crop_ratio: float = 1.0,
    background: Sequence[int] = (255, 255, 255),
    draft: bool = False,
) -> ImageDecoder:
    """Feed pictures to a model: a binary column of JPEG, PNG, WebP, TIFF, GIF or BMP files, decoded in the task.

    Also takes the struct of Spark's image data source. Pictures are turned as EXIF says; grey, palette, CMYK
    and 16-bit ones become what people see; of several frames the first is taken. A picture that cannot be
    decoded is a bad row, as is one that announces too many pixels (Pillow's `MAX_IMAGE_PIXELS`, doubled).

    Args:
        column: name of the column.
        size: (height, width) of the tensor, or one int for both; None keeps each picture's own.
        layout: ``"CHW"`` for (channel, height, width), ``"HWC"`` for (height, width, channel).
        mean: taken off the scaled values, one number or one a channel.
        std: what they are divided by then, one number or one a channel.
        scale: what 8-bit pixels are multiplied by; default 1/255.
        dtype: ``"float32"``, another float, or ``"uint8"`` for raw pixels.
        mode: ``"RGB"``, or ``"L"`` for one channel of grey.
        resize: the filter.
        fit: ``"stretch"`` to the size; ``"cover"``: scale until the size is covered, and crop the centre;
            ``"contain"``: scale until all of it is inside, and fill up with the background.
        crop_ratio: for ``"cover"``, the part of the scaled picture's shorter side that is kept: 0.875 with size
            224 is the usual "resize to 256, crop 224" of ImageNet.
        background: red, green and blue (0 .. 255) behind transparent pictures and around contained ones.
        draft: decode large JPEG files at a fraction of their size, never under twice what is needed: several
            times faster, and a little different.

    Returns:
        A decoder for the `inputs` of `transform`: pixel * scale, less mean, over std.

    Raises:
        ConfigurationError: an option is wrong.

    Example:
        >>> import sparkgap as gap
        >>> gap.image("content", size=224, fit="cover", crop_ratio=0.875, mean=0.5, std=0.5).size
        (224, 224)
    """
    channels = _CHANNELS.get(mode, 1)
    return ImageDecoder(
        column=column,
        size=(size, size) if isinstance(size, int) else None if size is None else tuple(size),  # type: ignore[arg-type]
        layout=layout,
        mean=_each(mean, channels),
        std=_each(std, channels),
        scale=scale,
        dtype=dtype,
        mode=mode,
        resize=resize,
        fit=fit,
        crop_ratio=crop_ratio,
        background=tuple(background),  # type: ignore[arg-type]  # its length is checked by the decoder
        draft=draft,
    )


def _each(value: float | Sequence[float] | None, channels: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    return (float(value),) * channels if isinstance(value, int | float) else tuple(float(v) for v in value)


def _check_numbers(decoder: ImageDecoder) -> None:
    """Raise ConfigurationError for sizes and numbers that make no sense."""
    size = decoder.size
    if size is not None and (len(size) != 2 or any(not isinstance(d, int) or d < 1 for d in size)):
        raise ConfigurationError(f"image: size is (height, width) in pixels, each >= 1; got {size!r}.")
    channels = _CHANNELS[decoder.mode]
    for name in ("mean", "std"):
        value = getattr(decoder, name)
        if value is not None and len(value) != channels:
            raise ConfigurationError(f"image: {name} has one number, or {channels} for mode {decoder.mode}; got {value!r}.")
    if decoder.std is not None and 0 in decoder.std:
        raise ConfigurationError(f"image: std must not be 0; got {decoder.std!r}.")
    if decoder.dtype == "uint8" and (decoder.mean or decoder.std or decoder.scale is not None):
        raise ConfigurationError(
            'image: dtype="uint8" gives raw pixels, so mean, std and scale do not apply. Leave them out, or use '
            'dtype="float32".'
        )
    if not 0 < decoder.crop_ratio <= 1 or (decoder.crop_ratio != 1 and decoder.fit != "cover"):
        raise ConfigurationError(
            f'image: crop_ratio is over 0 and at most 1, and other than 1 only with fit="cover"; '
            f"got {decoder.crop_ratio!r} with fit={decoder.fit!r}."
        )
    if len(decoder.background) != 3 or any(not isinstance(v, int) or not 0 <= v <= 255 for v in decoder.background):
        raise ConfigurationError(f"image: background is red, green and blue, 0 .. 255; got {decoder.background!r}.")


def _is_struct(arrow: pa.DataType) -> bool:
    return bool(pat.is_struct(arrow)) and set(_STRUCT) <= {f.name for f in arrow}


def _agree(one: tuple[Dim, ...], other: tuple[Dim, ...]) -> bool:
    return len(one) == len(other) and all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def _open(array: pa.Array, row: int, draft: tuple[int, int] | None) -> Image:
    value = array[row]
    if not value.is_valid:
        raise pixels.NotAPicture("is null")
    if is_binary(array.type):
        return pixels.read(memoryview(value.as_buffer()), draft)
    height, width, channels, mode = (value[name].as_py() for name in _STRUCT[:-1])
    data = value["data"]
    if None in (height, width, channels, mode) or not data.is_valid:
        raise pixels.NotAPicture("is an image struct with a null field")
    return pixels.read_struct(height, width, channels, mode, memoryview(data.as_buffer()))
