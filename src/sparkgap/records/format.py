"""The `RecordFormat` seam: what is to be known of a kind of files, and what a reader and a writer are given."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError, RowError
from sparkgap._folders import cache_folder
from sparkgap.data import storage
from sparkgap.data.discovery import FileEntry
from sparkgap.data.parquet_read import check_unchanged
from sparkgap.data.source import Chunk
from sparkgap.data.splits import FilePart, Unit

_log = logging.getLogger(__name__)
_WRONG = (ValueError, TypeError, KeyError, IndexError, OverflowError, EOFError)
"""What decoders raise on bytes that are not what they should be; pyarrow's ArrowInvalid is a ValueError."""


@dataclass(frozen=True)
class RecordFile:
    """A file, or a part of it, that a task reads.

    Args:
        part: where it is; `values` hold what the format itself put there when it planned.
        options: of the file system.
    """

    part: FilePart
    options: tuple[tuple[str, Any], ...] = field(default=(), repr=False)  # may hold credentials

    @property
    def origin(self) -> str:
        """What a user would call it."""
        return storage.origin(self.part.root, self.part.path)

    def open(self) -> pa.NativeFile:
        """Open it, as its bytes are, if it is still what it was when it was listed.

        Raises:
            FileChangedError: it is not.
        """
        system, _ = storage.filesystem(self.part.root, dict(self.options))
        check_unchanged(system, self.part, self.origin)
        return system.open_input_stream(self.part.path, compression=None)

    def local(self) -> Path:
        """Return a path of this machine where the file is; one that is elsewhere is copied into the cache."""
        system, _ = storage.filesystem(self.part.root, dict(self.options))
        check_unchanged(system, self.part, self.origin)
        if not self.part.root:
            return Path(self.part.path)
        return storage.download(self.origin, cache_folder() / "records", dict(self.options))


@dataclass
class Policy:
    """What happens with records that cannot be read. One for each file.

    Args:
        skip: whether they are left out; else they are errors.
        origin: what a user would call the file.
        skipped: how many were left out.
    """

    skip: bool
    origin: str
    skipped: int = 0

    def bad(self, record: int, reason: object, at: int | None = None) -> None:
        """Leave a record out, or refuse it.

        Args:
            record: its number in the file, from 0.
            reason: what is wrong with it.
            at: offset in the file (decompressed), where it is known.

        Raises:
            RowError: it is not to be left out.
        """
        place = "" if at is None else f" (at byte {at})"
        text = f"Record {record}{place} of {self.origin} cannot be read: {_told(reason)}"
        if not self.skip:
            raise RowError(f'{text} Give another schema=, or leave such records out with on_error="skip".')
        if not self.skipped:
            _log.warning("%s It is left out.", text)
        self.skipped += 1

    def damaged(self, at: int, reason: object) -> None:
        """Give up the rest of a file, or refuse it.

        Args:
            at: offset in the file (decompressed) from which on it cannot be read.
            reason: what is wrong.

        Raises:
            DataError: the rest is not to be left out.
        """
        text = f"{self.origin} is damaged at byte {at}: {_told(reason)}"
        if not self.skip:
            host = socket.gethostname()
            raise DataError(f'{text} (Read on host {host}.) Write it again, or read what is before it with on_error="skip".')
        _log.warning("%s The rest of the file is left out.", text)

    def done(self) -> None:
        """Tell how many records were left out."""
        if self.skipped:
            _log.warning("%s: %d records were left out.", self.origin, self.skipped)


def salvage(
    decode: Callable[[int, int], pa.RecordBatch], rows: int, first: int, policy: Policy, places: Sequence[int] | None = None
) -> Iterator[Chunk]:
    """Decode many records at once; where that fails, halve them until those that are bad are found.

    Args:
        decode: makes a batch of records `start` to `stop`.
        rows: how many records there are.
        first: number of the first one in the file.
        policy: what happens with bad ones.
        places: offset of each in the file, where they are known.
    """
    waiting = [(0, rows)] if rows else []
    while waiting:
        start, stop = waiting.pop()
        try:
            batch = decode(start, stop)
        except _WRONG as error:
            if stop - start == 1:
                policy.bad(first + start, error, None if places is None else int(places[start]))
                continue
            middle = (start + stop) // 2
            waiting += [(middle, stop), (start, middle)]
        else:
            yield Chunk(batch, policy.origin, first + start)


def _told(reason: object) -> str:
    text = f"{reason}" if isinstance(reason, str | ValueError) else f"{type(reason).__name__}: {reason}"
    return " ".join(text.split()).rstrip(".") + "."  # of one line: Spark's message is searched for it


class Output(Protocol):
    """Where a task writes: a folder that becomes visible when the whole job is done."""

    def create(self, suffix: str) -> Any:
        """Make a new file and return a binary stream that writes it; a second one in a task gets another number."""

    def wrote(self, rows: int, entry: dict[str, Any] | None = None) -> None:
        """Tell what is in the file that was made last; `entry`: what an index has to say of it."""


class RecordWriter(Protocol):
    """Writes the rows of one partition."""

    def add(self, batch: pa.RecordBatch) -> None:
        """Write rows; the columns are those of the schema, by position."""

    def close(self) -> None:
        """Write what is left, and tell `Output` of it."""


class RecordFormat(Protocol):
    """A kind of files. A frozen, picklable value whose fields are the format's own options."""

    name: ClassVar[str]

    def select(self, entries: Sequence[FileEntry], options: storage.Options) -> list[Unit]:
        """Choose among the files that were found those with records, and tell what each holds. Driver side.

        Raises:
            DataError: there is none, or what describes them is damaged.
        """

    def infer(self, file: RecordFile, rows: int) -> pa.Schema:
        """Tell the columns of a file by its first `rows` records. Driver side."""

    def read(self, file: RecordFile, schema: pa.Schema, known: frozenset[str] | None, policy: Policy) -> Iterator[Chunk]:
        """Read a file: these columns, in any convenient batches.

        Args:
            file: what to read.
            schema: columns to give, and their types.
            known: all columns that were found when the schema was inferred: a record that has others is bad. None where
                the user named the columns.
            policy: what happens with bad records.
        """

    def check(self, schema: pa.Schema) -> None:
        """Refuse columns that cannot be read as, or written to, this format.

        Raises:
            SignatureError: a column has such a type; the message names it.
        """

    def writer(self, schema: pa.Schema, output: Output, partition: int) -> RecordWriter:
        """Return a writer for one partition. In a task."""

    def index(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> tuple[str, bytes] | None:
        """Return name and content of the index of a folder, from names and entries of its files; None: it has none."""


class ReadOnly:
    """The part of a format that has no writing."""

    name: ClassVar[str]

    def writer(self, schema: pa.Schema, output: Output, partition: int) -> RecordWriter:
        """Refuse."""
        raise ConfigurationError(f"{self.name} can be read only.")

    def index(self, entries: Sequence[tuple[str, dict[str, Any]]]) -> tuple[str, bytes] | None:
        """Return nothing."""
        return None
