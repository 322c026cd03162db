"""Checkpoints in a folder: each one file, written whole or not at all, named by its step, the time, and its digest.

Runs wherever progress is saved: in a rank on an executor, or on the driver. As the digest is in the name, a damaged
file is known, and two writers never write to one file. Nothing is pickled; see `tensor_file`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError, SparkGapError
from sparkgap.cooperative.random_states import rng_state, set_rng_state
from sparkgap.cooperative.tensor_file import decode, encode
from sparkgap.data import storage
from sparkgap.shards.whole_files import WholeFiles

__all__ = ["Checkpoint", "Checkpoints", "rng_state", "set_rng_state"]

_log = logging.getLogger("sparkgap.train")

_NAME = re.compile(r"step-(\d{12,})-([0-9a-f]{16})-([0-9a-f]{32})\.safetensors")
_TRIES = 5  # of a listing whose files another writer has pruned before they were read
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read, and is whole.

    Attributes:
        step: that it was saved with.
        state: likewise; arrays are NumPy's, tensors are PyTorch's on the CPU, both writable.
        facts: likewise.
        name: of the file.
    """

    step: int
    state: dict[str, Any]
    facts: dict[str, Any]
    name: str


class _Entry(NamedTuple):
    """A file as its name tells of it; the later it was made for the same step, the greater."""

    step: int
    time: str
    digest: str
    file: str


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    Args:
        path: local folder, or URI with any scheme of pyarrow or fsspec; made where it is absent.
        keep: how many steps are kept; older ones are deleted once a new one is there. None for all.
        options: arguments of the fsspec file system.

    Raises:
        ConfigurationError: an option makes no sense, or nobody knows the scheme.
    """

    def __init__(self, path: str | Path, keep: int | None = 3, *, options: storage.Options | None = None) -> None:
        if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 1):
            raise ConfigurationError(f"keep is {keep!r}; it must be a number of checkpoints from 1 on, or None for all.")
        self._folder = WholeFiles(*storage.locate(path), tuple((options or {}).items()))
        self._keep = keep

    def save(self, step: int, state: Mapping[str, Any], facts: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint, and then delete those that are too many. Of a gang, one rank calls this.

        It is there completely or, if the process ends before this returns, not at all. A second one of the same step takes
        precedence over the first. Those of later steps (of a training that went on, and was taken up again from before)
        stay until this training has passed them.

        Args:
            step: from 0.
            state: nested dicts, lists and tuples of arrays and tensors, numbers, strings and bytes.
            facts: small JSON values for people.

        Raises:
            ConfigurationError: the step is none, or the state holds what a checkpoint cannot; says where.
            DataError: it cannot be written, e.g. as the disk is full. Those before are as they were.
        """
        if not isinstance(step, int | np.integer) or isinstance(step, bool) or step < 0:
            raise ConfigurationError(f"step is {step!r}; it must be an integer from 0 on.")
        parts = encode(dict(state), dict(facts or {}))
        name = f"step-{int(step):012}-{time.time_ns():016x}-{_digest(parts)}.safetensors"
        with self._telling(name, "written"):
            self._folder.remove_stale()
            self._folder.write(name, parts)
        with self._telling("old checkpoints", "deleted"):
            self._prune(_entry(name))

    def steps(self) -> list[int]:
        """Return the steps of which there is a checkpoint, ascending; their files are not read.

        Raises:
            DataError: the folder cannot be listed.
        """
        return sorted({entry.step for entry in self._entries()})

    def latest(self) -> Checkpoint | None:
        """Read the last checkpoint that is whole; damaged ones are passed over, with a warning that names them.

        Returns:
            None where there is no checkpoint.

        Raises:
            DataError: there are some, and all are damaged; or the folder cannot be read.
        """
        for _ in range(_TRIES):
            entries = self._entries()
            with self._telling("", "read"):
                found, damaged = self._newest(entries[::-1])
            if found is not None or not entries:
                return found
            if len(damaged) == len(entries):
                raise DataError(
                    f"All checkpoints in {self._folder.origin} are damaged: {'; '.join(damaged)}. Restore them "
                    "from a copy, or delete them to begin from the start."
                )
        raise DataError(
            f"Other writers delete the checkpoints in {self._folder.origin} faster than they can be read; raise keep=."
        )

    def _newest(self, entries: Sequence[_Entry]) -> tuple[Checkpoint | None, list[str]]:
        damaged: list[str] = []
        for entry in entries:
            try:
                return self._read(entry), damaged
            except FileNotFoundError:  # pruned since the folder was listed: there are newer ones
                continue
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno != errno.EIO:  # no sign of damage: no permission, no network
                    raise
                damaged.append(f"{self._folder.name(entry.file)}: {error}")
                _log.warning("Checkpoint %s is damaged and passed over: %s", self._folder.name(entry.file), error)
        return None, damaged

    def _read(self, entry: _Entry) -> Checkpoint:
        content = self._folder.read(entry.file)
        if (found := _digest([content.data])) != entry.digest:
            raise ValueError(f"its {content.size} bytes have the digest {found}, not that of its name: truncated or changed")
        state, facts = decode(content)
        return Checkpoint(entry.step, state, facts, self._folder.name(entry.file))

    def _entries(self) -> list[_Entry]:
        """Return what there is, the oldest first."""
        with self._telling("", "listed"):
            return sorted(_entry(name) for name in self._folder.files() if _NAME.fullmatch(name))

    def _prune(self, written: _Entry) -> None:
        """Delete what is older than the newest `keep` steps up to this one, and what was there of this one before.

        Of two writers of one step, the earlier leaves the file of the later alone: one of them stays.
        """
        entries = [e for e in self._entries() if e <= written]
        kept = {e.step for e in entries}
        if self._keep is not None:
            kept = set(sorted(kept)[-self._keep :])
        for entry in entries:
            if entry.step not in kept or (entry.step == written.step and entry < written):
                self._folder.remove(entry.file)

    @contextmanager
    def _telling(self, file: str, done: str) -> Iterator[None]:
        try:
            yield
        except SparkGapError:
            raise
        except (OSError, pa.ArrowException) as error:
            place = self._folder.name(file) if file.startswith("step-") else f"{file} in {self._folder.origin}".strip()
            advice = "Check the path, permissions and credentials."
            if getattr(error, "errno", None) in _FULL:
                advice = f"There is no space left. Free some, lower keep= (it is {self._keep}), or choose another path."
            raise DataError(
                f"Checkpoint {place} cannot be {done}: {error}. {advice} Earlier checkpoints are as they were."
            ) from error


def _entry(name: str) -> _Entry:
    step, made, digest = name.removesuffix(".safetensors").split("-")[1:]
    return _Entry(int(step), made, digest, name)


def _digest(parts: Sequence[memoryview]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
