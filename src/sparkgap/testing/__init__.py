"""Conformance tests of the seams, for authors of adapters. Import them in a pytest module and subclass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparkgap.testing.exporters import ExporterConformance
    from sparkgap.testing.models import ModelAdapterConformance

__all__ = ["ExporterConformance", "ModelAdapterConformance"]


def __getattr__(name: str) -> Any:
    # Lazy: the classes import pytest, which users of the library need not have.
    if name == "ModelAdapterConformance":
        from sparkgap.testing.models import ModelAdapterConformance

        return ModelAdapterConformance
    if name == "ExporterConformance":
        from sparkgap.testing.exporters import ExporterConformance

        return ExporterConformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
