"""The image decoder, against pictures made with Pillow, real photographs and plain NumPy."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sparkgap._errors import ConfigurationError, MissingDependencyError
from sparkgap.tensors.decoder import BadRows, RaggedRows
from sparkgap.tensors.image import ImageDecoder, image
from sparkgap.tensors.pixels import fitted
from sparkgap.tensors.spec import TensorSpec

# No two rows, columns or corners are alike, and neither are the channels.
RED, GREEN, BLUE, WHITE, BLACK, GREY = (250, 0, 0), (0, 240, 0), (0, 0, 230), (255,) * 3, (0,) * 3, (99,) * 3
PICTURE = np.array([[RED, GREEN, BLUE], [WHITE, BLACK, GREY]], np.uint8)
ORIENTATION = 0x0112
STRUCT = pa.struct(
    {
        "origin": pa.string(),
        "height": pa.int32(),
        "width": pa.int32(),
        "nChannels": pa.int32(),
        "mode": pa.int32(),
        "data": pa.binary(),
    }
)


def photo(name: str) -> bytes:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "data" / name).read_bytes()


def save(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, form, **options)
    return out.getvalue()


def decode(decoder: ImageDecoder, *files: bytes | None, spec: TensorSpec | None = None) -> np.ndarray:
    column = pa.array(files, pa.binary())
    resolved = decoder.resolve(spec or TensorSpec("x"), {decoder.column: column.type})
    found = decoder.decode(pa.RecordBatch.from_arrays([column], [decoder.column]), resolved)
    assert found.dtype.name == resolved.dtype
    return found


def pixels(file: bytes, **options: Any) -> np.ndarray:
    """Return the picture as (height, width, channel) in uint8."""
    return decode(image("c", dtype="uint8", layout="HWC", **options), file)[0]


def reasons(decoder: ImageDecoder, *files: bytes | None, spec: TensorSpec | None = None) -> dict[int, str]:
    with pytest.raises(BadRows) as error:
        decode(decoder, *files, spec=spec)
    return error.value.reasons


# --- formats and modes ---


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("GIF", {}), ("WEBP", {"lossless": True})],
)
def test_formats_without_loss(form: str, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(pixels(save(Image.fromarray(PICTURE), form, **options)), PICTURE)


@pytest.mark.parametrize(("form", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95})])
def test_formats_with_loss_stay_close_to_the_photograph(form: str, options: dict[str, Any]) -> None:
    coffee = Image.open(io.BytesIO(photo("coffee.png"))).convert("RGB")
    file = save(coffee, form, **options)
    found = pixels(file)
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(file)).convert("RGB")))
    assert np.abs(found.astype(int) - np.asarray(coffee)).mean() < 3


@pytest.mark.parametrize("name", ["coffee.png", "rocket.jpg", "chelsea.png", "astronaut.png", "retina.jpg"])
def test_photographs_are_what_pillow_reads(name: str) -> None:
    np.testing.assert_array_equal(pixels(photo(name)), np.asarray(Image.open(io.BytesIO(photo(name))).convert("RGB")))


@pytest.mark.parametrize("name", ["multipage.tif", "no_time_for_that_tiny.gif"])
def test_the_first_of_several_frames(name: str) -> None:
    picture = Image.open(io.BytesIO(photo(name)))
    assert picture.n_frames > 1  # type: ignore[attr-defined]
    picture.seek(0)
    np.testing.assert_array_equal(pixels(photo(name)), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_grey_becomes_three_equal_channels(form: str) -> None:
    grey = np.full((8, 16), 77, np.uint8)
    np.testing.assert_array_equal(pixels(save(Image.fromarray(grey), form)), np.full((8, 16, 3), 77))
    found = decode(image("c", dtype="uint8", mode="L"), save(Image.fromarray(grey), form))
    assert found.shape == (1, 1, 8, 16)
    assert set(found.ravel().tolist()) == {77}


def test_colour_becomes_grey_by_luma() -> None:
    found = pixels(save(Image.fromarray(PICTURE)), mode="L")[..., 0]
    expected = PICTURE.astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(found, expected, atol=1)


def test_one_bit() -> None:
    bits = Image.fromarray(np.array([[255, 0, 255]], np.uint8)).convert("1")
    for form in ("PNG", "TIFF", "BMP"):
        assert pixels(save(bits, form))[0, :, 0].tolist() == [255, 0, 255]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_not_clipped(form: str) -> None:
    deep = np.array([[0, 128, 129, 257, 32768, 65278, 65407, 65535]], np.uint16)
    expected = np.round(deep / 257).astype(int)
    assert expected[0].tolist() == [0, 0, 1, 1, 128, 254, 255, 255]
    found = pixels(save(Image.fromarray(deep), form))
    for channel in range(3):
        assert found[..., channel].tolist() == expected.tolist()


def test_sixteen_bits_of_either_byte_order() -> None:
    deep = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    big = Image.frombytes("I;16B", (16, 16), deep.astype(">u2").tobytes())
    np.testing.assert_array_equal(pixels(save(big, "TIFF"))[..., 0], np.arange(256).reshape(16, 16))


def test_values_without_a_range_are_refused() -> None:
    floats = save(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
    wide = save(Image.fromarray(np.zeros((2, 2), np.int32)), "TIFF")
    found = reasons(image("c"), floats, wide)
    assert found[0].startswith("has pixels of Pillow mode F, which have no agreed range of 8-bit values")
    assert found[1].startswith("has pixels of Pillow mode I, ")


def test_transparency_lies_over_the_background() -> None:
    clear = np.dstack([PICTURE, np.array([[255, 0, 255], [128, 255, 0]], np.uint8)])
    file = save(Image.fromarray(clear))
    alpha = clear[..., 3:] / 255
    for background in ((255, 255, 255), (10, 20, 30)):
        expected = PICTURE * alpha + np.array(background) * (1 - alpha)
        np.testing.assert_allclose(pixels(file, background=background), expected, atol=1)
    np.testing.assert_array_equal(pixels(save(Image.fromarray(clear), "WEBP", lossless=True, exact=True))[0, 1], [255] * 3)


def test_transparent_grey_palette_and_colour_key() -> None:
    grey = np.array([[[50, 255], [50, 0]]], np.uint8)
    assert pixels(save(Image.fromarray(grey, "LA")))[0].tolist() == [[50] * 3, [255] * 3]
    assert pixels(save(Image.fromarray(grey, "LA")), mode="L")[0].tolist() == [[50], [255]]
    palette = Image.fromarray(PICTURE).quantize(6)
    np.testing.assert_array_equal(pixels(save(palette)), PICTURE)
    corner = palette.getpixel((0, 0))
    expected = PICTURE.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(pixels(save(palette, transparency=corner)), expected)
    np.testing.assert_array_equal(pixels(save(palette, "GIF", transparency=corner)), expected)
    np.testing.assert_array_equal(pixels(save(Image.fromarray(PICTURE), transparency=RED)), expected)


def test_cmyk_and_ycbcr() -> None:
    inks = Image.fromarray(PICTURE).convert("CMYK")
    np.testing.assert_allclose(pixels(save(inks, "TIFF")), PICTURE, atol=2)
    flat = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    np.testing.assert_allclose(pixels(save(flat, "JPEG", quality=100)), np.broadcast_to([0, 255, 255], (16, 16, 3)), atol=3)
    luma = Image.fromarray(PICTURE).convert("YCbCr")
    np.testing.assert_allclose(pixels(save(luma, "TIFF")), PICTURE, atol=3)


# --- orientation ---

TURNED = {
    1: PICTURE,
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.transpose(1, 0, 2),
    6: np.rot90(PICTURE, 1),
    7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PICTURE, -1),
}
"""How a camera stores the picture when it writes an orientation: the way that EXIF undoes."""


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "TIFF-LZW"])
@pytest.mark.parametrize("orientation", TURNED)
def test_the_picture_is_turned_as_exif_says(orientation: int, form: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}, "TIFF-LZW": {"compression": "tiff_lzw"}}[form]
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation]))
    np.testing.assert_array_equal(pixels(save(stored, form[:4], exif=exif, **options)), PICTURE)


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("orientation", TURNED)
def test_jpeg_is_turned_before_it_is_resized(orientation: int, draft: bool) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    large = np.kron(TURNED[orientation], np.ones((64, 64, 1), np.uint8))
    file = save(Image.fromarray(large), "JPEG", quality=100, subsampling=0, exif=exif)
    found = pixels(file, size=(2, 3), resize="nearest", draft=draft)
    np.testing.assert_allclose(found, PICTURE, atol=6)


def test_damaged_exif_leaves_the_picture() -> None:
    file = save(Image.fromarray(PICTURE), "PNG", exif=b"Exif\0\0this is no TIFF header")
    np.testing.assert_array_equal(pixels(file), PICTURE)


# --- size ---


@pytest.mark.parametrize("resize", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_stretch_is_pillows_resize(resize: str) -> None:
    coffee = Image.open(io.BytesIO(photo("coffee.png"))).convert("RGB")
    expected = np.asarray(coffee.resize((160, 90), Image.Resampling[resize.upper()]))
    np.testing.assert_array_equal(pixels(photo("coffee.png"), size=(90, 160), resize=resize), expected)


@pytest.mark.parametrize("name", ["coffee.png", "rocket.jpg", "retina.jpg"])
@pytest.mark.parametrize("turn", [False, True])
def test_cover_is_resize_256_crop_224(name: str, turn: bool) -> None:
    picture = Image.open(io.BytesIO(photo(name))).convert("RGB")
    picture = picture.transpose(Image.Transpose.ROTATE_90) if turn else picture
    short, long = sorted(picture.size)
    other = 256 * long // short
    scaled = picture.resize((256, other) if picture.width == short else (other, 256), Image.Resampling.BILINEAR)
    left, top = round((scaled.width - 224) / 2), round((scaled.height - 224) / 2)
    expected = np.asarray(scaled)[top : top + 224, left : left + 224]
    found = pixels(save(picture), size=224, fit="cover", crop_ratio=0.875)
    np.testing.assert_array_equal(found, expected)


def test_contain_keeps_all_of_the_picture() -> None:
    wide = Image.new("RGB", (40, 20), RED)
    found = pixels(save(wide), size=(10, 10), fit="contain", background=(1, 2, 3))
    expected = np.full((10, 10, 3), (1, 2, 3))
    expected[2:7] = RED
    assert found.shape == (10, 10, 3)
    np.testing.assert_array_equal(found, expected)
    tall = pixels(save(wide.rotate(90, expand=True)), size=(10, 10), fit="contain", mode="L", background=(255, 255, 255))
    assert (tall[:, :2] == 255).all()
    assert (tall[:, 2:7] == 75).all()


@pytest.mark.parametrize(
    ("have", "want", "fit", "ratio", "expected"),
    [
        ((400, 600), (224, 224), "cover", 0.875, (256, 384)),
        ((600, 400), (224, 224), "cover", 0.875, (384, 256)),
        ((400, 400), (224, 224), "cover", 1.0, (224, 224)),
        ((100, 1000), (50, 200), "cover", 1.0, (50, 500)),
        ((1000, 100), (50, 200), "cover", 1.0, (2000, 200)),
        ((400, 600), (224, 224), "contain", 1.0, (149, 224)),
        ((600, 400), (224, 224), "contain", 1.0, (224, 149)),
        ((5000, 1), (10, 10), "contain", 1.0, (10, 1)),
        ((3, 4), (7, 9), "stretch", 1.0, (7, 9)),
    ],
)
def test_scaled_sizes(have: tuple[int, int], want: tuple[int, int], fit: str, ratio: float, expected: tuple[int, int]) -> None:
    assert fitted(have, want, fit, ratio) == expected


def test_cover_never_leaves_a_gap_and_contain_never_sticks_out() -> None:
    random = np.random.default_rng(0)
    for h, w, a, b in random.integers(1, 400, (2000, 4)).tolist():
        height, width = fitted((h, w), (a, b), "cover", 1.0)
        assert height >= a
        assert width >= b
        assert height == a or width == b
        height, width = fitted((h, w), (a, b), "contain", 1.0)
        assert height <= a
        assert width <= b
        assert height == a or width == b


def test_draft_stays_close() -> None:
    large = Image.open(io.BytesIO(photo("retina.jpg"))).convert("RGB").resize((1600, 1600))
    file = save(large, "JPEG", quality=90)
    full, fast = (pixels(file, size=200, draft=draft).astype(int) for draft in (False, True))
    difference = np.abs(full - fast)
    assert 0 < difference.mean() < 1.5
    assert difference.max() < 40


def test_without_a_size_pictures_keep_their_own() -> None:
    small, large = save(Image.fromarray(PICTURE)), save(Image.fromarray(PICTURE).resize((6, 4)))
    assert decode(image("c"), small, small).shape == (2, 3, 2, 3)
    with pytest.raises(RaggedRows) as error:
        decode(image("c"), small, large)
    assert error.value.shapes == [(3, 2, 3), (3, 4, 6)]
    with pytest.raises(RaggedRows) as error:
        decode(image("c", layout="HWC"), small, large)
    assert error.value.shapes == [(2, 3, 3), (4, 6, 3)]
    assert reasons(image("c"), small, large, spec=TensorSpec("x", None, (3, None, 3))) == {
        1: "is an image of 4 x 6 pixels, expected ? x 3; pass size=(height, width) to image() to resize"
    }


# --- values ---


@pytest.mark.parametrize("layout", ["CHW", "HWC"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_values_are_scaled_and_normalised(dtype: str, layout: Any) -> None:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    files = [photo("coffee.png"), photo("rocket.jpg")]
    decoder = image("c", size=(40, 60), layout=layout, mean=mean.tolist(), std=std.tolist(), dtype=dtype)
    found = decode(decoder, *files)
    raw = np.stack([pixels(file, size=(40, 60)) for file in files])
    expected = (raw.astype(np.float64) / 255 - mean) / std
    if layout == "CHW":
        expected = expected.transpose(0, 3, 1, 2)
    assert found.shape == expected.shape
    assert found.flags.c_contiguous
    tolerance = {"float64": 1e-12, "float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


def test_scale_alone_one_mean_for_all_and_uint8() -> None:
    file = save(Image.fromarray(PICTURE))
    chw = PICTURE.transpose(2, 0, 1)
    np.testing.assert_allclose(decode(image("c"), file)[0], chw / 255, rtol=1e-6)
    np.testing.assert_array_equal(decode(image("c", scale=1), file)[0], chw)
    np.testing.assert_allclose(decode(image("c", mean=0.5, std=0.5), file)[0], chw / 127.5 - 1, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(decode(image("c", dtype="uint8"), file)[0], chw)
    wide = decode(image("c", dtype="uint8"), file, spec=TensorSpec("x", "float32"))
    np.testing.assert_array_equal(wide[0], chw.astype(np.float32))
    assert reasons(image("c", dtype="float16", scale=1000), file)[0].endswith("which overflows float16")


def test_no_rows() -> None:
    assert decode(image("c", size=4)).shape == (0, 3, 4, 4)
    assert decode(image("c", layout="HWC")).shape == (0, 0, 0, 3)


# --- what is no picture ---


def test_bad_pictures_say_why_and_all_at_once() -> None:
    good = photo("rocket.jpg")
    found = reasons(
        image("c", size=8), None, good, b"", b"GIF89 no picture", good[:5000], photo("coffee.png")[:9000], b"%!PS-Adobe-3.0"
    )
    assert found == {
        0: "is null",
        2: "is empty (0 bytes)",
        3: "is not an image that can be read as JPEG, PNG, WebP, TIFF, GIF or BMP (16 bytes, starts with b'GIF89 no')",
        4: found[4],
        5: found[5],
        6: "is not an image that can be read as JPEG, PNG, WebP, TIFF, GIF or BMP (14 bytes, starts with b'%!PS-Ado')",
    }
    for row, size in ((4, 5000), (5, 9000)):
        assert found[row].startswith(f"cannot be decoded as an image ({size} bytes): OSError: ")
        assert "truncated" in found[row]


@pytest.mark.parametrize("form", ["EPS", "PPM"])
def test_no_other_format_reaches_pillows_readers(form: str) -> None:
    """EPS would run Ghostscript on what a stranger wrote."""
    file = save(Image.fromarray(PICTURE), form)
    assert Image.open(io.BytesIO(file)).format == form
    assert reasons(image("c"), file)[0].startswith("is not an image that can be read as JPEG")


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on damaged metadata
def test_damaged_bytes_never_end_a_task() -> None:
    random = np.random.default_rng(1)
    whole = [save(Image.fromarray(PICTURE), form) for form in ("PNG", "TIFF", "GIF", "BMP", "WEBP", "JPEG")]
    for _ in range(300):
        file = bytearray(whole[random.integers(len(whole))])
        for place in random.integers(0, len(file), 3):
            file[place] = random.integers(256)
        try:
            assert decode(image("c", size=4), bytes(file)).shape == (1, 3, 4, 4)
        except BadRows as error:
            assert list(error.reasons) == [0]  # noqa: PT017 - either is right


def test_a_decompression_bomb_is_a_bad_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    found = reasons(image("c", size=4), save(Image.new("L", (50, 50))))
    assert found[0].startswith("cannot be decoded as an image")
    assert "DecompressionBombError: Image size (2500 pixels) exceeds limit of 200 pixels" in found[0]


def test_pillow_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingDependencyError, match=r"Package `PIL` is needed to decode images.*sparkgap\[images\]"):
        decode(image("c"), b"x")


# --- Spark's image struct ---


def struct(mode: int, array: np.ndarray, **changes: Any) -> dict[str, Any]:
    height, width, channels = array.shape
    row = {"origin": "o", "height": height, "width": width, "nChannels": channels, "mode": mode, "data": array.tobytes()}
    return row | changes


def test_image_structs_are_bgr() -> None:
    bgr = np.ascontiguousarray(PICTURE[..., ::-1])
    clear = np.dstack([bgr, np.array([[255, 0, 255], [255, 255, 255]], np.uint8)])
    grey = PICTURE[..., :1]
    column = pa.array([struct(0, grey), struct(16, bgr), struct(24, clear), struct(0, grey)], STRUCT).slice(1)
    decoder = image("c", dtype="uint8", layout="HWC")
    data = pa.RecordBatch.from_arrays([column], ["c"])
    found = decoder.decode(data, decoder.resolve(TensorSpec("x"), {"c": STRUCT}))
    faded = PICTURE.copy()
    faded[0, 1] = 255
    np.testing.assert_array_equal(found, [PICTURE, faded, np.repeat(grey, 3, axis=2)])


def test_bad_image_structs() -> None:
    bgr = PICTURE[..., ::-1]
    rows = [
        None,
        struct(-1, bgr),
        struct(21, bgr),
        struct(16, bgr, height=3),
        struct(16, bgr, data=None),
        struct(16, bgr, width=None),
    ]
    with pytest.raises(BadRows) as error:
        image("c").decode(pa.RecordBatch.from_arrays([pa.array(rows, STRUCT)], ["c"]), TensorSpec("x"))
    mode = "is an image struct of OpenCV mode {}; only CV_8UC1 (0), CV_8UC3 (16) and CV_8UC4 (24) are read"
    assert error.value.reasons == {
        0: "is null",
        1: mode.format(-1),
        2: mode.format(21),
        3: "is an image struct of 3 x 3 pixels with 3 channels (mode 16), but its data has 18 bytes",
        4: "is an image struct with a null field",
        5: "is an image struct with a null field",
    }


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "NCHW"}, "layout is one of CHW, HWC; got 'NCHW'"),
        ({"mode": "RGBA"}, "mode is one of RGB, L; got 'RGBA'"),
        ({"resize": "area"}, "resize is one of nearest, bilinear, bicubic, lanczos; got 'area'"),
        ({"fit": "crop"}, "fit is one of stretch, cover, contain; got 'crop'"),
        ({"dtype": "int64"}, "dtype is one of uint8, float16, bfloat16, float32, float64; got 'int64'"),
        ({"size": (3, 224, 224)}, r"size is \(height, width\) in pixels, each >= 1; got \(3, 224, 224\)"),
        ({"size": 0}, r"each >= 1; got \(0, 0\)"),
        ({"mean": [0.5, 0.5]}, r"mean has one number, or 3 for mode RGB; got \(0.5, 0.5\)"),
        ({"std": [1, 1, 1], "mode": "L"}, r"std has one number, or 1 for mode L"),
        ({"std": 0}, "std must not be 0"),
        ({"dtype": "uint8", "mean": 0.5}, "mean, std and scale do not apply"),
        ({"dtype": "uint8", "scale": 1.0}, "mean, std and scale do not apply"),
        ({"crop_ratio": 0.875}, r"only with fit=\"cover\"; got 0.875 with fit='stretch'"),
        ({"crop_ratio": 1.5, "fit": "cover"}, "crop_ratio is over 0 and at most 1"),
        ({"background": (255, 255)}, r"background is red, green and blue, 0 .. 255; got \(255, 255\)"),
        ({"background": (0, 0, 256)}, "background is red, green and blue"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match="image: .*" + message):
        image("c", **options)
