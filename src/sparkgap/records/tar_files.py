"""WebDataset: tar files in which neighbours of one key are a sample, and endings are its columns."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError, RowError, SignatureError
from sparkgap.data.discovery import FileEntry
from sparkgap.data.footers import part_of
from sparkgap.data.source import Chunk
from sparkgap.data.splits import Unit
from sparkgap.data.storage import Options
from sparkgap.records import tar_entries
from sparkgap.records.example_types import leaf
from sparkgap.records.format import Output, Policy, RecordFile, salvage
from sparkgap.records.tar_entries import KEY

SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_ROWS, _BYTES = 1024, 32 << 20
_SAMPLES = 100
_ZSTD = b"\x28\xb5\x2f\xfd"
_BROKEN = (tarfile.TarError, EOFError, zlib.error, pa.ArrowInvalid)


@dataclass(frozen=True)
class Sample:
    """Neighbours of one key.

    Args:
        key: their path up to the first dot of the name.
        entries: bytes, by the rest of the name, in lower case.
        at: offset of the first one in the tar.
        wrong: what is wrong with it; "" for nothing.
    """

    key: str
    entries: dict[str, bytes]
    at: int
    wrong: str = ""


@dataclass(frozen=True)
class WebDataset:
    """WebDataset.

    Args:
        compression: of files that are written: None or ``"gzip"``. Reading finds out by itself: gzip, bzip2, xz, zstd.
    """

    name: ClassVar[str] = "webdataset"

    compression: str | None = None

    def __post_init__(self) -> None:
        if self.compression not in (None, "gzip"):
            raise ConfigurationError(f'compression is {self.compression!r}: None or "gzip".')

    def select(self, entries: Sequence[FileEntry], options: Options) -> list[Unit]:
        """Take the tar files; all files, where none has such an ending."""
        tars = [e for e in entries if e.path.lower().endswith(SUFFIXES)] or list(entries)
        return [Unit(part_of(e), e.size) for e in tars]

    def infer(self, file: RecordFile, rows: int) -> pa.Schema:
        """Make a column of each ending in the first samples."""
        found: dict[str, list[bytes]] = {}
        with file.open() as stream:
            samples = list(islice(_samples(stream, Policy(False, file.origin)), min(rows, _SAMPLES)))
        for sample in samples:
            if sample.wrong:
                raise DataError(f"Sample {sample.key!r} (at byte {sample.at}) of {file.origin}: {sample.wrong}.")
            for name, value in sample.entries.items():
                found.setdefault(name, []).append(value)
        if not found:
            raise DataError(f"{file.origin} has no sample, so its columns cannot be told. Give schema=.")
        try:
            columns = [(name, tar_entries.infer(name, values)) for name, values in sorted(found.items())]
        except (ValueError, EOFError) as error:
            raise DataError(f"The columns of {file.origin} cannot be told: {error}. Give schema=.") from error
        return pa.schema([(KEY, pa.string()), *columns])

    def read(self, file: RecordFile, schema: pa.Schema, known: frozenset[str] | None, policy: Policy) -> Iterator[Chunk]:
        """Read a file."""
        first = 0
        with file.open() as stream:
            for group in _groups(_samples(stream, policy)):
                yield from salvage(
                    lambda a, b, group=group: _batch(group[a:b], schema, known),  # type: ignore[misc]
                    len(group), first, policy, [s.at for s in group],
                )  # fmt: skip
                first += len(group)

    def check(self, schema: pa.Schema) -> None:
        """Refuse what has no form as text, JSON or an array."""
        for field in schema:
            inner = leaf(field.type)
            plain = tar_entries.is_plain(inner) or pa.types.is_binary(inner) or pa.types.is_string(inner)
            if not plain and not pa.types.is_struct(inner):
                raise SignatureError(
                    f"Column `{field.name}` is {field.type}, and entries of a WebDataset are bytes, text, numbers, JSON or "
                    "arrays. Cast it (string, to_json …), or leave it out of columns=."
                )

    def writer(self, schema: pa.Schema, output: Output, partition: int) -> _Writer:
        """Return a writer of one file."""
        return _Writer(self, schema, output, partition)

    def index(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """There is none."""


class _Writer:
    def __init__(self, form: WebDataset, schema: pa.Schema, output: Output, partition: int) -> None:
        packed = form.compression == "gzip"
        self._stream = output.create(".tar.gz" if packed else ".tar")
        self._tar = tarfile.open(fileobj=self._stream, mode="w|gz" if packed else "w|")
        self._names, self._output, self._partition, self._rows, self._last = schema.names, output, partition, 0, ""

    def add(self, batch: pa.RecordBatch) -> None:
        columns = {}
        try:
            for name, column in zip(self._names, batch.columns, strict=True):
                columns[name] = tar_entries.encode(name, column)
        except ValueError as error:
            raise RowError(f"A row from row {self._rows} of its partition on cannot be written: {error}.") from error
        keys = columns.pop(KEY, None) or [b"%06d%09d" % (self._partition, self._rows + i) for i in range(batch.num_rows)]
        for i, key in enumerate(keys):
            name = self._checked(key)
            for ending, values in columns.items():
                if (value := values[i]) is not None:
                    member = tarfile.TarInfo(f"{name}.{ending}")
                    member.size = len(value)
                    self._tar.addfile(member, io.BytesIO(value))
            self._rows += 1

    def close(self) -> None:
        self._tar.close()
        self._stream.close()
        self._output.wrote(self._rows)

    def _checked(self, key: bytes | None) -> str:
        name = (key or b"").decode()
        if not name or "." in name.rpartition("/")[2] or name == self._last:
            raise RowError(
                f"Row {self._rows} of its partition has the key {name!r}: a key is text without dots, and another one than "
                "that of the row before it."
            )
        self._last = name
        return name


class _Strict(tarfile.TarInfo):
    """Headers that are not silently taken for the end of the file."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Strict:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the block of zeros: the true end
                raise
            told = {"EmptyHeaderError": "it ends without the zeros that end a tar", "TruncatedHeaderError": "it is cut off"}
            raise tarfile.ReadError(told.get(type(error).__name__, f"a header is wrong ({error})")) from error


def _samples(stream: Any, policy: Policy) -> Iterator[Sample]:
    """Group the members of a tar. A sample that the end of a damaged file cuts off is not given."""
    head = stream.read(4)
    source: Any = _Joined(head, stream)
    if head == _ZSTD:
        source = pa.CompressedInputStream(pa.PythonFile(source, "r"), "zstd")
    at, sample = 0, None
    try:
        with tarfile.open(fileobj=source, mode="r|*", tarinfo=_Strict) as tar:
            for member in tar:
                at = member.offset
                key, ending = _split(member.name)
                if not member.isreg() or not ending or key.startswith("__"):
                    continue
                content = tar.extractfile(member)
                value = b"" if content is None else content.read()
                if sample is not None and sample.key != key:
                    yield sample
                    sample = None
                sample = sample or Sample(key, {}, at)
                if ending in sample.entries:
                    sample = Sample(key, sample.entries, sample.at, f"it has two entries `{ending}`")
                sample.entries[ending] = value
    except _BROKEN as error:
        policy.damaged(at, str(error))
        return
    if sample is not None:
        yield sample


class _Joined(io.RawIOBase):
    """A stream with its first bytes put back."""

    def __init__(self, head: bytes, rest: Any) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head, b""
        return head + bytes(self._rest.read(None if size < 0 else max(0, size - len(head))))


def _split(name: str) -> tuple[str, str]:
    folder, slash, base = name.removeprefix("./").rpartition("/")
    key, _, ending = base.partition(".")
    return folder + slash + key, ending.lower()


def _groups(samples: Iterator[Sample]) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    size = 0
    for sample in samples:
        own = sum(len(v) for v in sample.entries.values())
        if group and (len(group) == _ROWS or size + own > _BYTES):
            yield group
            group, size = [], 0
        group.append(sample)
        size += own
    if group:
        yield group


def _batch(samples: list[Sample], schema: pa.Schema, known: frozenset[str] | None) -> pa.RecordBatch:
    for sample in samples:
        if sample.wrong:
            raise ValueError(f"{sample.wrong} (sample {sample.key!r})")
        unknown = set() if known is None else sample.entries.keys() - known
        if unknown:
            raise ValueError(f"entry `{min(unknown)}` is in none of the samples that the schema was inferred from")
    columns = []
    for field in schema:
        if field.name == KEY:
            columns.append(pa.array([s.key for s in samples], field.type))
        else:
            columns.append(tar_entries.decode(field.name, field.type, [s.entries.get(field.name.lower()) for s in samples]))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
