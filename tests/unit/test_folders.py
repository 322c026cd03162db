"""Where sparkgap keeps what outlives a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkgap._folders import cache_folder, runs_folder


@pytest.mark.parametrize(
    ("environ", "cache", "runs"),
    [
        ({"SPARKGAP_CACHE": "/c", "SPARKGAP_RUNS": "~/r"}, Path("/c"), Path.home() / "r"),
        ({"XDG_CACHE_HOME": "/x", "XDG_STATE_HOME": "/s"}, Path("/x/sparkgap"), Path("/s/sparkgap/runs")),
        ({}, Path.home() / ".cache/sparkgap", Path.home() / ".local/state/sparkgap/runs"),
    ],
)
def test_folders(environ: dict[str, str], cache: Path, runs: Path) -> None:
    assert cache_folder(environ) == cache
    assert runs_folder(environ) == runs
