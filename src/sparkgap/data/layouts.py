"""Arrow types that differ only in how they lie in memory, and the conversion between them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import pyarrow as pa

from sparkgap._errors import DataError

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def plain(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a column of a file is given: no dictionaries, no views."""
    if pa.types.is_dictionary(kind):
        return plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    return kind


def count_leaves(kind: pa.DataType) -> int:
    """Return the number of leaf columns that a column of this type has in Parquet."""
    if any(test(kind) for test in _LISTS):
        return count_leaves(kind.value_type)
    if pa.types.is_map(kind):
        return count_leaves(kind.key_type) + count_leaves(kind.item_type)
    return sum(count_leaves(f.type) for f in kind) if pa.types.is_struct(kind) else 1


def leaves(schema: pa.Schema, paths: Sequence[str]) -> list[list[str]]:
    """Divide the paths of leaf columns among the columns. By number: names may hold dots.

    Raises:
        DataError: the numbers do not match.
    """
    counts = [count_leaves(field.type) for field in schema]
    if sum(counts) != len(paths):
        raise DataError(f"the file has {len(paths)} leaf columns, its schema {sum(counts)}: {', '.join(schema.names)}")
    ends = list(accumulate(counts))
    return [list(paths[end - count : end]) for count, end in zip(counts, ends, strict=True)]


def same_values(have: pa.DataType, want: pa.DataType) -> bool:
    """Whether every value of one type is the same value in the other, nested types included."""
    if pa.types.is_dictionary(have):
        return same_values(have.value_type, want)
    for family in (_TEXT, _BYTES):
        if any(test(have) for test in family):
            return any(test(want) for test in family)
    if any(test(have) for test in _LISTS):
        if pa.types.is_fixed_size_list(want) and not (pa.types.is_fixed_size_list(have) and have.list_size == want.list_size):
            return False
        return any(test(want) for test in _LISTS) and same_values(have.value_type, want.value_type)
    if pa.types.is_struct(have):
        if not pa.types.is_struct(want) or [f.name for f in have] != [f.name for f in want]:
            return False
        return all(same_values(a.type, b.type) for a, b in zip(have, want, strict=True))
    return bool(have == want)


def conform(array: pa.Array, want: pa.DataType) -> pa.Array:
    """Give an array the type that is wanted, where `same_values` holds; the values are not copied where they lie the same."""
    return array if array.type == want else array.cast(want)
