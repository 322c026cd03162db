"""The `ModelAdapter` seam: how the models of one framework are recognised, packed and run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap.tensors.spec import Block, Signature


@dataclass(frozen=True)
class Format:
    """One kind of source that an adapter takes; a row of the support table.

    Args:
        name: short stable name, e.g. ``"torchscript"``.
        source: what the user passes, in words, e.g. ``"`.pt` file (TorchScript)"``.
        signature: where the signature comes from: ``"read"`` from the format, ``"found"`` by running one
            block on the driver, or ``"given"`` by the user.
        runs_code: whether loading such a file can run code that is in it, so that `trust=True` is needed.
    """

    name: str
    source: str
    signature: str
    runs_code: bool = False


@dataclass(frozen=True)
class Packed:
    """What `pack` found out about a model while it wrote the bundle.

    Args:
        format: name of the `Format`.
        signature: what is known of inputs and outputs; unknown parts are left open.
        meta: anything that `open` needs besides the files; must be JSON.
        file: where the source is one local file that can be used as it is, its path: the bundle then refers
            to it and copies nothing.
    """

    format: str
    signature: Signature
    meta: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = None


@dataclass(frozen=True)
class Runtime:
    """Where a predictor runs.

    Args:
        device: ``"cpu"`` or a framework device such as ``"cuda:0"``.
        threads: how many threads the framework may use: the cpus of the task.
    """

    device: str = "cpu"
    threads: int = 1


class Predictor(ABC):
    """A loaded model in one process. Used by one thread at a time."""

    @abstractmethod
    def predict(self, block: Block) -> Block:
        """Return the output tensors of a block, named as in the signature, one entry a row.

        The input arrays may be read-only views of Arrow memory: never write into them, and keep no
        reference to them (or to anything that shares their memory) after returning, but the outputs.
        """

    def layers(self, names: Sequence[str], block: Block) -> dict[str, np.ndarray]:
        """Return what these layers give for a block, for people to look at.

        Raises:
            ConfigurationError: there is no such layer, or models of this framework do not show theirs.
        """
        raise ConfigurationError(
            "Models of this framework do not show their layers; those of PyTorch (modules), Keras (functional and sequential "
            "models) and ONNX do. Leave out layers."
        )

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether `error`, raised by `predict`, means that a smaller batch could succeed."""
        return isinstance(error, MemoryError) or "out of memory" in str(error).lower()

    def close(self) -> None:  # noqa: B027 - optional hook
        """Release what the model holds. Called when it leaves the cache."""


class TransformsItself(ABC):
    """What is no model, and yet can be applied to a table: `gap.transform` hands it its own arguments."""

    @abstractmethod
    def transform(self, df: Any, *, inputs: Any = None, **options: Any) -> Any:
        """Return the table with the outputs; see `gap.transform`."""


class ModelAdapter(ABC):
    """One framework (the seam; entry-point group `sparkgap.models`).

    `match` and `pack` run on the driver, `open` on executors (and on the driver for `Model.predict` and to
    find a signature). The module of an adapter imports no framework at its top: `import sparkgap` and
    `match` must work where the framework is absent.

    A new adapter is checked by `sparkgap.testing.ModelAdapterConformance`.
    """

    name: ClassVar[str]
    """Stable short name, e.g. ``"onnx"``."""

    title: ClassVar[str]
    """Name for people, e.g. ``"ONNX Runtime"``."""

    extra: ClassVar[str]
    """The extra of sparkgap that installs what this adapter needs; empty where nothing more is needed."""

    requires: ClassVar[tuple[str, ...]] = ()
    """Modules that must import on every executor."""

    formats: ClassVar[tuple[Format, ...]]
    """The kinds of source taken, for messages and the support table."""

    options: ClassVar[Mapping[str, str]] = {}
    """Keyword options of `load` that belong to this adapter: name -> one line of what it does."""

    gpu: ClassVar[bool] = False
    """Whether `Runtime.device` may be other than ``"cpu"``."""

    @abstractmethod
    def match(self, source: Any) -> str | None:
        """Return the name of the format if this adapter takes `source`, else None.

        Told by the type's module, the file's suffix or its first bytes; imports no framework.
        """

    def match_named(self, source: Any) -> str | None:
        """Like `match`, where the user named this adapter: may take more, e.g. a plain function or any suffix."""
        return self.match(source)

    @abstractmethod
    def pack(self, source: Any, folder: Path, options: Mapping[str, Any]) -> Packed:
        """Write what executors need into the empty `folder` (or name a file in the result).

        Args:
            source: what `match` accepted: an object, or a path as `pathlib.Path`.
            folder: an empty directory.
            options: the options that the user gave; only names in `options`.

        Raises:
            ModelFormatError: the source is unreadable or truncated.
        """

    @abstractmethod
    def open(self, path: Path, packed: Packed, runtime: Runtime) -> Predictor:
        """Load the model in this process.

        Args:
            path: the bundle's folder, or the file where `packed.file` names one (its own `file` may not
                exist on this machine: use `path`).
            packed: what `pack` returned; `packed.signature` may have been completed since.
            runtime: device and threads.

        Raises:
            ModelFormatError: the files are unreadable.
            MissingDependencyError: the framework is not installed here.
        """

    def family(self, packed: Packed) -> str | None:
        """Name the process family of a model, or None where it can share a process with anything.

        Two models of different families never run in the same process: the second one gets a child process
        of its own (e.g. Keras fixes its backend at first import; TensorFlow and Paddle crash each other).
        """
        return None
