"""`gap.ensemble`: models that are trained as tasks of `gap.run`, and averaged in one."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparkgap._errors import ConfigurationError, RunError, SignatureError
from sparkgap.models import model as models
from sparkgap.models.carried import Carried
from sparkgap.models.ensemble import Average, check_average, ensemble_of
from sparkgap.models.model import Model
from sparkgap.scheduled.api import run
from sparkgap.scheduled.outcome import Outcome

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def ensemble(
    fn: Callable[..., Any],
    k: int,
    *,
    average: Average | Mapping[str, Average] = "mean",
    seed: int = 0,
    load: Mapping[str, Any] | None = None,
    parallel: int | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    memory: int | str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    backoff: float = 1.0,
    on_error: Literal["raise", "collect"] = "raise",
    fresh: bool = False,
    preload: Sequence[str] = (),
    result_limit: int | str = "1g",
    journal: str | Path | None = None,
    data: Mapping[str, Any] | None = None,
    name: str | None = None,
    spark: SparkSession | None = None,
) -> Model:
    """Train `k` models as tasks on the cluster, and return one that averages their outputs. Blocks until they are trained.

    The result is a `Model` like any other, for `gap.transform`, `gap.udf` and `Model.predict`, with the tensors of its
    members; their files are in its bundle. The members run one after the other in the same process, on the CPU.

    Args:
        fn: called with ``seed``, ``seed + 1`` and so on (and the values of `data`, by name); returns a trained model: whatever
            `gap.load` takes, also the path of a file where the task runs. It is packed there; the driver needs no framework.
        k: how many members.
        average: ``"mean"``, for floats; ``"vote"``, for class labels: what most members give, of equally many the smallest.
            Or one of them for each output, by name; others are averaged.
        seed: what `fn` gets for the first member.
        load: options of `gap.load` for each member, such as ``{"method": "predict_proba"}``.
        parallel: members that are trained at the same time; by default as many as the cluster runs.
        cpus: cores a member.
        gpus: GPUs a member, fractions too.
        memory: resident memory above which a training is killed: bytes, or ``"2g"``.
        timeout: seconds an attempt may take.
        retries: further attempts of a member that failed.
        backoff: seconds before the first of them; doubled before each further one.
        on_error: ``"raise"`` ends the run at the first member that fails; ``"collect"`` makes the ensemble of those that did
            not, with a warning that counts the others.
        fresh: give each member a new process.
        preload: modules that are imported before such processes begin.
        result_limit: bytes of a packed member at most.
        journal: file that keeps trained members; the same call goes on from there.
        data: values that each node gets once, memory-mapped; see `gap.run`.
        name: of the run, for those who look on; the function's by default.
        spark: the session; the active one by default.

    Raises:
        ConfigurationError: an option makes no sense.
        TaskError: a member failed, or what it returned is no model, and ``on_error="raise"``.
        RunError: no member succeeded, or the run could not go on.
        SignatureError: the members do not take and give the same tensors, or these cannot be averaged so.

    Example:
        >>> import sparkgap as gap
        >>> spark = gap.session()
        >>> model = gap.ensemble(lambda seed: lambda x: {"y": x + float(seed)}, 3)
        >>> model.predict({"x": [1.0, 2.0]})["y"].tolist()
        [2.0, 3.0]
    """
    check_average(average)
    if not isinstance(k, int) or k < 1:
        raise ConfigurationError(f"k={k!r}: the number of members, from 1.")
    if not callable(fn):
        raise ConfigurationError(f"gap.ensemble takes a function that trains a member; this is a {type(fn).__name__}.")
    with run(
        Member(fn, dict(load or {})), range(seed, seed + k), parallel=parallel, cpus=cpus, gpus=gpus, memory=memory,
        timeout=timeout, retries=retries, backoff=backoff, on_error=on_error, fresh=fresh, preload=preload,
        result_limit=result_limit, journal=journal, data=data, name=name, spark=spark,
    ) as training:  # fmt: skip
        trained, failed = _gather(training)
    if failed:
        _warn(k, failed)
    if not isinstance(average, str) or average == "mean":
        check_classes({number: one.classes for number, one in trained.items()})
    return ensemble_of([one.model for one in trained.values()], average)


@dataclass(frozen=True)
class Trained:
    """A member, as it comes to the driver.

    Args:
        carried: its model.
        classes: of a classifier of scikit-learn's kind, in the order of its probabilities; None of others.
    """

    carried: Carried
    classes: Any = None


@dataclass(frozen=True)
class _Unpacked:
    model: Model
    classes: Any


class Member:
    """The function that tasks run: trains a member and packs it where it was trained.

    Args:
        fn: the user's.
        options: of `gap.load`.
    """

    def __init__(self, fn: Callable[..., Any], options: Mapping[str, Any]) -> None:
        self._fn = fn
        self._options = dict(options)
        # journals and people know the run by the user's function, and data= by its parameters
        functools.update_wrapper(self, fn, assigned=("__module__", "__name__", "__qualname__"), updated=())

    def __call__(self, seed: int, **placed: Any) -> Trained:
        """Train one member."""
        model = self._fn(seed, **placed)
        return Trained(Carried.of(models.load(model, **self._options)), _classes(model))


def check_classes(classes: Mapping[int, Any]) -> None:
    """Refuse classifiers whose probabilities are of different classes: their mean would mix them up. Pure.

    Args:
        classes: of each member, by its number.

    Raises:
        SignatureError: two differ.
    """
    (first, expected), *others = classes.items()
    for number, found in others:
        if found != expected:
            raise SignatureError(
                f"Member {first} was trained with the classes {expected} and member {number} with {found}, so their outputs "
                "cannot be averaged. Have every member see all classes (draw its rows with stratify)."
            )


def _classes(model: Any) -> Any:
    found = getattr(model, "classes_", None)
    if isinstance(found, list):  # of several targets
        return [_plain(one) for one in found]
    return _plain(found)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _gather(outcomes: Any) -> tuple[dict[int, _Unpacked], list[Outcome]]:
    """Unpack members as they come: of their files one member's are in memory at a time."""
    trained, failed = {}, []
    for outcome in outcomes:
        if outcome.ok:
            trained[outcome.index] = _Unpacked(outcome.value.carried.unpack(), outcome.value.classes)
        else:
            failed.append(outcome)
    return trained, failed


def _warn(k: int, failed: list[Outcome]) -> None:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in Counter(one.kind for one in failed).most_common())
    if len(failed) == k:
        raise RunError(f"None of the {k:,} members could be trained ({kinds}). The first one: {failed[0].error}")
    warnings.warn(
        f"{len(failed):,} of {k:,} members failed ({kinds}); the ensemble is of the other {k - len(failed):,}. The first "
        f"failure: {failed[0].error.message if failed[0].error else failed[0].kind}",
        RuntimeWarning, stacklevel=3,
    )  # fmt: skip
