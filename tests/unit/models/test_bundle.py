"""How a model travels: named by content, found where it lies, sent where it is not, pruned when old."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

import sparkgap as gap
from sparkgap.models import bundle, cache
from sparkgap.models.base import Runtime
from sparkgap.models.function import FunctionAdapter


def ref_of(function):
    return bundle.write(FunctionAdapter(), function, {})


def scaled_by(factor):
    return lambda x: {"y": x * factor}


def test_equal_content_is_one_bundle_and_other_content_another():
    assert ref_of(scaled_by(2)) == ref_of(scaled_by(2))
    assert ref_of(scaled_by(2)).digest != ref_of(scaled_by(3)).digest


def test_captured_values_are_frozen_when_packed():
    weights = np.ones(3)
    model = gap.load(lambda x: {"y": x * weights})
    weights[:] = 100
    assert model.predict({"x": np.array([1.0, 2.0, 3.0])})["y"].tolist() == [1.0, 2.0, 3.0]


def test_a_reference_is_small_whatever_the_model():
    weights = np.ones(5_000_000)
    ref = ref_of(lambda x: {"y": x * weights[0]})
    assert ref.nbytes > 40_000_000
    assert len(pickle.dumps(ref)) < 2000


def test_a_bundle_that_the_machine_does_not_see_comes_from_the_artifact(tmp_path, monkeypatch):
    ref = ref_of(scaled_by(5))
    tar = bundle.archive(ref)
    monkeypatch.setenv("SPARKGAP_CACHE", str(tmp_path / "executor"))
    monkeypatch.setattr(bundle, "_artifact", lambda ref: tar)
    moved = replace(ref, path="/nowhere/files", artifact=tar.name)
    folder = bundle.locate(moved)
    assert folder == tmp_path / "executor" / "bundles" / ref.digest
    predictor = FunctionAdapter().open(folder, moved.packed(), Runtime())
    assert predictor.predict({"x": np.array([2.0])})["y"].tolist() == [10.0]
    tar.unlink()
    assert bundle.locate(moved) == folder, "the second task finds it unpacked"


def test_a_single_file_is_used_where_it_lies_and_found_in_an_artifact(tmp_path, monkeypatch):
    import xgboost

    path = tmp_path / "net.ubj"
    xgboost.train({}, xgboost.DMatrix(np.ones((4, 2)), np.ones(4)), 1).save_model(path)
    ref = gap.load(path).ref
    assert bundle.locate(ref) == path
    tar = bundle.archive(ref)
    monkeypatch.setattr(bundle, "_artifact", lambda ref: tar)
    path.unlink()
    assert bundle.locate(replace(ref, artifact=tar.name)).name == "net.ubj"


def test_a_bundle_that_is_gone_or_changed(tmp_path):
    import xgboost

    path = tmp_path / "net.ubj"
    xgboost.train({}, xgboost.DMatrix(np.ones((4, 2)), np.ones(4)), 1).save_model(path)
    ref = gap.load(path).ref
    path.write_bytes(b"other")
    with pytest.raises(gap.ModelFormatError, match="is neither at .*net.ubj .* deleted, moved or changed"):
        bundle.locate(ref)


def test_old_bundles_are_pruned_and_used_ones_are_not():
    old, used = ref_of(scaled_by(7)), ref_of(scaled_by(8))
    month_ago = time.time() - 30 * 86_400
    for ref in (old, used):
        os.utime(ref.path, (month_ago, month_ago))
    bundle.locate(used)
    bundle.prune(bundle.cache_folder())
    assert not os.path.exists(old.path)
    assert os.path.exists(used.path)


def test_the_cache_loads_once_and_drops_the_oldest_over_its_limit():
    models = cache.ModelCache(limit=2_000_000)
    big = [ref_of(scaled_by(np.full(100_000, float(i)))) for i in range(4)]
    first = models.open(big[0], Runtime())
    assert models.open(big[0], Runtime()) is first
    assert models.loads == 1
    for ref in big[1:]:
        models.open(ref, Runtime())
    assert models.loads == 4
    models.open(big[0], Runtime())
    assert models.loads == 5, "the first one had to go"


def test_a_cache_limit_that_is_no_number(monkeypatch):
    monkeypatch.setenv("SPARKGAP_MODEL_CACHE_BYTES", "4g")
    with pytest.raises(gap.ConfigurationError, match="SPARKGAP_MODEL_CACHE_BYTES is '4g'; .* whole number of bytes"):
        cache._limit()


def test_functions_of_local_modules_travel_by_value(tmp_path):
    (tmp_path / "mine.py").write_text("FACTOR = 3\ndef helper(x): return x * FACTOR\ndef score(x): return {'y': helper(x)}\n")
    write = (
        "import json, sparkgap as gap, mine; from dataclasses import asdict;"
        "print(json.dumps(asdict(gap.load(mine.score).ref)))"
    )
    here = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", write], env=here, check=True, capture_output=True, text=True)
    ref = bundle.BundleRef(**json.loads(done.stdout))
    (tmp_path / "mine.py").unlink()
    predictor = FunctionAdapter().open(bundle.locate(ref), ref.packed(), Runtime())
    assert predictor.predict({"x": np.array([2.0])})["y"].tolist() == [6.0]
