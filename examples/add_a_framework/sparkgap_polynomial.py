"""Polynomials in JSON files (`{"coefficients": [c0, c1, ...]}`) as models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparkgap import ModelFormatError, Signature, TensorSpec
from sparkgap.models.base import Format, ModelAdapter, Packed, Predictor, Runtime

SIGNATURE = Signature((TensorSpec("x", "float64", ()),), (TensorSpec("y", "float64", ()),))


class PolynomialAdapter(ModelAdapter):
    """Takes files that end in `.poly.json`."""

    name = "polynomial"
    title = "Polynomial"
    extra = ""
    formats = (Format("json", "`.poly.json` file", "read"),)

    def match(self, source: Any) -> str | None:
        """Told by the suffix."""
        return "json" if isinstance(source, Path) and source.name.endswith(".poly.json") else None

    def pack(self, source: Path, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Check the file here, on the driver; executors get it as it is."""
        coefficients(source)
        return Packed("json", SIGNATURE, file=source)

    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Read the coefficients."""
        return PolynomialPredictor(coefficients(path))


class PolynomialPredictor(Predictor):
    """Evaluates c0 + c1 x + c2 x^2 ..."""

    def __init__(self, coefficients: list[float]) -> None:
        self._coefficients = coefficients

    def predict(self, block: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One value a row."""
        return {"y": np.polynomial.polynomial.polyval(block["x"], self._coefficients)}


def coefficients(path: Path) -> list[float]:
    """Read a file.

    Raises:
        ModelFormatError: it is no such file.
    """
    try:
        return [float(c) for c in json.loads(path.read_text())["coefficients"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFormatError(f"{path.name} is no polynomial ({error!r}). Write {{'coefficients': [...]}}.") from error
