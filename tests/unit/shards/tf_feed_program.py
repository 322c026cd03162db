"""Compares the TensorFlow feed with that of NumPy."""

import sys

import numpy as np
import pytest

import sparkgap as gap

shards = gap.open_shards(sys.argv[1])
data = shards.to_tf(8, seed=1, columns=["id", "x", "s"], last="pad")
assert int(data.cardinality()) == 7
for _ in range(2):  # it can be iterated again
    for made, expected in zip(data, shards.to_numpy(8, seed=1, last="pad"), strict=True):
        assert made["x"].shape == (8, 2)
        assert np.array_equal(made["x"], expected["x"])
        assert [s.decode() for s in made["s"].numpy()] == expected["s"].tolist()
        assert np.array_equal(made["_weight"], expected["_weight"])
with pytest.raises(gap.ConfigurationError, match=r"Column `t` is float32 \(batch, \?\)"):
    shards.to_tf(8)
