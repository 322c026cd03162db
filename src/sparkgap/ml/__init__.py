"""Spark ML stages: models and networks as Transformers and Estimators of a `Pipeline`.

Each name loads what it needs at first use. Where the stages run is told by each; they need PySpark's ``ml`` package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparkgap.ml.featurizers import ImageFeaturizer, TextEmbedder
    from sparkgap.ml.mlp import MultilayerPerceptronClassifier, MultilayerPerceptronRegressor
    from sparkgap.ml.mlp_model import MultilayerPerceptronClassificationModel, MultilayerPerceptronRegressionModel
    from sparkgap.ml.mlp_summary import (
        MultilayerPerceptronClassificationSummary,
        MultilayerPerceptronClassificationTrainingSummary,
        MultilayerPerceptronRegressionSummary,
        MultilayerPerceptronRegressionTrainingSummary,
    )
    from sparkgap.ml.model_transformer import ModelTransformer
    from sparkgap.ml.net_estimators import KerasClassifier, KerasRegressor, TorchClassifier, TorchRegressor
    from sparkgap.ml.net_models import NetworkClassificationModel, NetworkRegressionModel
    from sparkgap.ml.sql import register
    from sparkgap.ml.stored_files import trusted
    from sparkgap.ml.storing import Stored

_HOME = {
    "ImageFeaturizer": "featurizers",
    "KerasClassifier": "net_estimators",
    "KerasRegressor": "net_estimators",
    "ModelTransformer": "model_transformer",
    "MultilayerPerceptronClassificationModel": "mlp_model",
    "MultilayerPerceptronClassificationSummary": "mlp_summary",
    "MultilayerPerceptronClassificationTrainingSummary": "mlp_summary",
    "MultilayerPerceptronClassifier": "mlp",
    "MultilayerPerceptronRegressionModel": "mlp_model",
    "MultilayerPerceptronRegressionSummary": "mlp_summary",
    "MultilayerPerceptronRegressionTrainingSummary": "mlp_summary",
    "MultilayerPerceptronRegressor": "mlp",
    "NetworkClassificationModel": "net_models",
    "NetworkRegressionModel": "net_models",
    "Stored": "storing",
    "TextEmbedder": "featurizers",
    "TorchClassifier": "net_estimators",
    "TorchRegressor": "net_estimators",
    "register": "sql",
    "trusted": "stored_files",
}

__all__ = [
    "ImageFeaturizer",
    "KerasClassifier",
    "KerasRegressor",
    "ModelTransformer",
    "MultilayerPerceptronClassificationModel",
    "MultilayerPerceptronClassificationSummary",
    "MultilayerPerceptronClassificationTrainingSummary",
    "MultilayerPerceptronClassifier",
    "MultilayerPerceptronRegressionModel",
    "MultilayerPerceptronRegressionSummary",
    "MultilayerPerceptronRegressionTrainingSummary",
    "MultilayerPerceptronRegressor",
    "NetworkClassificationModel",
    "NetworkRegressionModel",
    "Stored",
    "TextEmbedder",
    "TorchClassifier",
    "TorchRegressor",
    "register",
    "trusted",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'sparkgap.ml' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"sparkgap.ml.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
