"""One MDS file in memory, compared with what its index says."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import DataError
from sparkgap.records.format import RecordFile
from sparkgap.records.wire import gather

_CODECS = {"zstd": "zstd", "gz": "gzip", "br": "brotli", "bz2": "bz2", "snappy": "snappy"}


class Damaged(DataError):
    """A file is not what its index says; `at` is the offset."""

    def __init__(self, at: int, text: str) -> None:
        super().__init__(text)
        self.at = at


class MdsShard:
    """One file, in memory.

    Raises:
        Damaged: it is not what the index says.
    """

    def __init__(self, file: RecordFile) -> None:
        text, is_raw = file.part.values
        meta = json.loads(text)
        self.names, self.encodings = list(meta["column_names"]), list(meta["column_encodings"])
        self.samples = int(meta["samples"])
        self._fixed = [-1 if n is None else int(n) for n in meta["column_sizes"]]
        with file.open() as stream:
            data = stream.read()
        if not is_raw:
            _check_hashes(data, meta["zip_data"])
            data = _unpacked(data, meta)
        if len(data) != meta["raw_data"]["bytes"]:
            raise Damaged(len(data), f"it has {len(data)} bytes, and the index says {meta['raw_data']['bytes']}")
        _check_hashes(data, meta["raw_data"])
        self.buf = np.frombuffer(data, np.uint8)
        count = int(self.buf[:4].view("<u4")[0]) if len(data) >= 4 else -1
        if count != self.samples or len(data) < 4 * (count + 2):
            raise Damaged(0, f"it says that it has {count} samples, and the index says {self.samples}")
        self.offsets = self.buf[4 : 4 * (count + 2)].view("<u4").astype(np.int64)

    def column(self, name: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes of a column for some samples, and the offset of each.

        Raises:
            ValueError: a sample is not as long as its parts.
        """
        begin, end = self.offsets[start:stop], self.offsets[start + 1 : stop + 1]
        variable = [k for k, size in enumerate(self._fixed) if size < 0]
        head = 4 * len(variable)
        if ((end - begin) < head).any() or (end > len(self.buf)).any():
            raise ValueError("a sample is cut off")
        sizes = np.tile(np.array(self._fixed, np.int64), (stop - start, 1))
        if variable:
            raw = np.ascontiguousarray(self.buf[begin[:, None] + np.arange(head)])
            sizes[:, variable] = raw.view("<u4")
        ends = begin[:, None] + head + np.cumsum(sizes, axis=1)
        if (ends[:, -1] != end).any():
            raise ValueError("a sample is not as long as its values together")
        k = self.names.index(name)
        return gather(self.buf, ends[:, k] - sizes[:, k], ends[:, k])


def _unpacked(data: bytes, meta: dict[str, Any]) -> bytes:
    codec = str(meta["compression"]).partition(":")[0]
    if codec not in _CODECS:
        raise Damaged(0, f"it has compression {meta['compression']!r}; known are {', '.join(_CODECS)}")
    try:
        if codec == "snappy":
            return bytes(pa.decompress(data, meta["raw_data"]["bytes"], codec="snappy", asbytes=True))
        with pa.CompressedInputStream(pa.BufferReader(data), _CODECS[codec]) as stream:
            return bytes(stream.read())
    except (OSError, pa.ArrowException) as error:
        raise Damaged(0, f"it cannot be decompressed: {error}") from error


def _check_hashes(data: bytes, described: dict[str, Any]) -> None:
    for name, digest in (described.get("hashes") or {}).items():
        if name in hashlib.algorithms_guaranteed and not name.startswith("shake"):
            found = hashlib.new(name, data, usedforsecurity=False).hexdigest()
            if found != digest:
                raise Damaged(0, f"its {name} is {found}, and the index says {digest}")
