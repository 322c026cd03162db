"""Pickling what the user made, so that executors can open it without the user's own source files."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any


def dumps(value: Any) -> bytes:
    """Pickle a value; functions and classes of notebooks, scripts and local modules go by value. Driver side."""
    from pyspark import cloudpickle

    with local_modules_by_value():
        data: bytes = cloudpickle.dumps(value)
    return data


@contextmanager
def local_modules_by_value() -> Iterator[None]:
    """Let cloudpickle take the code of local modules along, for the time of a `with` block.

    A local module is one that is not installed: executors do not have it. Installed packages go by reference, as always.
    """
    from pyspark import cloudpickle

    taken = set(cloudpickle.list_registry_pickle_by_value())
    local = [m for name, m in list(sys.modules.items()) if name not in taken and _is_local(name, m)]
    for module in local:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in local:
            cloudpickle.unregister_pickle_by_value(module)


def _is_local(name: str, module: Any) -> bool:
    # A name that leads to another module is an alias (as os.path is): cloudpickle knows modules by their own name.
    if not isinstance(module, ModuleType) or module.__name__ != name or name == "__main__":
        return False
    if name.partition(".")[0] in ("sparkgap", "pyspark"):
        return False
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py"):
        return False
    return not file.startswith(_installed_roots())


@cache
def _installed_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots |= {*site.getsitepackages(), site.getusersitepackages(), sys.prefix + "/lib", sys.base_prefix + "/lib"}
    return tuple(root.rstrip(os.sep) + os.sep for root in roots)
