"""From the columns of a batch to what a model is called with, and to its label. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.cooperative.telling import within

Source = str | tuple[str, ...]
"""A column, or several of scalars that are stacked."""


@dataclass(frozen=True)
class Columns:
    """Which columns a model is called with.

    Attributes:
        positional: in order.
        named: by name of the tensor.
        label: the column to predict.
    """

    positional: tuple[Source, ...]
    named: tuple[tuple[str, Source], ...]
    label: str

    @classmethod
    def of(cls, inputs: Any, label: Any, tensors: Sequence[str] | None, most: int | None = None) -> Columns:
        """Pair columns with tensors.

        Args:
            inputs: see `Recipe`.
            label: the column to predict.
            tensors: names of the tensors that the model must get; None where nobody knows.
            most: number of those that it can get; default: of those that it must.

        Raises:
            ConfigurationError: they do not fit.
        """
        if not isinstance(label, str) or not label:
            raise ConfigurationError(f"label is {label!r}; it must be the name of a column.")
        if isinstance(inputs, Mapping):
            missing = [name for name in tensors or () if name not in inputs]
            # names beyond those that must be given are known where nothing else can be
            unknown = [str(n) for n in inputs if tensors is not None and (most or 0) <= len(tensors) and n not in tensors]
            if missing or unknown:
                raise ConfigurationError(
                    f"The model takes the tensors {', '.join(tensors or ())}; inputs names "
                    f"{', '.join(map(str, inputs)) or 'none'}. Give {{tensor: column}} for each of them."
                )
            return cls((), tuple((str(name), _source(given)) for name, given in inputs.items()), label)
        given = [inputs] if isinstance(inputs, str) else list(inputs or ())
        sources = tuple(_source(one) for one in given)
        if not sources:
            raise ConfigurationError(
                'inputs names no column. Give a list of columns in the model\'s order: inputs=["features"].'
            )
        if tensors is not None and len(tensors) == 1 and len(sources) > 1 and (most or 1) == 1:
            return cls((tuple(str(c) for c in given),), (), label)
        if tensors is not None and not len(tensors) <= len(sources) <= (most or len(tensors)):
            raise ConfigurationError(
                f"inputs has {len(sources)} columns and the model takes {len(tensors)} tensors ({', '.join(tensors)}). Give "
                "one column a tensor, in that order, or {tensor: column}."
            )
        return cls(sources, (), label)

    @within("convert")
    def read(self, batch: Mapping[str, np.ndarray]) -> tuple[list[np.ndarray], dict[str, np.ndarray], np.ndarray]:
        """Return the positional and the named arrays, and the label.

        Raises:
            DataError: a column is missing or no numbers, or there are no rows.
        """
        label = _column(batch, self.label)
        if len(label) == 0:
            raise DataError(
                "A batch without rows has no mean loss. A rank without rows must take part in the step with gradients of "
                'zeros, or the last batch be dropped: last="drop".'
            )
        return [_read(batch, s) for s in self.positional], {n: _read(batch, s) for n, s in self.named}, label


def class_numbers(label: np.ndarray) -> np.ndarray:
    """Return labels as int64 class numbers; a column of shape (batch, 1) becomes (batch,).

    Raises:
        DataError: there are fractions among them.
    """
    if label.dtype.kind == "f" and not np.array_equal(label, np.trunc(label)):
        raise DataError(
            f"cross_entropy needs class numbers from 0 on; got fractions such as {label[label != np.trunc(label)][0]!r}. Use "
            "mse for numbers, or labels of the prediction's shape for probabilities."
        )
    return (label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label).astype(np.int64, copy=False)


def _source(given: Any) -> Source:
    if isinstance(given, str):
        return given
    if isinstance(given, list | tuple) and given and all(isinstance(c, str) for c in given):
        return tuple(given)
    raise ConfigurationError(f"inputs names {given!r}; give the name of a column, or a list of names.")


def _read(batch: Mapping[str, np.ndarray], source: Source) -> np.ndarray:
    if isinstance(source, str):
        return _column(batch, source)
    columns = [_column(batch, name) for name in source]
    wide = next((n for n, c in zip(source, columns, strict=True) if c.ndim != 1), None)
    if wide is not None:
        raise DataError(f"Column `{wide}` has more than one number a row, so it cannot be stacked with others.")
    return np.stack(columns, axis=1)


def _column(batch: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in batch:
        raise DataError(
            f"There is no column `{name}` in the batch; it has {', '.join(batch)}. Name others in inputs= and label=."
        )
    array = np.asarray(batch[name])
    if array.dtype.kind in "OSU":
        raise DataError(
            f"Column `{name}` holds text or lists of different lengths, of which a model makes no tensor. Encode it as "
            "numbers first."
        )
    if not array.flags.writeable or not array.flags.c_contiguous:  # frameworks want to own what they get
        return np.array(array, order="C")
    return array
