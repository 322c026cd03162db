"""Pictures of an evaluation; matplotlib is needed here only."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.evaluation.evaluated import Evaluation

_WRITTEN = 20  # classes up to which numbers are written into the confusion matrix
_NAMED = 10  # curves up to which each is named
_SIDE = 4.6  # inches of one part


def draw(found: Evaluation, to: Any) -> Any:
    """Draw an evaluation; see `Evaluation.plot`."""
    figures = need("matplotlib.figure", extra="plot", why="to draw an evaluation")
    parts = _parts(found)
    if not parts:
        raise ConfigurationError("This evaluation has no rows, so there is nothing to draw.")
    if isinstance(to, str | PathLike):
        figure = figures.Figure(figsize=(_SIDE * len(parts), _SIDE), layout="constrained", dpi=130)
        for number, part in enumerate(parts):
            part(figure.add_subplot(1, len(parts), number + 1), found)
        figure.savefig(to)
        return figure
    axes = list(np.ravel(np.asarray(to, dtype=object)))
    for axis, part in zip(axes, parts, strict=False):
        part(axis, found)
    return axes[0].figure


def _parts(found: Evaluation) -> list[Callable[[Any, Evaluation], None]]:
    parts: list[Callable[[Any, Evaluation], None]] = []
    if not found.rows:
        return parts
    if found.confusion is not None:
        parts.append(_confusion)
    if found.roc:
        parts.append(_roc)
    if found.calibration is not None:
        parts.append(_calibration)
    if found.quantiles:
        parts.append(_errors)
    return parts


def _confusion(axis: Any, found: Evaluation) -> None:
    """Each row adds up to one: colours are shares of the true class, numbers are rows."""
    assert found.confusion is not None
    counts, names = found.confusion, [str(n) for n in found.classes]
    total = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.zeros_like(counts), where=total > 0)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set(title=f"Confusion: accuracy {found['accuracy']:.4g}", xlabel="predicted", ylabel="true")
    if len(names) > _WRITTEN:
        return
    turned = 90 if max(map(len, names)) > 3 else 0
    axis.set_xticks(range(len(names)), names, rotation=turned)
    axis.set_yticks(range(len(names)), names)
    for i, j in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[i, j] > 0.5 else "black"
        axis.text(j, i, f"{counts[i, j]:.4g}", ha="center", va="center", fontsize=8, color=colour)


def _roc(axis: Any, found: Evaluation) -> None:
    for name, curve in found.roc.items():
        label = f"{name}: {curve.area:.4f}" if len(found.roc) <= _NAMED else None
        axis.plot(curve.fpr, curve.tpr, label=label, linewidth=1.4)
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    area = f"ROC: area {found['roc_auc']:.4f}" + (f" ± {found.auc_error:.1g}" if found.auc_error else "")
    axis.set(title=area, xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    if len(found.roc) <= _NAMED:
        axis.legend(fontsize=8, loc="lower right")


def _calibration(axis: Any, found: Evaluation) -> None:
    bins = found.calibration
    assert bins is not None
    there = bins.weight > 0
    wide = np.diff(bins.edges)
    axis.bar(bins.edges[:-1], bins.weight / bins.weight.sum(), wide, align="edge", color="lightgrey", label="share of rows")
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    axis.plot(bins.confidence[there], bins.accuracy[there], marker="o", linewidth=1.4, label="share that is right")
    said = "probability of the positive class" if found.task == "binary" else "probability of the predicted class"
    axis.set(title=f"Calibration: ECE {bins.error:.4f}", xlabel=said, ylabel="share", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axis.legend(fontsize=8, loc="upper left")


def _errors(axis: Any, found: Evaluation) -> None:
    shares = list(found.quantiles)
    axis.plot(list(found.quantiles.values()), shares, marker="o", linewidth=1.4)
    axis.axvline(0, color="grey", linestyle=":", linewidth=1)
    axis.set(
        title=f"Error: MAE {found['mae']:.4g}",
        xlabel="prediction - label",
        ylabel="share of rows up to it",
        ylim=(-0.02, 1.02),
    )
