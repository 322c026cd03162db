"""The user's folders: for what can be made again, and for what tells of the past."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Folder for what can be made again: SPARKGAP_CACHE, else ``sparkgap`` in the user's cache folder."""
    return _folder(environ, "SPARKGAP_CACHE", "XDG_CACHE_HOME", Path(".cache"), Path("sparkgap"))


def runs_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Folder of the history of runs: SPARKGAP_RUNS, else ``sparkgap/runs`` in the user's folder for state."""
    return _folder(environ, "SPARKGAP_RUNS", "XDG_STATE_HOME", Path(".local", "state"), Path("sparkgap", "runs"))


def _folder(environ: Mapping[str, str] | None, own: str, base: str, default: Path, name: Path) -> Path:
    environ = os.environ if environ is None else environ
    if chosen := environ.get(own):
        return Path(chosen).expanduser()
    parent = environ.get(base)
    return (Path(parent) if parent else Path.home() / default) / name
