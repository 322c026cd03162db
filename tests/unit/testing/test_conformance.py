"""The conformance class passes a small adapter that keeps the contract, and finds each way to break it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from sparkgap._errors import ModelFormatError
from sparkgap.models import bundle
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime
from sparkgap.tensors.spec import Block, Signature, TensorSpec
from sparkgap.testing import ModelAdapterConformance


class ScaleAdapter(ModelAdapter):
    """Models of one number in a `.scale` file: y = number * x."""

    name: ClassVar[str] = "scale"
    title: ClassVar[str] = "Scale"
    extra: ClassVar[str] = ""
    requires: ClassVar[tuple[str, ...]] = ("xdrlib",)  # a module that nobody imports
    formats: ClassVar[tuple[Format, ...]] = (Format("file", "`.scale` file", "read"),)

    def match(self, source: Any) -> str | None:
        return "file" if isinstance(source, Path) and source.suffix == ".scale" else None

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        text = source.read_text()
        if not text.endswith("\n"):
            raise ModelFormatError(f"{source.name} is truncated.")
        signature = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "float32", (2,)),))
        return Packed("file", signature, {"number": float(text)}, source)

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        return ScalePredictor(float(path.read_text()))


class ScalePredictor(Predictor):
    def __init__(self, number: float) -> None:
        self._number = np.float32(number)

    def predict(self, block: Block) -> Block:
        return {"y": block["x"] * self._number}


class TestScale(ModelAdapterConformance):
    def adapter(self) -> ModelAdapter:
        return ScaleAdapter()

    def source(self, folder: Path) -> Path:
        path = folder / "three.scale"
        path.write_text("3.0" + " " * 60 + "\n")
        return path

    def block(self) -> Block:
        return {"x": np.arange(10, dtype=np.float32).reshape(5, 2)}

    def expected(self, source: Path, block: Block) -> Block:
        return {"y": block["x"] * 3}


class Bad(Predictor):
    def __init__(self, function: Callable[[np.ndarray], np.ndarray]) -> None:
        self._function = function

    def predict(self, block: Block) -> Block:
        return {"y": self._function(block["x"])}

    def is_out_of_memory(self, error: BaseException) -> bool:
        return True


def writes(x: np.ndarray) -> np.ndarray:
    x *= 3
    return x.copy()


@pytest.mark.parametrize(
    ("test", "function"),
    [
        ("test_predict_equals_the_framework", lambda x: x * 3.001),
        ("test_predict_equals_the_framework", lambda x: (x * 3).astype(np.float64)),
        ("test_predict_equals_the_framework", lambda x: x[:-1] * 3),
        ("test_predict_is_repeatable", lambda x: x + np.random.default_rng().random(x.shape, np.float32)),
        ("test_rows_keep_their_order", lambda x: np.sort(x * 3, axis=0)),
        ("test_batches_may_be_split", lambda x: x - x.mean(axis=0)),
        ("test_inputs_may_be_reused_after_predict", lambda x: x),
        ("test_inputs_may_be_reused_after_predict", lambda x: x[:, :]),
        ("test_signature_says_what_comes_out", lambda x: x.astype(np.int64)),
        ("test_signature_says_what_comes_out", lambda x: x[:, :1] * 3),
        ("test_plain_errors_are_no_lack_of_memory", lambda x: x),
    ],
)
def test_a_bad_predictor_is_found(test: str, function: Any, tmp_path: Path) -> None:
    suite = TestScale()
    made = suite.source(tmp_path)
    given = {"ref": bundle.write(ScaleAdapter(), made, {}), "predictor": Bad(function), "made": made}
    wanted = getattr(TestScale, test).__code__
    with pytest.raises(AssertionError):
        getattr(suite, test)(**{k: given[k] for k in wanted.co_varnames[1 : wanted.co_argcount]})


def test_writing_into_the_inputs_is_found(tmp_path: Path) -> None:
    ref = bundle.write(ScaleAdapter(), TestScale().source(tmp_path), {})
    with pytest.raises(ValueError, match="read-only"):
        TestScale().test_inputs_may_be_read_only_and_stay_as_they_are(ref, Bad(writes))


def test_a_bad_reference_is_found(tmp_path: Path) -> None:
    suite = TestScale()
    ref = bundle.write(ScaleAdapter(), suite.source(tmp_path), {})
    with pytest.raises(AssertionError):
        suite.test_a_bundle_reference_is_a_small_value(replace(ref, format="other"))
    with pytest.raises(AssertionError):
        suite.test_a_bundle_reference_is_a_small_value(replace(ref, meta='"' + "x" * 200_000 + '"'))
    with pytest.raises(AssertionError):
        suite.test_signature_names_the_inputs(replace(ref, signature=Signature((TensorSpec("z"),)).to_json()))
    with pytest.raises(AssertionError):
        suite.test_pack_gives_the_same_bundle_twice(suite.source(tmp_path), replace(ref, digest="0"))


class Careless(ScaleAdapter):
    """Imports what it says it does not, and reads truncated files."""

    requires: ClassVar[tuple[str, ...]] = ("json",)

    def match(self, source: Any) -> str | None:
        return "other"

    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        return Packed("file", Signature(), {}, source)


class Lax(TestScale):
    __test__ = False

    def adapter(self) -> ModelAdapter:
        return Careless()


def test_a_bad_adapter_is_found(tmp_path: Path) -> None:
    suite = Lax()
    made = suite.source(tmp_path)
    for run in (
        lambda: suite.test_match_recognises_the_source(made),
        lambda: suite.test_match_leaves_the_rest_alone(3),
        lambda: suite.test_match_leaves_other_files_alone(tmp_path),
        lambda: suite.test_match_imports_no_framework(made),
    ):
        with pytest.raises(AssertionError):
            run()
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        suite.test_unreadable_files_are_refused(made, tmp_path)


def test_an_incomplete_suite_cannot_be_collected() -> None:
    class Incomplete(ModelAdapterConformance):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Incomplete()  # type: ignore[abstract]
