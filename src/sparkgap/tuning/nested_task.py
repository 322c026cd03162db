"""What tasks of `gap.nested_cv` run: a trial over the inner folds, and the best of them on an outer one. Needs no Optuna."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkgap._errors import ModelOutputError
from sparkgap.scheduled import asking
from sparkgap.tuning.remote import RemoteTrial, StudyFacts, is_pruned, measured
from sparkgap.tuning.splits import indices

SPLITS = "sparkgap_splits"
"""Name under which the codes of the rows are placed beside the user's data."""


@dataclass(frozen=True)
class InnerTask:
    """Runs a trial: the objective on each inner fold of an outer one; the mean is its value.

    Args:
        objective: the user's.
        facts: of the study of each outer fold.
        prune: whether to ask the pruner after each inner fold.
    """

    objective: Callable[..., Any]
    facts: tuple[StudyFacts, ...]
    prune: bool

    def __call__(self, item: tuple[int, int], **placed: Any) -> tuple[str, Any]:
        """Run the trial of an outer fold and a number; returns as `TrialTask` does."""
        fold, number = item
        splits = placed.pop(SPLITS)[fold][1:]
        trial = RemoteTrial(number, self.facts[fold], asking.ask, asking.tell)
        scores: list[float] = []
        try:
            for place, code in enumerate(splits):
                what, content = measured(self.objective(trial, *indices(code), **placed), 1)
                if what != "values":
                    return what, f"Inner fold {place}: {content}"
                scores += content
                if self.prune and place + 1 < len(splits):
                    trial.report(float(np.mean(scores)), place)
                    if trial.should_prune():
                        return "pruned", f"after inner fold {place}"
        except Exception as error:
            if not is_pruned(error):
                raise
            return "pruned", str(error)
        return "values", [float(np.mean(scores))]


@dataclass(frozen=True)
class OuterTask:
    """Trains with the best parameters of an outer fold on all that it trains on, and scores the rows held out.

    Args:
        objective: the user's.
        facts: of the study of each outer fold.
    """

    objective: Callable[..., Any]
    facts: tuple[StudyFacts, ...]

    def __call__(self, item: tuple[int, int, Mapping[str, Any]], **placed: Any) -> float:
        """Return the score of a fold, for a trial's number and its parameters.

        Raises:
            ModelOutputError: the objective returned no number.
        """
        fold, number, params = item
        code = placed.pop(SPLITS)[fold][0]
        trial = RemoteTrial(number, self.facts[fold], decided(params), lambda question: None)
        what, content = measured(self.objective(trial, *indices(code), **placed), 1)
        if what != "values":
            raise ModelOutputError(f"Outer fold {fold}, with the parameters {dict(params)}: {content}")
        return float(content[0])


def decided(params: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """Return what answers the questions of a trial whose parameters are decided, in place of the driver."""
    known = {"params": dict(params), "datetime_start": None}

    def answer(question: Mapping[str, Any]) -> dict[str, Any]:
        do = question["do"]
        if do == "read":
            return {"value": known.get(question["what"], {})}
        if not do.startswith("suggest_"):  # nothing of this trial is kept, and nothing prunes it
            return {"value": False if do == "should_prune" else None}
        if question["name"] not in params:
            return {
                "error": "KeyError",
                "message": f"The best trial had no parameter {question['name']!r}; it had {', '.join(params) or 'none'}.",
            }
        return {"value": params[question["name"]]}

    return answer
