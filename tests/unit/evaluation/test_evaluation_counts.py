"""Counts by number: exact below the limit, within their bounds above it, the same however the numbers are split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn import metrics as oracle

from sparkgap.evaluation.curves import both_curves
from sparkgap.evaluation.float_counts import FloatCounts, codes_of_scores, codes_of_values
from sparkgap.evaluation.sums import Moments, Totals

FLOATS = st.floats(-1e300, 1e300)
LIMIT = 16


def counted(codes, limit=LIMIT):
    return FloatCounts.of(codes, np.ones((len(codes), 1)), limit)


def assert_same(one, other):
    assert one.shift == other.shift
    assert one.codes.tolist() == other.codes.tolist()
    assert one.counts.tolist() == other.counts.tolist()


@given(st.lists(FLOATS, max_size=80), st.lists(st.integers(0, 80), max_size=5))
def test_a_split_anywhere_gives_the_same_counts(values, cuts):
    values = np.array(values)
    whole = counted(codes_of_values(values))
    parts = [counted(codes_of_values(p)) for p in np.split(values, sorted(min(c, len(values)) for c in cuts))]
    assert_same(FloatCounts.merged(parts), whole)
    assert_same(FloatCounts.merged([FloatCounts.merged(parts[:2]), *parts[2:]]), whole)
    assert len(whole.codes) <= LIMIT
    assert whole.counts.sum() == len(values)


@given(st.lists(FLOATS, min_size=1, max_size=60))
def test_bins_hold_their_numbers(values):
    values = np.sort(np.array(values))
    found = counted(codes_of_values(values))
    low, high = found.value_ranges()
    bin_of = np.repeat(np.arange(len(low)), found.counts[:, 0].astype(int))  # the order is that of the numbers
    assert (low[bin_of] <= values).all()
    assert (values <= high[bin_of]).all()
    if len(np.unique(values)) <= LIMIT:
        assert found.shift == 0
        assert low.tolist() == high.tolist() == (np.unique(values) + 0.0).tolist()


@example([0.5, 0.50001, *np.linspace(0, 1, 40).tolist()])
@example([0.0, 1.0])
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_scores_come_back_in_order(scores):
    scores = np.sort(np.array(scores))
    found = counted(codes_of_scores(scores))
    least, counts = found.scores_ascending()
    assert (np.diff(least) >= 0).all()
    assert (np.repeat(least, counts[:, 0].astype(int)) <= scores).all()
    exact = counted(codes_of_scores(scores), limit=1000)
    assert exact.scores_ascending()[0].tolist() == (np.unique(scores) + 0.0).tolist()


@pytest.mark.parametrize("limit", [4, 64, 1 << 12, 1 << 20])
def test_areas_are_within_their_bounds(limit):
    rng = np.random.default_rng(0)
    truth = rng.random(20_000) < 0.3
    scores = 1 / (1 + np.exp(-rng.normal(truth * 2 - 3, 2)))
    roc, precision_recall = both_curves(FloatCounts.of(codes_of_scores(scores), np.stack([~truth, truth], 1) * 1.0, limit))
    off = abs(roc.area - oracle.roc_auc_score(truth, scores))
    assert off <= roc.error + 1e-12
    assert abs(precision_recall.area - oracle.average_precision_score(truth, scores)) <= precision_recall.error + 1e-12
    assert (roc.error == 0) == (limit > 20_000)
    if limit >= 1 << 12:
        assert roc.error < 0.002
        assert precision_recall.error < 0.01


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=40), st.integers(2, 9))
def test_areas_of_few_rows_are_within_their_bounds(rows, limit):
    scores, truth = np.array([s / 9 for s, _ in rows]), np.array([t for _, t in rows])
    found = both_curves(FloatCounts.of(codes_of_scores(scores), np.stack([~truth, truth], 1) * 1.0, limit))
    if truth.all() or not truth.any():
        assert found in ("every row is of this class", "no row is of this class")
        return
    assert abs(found[0].area - oracle.roc_auc_score(truth, scores)) <= found[0].error + 1e-12
    assert abs(found[1].area - oracle.average_precision_score(truth, scores)) <= found[1].error + 1e-12


def test_totals_keep_what_additions_round_off():
    parts = [Totals.of(np.array([v])) for v in (1.0, 1e100, 1.0, -1e100)]
    assert Totals.merged(parts).values().tolist() == [2.0]
    assert Totals.merged([Totals.merged(parts[:2]), Totals.merged(parts[2:])]).values().tolist() == [2.0]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(0, 40))
def test_moments_merge(values, cut):
    values = 1e9 + np.array(values)[:, None]
    parts = [Moments.of(v, np.full(len(v), 0.5)) for v in np.split(values, [min(cut, len(values))])]
    found = Moments.merged(parts)
    assert found.weight == len(values) / 2
    assert found.mean == pytest.approx(values.mean(0), rel=1e-14)
    assert found.squares == pytest.approx(values.var(0) * len(values) / 2, rel=1e-7, abs=1e-6)
