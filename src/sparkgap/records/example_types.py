"""Which columns `tf.train.Example` can hold: the three kinds of its features, and the Arrow types that they become. Pure."""

from __future__ import annotations

import pyarrow as pa

from sparkgap._errors import SignatureError

BYTES, FLOAT, INT64 = 1, 2, 3
"""Numbers of the fields of `tf.train.Feature`."""
NAMES = {0: "no value", BYTES: "bytes_list", FLOAT: "float_list", INT64: "int64_list"}
STORED = {BYTES: pa.binary(), FLOAT: pa.float32(), INT64: pa.int64()}


def depth(kind: pa.DataType) -> int:
    """Return how many lists are around the values: 0 one value, 1 a feature, 2 a feature list of a SequenceExample."""
    return 1 + depth(kind.value_type) if pa.types.is_list(kind) else 0


def leaf(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values."""
    return leaf(kind.value_type) if pa.types.is_list(kind) else kind


def kind_of(kind: pa.DataType) -> int | None:
    """Return the kind of feature for values of this type; None where there is none."""
    inner = leaf(kind)
    if pa.types.is_signed_integer(inner) or pa.types.is_boolean(inner):
        return INT64
    if pa.types.is_float32(inner) or pa.types.is_float64(inner):
        return FLOAT
    if pa.types.is_binary(inner) or pa.types.is_string(inner):
        return BYTES
    return None


def check(schema: pa.Schema) -> None:
    """Refuse columns that no feature can hold.

    Raises:
        SignatureError: a column has another type.
    """
    for field in schema:
        if kind_of(field.type) is None or depth(field.type) > 2:
            raise SignatureError(
                f"Column `{field.name}` is {field.type}, and a TFRecord holds integers, floats, text, bytes, lists of them, "
                "and lists of lists. Cast it (to_json, unix_timestamp, flatten …), or leave it out of columns=."
            )
