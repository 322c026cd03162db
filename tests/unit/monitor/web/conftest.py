from __future__ import annotations

import httpx
import pytest
from web_browser import CHROMIUM, browsing

from sparkgap.monitor.store import Store
from sparkgap.monitor.web.server import serve


@pytest.fixture
def store():
    return Store(None)


@pytest.fixture
def page(store):
    with serve(store) as served:
        yield served


@pytest.fixture
def client(page):
    with httpx.Client(base_url=f"http://127.0.0.1:{page.port}", params={"token": page.token}, timeout=30) as made:
        yield made


@pytest.fixture(scope="module")
def tab():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    with browsing() as made:
        yield made
