"""Tracebacks of tasks get the source lines that only the driver has."""

from __future__ import annotations

import linecache

from sparkgap.scheduled._sources import with_sources

TEXT = """Traceback (most recent call last):
  File "<cell 7>", line 2, in work
  File "/usr/lib/python3/json.py", line 9, in loads
    return decoder.decode(s)
  File "<nobody's>", line 1, in gone
ValueError: two is broken
"""


def test_lines_that_are_known_here_are_filled_in(monkeypatch):
    monkeypatch.setitem(linecache.cache, "<cell 7>", (30, None, ["def work(n):\n", "    raise ValueError(n)\n"], "<cell 7>"))
    found = with_sources(TEXT)
    assert 'line 2, in work\n    raise ValueError(n)\n  File "/usr' in found
    assert found.replace("    raise ValueError(n)\n", "") == TEXT
    assert with_sources(found) == found
    assert with_sources("") == ""
