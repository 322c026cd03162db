"""A model together with its files, as a value that pickles: how one crosses from a task to the driver, or lies in another."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sparkgap.models import bundle
from sparkgap.models.model import Model
from sparkgap.tensors.spec import Signature


@dataclass(frozen=True)
class Carried:
    """A model and the content of its bundle.

    Args:
        ref: the bundle; its path says nothing here but the name of the file, where it is one.
        files: content by path within the bundle's folder.
    """

    ref: bundle.BundleRef
    files: Mapping[str, bytes]

    @staticmethod
    def of(model: Model) -> Carried:
        """Read the files of a model, all of them into memory.

        Raises:
            ModelFormatError: they have gone since it was loaded.
        """
        found = bundle.locate(model.ref)
        if found.is_file():
            ref, files = replace(model.ref, path=found.name, stamp=0), {found.name: found.read_bytes()}
        else:
            names = sorted(f for f in found.rglob("*") if f.is_file() and f.name != bundle.DONE)
            files = {f.relative_to(found).as_posix(): f.read_bytes() for f in names}
            ref = replace(model.ref, path="")
        return Carried(replace(ref, artifact=None), files)

    def unpack(self) -> Model:
        """Put the files into the cache folder of this machine, unless they are there, and return the model."""
        target = bundle.cache_folder() / self.ref.digest
        if not (target / bundle.DONE).exists():
            self._write(target)
        path, stamp = target, None
        if self.ref.stamp is not None:  # a model that is one file
            path = target / self.ref.path
            stamp = path.stat().st_mtime_ns
        return Model(replace(self.ref, path=str(path), stamp=stamp), Signature.from_json(self.ref.signature))

    def _write(self, target: Path) -> None:
        work = Path(tempfile.mkdtemp(prefix="carried-", dir=target.parent))
        try:
            for name, content in self.files.items():
                file = work / "files" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            bundle.publish(work / "files", target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
