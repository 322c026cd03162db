"""The public conformance tests, on this adapter."""

from __future__ import annotations

import json

import numpy as np
from sparkgap_polynomial import PolynomialAdapter

from sparkgap.testing import ModelAdapterConformance


class TestPolynomial(ModelAdapterConformance):
    """y = 1 + 2 x^2."""

    def adapter(self):
        return PolynomialAdapter()

    def source(self, folder):
        path = folder / "parabola.poly.json"
        path.write_text(json.dumps({"coefficients": [1, 0, 2]}))
        return path

    def block(self):
        return {"x": np.linspace(-1, 1, 8)}

    def expected(self, source, block):
        return {"y": 1 + 2 * block["x"] ** 2}
