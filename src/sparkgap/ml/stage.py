"""What the stages around a model share: the model itself, how it runs, how it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pyspark.ml import Transformer
from pyspark.ml.param import Param, Params, TypeConverters

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.data.source import Source
from sparkgap.embedded import planning
from sparkgap.embedded.api import sample_rows, transform
from sparkgap.embedded.boundary import decide
from sparkgap.ml.storing import Stored
from sparkgap.models.model import Model, load

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

S = TypeVar("S", bound="ModelStage")
_MODEL = "model"
_POLICIES = ("raise", "null", "skip")


def whole(name: str, least: int) -> Any:
    """Return a converter for whole numbers from `least` on."""

    def convert(value: Any) -> int:
        number = int(TypeConverters.toInt(value))
        if number < least:
            raise ConfigurationError(f"{name} must be a whole number of at least {least}; got {value!r}.")
        return number

    return convert


def one_of(name: str, *choices: str) -> Any:
    """Return a converter for one of a few words."""

    def convert(value: Any) -> str:
        if value not in choices:
            raise ConfigurationError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")
        return str(value)

    return convert


class ModelStage(Transformer, Stored):  # type: ignore[misc]
    """A Transformer around a `Model`. Lazy, as `gap.transform` is: the model runs when an action asks for rows."""

    batchSize: Param[int] = Param(
        Params._dummy(), "batchSize", "rows the model gets at a time; default by the bytes of a row", whole("batchSize", 1)
    )
    onError: Param[str] = Param(
        Params._dummy(), "onError", "for rows that cannot be scored: raise, null or skip", one_of("onError", *_POLICIES)
    )
    device: Param[str] = Param(Params._dummy(), "device", "auto, cpu, cuda or cuda:<n>", TypeConverters.toString)

    def __init__(self) -> None:
        super().__init__()
        self._model: Model | None = None
        self._completed: dict[Any, Model] = {}
        self._setDefault(onError="raise", device="auto")

    def setModel(self: S, value: Any) -> S:
        """Set the model: a `Model`, or anything that `gap.load` takes."""
        self._model, self._completed = self._prepared(value), {}
        return self

    def getModel(self) -> Model:
        """Return the model.

        Raises:
            ConfigurationError: there is none yet.
        """
        if self._model is None:
            raise ConfigurationError(f"{self.uid} has no model. Set one: {type(self).__name__}(model=…) or setModel(…).")
        return self._model

    def setBatchSize(self: S, value: int) -> S:
        """Set `batchSize`: rows that the model gets at a time."""
        self._set(batchSize=value)
        return self

    def getBatchSize(self) -> int | None:
        """Return `batchSize`; None where the bytes of a row tell it."""
        return self.getOrDefault(self.batchSize) if self.isDefined(self.batchSize) else None

    def setOnError(self: S, value: str) -> S:
        """Set `onError`: what happens to rows that cannot be decoded or scored."""
        self._set(onError=value)
        return self

    def getOnError(self) -> str:
        """Return `onError`."""
        return str(self.getOrDefault(self.onError))

    def setDevice(self: S, value: str) -> S:
        """Set `device`."""
        self._set(device=value)
        return self

    def getDevice(self) -> str:
        """Return `device`."""
        return str(self.getOrDefault(self.device))

    def _prepared(self, source: Any) -> Model:
        """Return the model of a source."""
        return load(source)

    def _inputs(self) -> Any:
        """Return `inputs` of `gap.transform`."""
        raise NotImplementedError

    def _outputs(self, model: Model) -> Any:
        """Return `outputs` of `gap.transform`, for a model whose outputs are known."""
        raise NotImplementedError

    def _transform(self, dataset: DataFrame | Source) -> DataFrame:
        model = self._complete(dataset)
        return transform(
            dataset,
            model,
            inputs=self._inputs(),
            outputs=self._outputs(model),
            batch_size=self.getBatchSize(),
            on_error=self.getOnError(),
            device=self.getDevice(),
        )

    def _complete(self, dataset: DataFrame | Source) -> Model:
        """Return the model with its outputs; where it does not tell them, one row is run, once for columns of these types."""
        model = self.getModel()
        if isinstance(dataset, Source):
            spark, types = _spark.active_session(), {f.name: f.type for f in dataset.schema}
        else:
            spark, types = dataset.sparkSession, _spark.arrow_types(dataset.schema)
        planned = planning.plan_inputs(self._inputs(), model.signature, types)
        key = tuple((i.spec, i.decoder) for i in planned)
        if key not in self._completed:
            made, _ = planning.complete(model, planned, lambda: sample_rows(decide(dataset, "auto", spark), planned))
            self._completed[key] = made
        return self._completed[key]

    def _stored_models(self) -> Mapping[str, Model]:
        return {} if self._model is None else {_MODEL: self._model}

    def _restore(self, models: Mapping[str, Model], arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
        self._model = models.get(_MODEL)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a constructor that are not None."""
    return {name: value for name, value in values.items() if value is not None}
