"""The Python examples of the README and the guides run, as they stand, page by page."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_host


ROOT = Path(__file__).parents[2]
PAGES = [p for p in sorted([ROOT / "README.md", *ROOT.glob("docs/*.md")]) if "```python" in p.read_text()]
MODULES = (
    "sparkgap.blocks.aggregates",
    "sparkgap.blocks.maps",
    "sparkgap.blocks.reductions",
    "sparkgap.blocks.shapes",
    "sparkgap.models.model",
    "sparkgap.embedded.api",
    "sparkgap.embedded.function",
    "sparkgap.ml.model_transformer",
    "sparkgap.ml.net_estimators",
    "sparkgap.ml.sql",
    "sparkgap.evaluation.api",
    "sparkgap.evaluation.example_scores",
    "sparkgap.tensors.image",
    "sparkgap.monitor.reporting",
    "sparkgap.cooperative.api",
    "sparkgap.cooperative.black_box",
    "sparkgap.scheduled.api",
    "sparkgap.scheduled.groups",
    "sparkgap.scheduled.joblib_backend",
    "sparkgap.scheduled.members",
    "sparkgap.records.read",
    "sparkgap.records.write",
    "sparkgap.shards.write",
    "sparkgap.tuning.nested",
    "sparkgap.tuning.api",
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page(spark, page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    snippets = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert snippets
    for snippet in snippets:
        snippet = snippet.replace("prometheus:9108", "prometheus:0")  # two runs of the tests may share the machine
        snippet = snippet.replace('parquet("', f'parquet("{tmp_path}/')  # Spark does not change its folder with this process
        exec(compile(snippet, str(page), "exec"), names)


@pytest.mark.classic
@pytest.mark.parametrize("name", MODULES)
def test_docstrings(spark, name, monkeypatch):
    monkeypatch.setattr("sparkgap._session.session", lambda *a, **k: spark)
    monkeypatch.setattr("sparkgap.session", lambda *a, **k: spark, raising=False)
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried
    assert not failed
