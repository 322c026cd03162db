"""Folds in folds: what scikit-learn's splitters say, and no row of a test ever in a training."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold

from sparkgap._errors import ConfigurationError
from sparkgap.tuning.splits import TEST, TRAIN, indices, nested


def split(rows, folds=3, inner=2, stratify=None, groups=None, seed=0):
    return nested(rows, folds=folds, inner=inner, stratify=stratify, groups=groups, seed=seed)


@given(st.integers(2, 5), st.integers(2, 4), st.integers(0, 40), st.integers(0, 9))
def test_every_row_is_held_out_once_and_inner_folds_see_none_of_it(folds, inner, more, seed):
    rows = folds * inner + more
    codes = split(rows, folds, inner, seed=seed)
    assert codes.shape == (folds, 1 + inner, rows)
    assert ((codes[:, 0] == TEST).sum(axis=0) == 1).all()
    assert ((codes[:, 0] != 0).all(axis=1)).all()
    for outer in codes:
        held = outer[0] == TEST
        assert not outer[1:, held].any()
        assert ((outer[1:] == TEST).sum(axis=0) == ~held).all()
        assert ((outer[1:] == TRAIN).sum(axis=0) == (inner - 1) * ~held).all()
    np.testing.assert_array_equal(codes, split(rows, folds, inner, seed=seed))


def test_they_are_those_of_scikit_learn():
    codes = split(20, 4, 2, seed=3)
    for outer, (train, test) in zip(codes, KFold(4, shuffle=True, random_state=3).split(range(20)), strict=True):
        for got, expected in zip(indices(outer[0]), (train, test), strict=True):
            np.testing.assert_array_equal(got, expected)
        for code, (inner, _) in zip(outer[1:], KFold(2, shuffle=True, random_state=3).split(train), strict=True):
            np.testing.assert_array_equal(indices(code)[0], train[inner])


def test_classes_are_spread_and_groups_kept_together():
    classes = np.array([0] * 9 + [1] * 9)
    codes = split(18, stratify=classes)
    assert [(classes[indices(code)[1]].mean()) for code in codes[:, 0]] == [0.5] * 3
    expected = StratifiedKFold(3, shuffle=True, random_state=0).split(classes, classes)
    assert [indices(code)[1].tolist() for code in codes[:, 0]] == [test.tolist() for _, test in expected]
    groups = np.arange(18) % 7
    for codes in (split(18, groups=groups), split(18, groups=groups, stratify=classes)):
        for code in codes.reshape(-1, 18):
            train, test = indices(code)
            assert not set(groups[train]) & set(groups[test])
    got = [indices(code)[1].tolist() for code in split(18, groups=groups)[:, 0]]
    assert got == [test.tolist() for _, test in GroupKFold(3).split(classes, None, groups)]


def test_a_splitter_of_scikit_learn():
    assert split(10, ShuffleSplit(5, random_state=1), 2).shape == (5, 3, 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": 1}, "folds=1: a whole number from 2"),
        ({"inner": "x"}, "inner='x'"),
        ({"rows": 2}, "folds=3: 2 rows cannot be split so"),
        ({"rows": 3, "folds": 3, "inner": 3}, "inner=3: 2 rows cannot be split so"),
        ({"groups": np.zeros(9)}, "cannot be split so: .*groups"),
    ],
)
def test_what_cannot_be_split(options, words):
    with pytest.raises(ConfigurationError, match=words):
        split(**{"rows": 9, **options})
