"""Between columns of Spark ML vectors and columns of arrays, on classic Spark and on Connect."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkgap._errors import SignatureError

if TYPE_CHECKING:
    from pyspark.sql import Column
    from pyspark.sql.types import DataType, StructType


def as_array(name: str, schema: StructType) -> Column:
    """Return a column of vectors or of arrays as a column of arrays.

    Args:
        name: of the column, exactly as it is in the schema, whatever characters are in it.
        schema: of the DataFrame.

    Returns:
        ``array<float>`` where the column is one, else ``array<double>``. Sparse vectors become dense. Null stays null.

    Raises:
        SignatureError: there is no such column, or it holds neither vectors nor arrays of numbers.
    """
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    kind, column = _type(name, schema), F.col("`" + name.replace("`", "``") + "`")
    if is_vector(kind):  # Spark's function fails on null
        return F.when(column.isNotNull(), vector_to_array(column)).alias(name)
    if not isinstance(kind, T.ArrayType) or not isinstance(kind.elementType, T.NumericType):
        raise SignatureError(
            f"Column `{name}` is {kind.simpleString()}; a vector or an array of numbers is needed. Make one with "
            "VectorAssembler, or with array(...)."
        )
    if isinstance(kind.elementType, T.FloatType | T.DoubleType):
        return column.alias(name)
    return column.cast(T.ArrayType(T.DoubleType())).alias(name)


def as_vector(column: Column | str) -> Column:
    """Return a column of arrays of numbers as a column of dense vectors. Null stays null.

    Args:
        column: an expression, or a name as `pyspark.sql.functions.col` takes it.
    """
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    given = F.col(column) if isinstance(column, str) else column
    return F.when(given.isNotNull(), array_to_vector(given))


def is_vector(kind: DataType) -> bool:
    """Whether a type is that of Spark ML vectors."""
    from pyspark.ml.linalg import VectorUDT

    return isinstance(kind, VectorUDT)


def _type(name: str, schema: StructType) -> DataType:
    if name not in schema.fieldNames():
        raise SignatureError(f"There is no column `{name}`; the columns are {', '.join(schema.fieldNames())}.")
    return schema[name].dataType
