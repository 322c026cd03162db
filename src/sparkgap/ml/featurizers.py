"""`ImageFeaturizer` and `TextEmbedder`: pictures and texts to vectors that Spark's own algorithms learn from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol

from sparkgap._errors import ConfigurationError
from sparkgap.ml.stage import ModelStage, given, one_of, whole
from sparkgap.models.model import Model, load
from sparkgap.tensors.image import image

if TYPE_CHECKING:
    from sparkgap.tensors.image import ImageDecoder

F = TypeVar("F", bound="_Featurizer")


class _Featurizer(ModelStage, HasInputCol, HasOutputCol):  # type: ignore[misc]
    """A model with one input tensor, of which one output becomes a vector column."""

    modelOutput: Param[str] = Param(
        Params._dummy(), "modelOutput", "name of the output tensor, for a model with several", TypeConverters.toString
    )

    def setParams(self: F, **params: Any) -> F:
        """Set any of the params by name."""
        self._set(**params)
        return self

    def setInputCol(self: F, value: str) -> F:
        """Set `inputCol`."""
        return self.setParams(inputCol=value)

    def setOutputCol(self: F, value: str) -> F:
        """Set `outputCol`."""
        return self.setParams(outputCol=value)

    def setModelOutput(self: F, value: str) -> F:
        """Set `modelOutput`."""
        return self.setParams(modelOutput=value)

    def getModelOutput(self) -> str | None:
        """Return `modelOutput`; None where the model has one output."""
        return self.getOrDefault(self.modelOutput) if self.isDefined(self.modelOutput) else None

    def _outputs(self, model: Model) -> Any:
        names = [s.name for s in model.signature.outputs]
        name = self.getModelOutput() or names[0]
        if self.getModelOutput() is None and len(names) > 1:
            raise ConfigurationError(f"The model gives {', '.join(names)}. Say which makes the vector: modelOutput={name!r}.")
        return {name: (self.getOutputCol(), "vector")}


class ImageFeaturizer(_Featurizer):
    """Pictures to vectors by a network. Classic Spark and Connect.

    The pictures are a column of files' bytes (as of `gap.images` or Spark's ``binaryFile``) or of Spark's image struct. The
    network is used as it is, or without its last layer: with ``cut="fc"`` it gives what the layer `fc` would have read.

    Args:
        model: a `Model` or anything that `gap.load` takes, with one input tensor of pictures, (batch, 3, height, width)
            unless `layout` says otherwise.
        inputCol: the pictures. Default ``"content"``.
        outputCol: the vectors. Default ``"features"``.
        cut: name of a layer of a `torch.nn.Module` that is replaced by the identity, as `named_modules` has it; ``"last"``
            for its last linear layer. Taken when the model is set. Default: none.
        size: side of the pictures in pixels. Default 224.
        fit: ``"stretch"``, ``"cover"`` or ``"contain"``; see `gap.image`. Default ``"cover"``.
        layout: ``"CHW"`` or ``"HWC"``. Default ``"CHW"``.
        scale: factor of the pixels, which are 0 to 255. Default 1 / 255.
        mean: subtracted for each channel, after `scale`. Default: that of ImageNet.
        std: divided by for each channel. Default: that of ImageNet.
        modelOutput: name of the output tensor, for a model with several.
        batchSize: rows the model gets at a time. Default: by the bytes of a row.
        onError: for pictures that cannot be read: ``"raise"``, ``"null"`` or ``"skip"``. Default ``"raise"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<n>"``. Default ``"auto"``.

    Raises:
        ConfigurationError: `cut` is not for this model, or names no layer of it.
    """

    cut: Param[str] = Param(Params._dummy(), "cut", "name of the layer that is left out, or last", TypeConverters.toString)
    size: Param[int] = Param(Params._dummy(), "size", "side of the pictures in pixels", whole("size", 1))
    fit: Param[str] = Param(Params._dummy(), "fit", "stretch, cover or contain", one_of("fit", "stretch", "cover", "contain"))
    layout: Param[str] = Param(Params._dummy(), "layout", "CHW or HWC", one_of("layout", "CHW", "HWC"))
    scale: Param[float] = Param(Params._dummy(), "scale", "factor of the pixels", TypeConverters.toFloat)
    mean: Param[list[float]] = Param(Params._dummy(), "mean", "subtracted for each channel", TypeConverters.toListFloat)
    std: Param[list[float]] = Param(Params._dummy(), "std", "divided by for each channel", TypeConverters.toListFloat)

    def __init__(
        self,
        *,
        model: Any = None,
        inputCol: str | None = None,
        outputCol: str | None = None,
        cut: str | None = None,
        size: int | None = None,
        fit: str | None = None,
        layout: str | None = None,
        scale: float | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        modelOutput: str | None = None,
        batchSize: int | None = None,
        onError: str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self._setDefault(inputCol="content", outputCol="features", size=224, fit="cover", layout="CHW", scale=1 / 255)
        self._setDefault(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        params: dict[str, Any] = {
            "inputCol": inputCol,
            "outputCol": outputCol,
            "cut": cut,
            "size": size,
            "fit": fit,
            "layout": layout,
        }
        params |= {"scale": scale, "mean": mean, "std": std, "modelOutput": modelOutput, "batchSize": batchSize}
        self.setParams(**given({**params, "onError": onError, "device": device}))
        if model is not None:
            self.setModel(model)

    def setCut(self, value: str) -> ImageFeaturizer:
        """Set `cut`: the layer that is left out of the next model that is set."""
        return self.setParams(cut=value)

    def getCut(self) -> str | None:
        """Return `cut`; None where the model is used as it is."""
        return self.getOrDefault(self.cut) if self.isDefined(self.cut) else None

    def setSize(self, value: int) -> ImageFeaturizer:
        """Set `size`: side of the pictures in pixels."""
        return self.setParams(size=value)

    def getSize(self) -> int:
        """Return `size`."""
        return int(self.getOrDefault(self.size))

    def setFit(self, value: str) -> ImageFeaturizer:
        """Set `fit`: how pictures become squares."""
        return self.setParams(fit=value)

    def getFit(self) -> str:
        """Return `fit`."""
        return str(self.getOrDefault(self.fit))

    def setLayout(self, value: str) -> ImageFeaturizer:
        """Set `layout`: order of the axes."""
        return self.setParams(layout=value)

    def getLayout(self) -> str:
        """Return `layout`."""
        return str(self.getOrDefault(self.layout))

    def setScale(self, value: float) -> ImageFeaturizer:
        """Set `scale`: factor of the pixels."""
        return self.setParams(scale=value)

    def getScale(self) -> float:
        """Return `scale`."""
        return float(self.getOrDefault(self.scale))

    def setMean(self, value: Sequence[float]) -> ImageFeaturizer:
        """Set `mean`: what is subtracted for each channel."""
        return self.setParams(mean=list(value))

    def getMean(self) -> list[float]:
        """Return `mean`."""
        return list(self.getOrDefault(self.mean))

    def setStd(self, value: Sequence[float]) -> ImageFeaturizer:
        """Set `std`: what is divided by for each channel."""
        return self.setParams(std=list(value))

    def getStd(self) -> list[float]:
        """Return `std`."""
        return list(self.getOrDefault(self.std))

    def _prepared(self, source: Any) -> Model:
        cut = self.getCut()
        return load(source if cut is None else headless(source, cut))

    def _inputs(self) -> list[ImageDecoder]:
        names = ("size", "fit", "layout", "scale", "mean", "std")
        return [image(self.getInputCol(), **{name: self.getOrDefault(name) for name in names})]


class TextEmbedder(_Featurizer):
    """Texts to vectors by a model with one input tensor of texts. Classic Spark and Connect.

    Args:
        model: the folder of a sentence-transformers model, a `SentenceTransformer`, or any other `Model` that takes texts
            (an ONNX file with its tokenizer in the graph). For options, e.g. ``normalize=True``, pass ``gap.load(…)``.
        inputCol: the texts. Default ``"text"``.
        outputCol: the vectors. Default ``"features"``.
        modelOutput: name of the output tensor, for a model with several.
        batchSize: rows the model gets at a time. Default: by the bytes of a row.
        onError: for null texts: ``"raise"``, ``"null"`` or ``"skip"``. Default ``"raise"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:<n>"``. Default ``"auto"``.
    """

    def __init__(
        self,
        *,
        model: Any = None,
        inputCol: str | None = None,
        outputCol: str | None = None,
        modelOutput: str | None = None,
        batchSize: int | None = None,
        onError: str | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        self._setDefault(inputCol="text", outputCol="features")
        params = {"inputCol": inputCol, "outputCol": outputCol, "modelOutput": modelOutput, "batchSize": batchSize}
        self.setParams(**given({**params, "onError": onError, "device": device}))
        if model is not None:
            self.setModel(model)

    def _inputs(self) -> list[str]:
        return [self.getInputCol()]


def headless(network: Any, layer: str) -> Any:
    """Return a copy of a PyTorch network in which a layer is replaced by the identity, in evaluation mode.

    Args:
        network: a `torch.nn.Module`; it is not changed.
        layer: name of the layer, as `named_modules` has it; ``"last"`` for the last linear layer.

    Raises:
        ConfigurationError: it is no such module, or has no such layer.
    """
    if not hasattr(network, "named_modules"):
        kind = type(network)
        raise ConfigurationError(
            f"cut is for a torch.nn.Module; got a {kind.__module__}.{kind.__qualname__}. Leave it out, and give a model that "
            "ends before its last layer."
        )
    import torch

    linear = [name for name, part in network.named_modules() if isinstance(part, torch.nn.Linear) and name]
    name = linear[-1] if layer == "last" and linear else layer
    if name not in dict(network.named_modules()) or not name:
        raise ConfigurationError(
            f"{type(network).__name__} has no layer {layer!r}; its linear layers are {', '.join(linear) or 'none'}. Name one."
        )
    network = copy.deepcopy(network)
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, torch.nn.Identity())
    return network.eval()
