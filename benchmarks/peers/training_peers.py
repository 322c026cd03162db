"""Training to the same accuracy as a peer: `benchmarks/peers/run-training [mllib elephas]`.

Fashion-MNIST, 60,000 x 784, from Debian's package dataset-fashion-mnist. The peer trains with its own defaults; then
`gap.fit` trains the same network until its accuracy on the 10,000 held-out rows is at least the peer's. Seconds are from the
DataFrame to the model, with all that either of them does before.

mllib: MultilayerPerceptronClassifier, layers 784-64-10, as many L-BFGS iterations as it has by default (100).
elephas: SparkModel, synchronous, two workers, the same Keras network on TensorFlow in both.
"""

from __future__ import annotations

import gzip
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

FOLDER = Path("/usr/share/datasets/fashion-mnist")
EPOCHS = 5
REPEATS = 3


def images(part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (float32, 0 to 1) and labels of "train" or "t10k"."""
    if not FOLDER.exists():
        sys.exit(f"{FOLDER} is not there: apt-get install dataset-fashion-mnist")
    with gzip.open(FOLDER / f"{part}-images-idx3-ubyte.gz") as file:
        x = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(FOLDER / f"{part}-labels-idx1-ubyte.gz") as file:
        y = np.frombuffer(file.read(), np.uint8, offset=8)
    return (x / np.float32(255)), y.astype(np.int64)


def frame(spark: Any, part: str) -> Any:
    """Return a part as a DataFrame that is in memory."""
    x, y = images(part)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 784).cast(pa.list_(pa.float32()))
    df = spark.createDataFrame(pa.table({"x": flat, "y": pa.array(y)})).repartition(2).cache()
    df.count()
    return df


def ours(model: Any, train: Any, held: Any, wanted: float, **options: Any) -> float:
    """Train until the accuracy is as wanted, and return the seconds."""
    import sparkgap as gap

    began = time.monotonic()
    fitted = gap.fit(
        model, train, inputs=["x"], label="y", epochs=100, batch_size=128, workers=2, validation=held,
        on_epoch=lambda figures: figures["val_accuracy"] >= wanted, **options,
    )  # fmt: skip
    seconds = time.monotonic() - began
    last = fitted.history[-1]
    print(f"    gap.fit: {seconds:.1f} s, {len(fitted.history)} epochs, accuracy {last['val_accuracy']:.4f}", flush=True)
    return seconds


def mllib(spark: Any, train: Any, held: Any) -> tuple[float, float]:
    """Return the seconds of MLlib's perceptron and of `gap.fit`, and print those of `sparkgap.ml`'s perceptron."""
    import torch
    from pyspark.ml.classification import MultilayerPerceptronClassifier
    from pyspark.ml.functions import array_to_vector

    vectors, tests = (d.select(array_to_vector("x").alias("features"), d.y.alias("label")) for d in (train, held))
    began = time.monotonic()
    model = MultilayerPerceptronClassifier(layers=[784, 64, 10], seed=1).fit(vectors)
    theirs = time.monotonic() - began
    accuracy = model.transform(tests).where("prediction = label").count() / tests.count()
    print(f"    MLlib: {theirs:.1f} s, accuracy {accuracy:.4f}", flush=True)
    stages(vectors, tests, accuracy)
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(784, 64), torch.nn.Sigmoid(), torch.nn.Linear(64, 10))
    return theirs, ours(net, train, held, accuracy, loss="cross_entropy", learning_rate=2e-3, metrics=["accuracy"])


def stages(vectors: Any, tests: Any, wanted: float) -> None:
    """Print seconds and accuracy of the perceptron of `sparkgap.ml`: with nothing but the import changed, and with adam."""
    from sparkgap.ml import MultilayerPerceptronClassifier

    for options in ({}, {"solver": "adam", "stepSize": 2e-3, "batchSize": 128, "maxIter": 10}):
        began = time.monotonic()
        model = MultilayerPerceptronClassifier(layers=[784, 64, 10], seed=1, **options).fit(vectors)
        seconds = time.monotonic() - began
        accuracy = model.transform(tests).where("prediction = label").count() / tests.count()
        told = options.get("solver", "l-bfgs")
        print(f"    sparkgap.ml, {told}: {seconds:.1f} s, accuracy {accuracy:.4f} (wanted {wanted:.4f})", flush=True)


def elephas(spark: Any, train: Any, held: Any) -> tuple[float, float]:
    """Return the seconds of Elephas and of ours."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras
    from elephas.spark_model import SparkModel

    def network() -> Any:
        keras.utils.set_random_seed(1)
        layers = [keras.Input((784,)), keras.layers.Dense(64, activation="relu"), keras.layers.Dense(10, activation="softmax")]
        net = keras.Sequential(layers)
        net.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        return net

    x, y = images("t10k")
    began = time.monotonic()
    rows = train.rdd.map(lambda row: (np.asarray(row.x, "f4"), row.y))
    peer = SparkModel(network(), frequency="epoch", mode="synchronous", num_workers=2)
    peer.fit(rows, epochs=EPOCHS, batch_size=128, verbose=0, validation_split=0.0)
    theirs = time.monotonic() - began
    accuracy = float((peer.master_network.predict(x, verbose=0).argmax(1) == y).mean())
    print(f"    Elephas: {theirs:.1f} s, accuracy {accuracy:.4f}", flush=True)
    return theirs, ours(network(), train, held, accuracy)


PEERS = {"mllib": mllib, "elephas": elephas}


def main() -> None:
    """Run what the command line asks for."""
    import sparkgap as gap

    spark = gap.session("local[2]", conf={"spark.driver.memory": "6g", "spark.ui.enabled": "false"})
    train, held = frame(spark, "train"), frame(spark, "t10k")
    for name in sys.argv[1:] or list(PEERS):
        pairs = []
        for _ in range(REPEATS):
            print(name, flush=True)
            pairs.append(PEERS[name](spark, train, held))
        ratios = sorted(theirs / mine for theirs, mine in pairs)
        print(
            f"gap.fit is {statistics.median(ratios):.1f} x as fast as {name} ({ratios[0]:.1f} to {ratios[-1]:.1f})", flush=True
        )


if __name__ == "__main__":
    main()
