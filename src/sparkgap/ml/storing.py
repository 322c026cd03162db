"""`Stored`: how stages are saved and loaded, alone and inside Spark's pipelines and validators.

A stage's folder holds ``metadata``, which Spark writes (class, uid, params, and what `_stored_facts` gives), and beside
it ``models/<name>/`` with the files of each bundle, and ``arrays.safetensors``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from pyspark.errors import AnalysisException
from pyspark.ml.param import Params
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter

from sparkgap import _spark
from sparkgap._errors import ConfigurationError, ModelFormatError
from sparkgap.ml import stored_files
from sparkgap.ml.stored_files import Folder, trusted

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sparkgap.models.model import Model

S = TypeVar("S", bound="Stored")
_KEY = "sparkgap"


class Stored(MLWritable, MLReadable[Any]):  # type: ignore[misc]  # PySpark is not typed here
    """Mixin for stages: `Params` that keep models, arrays and small facts beside their params.

    A class that mixes it in has a constructor that needs no argument. The files go where Spark writes the metadata: to any
    file system that Spark and this process can both reach.
    """

    def _stored_models(self) -> Mapping[str, Model]:
        """Return the models to be kept, by name."""
        return {}

    def _stored_arrays(self) -> Mapping[str, np.ndarray]:
        """Return the arrays to be kept, by name."""
        return {}

    def _stored_facts(self) -> Mapping[str, Any]:
        """Return what else is to be kept: small JSON values, by name."""
        return {}

    def _restore(self, models: Mapping[str, Model], arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        """Take back what was kept. The params are set already."""

    def write(self) -> StoredWriter:
        """Return the writer: ``stage.write().overwrite().save(path)``."""
        return StoredWriter(self)

    @classmethod
    def read(cls) -> StoredReader[Any]:
        """Return the reader: ``Stage.read().load(path)``."""
        return StoredReader(cls)

    @classmethod
    def load(cls: type[S], path: str, *, trust: bool = False) -> S:
        """Load a stage from its folder.

        Args:
            path: a local path, or an address that Spark and this process can both reach.
            trust: allow models that can run code when they are opened; see `sparkgap.ml.trusted`.

        Raises:
            ModelFormatError: the folder holds a stage of another class, or is damaged.
            UntrustedModelError: a model in it can run code, and nobody vouched for it.
        """
        if not trust:
            return cast(S, cls.read().load(path))
        with trusted():
            return cast(S, cls.read().load(path))


class StoredWriter(MLWriter):  # type: ignore[misc]
    """Saves a `Stored` stage. Driver side."""

    def __init__(self, instance: Stored) -> None:
        super().__init__()
        self.instance = instance

    def save(self, path: str) -> None:
        """Write the stage's folder.

        Raises:
            ConfigurationError: there is something already and `overwrite()` was not called; or this process cannot
                reach the file system that Spark has written to.
        """
        # Asked first: a stage that cannot be saved must not cost what lies there.
        models, arrays = dict(self.instance._stored_models()), dict(self.instance._stored_arrays())
        kept = {
            "facts": _json(dict(self.instance._stored_facts())),
            "models": {name: stored_files.describe(model) for name, model in models.items()},
            "arrays": bool(arrays),
        }
        if self.shouldOverwrite:
            self._remove(path)
        self._save_metadata(path, kept)
        if models or arrays:
            folder = Folder.of(path, self.sparkSession)
            for name, model in models.items():
                stored_files.write_model(folder, name, model)
            if arrays:
                stored_files.write_arrays(folder, arrays)

    def saveImpl(self, path: str) -> None:
        """As `save`."""
        self.save(path)

    def _save_metadata(self, path: str, kept: Mapping[str, Any]) -> None:
        try:
            DefaultParamsWriter.saveMetadata(cast(Params, self.instance), path, self.sparkSession, {_KEY: dict(kept)})
        except AnalysisException as error:
            if error.getCondition() != "PATH_ALREADY_EXISTS":
                raise
            raise ConfigurationError(
                f"There is something at {path} already, so nothing was saved. Choose another path, or replace it: "
                "stage.write().overwrite().save(path)."
            ) from error

    def _remove(self, path: str) -> None:
        if _spark.is_connect(self.sparkSession):
            from pyspark.ml.connect.readwrite import RemoteMLWriter

            RemoteMLWriter.handleOverwrite(path, True)
        else:
            self._handleOverwrite(path)


class StoredReader(MLReader[S]):  # type: ignore[misc]
    """Loads a `Stored` stage. Driver side."""

    def __init__(self, kind: type[S]) -> None:
        super().__init__()
        self._kind = kind

    def load(self, path: str) -> S:
        """Read the stage's folder."""
        metadata = _metadata(path, self.sparkSession)
        name = f"{self._kind.__module__}.{self._kind.__name__}"
        if metadata["class"] != name:
            raise ModelFormatError(f"{path} holds a {metadata['class']}, not a {name}. Load it with that class.")
        stage = self._kind()
        params = cast(Params, stage)
        params._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(cast(Any, stage), metadata)
        kept = metadata.get(_KEY) or {"facts": {}, "models": {}, "arrays": False}  # Spark's own writer leaves it out
        if kept["models"] or kept["arrays"]:
            folder = Folder.of(path, self.sparkSession)
            models = {key: stored_files.read_model(folder, key, told) for key, told in kept["models"].items()}
            arrays = stored_files.read_arrays(folder) if kept["arrays"] else {}
            stage._restore(models, arrays, kept["facts"])
        else:
            stage._restore({}, {}, kept["facts"])
        return stage


def _metadata(path: str, spark: SparkSession) -> dict[str, Any]:
    try:
        return dict(DefaultParamsReader.loadMetadata(path, spark))
    except AnalysisException as error:
        if error.getCondition() != "PATH_NOT_FOUND":
            raise
        raise ModelFormatError(f"There is no saved stage at {path}: it has no folder `metadata`. Check the path.") from error


def _json(facts: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(facts)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"What a stage keeps as facts must be plain JSON values: {error}. Got {facts!r}.") from error
    return facts
