"""The metrics of a classification, from its state. Pure."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sparkgap.evaluation.class_state import BRIER, CLIPPED, FIRST_TOP, LOSS, ClassState
from sparkgap.evaluation.curves import Calibration, PrecisionRecallCurve, RocCurve, both_curves, calibration
from sparkgap.evaluation.evaluated import Evaluation
from sparkgap.evaluation.plan import CLIP, MOST_CLASSES, MOST_CURVES, Plan
from sparkgap.evaluation.row_scores import plain_value

_NAN = float("nan")
_NO_ROWS = "there are no rows"


def class_metric_names(plan: Plan) -> tuple[str, ...]:
    """Return the metrics that there may be."""
    top = tuple(f"top_{k}" for k in plan.top_k)
    return (
        "accuracy", "balanced_accuracy", "precision", "recall", "f1", "macro_precision", "macro_recall", "macro_f1",
        "micro_f1", "weighted_precision", "weighted_recall", "weighted_f1", "mcc", "kappa", *top, "log_loss", "brier", "ece",
        "roc_auc", "pr_auc",
    )  # fmt: skip


def class_result(plan: Plan, state: ClassState) -> Evaluation:
    """Return the evaluation of a classification."""
    names = _class_names(plan, state)
    reasons: dict[str, str] = {}
    errors: dict[str, float] = {}
    metrics, per_class, confusion = _of_pairs(state, len(names), reasons)
    positive = _positive(plan, len(names))
    if positive is not None:
        metrics.update({name: float(per_class[name][positive]) for name in ("precision", "recall", "f1")})
    bins = None
    roc: dict[Any, RocCurve] = {}
    precision_recall: dict[Any, PrecisionRecallCurve] = {}
    if plan.probability is not None:
        found, bins = _of_probabilities(plan, state, float(per_class["support"].sum()), reasons)
        metrics.update(found)
        who = [names[positive]] if positive is not None else list(names)
        roc, precision_recall = _curves(state, who, reasons, errors, metrics, per_class)
    ordered = {name: metrics[name] for name in class_metric_names(plan) if name in metrics}
    task = "binary" if positive is not None else "classification"
    return Evaluation(
        task, state.used, state.skipped, ordered, reasons, errors, names, confusion, per_class, roc, precision_recall, bins
    )  # fmt: skip


def _class_names(plan: Plan, state: ClassState) -> tuple[Any, ...]:
    if plan.kind == "open":
        return tuple(plain_value(n) for n in state.names)
    if plan.kind == "vector":
        return plan.classes or tuple(range(state.count))
    if len(state.names):
        return plain_value(state.names[0]), plan.positive
    other = f"not {plan.positive}" if plan.text else int(plan.positive == 0)
    return other, plan.positive


def _positive(plan: Plan, count: int) -> int | None:
    """Return the place of the positive class of a binary evaluation."""
    if plan.kind == "binary":
        return 1
    index = plan.positive_index(2) if plan.kind == "vector" and count == 2 else -1
    return None if index < 0 else index


def _of_pairs(
    state: ClassState, count: int, reasons: dict[str, str]
) -> tuple[dict[str, float], dict[str, np.ndarray], np.ndarray | None]:
    """Return the metrics that true and predicted classes give."""
    truth, predicted, weight = state.truth_and_predicted()
    true_weight, given_weight = _sums(truth, weight, count), _sums(predicted, weight, count)
    hits = _sums(truth[truth == predicted], weight[truth == predicted], count)
    confusion = None
    if count <= MOST_CLASSES:
        confusion = _sums(truth * count + predicted, weight, count * count).reshape(count, count)
    precision, recall = _share(hits, given_weight), _share(hits, true_weight)
    f1 = _share(2 * hits, true_weight + given_weight)
    per_class = {"precision": precision, "recall": recall, "f1": f1, "support": true_weight}
    return _averages(per_class, hits, given_weight, reasons), per_class, confusion


def _sums(place: np.ndarray, weight: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(place, weight, count).astype(np.float64)  # counts of nothing would be integers


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, 0 where there is neither."""
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


def _averages(
    per_class: dict[str, np.ndarray], hits: np.ndarray, given: np.ndarray, reasons: dict[str, str]
) -> dict[str, float]:
    true = per_class["support"]
    total = float(true.sum())
    there = (true > 0) | (given > 0)
    never = int((there & (given == 0)).sum())
    if never:
        reasons["macro_precision"] = f"{never} classes were never predicted and count as 0"
    metrics: dict[str, float] = {}
    if not total:
        names = ["accuracy", "balanced_accuracy", "micro_f1", "mcc", "kappa"]
        names += [f"{how}_{name}" for how in ("macro", "weighted") for name in ("precision", "recall", "f1")]
        reasons.update(dict.fromkeys(names, _NO_ROWS))
        return dict.fromkeys(names, _NAN)
    accuracy = float(hits.sum()) / total
    metrics.update(accuracy=accuracy, micro_f1=accuracy, balanced_accuracy=float(per_class["recall"][true > 0].mean()))
    for name in ("precision", "recall", "f1"):
        metrics[f"macro_{name}"] = float(per_class[name][there].mean())
        metrics[f"weighted_{name}"] = float((per_class[name] * true).sum() / total)
    metrics.update(_agreement(true / total, given / total, accuracy, reasons))
    return metrics


def _agreement(true: np.ndarray, given: np.ndarray, accuracy: float, reasons: dict[str, str]) -> dict[str, float]:
    """Return how much better than chance predictions agree; all in shares of the rows."""
    chance = float((true * given).sum())
    spread = (1 - float((true * true).sum())) * (1 - float((given * given).sum()))
    one = "all labels and predictions are of one class"
    kappa = (accuracy - chance) / (1 - chance) if chance < 1 else _NAN
    mcc = (accuracy - chance) / math.sqrt(spread) if (true > 0).sum() > 1 and (given > 0).sum() > 1 else _NAN
    if math.isnan(kappa):
        reasons["kappa"] = one
    if math.isnan(mcc):
        reasons["mcc"] = "all labels, or all predictions, are of one class"
    return {"mcc": mcc, "kappa": kappa}


def _of_probabilities(
    plan: Plan, state: ClassState, total: float, reasons: dict[str, str]
) -> tuple[dict[str, float], Calibration]:
    totals = state.totals.values()
    after = FIRST_TOP + len(plan.top_k)
    bins = calibration(totals[after:].reshape(3, plan.bins))
    metrics = {"log_loss": totals[LOSS], "brier": totals[BRIER]}
    if plan.kind == "vector":
        metrics.update({f"top_{k}": totals[FIRST_TOP + i] for i, k in enumerate(plan.top_k)})
    found = {name: float(value) / total if total else _NAN for name, value in metrics.items()}
    found["ece"] = bins.error
    if not total:
        reasons.update(dict.fromkeys(found, _NO_ROWS))
    elif totals[CLIPPED]:
        reasons["log_loss"] = f"{int(totals[CLIPPED])} rows whose true class had less than {CLIP:.3g} count as that"
    return found, bins


def _curves(
    state: ClassState,
    who: list[Any],
    reasons: dict[str, str],
    errors: dict[str, float],
    metrics: dict[str, float],
    per_class: dict[str, np.ndarray],
) -> tuple[dict[Any, RocCurve], dict[Any, PrecisionRecallCurve]]:
    """Work out the curves of some classes, each against the rest, and the mean areas."""
    found = {name: both_curves(scores) for name, scores in zip(who, state.scores, strict=False)}
    good = {name: curves for name, curves in found.items() if not isinstance(curves, str)}
    for place, metric in enumerate(("roc_auc", "pr_auc")):
        areas = [curves[place].area for curves in good.values()]
        metrics[metric] = float(np.mean(areas)) if len(good) == len(who) and who else _NAN
        if len(good) == len(who) and who:
            errors[metric] = float(np.mean([curves[place].error for curves in good.values()]))
        else:
            reasons[metric] = _why_none(state, found)
        if len(who) > 1 and state.scores:
            per_class[metric] = np.array([good[n][place].area if n in good else _NAN for n in who])
    return {n: c[0] for n, c in good.items()}, {n: c[1] for n, c in good.items()}


def _why_none(state: ClassState, found: dict[Any, Any]) -> str:
    if not state.used:
        return _NO_ROWS
    if state.count > MOST_CURVES:
        return f"{state.count} classes; curves are of at most {MOST_CURVES}"
    name, why = next((n, c) for n, c in found.items() if isinstance(c, str))
    return f"class {name!r}: {why}"
