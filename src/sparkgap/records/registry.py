"""The formats, by name; and which one files have, where nobody says."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.data import storage
from sparkgap.data.discovery import FileEntry
from sparkgap.data.image_files import EXTENSIONS
from sparkgap.data.parquet_read import explained
from sparkgap.records import frames
from sparkgap.records.format import RecordFormat
from sparkgap.records.tar_files import SUFFIXES

IMAGES = "image_folder"
FORMATS = {
    "lmdb": ("sparkgap.records.lmdb_files", "Lmdb"),
    "mds": ("sparkgap.records.mds_files", "Mds"),
    "tfrecord": ("sparkgap.records.tfrecord_files", "TFRecord"),
    "webdataset": ("sparkgap.records.tar_files", "WebDataset"),
}
_HEAD = 4096


def make(name: str, options: Mapping[str, Any]) -> RecordFormat:
    """Return a format with its options.

    Raises:
        ConfigurationError: there is no such format, or it has no such option.
    """
    if name not in FORMATS:
        raise ConfigurationError(f"format is {name!r}; it must be one of {', '.join(sorted([*FORMATS, IMAGES]))}.")
    module, cls = FORMATS[name]
    made = getattr(importlib.import_module(module), cls)
    takes = [f.name for f in fields(made)]
    unknown = [o for o in options if o not in takes]
    if unknown:
        raise ConfigurationError(f"{name} has no option {unknown[0]!r}; it has: {', '.join(takes)}.")
    form: RecordFormat = made(**options)
    return form


def detect(entries: Sequence[FileEntry], options: storage.Options) -> str:
    """Tell the format of files by their names, or by the first bytes of one.

    Raises:
        DataError: it is none that is known.
    """
    names = [e.path.rpartition("/")[2].lower() for e in entries]
    if "index.json" in names and any(".mds" in n for n in names):
        return "mds"
    if any(n.endswith(SUFFIXES) for n in names):
        return "webdataset"
    if any(n.endswith((".mdb", ".lmdb")) for n in names):
        return "lmdb"
    if any(".tfrec" in n for n in names):
        return "tfrecord"
    if any(n.endswith(EXTENSIONS) for n in names):
        return IMAGES
    found = next((e for e in entries if e.size), None)
    told = None if found is None else _by_content(found, options)
    if told is None:
        what = "There is no file with content" if found is None else f"{found.origin} is of no known format"
        raise DataError(f"{what}. Check the path, or name the format: {', '.join(sorted([*FORMATS, IMAGES]))}.")
    return told


def _by_content(entry: FileEntry, options: storage.Options) -> str | None:
    with explained(entry.origin):
        system, _ = storage.filesystem(entry.root, options)
        with system.open_input_stream(entry.path, compression=None) as stream:
            head = stream.read(_HEAD)
    if head[16:20] in (b"\xde\xc0\xef\xbe", b"\xbe\xef\xc0\xde"):
        return "lmdb"
    if head[257:262] == b"ustar":
        return "webdataset"
    if frames.compressed(head):
        head = frames.first_bytes(head)
        if head[257:262] == b"ustar":
            return "webdataset"
    return "tfrecord" if frames.is_frame(head) else None
