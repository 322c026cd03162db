from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import equinox
import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

import sparkgap as gap
from sparkgap._errors import ConfigurationError, ModelError, ModelFormatError
from sparkgap.models._arrays import finished
from sparkgap.models.function import FunctionAdapter
from sparkgap.models.jax import JaxAdapter
from sparkgap.testing import ModelAdapterConformance

WEIGHTS = {"w": jnp.arange(12, dtype=jnp.float32).reshape(4, 3) / 7, "b": jnp.ones(3)}
X = np.arange(24, dtype=np.float32).reshape(6, 4) / 5


def linear(params: Any, x: Any) -> Any:
    return {"y": x @ params["w"] + params["b"], "total": x.sum(axis=1)}


class Conformance(ModelAdapterConformance):
    def adapter(self) -> JaxAdapter:
        return JaxAdapter()

    def block(self) -> dict[str, np.ndarray]:
        return {"x": X.copy()}


class TestFunction(Conformance):
    def source(self, folder: Path) -> Any:
        return jax.jit(linear)

    def options(self) -> Mapping[str, Any]:
        return {"params": WEIGHTS}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {k: np.asarray(v) for k, v in sorted(source(WEIGHTS, block["x"]).items())}


class TestIdentity(Conformance):
    """Its output could be the very memory of its input."""

    def source(self, folder: Path) -> Any:
        return jax.jit(lambda x: x)

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"output": block["x"]}


class Net(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = flax.linen.Dense(5)(x)
        x = flax.linen.BatchNorm(use_running_average=not train)(x)
        return flax.linen.Dropout(0.5, deterministic=not train)(x)


class TestLinen(Conformance):
    variables = Net().init(jax.random.key(0), X)

    def source(self, folder: Path) -> Any:
        return Net()

    def options(self) -> Mapping[str, Any]:
        return {"params": self.variables}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"output": np.asarray(source.apply(self.variables, block["x"]))}


class TestNnx(Conformance):
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.linear = nnx.Linear(4, 3, rngs=rngs)
            self.norm = nnx.BatchNorm(3, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.dropout(self.norm(self.linear(x)))

    def source(self, folder: Path) -> Any:
        return self.Net(nnx.Rngs(0))

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        source.eval()
        return {"output": np.asarray(source(block["x"]))}


class TestEquinox(Conformance):
    def source(self, folder: Path) -> Any:
        mlp = equinox.nn.MLP(4, 3, 8, 2, key=jax.random.key(1))
        return equinox.nn.Sequential([mlp, equinox.nn.Dropout(0.5)])

    def options(self) -> Mapping[str, Any]:
        return {"vmap": True}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"output": np.asarray(jax.vmap(equinox.nn.inference_mode(source))(block["x"]))}


def exported(batch: str = "b") -> Any:
    shape = export.symbolic_shape(f"{batch},4") if batch.isalpha() else (int(batch), 4)
    return export.export(jax.jit(partial(linear, WEIGHTS)))(jax.ShapeDtypeStruct(shape, jnp.float32))


class TestExported(Conformance):
    def source(self, folder: Path) -> Any:
        return exported()

    def block(self) -> dict[str, np.ndarray]:
        return {"input": X.copy()}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {k: np.asarray(v) for k, v in sorted(source.call(block["input"]).items())}


class TestExportFile(TestExported):
    def source(self, folder: Path) -> Any:
        path = folder / "net.jaxexport"
        path.write_bytes(exported().serialize())
        return path

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return super().expected(export.deserialize(bytearray(source.read_bytes())), block)


class TestFixedBatch(TestExported):
    def source(self, folder: Path) -> Any:
        return exported("2")

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        parts = [source.call(block["input"][i : i + 2]) for i in range(0, len(block["input"]), 2)]
        return {k: np.concatenate([np.asarray(p[k]) for p in parts]) for k in sorted(parts[0])}


def test_a_plain_function_is_taken_only_where_jax_is_named(tmp_path: Path) -> None:
    assert JaxAdapter().match(linear) is None
    assert gap.load(lambda x: x).adapter == FunctionAdapter.name
    model = gap.load(linear, adapter="jax", params=WEIGHTS)
    assert (model.adapter, [s.name for s in model.signature.inputs]) == ("jax", ["x"])
    np.testing.assert_allclose(model.predict({"x": X})["y"], X @ WEIGHTS["w"] + WEIGHTS["b"], rtol=1e-6)
    path = tmp_path / "net.bin"
    path.write_bytes(exported().serialize())
    assert JaxAdapter().match(path) is None
    assert gap.load(path, adapter="jax").signature.inputs[0].describe() == "float32 (batch, 4)"


def test_an_exported_signature_is_read_whole() -> None:
    signature = gap.load(exported()).signature
    assert [(s.name, s.describe()) for s in signature.inputs] == [("input", "float32 (batch, 4)")]
    assert [(s.name, s.describe()) for s in signature.outputs] == [("total", "float32 (batch)"), ("y", "float32 (batch, 3)")]
    assert signature.batch is None
    assert gap.load(exported("8")).signature.batch == 8


def test_inputs_and_outputs_in_trees_are_named_by_their_paths() -> None:
    def function(pair: Any, scale: Any, *, bias: Any) -> Any:
        return (pair["a"] * scale, {"deep": [pair["b"] + bias]})

    row = jax.ShapeDtypeStruct(export.symbolic_shape("n"), jnp.float32)
    program = export.export(jax.jit(function))({"a": row, "b": row}, row, bias=row)
    model = gap.load(program)
    assert [s.name for s in model.signature.inputs] == ["a", "b", "input_1", "bias"]
    assert [s.name for s in model.signature.outputs] == ["output_0", "output_1_deep_0"]
    one, two = np.array([1.0, 2.0]), np.array([10.0, 20.0])
    found = model.predict({"a": one, "b": one, "input_1": two, "bias": two})
    assert found["output_0"].tolist() == [10.0, 40.0]
    assert found["output_1_deep_0"].tolist() == [11.0, 22.0]


def test_exported_weights_may_be_params() -> None:
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), WEIGHTS)
    row = jax.ShapeDtypeStruct(export.symbolic_shape("n,4"), jnp.float32)
    model = gap.load(export.export(jax.jit(linear))(shapes, row), params=WEIGHTS)
    assert [s.name for s in model.signature.inputs] == ["input"]
    np.testing.assert_allclose(model.predict({"input": X})["y"], X @ WEIGHTS["w"] + WEIGHTS["b"], rtol=1e-6)


def test_a_short_batch_is_padded_and_compiles_nothing(tmp_path: Path) -> None:
    log = str(tmp_path / "traces")

    def function(x: Any) -> Any:
        with open(log, "a") as file:  # runs while JAX traces, not while it computes
            file.write(f"{len(x)} ")
        return {"y": x * 2, "rows": jnp.arange(len(x))}

    model = gap.load(jax.jit(function))
    for size in (4, 3, 1, 4, 6, 5):
        found = model.predict({"x": X[:size]})
        assert found["rows"].tolist() == list(range(size))
        np.testing.assert_array_equal(found["y"], X[:size] * 2)
    assert Path(log).read_text() == "4 6 "


def test_padding_can_be_turned_off_where_rows_depend_on_each_other() -> None:
    def centred(x: Any) -> Any:
        return x - x.mean(axis=0)

    model = gap.load(centred, adapter="jax", pad=False)
    for size in (6, 3):
        np.testing.assert_allclose(model.predict({"x": X[:size]})["output"], X[:size] - X[:size].mean(0), atol=1e-6)


def test_finished_outputs_share_no_memory_with_inputs() -> None:
    array = np.zeros(4)
    assert not np.may_share_memory(finished(array[1:], [array]), array)
    other = np.ones(4)
    assert finished(other, [array]) is other


def test_an_empty_block_gives_empty_outputs() -> None:
    model = gap.load(linear, adapter="jax", params=WEIGHTS)
    assert model.predict({"x": np.empty((0, 4), np.float32)})["y"].shape == (0, 3)


def test_64_bit_values_become_32_bit_or_are_refused() -> None:
    model = gap.load(lambda x: x + 1, adapter="jax")
    assert model.predict({"x": np.array([1.5])})["output"].dtype == np.float32
    found = model.predict({"x": np.array([2**31 - 2, -(2**31)])})["output"]
    assert (found.dtype, found.tolist()) == (np.int32, [2**31 - 1, -(2**31) + 1])
    with pytest.raises(ModelError, match=r"Input `x` holds int64 values beyond int32 \(got 1 … 2147483648\).*JAX_ENABLE_X64"):
        model.predict({"x": np.array([1, 2**31])})


def test_bfloat16_comes_out_as_float32() -> None:
    model = gap.load(lambda x: x.astype(jnp.bfloat16) * 2, adapter="jax")
    found = model.predict({"x": np.array([1.0, 2.5], np.float32)})["output"]
    assert (found.dtype, found.tolist()) == (np.float32, [2.0, 5.0])


def test_a_signature_may_rename_the_outputs() -> None:
    model = gap.load(linear, adapter="jax", params=WEIGHTS)
    renamed = model.with_signature(gap.Signature(model.signature.inputs, (gap.TensorSpec("sum"), gap.TensorSpec("scores"))))
    assert list(renamed.predict({"x": X})) == ["sum", "scores"]


def test_a_linen_apply_method_is_its_module() -> None:
    variables = Net().init(jax.random.key(0), X)
    model = gap.load(Net().apply, params=variables)
    assert (model.ref.format, [s.name for s in model.signature.inputs]) == ("linen", ["x"])
    np.testing.assert_allclose(model.predict({"x": X})["output"], Net().apply(variables, X), atol=1e-6)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (Net(), {}, "flax.linen module has no weights of its own: pass its variables"),
        (equinox.nn.Identity(), {"params": {}}, "params does not apply to a module of equinox"),
        (jax.jit(lambda params: params), {"params": 1}, "takes only its params, so it has no input"),
        (jax.jit(lambda *x: x), {}, r"takes \*x, so its inputs have no names"),
    ],
)
def test_what_is_missing_is_said(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        gap.load(source, **options)


def test_a_function_that_captures_a_lock_is_refused() -> None:
    import threading

    lock = threading.Lock()
    with pytest.raises(ModelFormatError, match=r"(?s)The function .* cannot be sent to executors: .*lock.*as params="):
        gap.load(jax.jit(lambda x: (lock, x)[1]))


def test_an_exported_scalar_input_is_refused() -> None:
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    with pytest.raises(ModelFormatError, match=r"Input `input` of the exported program is a single value without a batch"):
        gap.load(export.export(jax.jit(lambda x: x + 1))(scalar))


def test_a_device_that_is_not_there_is_said() -> None:
    model = gap.load(linear, adapter="jax", params=WEIGHTS)
    with pytest.raises(ConfigurationError, match=r"JAX has no device 'cuda:0' in this process; it has cpu:0"):
        model.predict({"x": X}, device="cuda:0")


def test_threads_are_those_of_the_task_and_the_environment_stays() -> None:
    code = """
import os, sys, time
import numpy as np
from sparkgap.models.base import Runtime
from sparkgap.models.jax import import_jax
before = dict(os.environ)
jax = import_jax(Runtime(threads=int(sys.argv[1])))
assert dict(os.environ) == before
pools = [open(f"/proc/self/task/{t}/comm").read().strip() for t in os.listdir("/proc/self/task")]
print(sum("XLAEigen" in p or "XLAPjRt" in p for p in pools), jax.config.jax_platforms)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def pools(threads: int) -> tuple[int, str]:
        command = [sys.executable, "-c", code, str(threads)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        count, platforms = done.stdout.split()
        return int(count), platforms

    (one, platforms), (five, _) = pools(1), pools(5)
    assert platforms == "cpu"
    assert five > one >= 1
