"""`ModelTransformer`: any model as a stage of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCols, HasOutputCols

from sparkgap.ml.stage import ModelStage, given
from sparkgap.tensors.spec import OBJECTS, TensorSpec

if TYPE_CHECKING:
    from sparkgap.models.model import Model


class ModelTransformer(ModelStage, HasInputCols, HasOutputCols):  # type: ignore[misc]
    """A model of any framework as a Spark ML Transformer, over `gap.transform`. Classic Spark and Connect.

    Args:
        model: a `Model`, or anything that `gap.load` takes: a path, a module, an estimator, a function.
        inputCols: columns in the order of the model's input tensors; for a model with one tensor also several scalar columns,
            which are stacked. Vectors, arrays and numbers are taken. Default: the column of each tensor's name.
        outputCols: names of the new columns, in the order of the output tensors. Default: the names of the tensors.
        batchSize: rows the model gets at a time. Default: by the bytes of a row.
        vectorOutput: whether outputs of rank 1 a row become Spark ML vectors; else they are arrays. Default False.
        onError: for rows that cannot be decoded or scored: ``"raise"``, ``"null"`` or ``"skip"``. Default ``"raise"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<n>"``. Default ``"auto"``.

    `transform` checks columns and names before anything runs; it raises `SignatureError` where a column is missing or
    cannot feed its tensor, and `ConfigurationError` where an option is wrong or a name is there already.

    Example:
        >>> import sparkgap as gap
        >>> from sparkgap.ml import ModelTransformer
        >>> spark = gap.session("local[2]")
        >>> df = spark.range(3).selectExpr("double(id) AS x")
        >>> stage = ModelTransformer(model=lambda x: {"y": 2 * x}, inputCols=["x"], outputCols=["twice"])
        >>> [row.twice for row in stage.transform(df).orderBy("x").collect()]
        [0.0, 2.0, 4.0]
    """

    vectorOutput: Param[bool] = Param(
        Params._dummy(), "vectorOutput", "whether outputs of rank 1 become vectors, not arrays", TypeConverters.toBoolean
    )

    def __init__(
        self,
        *,
        model: Any = None,
        inputCols: Sequence[str] | None = None,
        outputCols: Sequence[str] | None = None,
        batchSize: int | None = None,
        vectorOutput: bool | None = None,
        onError: str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self._setDefault(vectorOutput=False)
        params = {"inputCols": inputCols, "outputCols": outputCols, "batchSize": batchSize, "vectorOutput": vectorOutput}
        self.setParams(**given({**params, "onError": onError, "device": device}))
        if model is not None:
            self.setModel(model)

    def setParams(self, **params: Any) -> ModelTransformer:
        """Set any of the params by name."""
        self._set(**params)
        return self

    def setInputCols(self, value: Sequence[str]) -> ModelTransformer:
        """Set `inputCols`."""
        return self.setParams(inputCols=list(value))

    def setOutputCols(self, value: Sequence[str]) -> ModelTransformer:
        """Set `outputCols`."""
        return self.setParams(outputCols=list(value))

    def setVectorOutput(self, value: bool) -> ModelTransformer:
        """Set `vectorOutput`."""
        return self.setParams(vectorOutput=value)

    def getVectorOutput(self) -> bool:
        """Return `vectorOutput`."""
        return bool(self.getOrDefault(self.vectorOutput))

    def _inputs(self) -> Any:
        return self.getInputCols() if self.isDefined(self.inputCols) else None

    def _outputs(self, model: Model) -> Any:
        specs = model.signature.outputs
        names = self.getOutputCols() if self._named() else [s.name for s in specs]
        if not self.getVectorOutput() or len(names) != len(specs):  # a wrong number is refused by transform
            return names
        return {s.name: (n, "vector" if _is_vector(s) else "array") for s, n in zip(specs, names, strict=True)}

    def _named(self) -> bool:
        # Spark gives `outputCols` a default, `<uid>__output`, of which there is one whatever the model gives.
        return bool(self.isSet(self.outputCols))


def _is_vector(spec: TensorSpec) -> bool:
    return spec.shape is not None and len(spec.shape) == 1 and spec.dtype not in OBJECTS
