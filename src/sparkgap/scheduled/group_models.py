"""Models by key: what `gap.run_grouped` gives where its function returns models. Driver side."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sparkgap._errors import ConfigurationError, DataError, ModelError, ModelOutputError
from sparkgap.models import bundle
from sparkgap.models.base import TransformsItself
from sparkgap.models.model import Model, load
from sparkgap.scheduled.group_outcome import GroupOutcome
from sparkgap.tensors.spec import Signature, TensorSpec

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_INDEX = "models.arrow"
_BUNDLES = "bundles"
_FORMAT = b"1"


class ModelsByKey(TransformsItself, Mapping[Any, Model]):
    """A `Model` for each key: a mapping, which can be saved, and applied to a table.

    Args:
        keys: the key columns, a row for each model.
        models: in the same order.
        single: whether a key is one value, and not a tuple.
    """

    def __init__(self, keys: pa.Table, models: Iterable[Model], *, single: bool) -> None:
        self._table = keys
        self._single = single
        rows = zip(*(column.to_pylist() for column in keys.columns), strict=True)
        self._models = {row[0] if single else row: model for row, model in zip(rows, models, strict=True)}

    def __getitem__(self, key: Any) -> Model:
        return self._models[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def __repr__(self) -> str:
        return f"ModelsByKey({', '.join(self._table.column_names)}: {len(self):,} models)"

    def transform(self, df: DataFrame, *, inputs: Any = None, **options: Any) -> DataFrame:
        """Apply to each row the model of its key. Lazy, and in the order of the rows; nothing is shuffled.

        Models are opened when their first row comes, and stay in the Python worker within its byte limit
        (``SPARKGAP_MODEL_CACHE_BYTES``). They run on the CPU.

        Args:
            df: has the key columns, by the names that they had in `gap.run_grouped`.
            inputs: what feeds the models, as in `gap.transform`; they must all take and give the same tensors.
            options: of `gap.transform`. A row whose key has no model is a bad row: see ``on_error``.

        Raises:
            ConfigurationError: there is no model, or keys are no numbers or text.
            SignatureError: a column is missing or cannot feed its tensor.
        """
        from sparkgap import _spark
        from sparkgap.embedded import planning
        from sparkgap.embedded.api import sample_rows, shipped, transform
        from sparkgap.embedded.boundary import Decision

        first = self._first()
        pairs = planning.plan_inputs(inputs, first.signature, _spark.arrow_types(df.schema))
        first, pairs = planning.complete(first, pairs, lambda: sample_rows(Decision("rows", "", frame=df), pairs))
        spark = df.sparkSession
        sent = {key: replace(model, ref=shipped(model, spark)) for key, model in self._models.items()}
        router = Router(sent, self._single, len(self._table.columns), tuple(p.spec.name for p in pairs))
        tensors = tuple(replace(p.spec, name=f"t{place}") for place, p in enumerate(pairs))
        keys = tuple(TensorSpec(f"k{place}", None, ()) for place in range(len(self._table.columns)))
        model = load(router, adapter="function", signature=Signature((*keys, *tensors), first.signature.outputs))
        sources: dict[str, Any] = dict(zip((s.name for s in keys), self._table.column_names, strict=True))
        return transform(
            df, model, inputs=sources | {t.name: p.decoder for t, p in zip(tensors, pairs, strict=True)}, **options
        )

    def save(self, folder: str | Path) -> None:
        """Write all models and their keys into a new folder, for `gap.load_models`. It is there whole, or not at all.

        Raises:
            ConfigurationError: there is something at that path.
            ModelFormatError: the files of a model have gone since it was loaded.
        """
        target = Path(folder).expanduser().absolute()
        if target.exists():
            raise ConfigurationError(f"There is something at {target} already. Name a new folder, or remove that.")
        target.parent.mkdir(parents=True, exist_ok=True)
        work = target.with_name(f".{target.name}-{uuid.uuid4().hex}")  # mkdtemp's folders are for their owner only
        (work / _BUNDLES).mkdir(parents=True)
        try:
            for model in self._models.values():
                _copy(model.ref, work / _BUNDLES / model.ref.digest)
            refs = pa.array([json.dumps(asdict(m.ref), sort_keys=True) for m in self._models.values()], pa.string())
            about = {"sparkgap": _FORMAT, "single": b"1" if self._single else b"0"}
            table = pa.table([*self._table.columns, refs], names=[*(f"k{n}" for n in range(self._table.num_columns)), "ref"])
            about["names"] = json.dumps(self._table.column_names).encode()
            with pa.OSFile(str(work / _INDEX), "wb") as out, pa.ipc.new_file(out, table.schema.with_metadata(about)) as writer:
                writer.write_table(table.replace_schema_metadata(about))
            os.replace(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _first(self) -> Model:
        if not self._models:
            raise ConfigurationError("There is no model to apply: no group has given one.")
        for name, kind in zip(self._table.column_names, self._table.schema.types, strict=True):
            if not (pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_string(kind)):
                raise ConfigurationError(
                    f"Models are chosen by keys that are integers, booleans or text, and `{name}` is of type {kind}. Cast it "
                    "to a string before gap.run_grouped."
                )
        for key, model in self._models.items():
            if model.signature.batch is not None:
                raise ConfigurationError(
                    f"The model of {key!r} takes exactly {model.signature.batch} rows a call, and rows of a key come in any "
                    "number. Export it with a batch axis of any length."
                )
        return next(iter(self._models.values()))


class Router:
    """Sends each row of a block through the model of its key. A function model of its own, run where `transform` runs.

    Args:
        models: by key.
        single: whether a key is one value, and not a tuple.
        keys: how many tensors, ``k0`` and so on, are keys.
        names: of the models' own inputs, which come as ``t0`` and so on.
    """

    def __init__(self, models: Mapping[Any, Model], single: bool, keys: int, names: tuple[str, ...]) -> None:
        self._models: dict[Any, Model] = dict(models)
        self._single = single
        self._keys = [f"k{place}" for place in range(keys)]
        self._names = {name: f"t{place}" for place, name in enumerate(names)}
        kind = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in (*self._keys, *self._names.values())])

    def __call__(self, **block: Any) -> dict[str, np.ndarray]:
        """Return the outputs of all rows, in their order.

        Raises:
            DataError: a key has no model.
            ModelOutputError: two models give different tensors.
        """
        found: dict[str, np.ndarray] = {}
        rows = len(block[self._keys[0]])
        for key, places in routes([np.asarray(block[name]) for name in self._keys]):
            given = self._model(key).predict({name: block[own][places] for name, own in self._names.items()}, threads=1)
            for name, array in given.items():
                if name not in found:
                    found[name] = np.zeros((rows, *array.shape[1:]), array.dtype)
                if found[name].shape[1:] != array.shape[1:]:
                    raise ModelOutputError(
                        f"Output `{name}` of the model of {key!r} has rows of shape {array.shape[1:]}, and those of another "
                        f"key {found[name].shape[1:]}. Models that are applied together must give the same tensors."
                    )
                found[name][places] = array
        return found

    def _model(self, key: tuple[Any, ...]) -> Model:
        model = self._models.get(key[0] if self._single else key)
        if model is None:
            raise DataError(
                f"There is no model for the key {key[0] if self._single else key!r}; there are {len(self._models):,}."
            )
        return model


def routes(keys: list[np.ndarray]) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
    """Give each key that occurs, and the places of its rows. Pure.

    Args:
        keys: arrays of the same length, one for each part of the key.
    """
    codes = np.zeros(len(keys[0]), np.int64)
    for part in keys:
        values, inverse = np.unique(part, return_inverse=True)
        codes = np.unique(codes * len(values) + inverse, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order])) + 1
    for places in np.split(order, starts):
        if len(places):
            yield tuple(_python(part[places[0]]) for part in keys), places


def models_of(keys: pa.Table, outcomes: list[GroupOutcome], *, single: bool, **options: Any) -> ModelsByKey:
    """Make bundles of the values of outcomes; those without a value are left out.

    Raises:
        ModelError: a value is no model.
    """
    good = [place for place, outcome in enumerate(outcomes) if outcome.ok]
    models = []
    for place in good:
        try:
            models.append(load(outcomes[place].value, **options))
        except ModelError as error:
            raise type(error)(f"The value of group {outcomes[place].key!r} is no model: {error}") from error
    return ModelsByKey(keys.take(pa.array(good, pa.int64())), models, single=single)


def load_models(folder: str | Path) -> ModelsByKey:
    """Read what `ModelsByKey.save` wrote. Only from where you trust: models may be pickled objects.

    The files are copied into the cache folder of this machine, unless they are there.

    Raises:
        DataError: there is no such folder, or it is damaged.
    """
    source = Path(folder).expanduser().absolute()
    try:
        with pa.OSFile(str(source / _INDEX)) as file:
            table = pa.ipc.open_file(file).read_all()
        about = table.schema.metadata
        models = [_restored(json.loads(text), source / _BUNDLES) for text in table["ref"].to_pylist()]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise DataError(f"{source} holds no models of ModelsByKey.save: {type(error).__name__}: {error}") from error
    keys = table.drop_columns(["ref"]).replace_schema_metadata(None).rename_columns(json.loads(about[b"names"]))
    return ModelsByKey(keys, models, single=about[b"single"] == b"1")


def _restored(facts: dict[str, Any], folder: Path) -> Model:
    ref = bundle.BundleRef(**{**facts, "artifact": None})
    stored = folder / ref.digest
    if ref.stamp is not None:  # one file: used where it lies
        path = stored / Path(ref.path).name
        ref = replace(ref, path=str(path), stamp=path.stat().st_mtime_ns)
    else:
        target = bundle.cache_folder() / ref.digest
        if not (target / bundle.DONE).exists():
            _cache(stored, target)
        ref = replace(ref, path=str(target))
    return Model(ref, Signature.from_json(ref.signature))


def _cache(stored: Path, target: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix="loading-", dir=target.parent))
    try:
        shutil.copytree(stored, work / "files")
        bundle.publish(work / "files", target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _copy(ref: bundle.BundleRef, target: Path) -> None:
    if target.exists():  # two keys may have equal models
        return
    found = bundle.locate(ref)
    if found.is_dir():
        shutil.copytree(found, target)
    else:
        target.mkdir(parents=True)
        shutil.copy2(found, target / found.name)


def _python(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
