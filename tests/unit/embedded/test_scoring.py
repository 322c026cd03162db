"""Failure and memory: the row is found, the batch is halved, and what comes back is checked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap import ModelOutputError
from sparkgap.embedded.decoding import Piece
from sparkgap.embedded.scoring import Scorer
from sparkgap.models.base import Predictor
from sparkgap.monitor.stats import TaskStats
from sparkgap.tensors.spec import TensorSpec

OUT = (TensorSpec("y", "float64", ()),)


class Scripted(Predictor):
    """Doubles `x`; fails on given values; runs out of memory above a number of rows."""

    def __init__(self, bad=(), room=10**9):
        self.bad, self.room, self.sizes = set(bad), room, []

    def predict(self, block):
        x = block["x"]
        if len(x) > self.room:
            raise MemoryError(f"no room for {len(x)}")
        self.sizes.append(len(x))
        hit = self.bad & set(x.tolist())
        if hit:
            raise ValueError(f"bad value {min(hit)}")
        return {"y": x * 2.0}


def piece(n):
    return Piece(None, {"x": np.arange(n)}, n)


def scorer(model, *, stop=False, fixed=None, stats=None):
    return Scorer(model, OUT, fixed=fixed, stop_at_first=stop, stats=stats or TaskStats())


@given(st.integers(1, 60), st.sets(st.integers(0, 59)))
def test_exactly_the_bad_rows_are_found(n, bad):
    done, failed = scorer(Scripted(bad)).score(piece(n))
    assert set(failed) == {b for b in bad if b < n}
    got = {int(r): float(v) for s in done for r, v in zip(_rows(s), s.block["y"], strict=True)}
    assert got == {r: 2.0 * r for r in range(n) if r not in bad}


def _rows(scored):
    return range(scored.count) if scored.rows is None else scored.rows


@given(st.integers(1, 200), st.sets(st.integers(0, 199), min_size=1))
def test_with_raise_the_first_bad_row_is_found_in_few_calls(n, bad):
    model = Scripted(bad)
    _, failed = scorer(model, stop=True).score(piece(n))
    inside = sorted(b for b in bad if b < n)
    assert sorted(failed) == inside[:1]
    assert len(model.sizes) <= 2 * n.bit_length() + 2


def test_the_reason_names_the_error_and_keeps_the_exception():
    _, failed = scorer(Scripted({5})).score(piece(8))
    assert failed[5].kind == "model: ValueError"
    assert failed[5].reason == "the model raised ValueError: bad value 5"
    assert isinstance(failed[5].cause, ValueError)


def test_out_of_memory_halves_the_batch_and_stays_halved():
    model, stats = Scripted(room=10), TaskStats()
    one = scorer(model, stop=True, stats=stats)
    done, failed = one.score(piece(64))
    assert not failed
    assert np.concatenate([s.block["y"] for s in done]).tolist() == [2.0 * i for i in range(64)]
    assert stats.halvings == 3
    assert set(model.sizes) == {8}
    model.sizes.clear()
    one.score(piece(64))
    assert set(model.sizes) == {8}, "the next batch starts with the size that fits"
    assert stats.halvings == 3


def test_a_failure_of_the_batch_that_no_row_has_is_told_as_such():
    class NotTogether(Predictor):
        def predict(self, block):
            if len(block["x"]) > 4:
                raise RuntimeError("too many at once")
            return {"y": block["x"] * 2.0}

    with pytest.raises(ModelOutputError, match="failed on a batch of 8 rows .*too many at once.* none of its rows"):
        scorer(NotTogether(), stop=True).score(piece(8))
    done, failed = scorer(NotTogether()).score(piece(8))
    assert not failed
    assert sum(s.count for s in done) == 8


def test_a_fixed_batch_is_padded_and_cut():
    model = Scripted()
    done, _ = scorer(model, fixed=4).score(piece(6))
    assert model.sizes == [4, 4]
    assert np.concatenate([s.block["y"] for s in done]).tolist() == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "gave no output `y`; it gave nothing"),
        ({"z": np.zeros(3)}, "gave no output `y`; it gave z"),
        ({"y": np.zeros(2)}, r"shape \(2,\) for a batch of 3 rows; expected float64 \(batch\)"),
        ({"y": np.zeros((3, 2))}, r"shape \(3, 2\) for a batch of 3 rows"),
        ({"y": np.float64(1)}, r"shape \(\) for a batch of 3 rows"),
    ],
)
def test_what_comes_back_is_checked(given, message):
    class Wrong(Predictor):
        def predict(self, block):
            return given

    with pytest.raises(ModelOutputError, match=message):
        scorer(Wrong()).score(piece(3))
