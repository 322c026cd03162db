"""Deep learning on Apache Spark, for every framework.

`import sparkgap as gap` loads neither Spark nor a framework; each name loads what it needs at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparkgap._errors import (
        ConfigurationError,
        DataError,
        FileChangedError,
        MissingDependencyError,
        ModelError,
        ModelFormatError,
        ModelOutputError,
        ModelProcessError,
        RankError,
        RowError,
        RunCancelledError,
        RunError,
        SessionError,
        SignatureError,
        SparkGapError,
        TaskError,
        UntrustedModelError,
    )
    from sparkgap._session import session
    from sparkgap.blocks.aggregates import aggregate
    from sparkgap.blocks.maps import map_blocks, map_rows
    from sparkgap.blocks.reductions import reduce_blocks, reduce_rows
    from sparkgap.blocks.shapes import analyze, append_shape, print_schema
    from sparkgap.cooperative.api import train
    from sparkgap.cooperative.black_box import cooperate
    from sparkgap.cooperative.fit_api import fit
    from sparkgap.cooperative.strategies.all_reduce import AllReduce
    from sparkgap.cooperative.strategies.compression import Threshold, TopK
    from sparkgap.cooperative.strategies.local_sgd import LocalSGD, OuterSGD
    from sparkgap.cooperative.strategies.parameter_server import ParameterServer
    from sparkgap.data.image_files import images
    from sparkgap.data.parquet import files
    from sparkgap.embedded.api import transform
    from sparkgap.embedded.explanation import explain
    from sparkgap.embedded.function import udf
    from sparkgap.embedded.options import Batching, OnError, Sampling
    from sparkgap.evaluation.api import evaluate
    from sparkgap.evaluation.evaluated import Evaluation
    from sparkgap.evaluation.example_scores import per_example
    from sparkgap.ml.sql import register
    from sparkgap.models.model import Model, load
    from sparkgap.monitor.exporters.pump import export
    from sparkgap.monitor.records import runs
    from sparkgap.monitor.reporting import report, show
    from sparkgap.monitor.summary import summary
    from sparkgap.monitor.web.server import page
    from sparkgap.records.read import read_records
    from sparkgap.records.write import write_records
    from sparkgap.scheduled.api import run
    from sparkgap.scheduled.group_models import load_models
    from sparkgap.scheduled.groups import run_grouped
    from sparkgap.scheduled.joblib_backend import parallel_backend
    from sparkgap.scheduled.members import ensemble
    from sparkgap.shards.dataset import open_shards
    from sparkgap.shards.write import write_shards
    from sparkgap.tensors.columns import Column, Raw, Stack
    from sparkgap.tensors.image import image
    from sparkgap.tensors.spec import Signature, TensorSpec
    from sparkgap.tuning.api import search
    from sparkgap.tuning.nested import nested_cv

__version__ = "0.1.0.dev0"

_HOME = {
    "AllReduce": "cooperative.strategies.all_reduce",
    "Batching": "embedded.options",
    "Column": "tensors.columns",
    "ConfigurationError": "_errors",
    "DataError": "_errors",
    "Evaluation": "evaluation.evaluated",
    "FileChangedError": "_errors",
    "LocalSGD": "cooperative.strategies.local_sgd",
    "MissingDependencyError": "_errors",
    "Model": "models.model",
    "ModelError": "_errors",
    "ModelFormatError": "_errors",
    "ModelOutputError": "_errors",
    "ModelProcessError": "_errors",
    "OnError": "embedded.options",
    "OuterSGD": "cooperative.strategies.local_sgd",
    "ParameterServer": "cooperative.strategies.parameter_server",
    "RankError": "_errors",
    "Raw": "tensors.columns",
    "RowError": "_errors",
    "RunCancelledError": "_errors",
    "RunError": "_errors",
    "Sampling": "embedded.options",
    "SessionError": "_errors",
    "Signature": "tensors.spec",
    "SignatureError": "_errors",
    "SparkGapError": "_errors",
    "Stack": "tensors.columns",
    "TaskError": "_errors",
    "TensorSpec": "tensors.spec",
    "Threshold": "cooperative.strategies.compression",
    "TopK": "cooperative.strategies.compression",
    "UntrustedModelError": "_errors",
    "aggregate": "blocks.aggregates",
    "analyze": "blocks.shapes",
    "append_shape": "blocks.shapes",
    "cooperate": "cooperative.black_box",
    "ensemble": "scheduled.members",
    "evaluate": "evaluation.api",
    "explain": "embedded.explanation",
    "export": "monitor.exporters.pump",
    "files": "data.parquet",
    "fit": "cooperative.fit_api",
    "image": "tensors.image",
    "images": "data.image_files",
    "load": "models.model",
    "load_models": "scheduled.group_models",
    "map_blocks": "blocks.maps",
    "map_rows": "blocks.maps",
    "nested_cv": "tuning.nested",
    "open_shards": "shards.dataset",
    "page": "monitor.web.server",
    "parallel_backend": "scheduled.joblib_backend",
    "per_example": "evaluation.example_scores",
    "print_schema": "blocks.shapes",
    "read_records": "records.read",
    "reduce_blocks": "blocks.reductions",
    "reduce_rows": "blocks.reductions",
    "register": "ml.sql",
    "report": "monitor.reporting",
    "run": "scheduled.api",
    "run_grouped": "scheduled.groups",
    "runs": "monitor.records",
    "search": "tuning.api",
    "session": "_session",
    "show": "monitor.reporting",
    "summary": "monitor.summary",
    "train": "cooperative.api",
    "transform": "embedded.api",
    "udf": "embedded.function",
    "write_records": "records.write",
    "write_shards": "shards.write",
}

__all__ = [
    "AllReduce",
    "Batching",
    "Column",
    "ConfigurationError",
    "DataError",
    "Evaluation",
    "FileChangedError",
    "LocalSGD",
    "MissingDependencyError",
    "Model",
    "ModelError",
    "ModelFormatError",
    "ModelOutputError",
    "ModelProcessError",
    "OnError",
    "OuterSGD",
    "ParameterServer",
    "RankError",
    "Raw",
    "RowError",
    "RunCancelledError",
    "RunError",
    "Sampling",
    "SessionError",
    "Signature",
    "SignatureError",
    "SparkGapError",
    "Stack",
    "TaskError",
    "TensorSpec",
    "Threshold",
    "TopK",
    "UntrustedModelError",
    "aggregate",
    "analyze",
    "append_shape",
    "cooperate",
    "ensemble",
    "evaluate",
    "explain",
    "export",
    "files",
    "fit",
    "image",
    "images",
    "load",
    "load_models",
    "map_blocks",
    "map_rows",
    "nested_cv",
    "open_shards",
    "page",
    "parallel_backend",
    "per_example",
    "print_schema",
    "read_records",
    "reduce_blocks",
    "reduce_rows",
    "register",
    "report",
    "run",
    "run_grouped",
    "runs",
    "search",
    "session",
    "show",
    "summary",
    "train",
    "transform",
    "udf",
    "write_records",
    "write_shards",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if name == "ml":
        return importlib.import_module("sparkgap.ml")  # which sets the attribute
    if home is None:
        raise AttributeError(f"module 'sparkgap' has no attribute {name!r}")
    # Submodules never carry the name of a public function (see docs/architecture.md), so this cannot clash
    # with the attribute that the import system sets on the package.
    value = getattr(importlib.import_module(f"sparkgap.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
