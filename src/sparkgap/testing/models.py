"""The contract of `sparkgap.models.ModelAdapter`, as tests."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from sparkgap._errors import ModelFormatError
from sparkgap.models import bundle
from sparkgap.models.base import ModelAdapter, Predictor, Runtime
from sparkgap.tensors.spec import Block, Signature, TensorSpec

_OPEN = """
import pickle, sys
adapter, ref, block = pickle.load(open(sys.argv[1], "rb"))
from sparkgap.models import bundle
from sparkgap.models.base import Runtime
result = adapter().open(bundle.locate(ref), ref.packed(), Runtime()).predict(block)
pickle.dump(result, open(sys.argv[2], "wb"))
"""

_MATCH = """
import importlib, json, sys
from pathlib import Path
module, name, requires, source = json.loads(sys.argv[1])
adapter = getattr(importlib.import_module(module), name)()
found = adapter.match(Path(source)) if source else None
print(json.dumps([found, [m for m in requires if m in sys.modules]]))
"""


class ModelAdapterConformance(ABC):
    """Tests that every model adapter passes. Subclass it in a pytest module, once a format.

    The files that the tests write lie in pytest's temporary folders.

    Example:
        >>> class TestMyFormat(ModelAdapterConformance):  # doctest: +SKIP
        ...     def adapter(self):
        ...         return MyAdapter()
        ...     def source(self, folder):
        ...         save_my_model(folder / "net.mine")
        ...         return folder / "net.mine"
        ...     def block(self):
        ...         return {"x": np.arange(12, dtype=np.float32).reshape(6, 2)}
        ...     def expected(self, source, block):
        ...         return {"y": my_framework.load(source)(block["x"])}
    """

    tolerance: ClassVar[float] = 1e-6
    """How far outputs may be from `expected`: relative, or absolute below 1. Labels and strings must be equal."""

    deterministic: ClassVar[bool] = True
    """Whether packing the same source twice gives the same bundle. Where not, each load sends the model again."""

    rowwise: ClassVar[bool] = True
    """Whether the outputs of a row depend on that row only."""

    @abstractmethod
    def adapter(self) -> ModelAdapter:
        """Return the adapter. Its class must be at the top of an importable module."""

    @abstractmethod
    def source(self, folder: Path) -> Any:
        """Return a source: an object, or the path of a file or folder written into the empty `folder`."""

    @abstractmethod
    def block(self) -> Block:
        """Return input tensors of at least four different rows, a multiple of the batch that the model wants."""

    @abstractmethod
    def expected(self, source: Any, block: Block) -> Block:
        """Return what the framework itself gives for a block of any number of rows."""

    def options(self) -> Mapping[str, Any]:
        """Return the options to pack with."""
        return {}

    def signature(self) -> Signature | None:
        """Return a signature to use instead of the packed one, where the format does not tell it."""
        return None

    def broken_files(self, source: Any, folder: Path) -> Sequence[Path]:
        """Return unreadable files, written into `folder`; by default the source cut at several places."""
        if not isinstance(source, Path) or not source.is_file():
            return []
        data = source.read_bytes()
        paths = []
        for number, size in enumerate((len(data) // 2, len(data) - 20, 40, 0)):
            path = folder / f"{number}{source.suffix}"
            path.write_bytes(data[: max(size, 0)])
            paths.append(path)
        return paths

    @pytest.fixture(autouse=True)
    def _own_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SPARKGAP_CACHE", str(tmp_path / "cache"))

    @pytest.fixture
    def made(self, tmp_path: Path) -> Any:
        """The source."""
        folder = tmp_path / "source"
        folder.mkdir()
        return self.source(folder)

    @pytest.fixture
    def ref(self, made: Any) -> bundle.BundleRef:
        """The bundle of the source."""
        ref = bundle.write(self.adapter(), made, self.options())
        given = self.signature()
        return ref if given is None else replace(ref, signature=given.to_json())

    @pytest.fixture
    def predictor(self, ref: bundle.BundleRef) -> Predictor:
        """The loaded model."""
        return self._open(ref)

    def test_describes_itself(self) -> None:
        """The class attributes are filled in."""
        adapter = self.adapter()
        assert adapter.name.isidentifier()
        assert adapter.title
        assert adapter.formats
        assert len({f.name for f in adapter.formats}) == len(adapter.formats)
        assert {f.signature for f in adapter.formats} <= {"read", "found", "given"}
        assert set(self.options()) <= set(adapter.options)

    def test_match_recognises_the_source(self, made: Any) -> None:
        """`match` names one of the formats."""
        assert self.adapter().match(made) in {f.name for f in self.adapter().formats}

    @pytest.mark.parametrize("other", [object(), 3, "text", {"a": 1}, None], ids=lambda other: type(other).__name__)
    def test_match_leaves_the_rest_alone(self, other: Any) -> None:
        """`match` takes no object that is no model."""
        assert self.adapter().match(other) is None

    def test_match_leaves_other_files_alone(self, tmp_path: Path) -> None:
        """`match` takes no file that is no model."""
        other = tmp_path / "notes.md"
        other.write_text("no model")
        assert self.adapter().match(other) is None

    def test_match_imports_no_framework(self, made: Any) -> None:
        """Neither the adapter's module nor `match` on a file imports what `requires` names."""
        adapter = self.adapter()
        source = str(made) if isinstance(made, Path) else None
        question = json.dumps([type(adapter).__module__, type(adapter).__name__, adapter.requires, source])
        found, imported = json.loads(_run_python(_MATCH, question))
        assert imported == []
        assert found == (None if source is None else adapter.match(made))

    def test_pack_gives_the_same_bundle_twice(self, made: Any, ref: bundle.BundleRef) -> None:
        """Equal content has an equal digest, so that it is sent to executors once."""
        if self.deterministic:
            assert bundle.write(self.adapter(), made, self.options()).digest == ref.digest

    def test_a_bundle_reference_is_a_small_value(self, ref: bundle.BundleRef) -> None:
        """What a plan carries pickles, is small, and `Packed.meta` is plain JSON."""
        assert pickle.loads(pickle.dumps(ref)) == ref
        assert len(pickle.dumps(ref)) < 100_000
        assert json.loads(json.dumps(dict(ref.packed().meta))) == ref.packed().meta
        assert ref.format in {f.name for f in self.adapter().formats}

    def test_signature_names_the_inputs(self, ref: bundle.BundleRef) -> None:
        """The inputs of the signature are those of the block, in its order."""
        names = [s.name for s in ref.packed().signature.inputs]
        assert names == list(self.block())

    def test_signature_says_what_comes_out(self, ref: bundle.BundleRef, predictor: Predictor) -> None:
        """What the signature tells of dtypes and shapes is true."""
        block = self.block()
        _assert_fits(ref.packed().signature.inputs, block)
        _assert_fits(ref.packed().signature.outputs, self._predict(ref, predictor, block))

    def test_predict_equals_the_framework(self, made: Any, ref: bundle.BundleRef, predictor: Predictor) -> None:
        """The outputs are those of the framework itself."""
        block = self.block()
        assert_blocks_equal(self._predict(ref, predictor, block), self.expected(made, block), self.tolerance)

    def test_predict_is_repeatable(self, ref: bundle.BundleRef, predictor: Predictor) -> None:
        """The same block gives the same outputs again."""
        first = self._predict(ref, predictor, self.block())
        assert_blocks_equal(self._predict(ref, predictor, self.block()), first, self.tolerance)

    def test_rows_keep_their_order(self, ref: bundle.BundleRef, predictor: Predictor) -> None:
        """The entries of the outputs belong to the rows of the block."""
        self._skip_unless_rowwise()
        forward = self._predict(ref, predictor, self.block())
        backward = self._predict(ref, predictor, {k: v[::-1].copy() for k, v in self.block().items()})
        assert_blocks_equal({k: v[::-1] for k, v in backward.items()}, forward, self.tolerance)

    def test_batches_may_be_split(self, ref: bundle.BundleRef, predictor: Predictor) -> None:
        """Outputs do not depend on how rows are cut into batches, down to a batch of one."""
        self._skip_unless_rowwise()
        if ref.packed().signature.batch is not None:
            pytest.skip("the model takes batches of one size only")
        block = self.block()
        whole = predictor.predict(block)
        for sizes in ([1, 2, _rows(block) - 3], [1] * _rows(block)):
            parts = [predictor.predict(part) for part in _split(block, sizes)]
            assert_blocks_equal(_join(parts), whole, self.tolerance)

    def test_inputs_may_be_read_only_and_stay_as_they_are(self, ref: bundle.BundleRef, predictor: Predictor) -> None:
        """`predict` neither needs to write into its inputs nor does so."""
        block, before = self.block(), self.block()
        for array in block.values():
            array.flags.writeable = False
        first = self._predict(ref, predictor, block)
        assert_blocks_equal(self._predict(ref, predictor, block), first, self.tolerance)
        assert_blocks_equal(block, before, 0.0)

    def test_inputs_may_be_reused_after_predict(self, ref: bundle.BundleRef, predictor: Predictor) -> None:
        """Outputs share no memory with the inputs."""
        size = ref.packed().signature.batch or _rows(self.block())
        for _ in range(2):  # an adapter may treat the first call in another way
            block = {k: v[:size].copy() for k, v in self.block().items()}
            outputs = predictor.predict(block)
            kept = {k: v.copy() for k, v in outputs.items()}
            for array in block.values():
                array[...] = np.zeros_like(array) if array.dtype.kind != "O" else "reused"
            assert_blocks_equal(outputs, kept, 0.0)

    def test_opens_twice_in_a_process(self, ref: bundle.BundleRef, predictor: Predictor) -> None:
        """Two predictors live side by side, and one outlives the other."""
        second = self._open(ref)
        expected = self._predict(ref, predictor, self.block())
        predictor.close()
        assert_blocks_equal(self._predict(ref, second, self.block()), expected, self.tolerance)

    def test_takes_a_number_of_threads(self, ref: bundle.BundleRef, predictor: Predictor) -> None:
        """The number of threads changes nothing but the speed."""
        wide = self._predict(ref, self._open(ref, threads=2), self.block())
        assert_blocks_equal(wide, self._predict(ref, predictor, self.block()), self.tolerance)

    def test_opens_in_another_process(self, ref: bundle.BundleRef, predictor: Predictor, tmp_path: Path) -> None:
        """A pickled reference is all that a fresh process needs."""
        size = ref.packed().signature.batch or _rows(self.block())
        block = {k: v[:size] for k, v in self.block().items()}
        (tmp_path / "in.pkl").write_bytes(pickle.dumps((type(self.adapter()), ref, block)))
        _run_python(_OPEN, str(tmp_path / "in.pkl"), str(tmp_path / "out.pkl"))
        result = pickle.loads((tmp_path / "out.pkl").read_bytes())
        assert_blocks_equal(result, predictor.predict(block), self.tolerance)

    def test_plain_errors_are_no_lack_of_memory(self, predictor: Predictor) -> None:
        """Only lack of memory makes the caller try a smaller batch."""
        assert predictor.is_out_of_memory(MemoryError())
        assert not predictor.is_out_of_memory(ValueError("wrong shape"))

    def test_unreadable_files_are_refused(self, made: Any, tmp_path: Path) -> None:
        """`pack` raises `ModelFormatError`, naming the file, for every broken file that `match` takes."""
        folder = tmp_path / "broken"
        folder.mkdir()
        adapter = self.adapter()
        for path in self.broken_files(made, folder):
            if adapter.match(path) is None:
                continue  # then no adapter takes it, and the registry says so
            with pytest.raises(ModelFormatError) as caught:
                bundle.write(adapter, path, self.options())
            assert path.name in str(caught.value)

    def _open(self, ref: bundle.BundleRef, threads: int = 1) -> Predictor:
        return self.adapter().open(bundle.locate(ref), ref.packed(), Runtime(threads=threads))

    def _predict(self, ref: bundle.BundleRef, predictor: Predictor, block: Block) -> Block:
        """Run a block, in batches of the model's size where it has one."""
        size = ref.packed().signature.batch or _rows(block)
        return _join([predictor.predict(part) for part in _split(block, [size] * (_rows(block) // size))])

    def _skip_unless_rowwise(self) -> None:
        if not self.rowwise:
            pytest.skip("the outputs of a row depend on other rows")


def assert_blocks_equal(got: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], tolerance: float) -> None:
    """Assert that two blocks have the same names, shapes, kinds of dtype and values.

    Args:
        got: output tensors by name.
        expected: what they should be, names in the same order.
        tolerance: for floating values, relative, or absolute below 1; NaN equals NaN.
    """
    assert list(got) == list(expected)
    for name, value in expected.items():
        wanted = np.asarray(value)
        found = got[name]
        assert isinstance(found, np.ndarray), name
        assert found.shape == wanted.shape, name
        if wanted.dtype.kind == "f":
            assert found.dtype == wanted.dtype, name
            np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance, err_msg=name)
        else:
            assert found.tolist() == wanted.tolist(), name


def _assert_fits(specs: Sequence[TensorSpec], block: Block) -> None:
    if specs:
        assert [s.name for s in specs] == list(block)
    for spec in specs:
        actual = TensorSpec.of(spec.name, block[spec.name])
        if spec.dtype != "bfloat16":  # numpy has none: such tensors cross as float32
            assert spec.dtype in (None, actual.dtype), spec.name
        if spec.shape is not None and actual.shape is not None:
            assert len(spec.shape) == len(actual.shape), spec.name
            assert all(a in (None, b) for a, b in zip(spec.shape, actual.shape, strict=True)), spec.name


def _rows(block: Block) -> int:
    return len(next(iter(block.values())))


def _split(block: Block, sizes: Sequence[int]) -> list[Block]:
    ends = np.cumsum(sizes)
    return [{k: v[end - size : end] for k, v in block.items()} for end, size in zip(ends, sizes, strict=True)]


def _join(parts: Sequence[Block]) -> Block:
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _run_python(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter that sees the same modules, and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
