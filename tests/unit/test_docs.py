"""The documentation is true: the support table is what the adapters say, links lead somewhere, names are real."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sparkgap
from sparkgap import _errors
from sparkgap.models.support import support_table

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])


def test_the_support_table_is_made_from_the_adapters():
    assert (ROOT / "docs/support.md").read_text() == support_table()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_public_names_exist(page):
    for name in re.findall(r"\bgap\.([A-Za-z_]+)", page.read_text()):
        assert hasattr(sparkgap, name), name


def test_every_error_is_in_the_table():
    text = (ROOT / "docs/errors.md").read_text()
    for name, value in vars(_errors).items():
        if isinstance(value, type) and issubclass(value, Exception) and name != "SparkGapError":
            assert f"| `{name}` | `{value.condition}` |" in text
