"""`gap.fit`: train a model on a table, in one call."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap.cooperative.api import train
from sparkgap.cooperative.feeding import Feed, source_of
from sparkgap.cooperative.fit_plan import FitPlan, Fitted, ModelSpec
from sparkgap.cooperative.fit_work import FitWork
from sparkgap.cooperative.held_out import HELD, HeldOut
from sparkgap.cooperative.strategies.all_reduce import AllReduce
from sparkgap.cooperative.trainables import environment_of, framework_of
from sparkgap.cooperative.trainables.jax_model import JaxModel
from sparkgap.cooperative.trainables.recipe import Recipe
from sparkgap.models.model import Model, load

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparkgap.cooperative.strategies.base import Strategy
    from sparkgap.shards.batches import Last
    from sparkgap.shards.dataset import Shards
    from sparkgap.shards.order import Shuffle


def fit(
    model: Any,
    data: DataFrame | Shards | str | Path,
    *,
    inputs: str | Sequence[str] | Mapping[str, str | Sequence[str]],
    label: str,
    loss: str | Callable[..., Any] | None = None,
    optimizer: Any = None,
    learning_rate: float | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    feed: Feed = "auto",
    workers: int | None = None,
    strategy: Strategy | None = None,
    validation: float | DataFrame | Shards | str | Path | None = None,
    metrics: Sequence[Any] = (),
    patience: int | None = None,
    clip: float | None = None,
    schedule: Any = None,
    precision: str = "32",
    seed: int = 0,
    shuffle: Shuffle = "full",
    last: Last = "short",
    checkpoint: str | Path | None = None,
    checkpoint_every: int | None = None,
    on_epoch: Callable[[Mapping[str, float]], Any] | None = None,
    spark: SparkSession | None = None,
    **options: Any,
) -> Fitted:
    """Train a model on a table, with many workers. Blocks until it is over.

    The rows come in one order for all workers together, which depends on `seed` and the epoch alone.

    Args:
        model: a torch module, a Keras model (compiled or not), or a function without arguments that makes one.
        data: a DataFrame, shards, or the path of shards.
        inputs: a column, or several in the order of the model's inputs, or ``{input: column}``; several columns of scalars
            make one tensor where the model takes one.
        label: column of what is to be predicted.
        loss: a name such as ``"cross_entropy"`` or ``"mse"``, or a function of prediction and label; a compiled Keras model
            has its own.
        optimizer: ``"sgd"``, ``"momentum"``, ``"adam"``, ``"adamw"``, or what the framework has; likewise. By default Adam.
        learning_rate: of a named optimizer.
        epochs: how often all rows are seen.
        batch_size: rows of a batch over all workers.
        feed: how the rows of a DataFrame come to the workers: ``"auto"``, ``"shards"``, ``"broadcast"`` or ``"stream"``; see
            `gap.train`. Those of `validation`, which are looked at after each epoch, are never streamed.
        workers: how many; by default as many as the cluster runs at the same time.
        strategy: how they work together; `AllReduce` by default.
        validation: rows to look at after each epoch: a table, or the share of a DataFrame's rows, which are then not trained
            on.
        metrics: names such as ``"accuracy"``, or functions of prediction and label.
        patience: end after so many epochs without a lower validation loss (or loss).
        clip: largest norm of the gradient.
        schedule: of the learning rate; see `trainable_of`.
        precision: ``"32"``, ``"bf16"`` or ``"16"``.
        seed: of the order of rows, of the split, and of what the model draws.
        shuffle: ``"full"``, ``"window"`` (bounded memory) or None.
        last: what becomes of a last batch with fewer rows: ``"short"`` or ``"drop"``.
        checkpoint: folder that all machines share; with it, a training goes on where it was, after a failure or by the same
            call again.
        checkpoint_every: steps between checkpoints; by default one after each epoch.
        on_epoch: called in rank 0, on an executor, with the figures of each epoch; True from it ends the training.
        spark: the session; the active one by default.
        options: further options of `gap.train`: ``cpus``, ``gpus``, ``deadline``, ``restarts``, ``name`` …

    Returns:
        A `Model` with the weights of the best epoch, ready for `gap.transform`, and its ``history``.

    Raises:
        ConfigurationError: an option makes no sense.
        SessionError: the cluster cannot run so many workers at the same time.
        RankError: a worker failed: which, how, and its own traceback.
        DataError: the data cannot be written as shards, or read.
    """
    _check(epochs, batch_size, patience, validation, last)
    spark = spark or _spark.active_session()
    held_out: Any = validation
    if isinstance(validation, float):
        data, held_out = _split(data, validation, seed)
    spec = spec_of(
        model, inputs=inputs, label=label, loss=loss, optimizer=optimizer, learning_rate=learning_rate, metrics=tuple(metrics),
        clip=clip, schedule=schedule, precision=precision,
    )  # fmt: skip
    columns = list(dict.fromkeys([*_names(inputs), label]))
    with ExitStack() as stack:
        ways: Feed = "auto" if feed == "stream" or not hasattr(held_out, "sparkSession") else feed
        held = stack.enter_context(
            source_of(_needed(held_out, columns), spark, ways, streams=False, what="gap.fit, validation")
        )
        plan = FitPlan(
            spec, strategy or AllReduce(), batch_size, epochs, columns, held.shards, patience, seed, shuffle, last,
            checkpoint_every, on_epoch,
        )  # fmt: skip
        work = FitWork(plan, checkpoint is not None)
        options = {"name": f"fit {type(model).__name__}", **options}
        placed = {**options.pop("placed", {}), **({HELD: held.folder} if held.folder else {})}
        result = train(
            HeldOut(work) if held.folder else work, _needed(data, columns), feed=feed, workers=workers, checkpoint=checkpoint,
            placed=placed, spark=spark, **options,
        )  # fmt: skip
    return fitted(result.value, result.attempts)


def spec_of(model: Any, **options: Any) -> ModelSpec:
    """Return what is trained, as a value that travels; what is wrong with the options is said before anything runs.

    Args:
        model: as `fit` takes it.
        options: those of `Recipe`.

    Raises:
        ConfigurationError: an option is unknown or makes no sense, or the model cannot be pickled.
    """
    make = callable(model) and not hasattr(model, "parameters") and not hasattr(model, "weights")
    if options.get("optimizer") is None and (make or framework_of(model) != "keras"):
        options["optimizer"] = "adam"
    Recipe(**options)
    return ModelSpec(_pickled(model), make, {} if make else environment_of(model), options)


def fitted(found: Mapping[str, Any], attempts: int = 1) -> Fitted:
    """Return what `FitWork` gave in rank 0 as a `Model`, and how it came about."""
    packed = _packed(found["model"])
    return Fitted(packed.ref, packed.signature, found["model"], tuple(found["history"]), found["best"], attempts)


def _needed(data: Any, columns: Sequence[str]) -> Any:
    """Return a DataFrame with the columns that are used only; what is missing is told where the columns are known."""
    if not hasattr(data, "sparkSession") or not set(columns) <= set(data.columns):
        return data
    return data.select(*["`" + name.replace("`", "``") + "`" for name in columns])


def _pickled(model: Any) -> bytes:
    """Return a model as bytes.

    Raises:
        ConfigurationError: it cannot be pickled.
    """
    from pyspark import cloudpickle

    try:
        made: bytes = cloudpickle.dumps(model)
    except Exception as error:  # of any class: it is about the user's objects
        raise ConfigurationError(
            f"The model cannot be sent to the workers: pickling it raised {type(error).__name__}: {error}. Pass a function "
            "that makes it."
        ) from error
    return made


def _packed(trained: Any) -> Model:
    """Return what was trained as a `Model`."""
    if isinstance(trained, JaxModel) and trained.state is None:
        return load(trained.apply, adapter="jax", params=trained.params)
    if isinstance(trained, JaxModel):
        return load(functools.partial(_of_both, trained.apply), adapter="jax", params=(trained.params, trained.state))
    return load(trained)


def _of_both(apply: Callable[..., Any], both: tuple[Any, Any], x: Any) -> Any:
    """Return the prediction of a JAX model that has a state, as a function of parameters and state."""
    return apply(*both, x, training=False)[0]


def _names(inputs: Any) -> list[str]:
    """Return the columns that inputs name, in order."""
    if isinstance(inputs, str):
        return [inputs]
    return [name for one in (inputs.values() if isinstance(inputs, Mapping) else inputs) for name in _names(one)]


def _split(data: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Return the rows to train on and those to look at."""
    if not hasattr(data, "randomSplit"):
        raise ConfigurationError(
            f"validation={share} takes a share of a DataFrame's rows, and data is a {type(data).__name__}. Pass the rows to "
            "look at themselves."
        )
    return tuple(data.randomSplit([1 - share, share], seed))


def _check(epochs: int, batch_size: int, patience: int | None, validation: Any, last: str) -> None:
    for name, number in (("epochs", epochs), ("batch_size", batch_size), ("patience", patience)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ConfigurationError(f"{name}={number!r}: a whole number above 0.")
    if isinstance(validation, float) and not 0 < validation < 1:
        raise ConfigurationError(f"validation={validation}: a share between 0 and 1, or a table.")
    if last not in ("short", "drop"):
        raise ConfigurationError(f"last={last!r}: 'short' or 'drop'.")
