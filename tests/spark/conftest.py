"""What all tests on Spark share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _by_value(request: pytest.FixtureRequest) -> Iterator[None]:
    """Send functions of test files by value: the workers of Spark cannot import them."""
    from pyspark import cloudpickle

    cloudpickle.register_pickle_by_value(request.module)
    yield
    cloudpickle.unregister_pickle_by_value(request.module)
