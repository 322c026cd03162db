"""`explain`: what a transform will do, and why, before it runs."""

from __future__ import annotations

import weakref
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.embedded.boundary import Decision
from sparkgap.embedded.plan import TransformPlan
from sparkgap.models.model import Model
from sparkgap.tensors.decoder import Decoder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Explanation:
    """What will happen and why: (subject, choice, reason), in reading order.

    Args:
        rows: the choices.
        boundary: ``"rows"`` or ``"files"``.
        reason: why that boundary.
    """

    rows: tuple[tuple[str, str, str], ...]
    boundary: str
    reason: str

    def __str__(self) -> str:
        width = max(len(r[0]) for r in self.rows)
        return "\n".join(f"{name:{width}}  {choice}{f'  ({why})' if why else ''}" for name, choice, why in self.rows)

    @classmethod
    def of(cls, plan: TransformPlan, model: Model, decision: Decision, spark: SparkSession) -> Explanation:
        """Explain a plan. Driver side."""
        size = plan.batching.size
        rows = [
            ("boundary", decision.boundary, decision.reason),
            ("model", f"{model.adapter} {model.ref.format}, {model.nbytes:,} bytes", _travel(plan)),
            *(("input", f"{i.spec.name}: {i.spec.describe()}", f"from {_shown(i.decoder)}") for i in plan.inputs),
            *(("output", f"{o.column}", f"{o.spec.name}: {o.spec.describe()}, as {o.encoding}") for o in plan.outputs),
            ("keep", ", ".join(plan.keep) or "nothing", ""),
            ("batch", f"{size or 'by the bytes of a row'}", f"prefetch {plan.batching.prefetch} batches in a thread"),
            ("threads", _spark.conf(spark, "spark.task.cpus", "1"), "the cpus of a task (spark.task.cpus)"),
            ("device", plan.device, "of each task"),
            ("on error", plan.on_error.policy, "for rows that cannot be decoded or scored"),
        ]
        return cls(tuple(rows), decision.boundary, decision.reason)


def _shown(decoder: Decoder) -> str:
    """Return a decoder as one would write it: without the options that are at their defaults."""
    if not is_dataclass(decoder):
        return repr(decoder)
    given = [(f, getattr(decoder, f.name)) for f in fields(decoder)]
    told = [repr(v) if f.default is MISSING else f"{f.name}={v!r}" for f, v in given if v != f.default]
    return f"{type(decoder).__name__}({', '.join(told)})"


def _travel(plan: TransformPlan) -> str:
    if plan.model.artifact is None:
        return "read from this machine's files, loaded once in each Python worker"
    return "sent once to each executor, loaded once in each Python worker"


_known: weakref.WeakKeyDictionary[Any, Explanation] = weakref.WeakKeyDictionary()


def remember(frame: DataFrame, explanation: Explanation) -> None:
    """Keep the explanation with the DataFrame."""
    _known[frame] = explanation


def explain(frame: DataFrame) -> Explanation:
    """Tell what a transformed DataFrame will do and why. Runs nothing.

    Args:
        frame: what `transform` returned.

    Raises:
        ConfigurationError: `frame` is not such a DataFrame.
    """
    found = _known.get(frame)
    if found is None:
        raise ConfigurationError(
            "gap.explain wants the DataFrame that gap.transform returned; got another one. Call it before deriving "
            "others: out = gap.transform(...); print(gap.explain(out))."
        )
    return found
