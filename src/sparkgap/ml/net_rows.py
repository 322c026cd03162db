"""From a DataFrame to the rows that a network is trained on, and those that are held out. Driver side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkgap._errors import SignatureError
from sparkgap.ml.columns import is_vector
from sparkgap.ml.mlp_rows import LABEL

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

CLASS = "class"
"""Column of class numbers, as integers: losses of frameworks want them so."""
_HELD = "held"
_LARGEST = 2.0**31


@dataclass(frozen=True)
class Table:
    """Which columns of a DataFrame are trained on.

    Args:
        inputs: of the network, in its order.
        label: numbers.
        classes: whether labels are classes.
        scalars: whether an input may be a column of numbers.
        indicator: column that is true in rows that are held out; None for none.
        share: of the rows that are held out.
        seed: of that share.
    """

    inputs: tuple[str, ...]
    label: str
    classes: bool
    scalars: bool = False
    indicator: str | None = None
    share: float = 0.0
    seed: int = 0

    @property
    def names(self) -> list[str]:
        """The inputs as they are called in what is trained on."""
        return [f"input_{number}" for number in range(len(self.inputs))]

    @property
    def target(self) -> str:
        """The column that losses see."""
        return CLASS if self.classes else LABEL


def rows_of(dataset: DataFrame, table: Table) -> tuple[DataFrame, DataFrame | None]:
    """Return the rows to train on, and those that are held out, with names as `Table` has them.

    Raises:
        SignatureError: a column is missing, or of another type.
    """
    rows = _selected(dataset, table)
    if table.indicator is not None:
        return rows.where(f"NOT {_HELD}").drop(_HELD), rows.where(_HELD).drop(_HELD)
    if table.share:
        first, second = rows.randomSplit([1 - table.share, table.share], table.seed)
        return first, second
    return rows, None


def _selected(dataset: DataFrame, table: Table) -> DataFrame:
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    schema = dataset.schema
    for name in table.inputs:
        _check_input(name, _type(schema, name), scalars=table.scalars)
    if not isinstance(kind := _type(schema, table.label), T.NumericType):
        raise SignatureError(f"Column `{table.label}` is {kind.simpleString()}; a label is a number. Use StringIndexer.")
    label = _column(table.label).cast("double")
    columns = [_column(given).alias(name) for given, name in zip(table.inputs, table.names, strict=True)]
    columns.append(label.alias(LABEL))
    if table.classes:  # what is no class is refused by its label, so anything will do in its place
        columns.append(F.when(F.abs(label) < _LARGEST, label.cast("long")).otherwise(F.lit(0).cast("long")).alias(CLASS))
    if table.indicator is not None:
        if not isinstance(kind := _type(schema, table.indicator), T.BooleanType):
            raise SignatureError(f"Column `{table.indicator}` is {kind.simpleString()}; it must be boolean: true is held out.")
        columns.append(F.coalesce(_column(table.indicator), F.lit(False)).alias(_HELD))
    return dataset.select(*columns)


def _check_input(name: str, kind: Any, *, scalars: bool) -> None:
    from pyspark.sql import types as T

    if is_vector(kind):
        return
    leaf = kind
    while isinstance(leaf, T.ArrayType):
        leaf = leaf.elementType
    number = isinstance(leaf, T.NumericType) and not isinstance(leaf, T.DecimalType)
    if not number or (leaf is kind and not scalars):
        raise SignatureError(
            f"Column `{name}` is {kind.simpleString()}; features are a vector, or an array of integers or floats. Make one "
            "with VectorAssembler, or with array(...)."
        )


def _type(schema: Any, name: str) -> Any:
    if name not in schema.fieldNames():
        raise SignatureError(f"There is no column `{name}`; the columns are {', '.join(schema.fieldNames())}.")
    return schema[name].dataType


def _column(name: str) -> Column:
    from pyspark.sql import functions as F

    return F.col("`" + name.replace("`", "``") + "`")
