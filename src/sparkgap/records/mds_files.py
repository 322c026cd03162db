"""MDS, the shards of mosaicml-streaming: `index.json` and files with an offset for each sample."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError, RowError, SignatureError
from sparkgap.data import storage
from sparkgap.data.discovery import FileEntry
from sparkgap.data.footers import part_of
from sparkgap.data.parquet_read import explained
from sparkgap.data.source import Chunk
from sparkgap.data.splits import Unit
from sparkgap.data.storage import Options
from sparkgap.records import mds_columns
from sparkgap.records.format import Output, Policy, RecordFile, salvage
from sparkgap.records.mds_shard import Damaged, MdsShard

INDEX = "index.json"
_ROWS = 4096


@dataclass(frozen=True)
class Mds:
    """MDS.

    Args:
        compression: of files that are written: None or ``"zstd"``. Reading finds out by itself.
        shard_bytes: a file that is written ends at about so many bytes.
    """

    name: ClassVar[str] = "mds"

    compression: str | None = None
    shard_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if self.compression not in (None, "zstd"):
            raise ConfigurationError(f'compression is {self.compression!r}: None or "zstd".')
        if not isinstance(self.shard_bytes, int) or self.shard_bytes < 1:
            raise ConfigurationError(f"shard_bytes is {self.shard_bytes!r}; it must be a whole number of bytes >= 1.")

    def select(self, entries: Sequence[FileEntry], options: Options) -> list[Unit]:
        """Read the indexes, those nearest to the top: an index of a folder stands for those of the folders in it."""
        found = [e for e in entries if e.path.rpartition("/")[2] == INDEX]
        nearest = min((len(e.folders) for e in found), default=0)
        there = {(e.root, e.path): e for e in entries}
        units: list[Unit] = []
        for index in (e for e in found if len(e.folders) == nearest):
            folder = index.path.rpartition("/")[0]
            for shard in _shards(index, options):
                zipped, raw = shard.get("zip_data"), shard["raw_data"]
                names = [f"{folder}/{f['basename']}" for f in (zipped, raw) if f]
                entry = next((there[index.root, name] for name in names if (index.root, name) in there), None)
                if entry is None:
                    raise DataError(f"{index.origin} names {names[0]}, which is not there. Copy the folder again.")
                is_raw = entry.path == names[-1]
                units.append(Unit(part_of(entry, (json.dumps(shard), is_raw)), entry.size, int(shard["samples"])))
        return units

    def infer(self, file: RecordFile, rows: int) -> pa.Schema:
        """Tell the columns by their encodings, and by the first sample."""
        shard = MdsShard(file)
        fields = []
        for name, encoding in zip(shard.names, shard.encodings, strict=True):
            data, _ = shard.column(name, 0, min(1, shard.samples))
            try:
                fields.append((name, mds_columns.infer(encoding, data.tobytes())))
            except (ValueError, IndexError) as error:
                raise DataError(f"Column `{name}` of {file.origin} cannot be told: {error}. Give schema=.") from error
        return pa.schema(fields)

    def read(self, file: RecordFile, schema: pa.Schema, known: frozenset[str] | None, policy: Policy) -> Iterator[Chunk]:
        """Read a file, or some of its samples."""
        try:
            shard = MdsShard(file)
            absent = [name for name in schema.names if name not in shard.names]
        except Damaged as error:
            policy.damaged(error.at, str(error))
            return
        if absent:
            raise DataError(f"{file.origin} has no column `{absent[0]}`; it has: {', '.join(shard.names)}.")
        stop = shard.samples if file.part.stop is None else file.part.stop
        for at in range(file.part.start, stop, _ROWS):
            yield from salvage(
                lambda a, b, at=at: _batch(shard, schema, at + a, at + b),  # type: ignore[misc]
                min(_ROWS, stop - at), at, policy,
            )  # fmt: skip

    def check(self, schema: pa.Schema) -> None:
        """Refuse what MDS has no encoding for."""
        for field in schema:
            if mds_columns.encoding_of(field.type) is None:
                raise SignatureError(
                    f"Column `{field.name}` is {field.type}, and MDS holds numbers, text, bytes, arrays and JSON. Cast it, or "
                    "leave it out of columns=."
                )

    def writer(self, schema: pa.Schema, output: Output, partition: int) -> _Writer:
        """Return a writer of files."""
        return _Writer(self, schema, output)

    def index(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> tuple[str, bytes]:
        """Make `index.json`."""
        shards = []
        for name, entry in entries:
            plain = name.removesuffix(".zstd")
            both = {"raw_data": {**entry["raw_data"], "basename": plain}, "zip_data": entry["zip_data"]}
            if both["zip_data"] is not None:
                both["zip_data"] = {**both["zip_data"], "basename": name}
            shards.append({**entry, **both})
        return INDEX, json.dumps({"shards": shards, "version": 2}, sort_keys=True).encode()


class _Writer:
    def __init__(self, form: Mds, schema: pa.Schema, output: Output) -> None:
        self._form, self._output, self._row = form, output, 0
        self._order = sorted(range(len(schema)), key=lambda i: str(schema.names[i]))
        self._names = [schema.names[i] for i in self._order]
        self._encodings = [str(mds_columns.encoding_of(schema.types[i])) for i in self._order]
        self._sizes = [mds_columns.size_of(e) for e in self._encodings]
        self._samples: list[bytes] = []
        self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        columns = []
        for name, encoding, i in zip(self._names, self._encodings, self._order, strict=True):
            try:
                columns.append(mds_columns.encode(encoding, batch.column(i)))
            except (ValueError, TypeError) as error:
                text = f"A row from row {self._row} of its partition on cannot be written: column `{name}`: {error}."
                raise RowError(text) from error
        for values in zip(*columns, strict=True):
            lengths = [len(v) for v, size in zip(values, self._sizes, strict=True) if size is None]
            sample = np.array(lengths, "<u4").tobytes() + b"".join(values)
            if self._samples and self._bytes + len(sample) > self._form.shard_bytes:
                self._flush()
            self._samples.append(sample)
            self._bytes += len(sample)
        self._row += batch.num_rows

    def close(self) -> None:
        if self._samples:
            self._flush()

    def _flush(self) -> None:
        zipped = self._form.compression
        meta = {"column_encodings": self._encodings, "column_names": self._names, "column_sizes": self._sizes,
                "compression": zipped, "format": "mds", "hashes": ["sha1"], "size_limit": self._form.shard_bytes,
                "version": 2}  # fmt: skip
        text = json.dumps(meta, sort_keys=True).encode()
        first = 4 * (len(self._samples) + 2) + len(text)
        offsets = first + np.concatenate([[0], np.cumsum([len(s) for s in self._samples])])
        if offsets[-1] >= 1 << 32:
            raise RowError(f"A sample before row {self._row} of its partition has too many bytes: MDS ends at 4 GiB a file.")
        head = np.array([len(self._samples)], "<u4").tobytes() + offsets.astype("<u4").tobytes()
        data = head + text + b"".join(self._samples)
        packed = None if zipped is None else pa.compress(data, codec=zipped, asbytes=True)
        with self._output.create(".mds.zstd" if packed is not None else ".mds") as stream:
            stream.write(data if packed is None else packed)
        entry = {**meta, "samples": len(self._samples), "raw_data": _described(data)}
        entry["zip_data"] = None if packed is None else _described(packed)
        self._output.wrote(len(self._samples), entry)
        self._samples, self._bytes = [], 0


def _batch(shard: MdsShard, schema: pa.Schema, start: int, stop: int) -> pa.RecordBatch:
    encodings = dict(zip(shard.names, shard.encodings, strict=True))
    columns = []
    for field in schema:
        try:
            columns.append(mds_columns.decode(encodings[field.name], field.type, *shard.column(field.name, start, stop)))
        except (ValueError, IndexError, TypeError) as error:
            raise ValueError(f"column `{field.name}` does not fit {field.type}: {error}") from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _shards(index: FileEntry, options: Options) -> list[dict[str, Any]]:
    with explained(index.origin):
        system, _ = storage.filesystem(index.root, options)
        with system.open_input_stream(index.path, compression=None) as stream:
            text = stream.read()
    try:
        shards = list(json.loads(text)["shards"])
        other = {s["format"] for s in shards} - {"mds"}
        _ = [(s["samples"], s["column_sizes"], s["raw_data"]["bytes"]) for s in shards]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{index.origin} is no index of MDS shards, or is damaged ({error!r}). Check the path.") from error
    if other:
        raise DataError(f"{index.origin} has shards of format {other.pop()!r}; only MDS is read.")
    return shards


def _described(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "hashes": {"sha1": hashlib.sha1(data, usedforsecurity=False).hexdigest()}}
