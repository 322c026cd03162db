"""Telling the kinds of PyTorch models apart without importing torch."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

UNREADABLE = "unreadable"
"""What a file of torch's own suffix is called that is none of the known kinds, e.g. a truncated one."""

_OWN = (".pt", ".pth", ".jit", ".ts", ".pt2")
# Suffixes that others use too: taken only where the content is torch's.
_SHARED = (".bin", ".ckpt")
# Before PyTorch 1.6 files were not zips: pickles in a row, of a magic number, version, system and object.
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_LEGACY_HEADERS = 3
# Modules with this base belong to other adapters.
_FOREIGN = ("keras", "sentence_transformers")


def object_format(source: Any) -> str | None:
    """Name the format of a Python object, None where it is not a PyTorch model."""
    bases = {f"{c.__module__}.{c.__name__}" for c in type(source).__mro__}
    if any(base.partition(".")[0] in _FOREIGN for base in bases):
        return None
    if "torch.export.exported_program.ExportedProgram" in bases:
        return "exported"
    if "torch.jit._script.ScriptModule" in bases:
        return "scripted"
    return "module" if "torch.nn.modules.module.Module" in bases else None


def file_format(path: Path) -> str | None:
    """Name the format of a file, None where it is not a PyTorch model."""
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (".safetensors", *_OWN, *_SHARED):
        return None
    if suffix == ".safetensors":
        return "safetensors"
    with open(path, "rb") as handle:
        found = _content(handle)
    if found == UNREADABLE and suffix in _SHARED:
        return None
    return found


def _content(handle: BinaryIO) -> str:
    if handle.read(len(_LEGACY)) == _LEGACY:
        handle.seek(0)
        return _pickle_format(handle, skip=_LEGACY_HEADERS)
    try:
        with zipfile.ZipFile(handle) as archive:
            return _zip_format(archive)
    except zipfile.BadZipFile:
        return UNREADABLE


def _zip_format(archive: zipfile.ZipFile) -> str:
    # Entries lie in one folder named after the file, but for exported programs of PyTorch 2.5 and before.
    entries = {name.partition("/")[2] for name in archive.namelist()} | set(archive.namelist())
    if {"archive_format", "serialized_exported_program.json"} & entries:
        return "pt2"
    if "constants.pkl" in entries:
        return "torchscript"
    data = next((n for n in archive.namelist() if n.partition("/")[2] == "data.pkl"), None)
    if data is None:
        return UNREADABLE
    with archive.open(data) as handle:
        return _pickle_format(handle)


def _pickle_format(handle: Any, *, skip: int = 0) -> str:
    """Tell weights from whole modules by the classes that a pickle names; nothing is unpickled.

    This is about the right message only. Weights are loaded with `weights_only=True` whatever is said here.
    """
    try:
        for _ in range(skip):
            for _ in pickletools.genops(handle):
                pass
        for code, argument, _ in pickletools.genops(handle):
            if code.name == "STACK_GLOBAL" or (code.name == "GLOBAL" and not _is_weights(str(argument))):
                return "pickled"
    except ValueError:  # what pickletools says of anything that is no pickle
        return UNREADABLE
    return "state_dict"


def _is_weights(name: str) -> bool:
    module, _, attribute = name.partition(" ")
    if module == "torch":
        return attribute.endswith("Storage") or attribute in ("Size", "device", "BFloat16Tensor")
    return name == "collections OrderedDict" or (module == "torch._utils" and attribute.startswith("_rebuild_"))
