"""What is refused, and in which words: here, where a verb is called."""

from __future__ import annotations

import threading

import numpy as np
import pyarrow as pa
import pytest

from sparkgap import ConfigurationError, DataError, ModelOutputError, SignatureError, TensorSpec
from sparkgap.blocks.aggregates import aggregate
from sparkgap.blocks.maps import map_blocks, map_rows
from sparkgap.blocks.reductions import reduce_blocks, reduce_rows
from sparkgap.blocks.shapes import append_shape

TABLE = pa.table(
    {
        "x": [1.0, 2.0, 3.0],
        "n": pa.array([1, 2, 3], pa.int32()),
        "v": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
        "ragged": [[1.0], [2.0, 3.0], []],
        "when": pa.array([0, 1, 2], pa.timestamp("us")),
        "m": pa.array([[("a", 1)]] * 3, pa.map_(pa.string(), pa.int32())),
    }
)
SUM = lambda x: {"x": x.sum(axis=0)}  # noqa: E731


@pytest.mark.parametrize("verb", [map_blocks, map_rows])
@pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        (lambda x: x, ModelOutputError, "must return a dict of named tensors"),
        (lambda x: None, ModelOutputError, "returned None"),
        (lambda x: {}, ModelOutputError, "must return a dict"),
        (lambda x: {1: x}, ModelOutputError, r"keys \[1\]"),
        (lambda x: {"z": object()}, ModelOutputError, "holds Python objects"),
        (lambda x: {"z": x * 1j}, SignatureError, "complex128"),
        (lambda x: {"x": x}, ConfigurationError, "has a column `x` already"),
        (lambda x: {"X": x}, ConfigurationError, "has a column `x` already"),
        (lambda missing: {"z": missing}, SignatureError, "wants column `missing`, and the columns are x, n"),
        (lambda when: {"z": when}, SignatureError, "timestamp"),
        (lambda m: {"z": m}, SignatureError, "map"),
        (lambda *x: {"z": x[0]}, ConfigurationError, r"\*x"),
        (lambda x: {"z": x + "text"}, ConfigurationError, "failed on the first row of the data"),
    ],
)
def test_maps_refuse(verb, program, error, words):
    with pytest.raises(error, match=words):
        verb(program, TABLE)


@pytest.mark.parametrize("shape", [(), (2,), (7,)])
def test_another_number_of_rows_needs_trim(shape):
    with pytest.raises(ModelOutputError, match="Pass trim=True"):
        map_blocks(lambda x: {"z": np.zeros(shape)}, TABLE)


def test_trim_refuses_scalars_and_unequal_lengths_and_null():
    with pytest.raises(ModelOutputError, match="is a scalar"):
        map_blocks(lambda x: {"z": x.sum()}, TABLE, trim=True)
    with pytest.raises(ModelOutputError, match="different numbers of rows: `y` 1, `z` 2"):
        map_blocks(lambda x: {"y": np.zeros(1), "z": np.zeros(2)}, TABLE, trim=True)
    with pytest.raises(ConfigurationError, match="With trim=True"):
        map_blocks(lambda x: {"z": x}, TABLE, trim=True, on_error="null")


def test_a_program_without_parameters_needs_trim():
    with pytest.raises(ConfigurationError, match="takes no parameter"):
        map_blocks(lambda: {"z": np.zeros(3)}, TABLE)


def test_ragged_cells_are_no_block():
    with pytest.raises(DataError, match=r"different shapes in one block, e.g. \(0,\) and \(2,\).*map_rows"):
        map_blocks(lambda ragged: {"z": ragged}, TABLE)


def test_feed_and_schema_are_checked():
    with pytest.raises(ConfigurationError, match="feed names the parameter y"):
        map_blocks(lambda x: {"z": x}, TABLE, feed={"y": "x"})
    with pytest.raises(ConfigurationError, match=r"gap\.TensorSpec"):
        map_blocks(lambda x: {"z": x}, TABLE, schema=[TensorSpec("z")])
    with pytest.raises(ModelOutputError, match="gave no output `y`"):
        map_rows(lambda x: {"z": x}, TABLE, schema=[TensorSpec("y", "float64", ())])
    with pytest.raises(ConfigurationError, match="framework is 'theano'"):
        map_blocks(lambda x: {"z": x}, TABLE, framework="theano")
    with pytest.raises(ConfigurationError, match="data must be a Spark DataFrame"):
        map_blocks(lambda x: {"z": x}, {"x": [1]})


def test_what_cannot_travel_is_refused_now():
    lock = threading.Lock()

    def program(x):
        with lock:
            return {"z": x}

    with pytest.raises(Exception, match="cannot be sent to executors"):
        map_blocks(program, TABLE)


def test_captured_variables_are_frozen_at_the_call():
    captured = {"add": 1.0}
    out = map_blocks(lambda x: {"z": x + captured["add"]}, TABLE)
    captured["add"] = 100.0
    assert out["z"].to_pylist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    ("program", "error", "words"),
    [
        (lambda x: {"y": x.sum(axis=0)}, ConfigurationError, "takes x and returns y"),
        (lambda x, n: {"x": x.sum(axis=0)}, ConfigurationError, "takes x, n and returns x"),
        (lambda x: {"x": x.sum(axis=0), "y": x.sum(axis=0)}, ConfigurationError, "returns x, y"),
        (lambda: {"x": np.zeros(())}, ConfigurationError, "takes nothing"),
        (lambda x: {"x": x}, ModelOutputError, "cannot be applied to its own results"),
        (lambda v: {"v": v.sum(axis=1)}, ModelOutputError, "cannot be applied to its own results"),
        (lambda v: {"v": v.sum(axis=(0, 1), keepdims=True)[0, :, None]}, ModelOutputError, "its own results"),
        (lambda missing: {"missing": missing.sum(axis=0)}, SignatureError, "wants column `missing`"),
    ],
)
@pytest.mark.parametrize("verb", ["reduce_blocks", "aggregate"])
def test_reductions_refuse(verb, program, error, words):
    call = {
        "reduce_blocks": lambda: reduce_blocks(program, TABLE),
        "aggregate": lambda: aggregate(program, TABLE.group_by("n")),
    }
    with pytest.raises(error, match=words):
        call[verb]()


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda x_1: {"x": x_1}, ConfigurationError, "x_1 has no partner"),
        (lambda x, y: {"x": x}, ConfigurationError, "x, y has no partner"),
        (lambda x_1, x_2: {"y": x_1}, ConfigurationError, "takes pairs of x and returns y"),
        (lambda x_1, x_2: {"x": x_1, "y": x_2}, ConfigurationError, "takes pairs of x and returns x, y"),
        (lambda x_1, x_2, n_1, n_2: {"x": x_1}, ConfigurationError, "takes pairs of n, x and returns x"),
        (lambda n_1, n_2: {"n": float(n_1)}, ModelOutputError, "needs the dtype and rank of the column"),
        (lambda v_1, v_2: {"v": v_1.sum()}, ModelOutputError, "its own results|dtype and rank"),
        (lambda q_1, q_2: {"q": q_1}, SignatureError, "wants column `q`"),
    ],
)
def test_reduce_rows_refuses(function, error, words):
    with pytest.raises(error, match=words):
        reduce_rows(function, TABLE)


def test_reductions_of_nothing():
    empty = TABLE.slice(0, 0)
    with pytest.raises(DataError, match="the table is empty"):
        reduce_rows(lambda x_1, x_2: {"x": x_1 + x_2}, empty)
    with pytest.raises(DataError, match="no identity"):
        reduce_blocks(lambda x: {"x": x.min(axis=0)}, empty)
    with pytest.raises(DataError, match="length of the cells for v is not known"):
        reduce_blocks(lambda v: {"v": v.sum(axis=0)}, empty)
    with pytest.raises(ConfigurationError, match="keeps no rows"):
        reduce_blocks(SUM, TABLE, on_error="null")


def test_aggregate_wants_columns_that_can_be_keys():
    with pytest.raises(ConfigurationError, match="wants a grouped table"):
        aggregate(SUM, TABLE)
    with pytest.raises(SignatureError, match="`v` of type .* cannot be a key"):
        aggregate(SUM, TABLE.group_by("v"))
    with pytest.raises(ConfigurationError, match="works on groups by columns"):
        aggregate(SUM, TABLE.to_pandas().groupby(lambda row: row % 2))
    with pytest.raises(ConfigurationError, match="x, which is a key column"):
        aggregate(SUM, TABLE.group_by("x"))


def test_cells_of_different_lengths_do_not_meet_in_a_reduction():
    with pytest.raises((DataError, ModelOutputError), match="equally long"):
        reduce_blocks(lambda ragged: {"ragged": ragged.sum(axis=0)}, TABLE, batch_size=1)


def test_shapes_are_checked():
    with pytest.raises(SignatureError, match="no column `q`"):
        append_shape(TABLE, "q", [2])
    with pytest.raises(SignatureError, match="rank 1"):
        append_shape(TABLE, "v", [2, 2])
    with pytest.raises(SignatureError, match="holds no tensors"):
        append_shape(TABLE, "m", [])
    with pytest.raises(ConfigurationError, match="each length is an int"):
        append_shape(TABLE, "v", ["2"])
