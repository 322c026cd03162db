"""The order of reductions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparkgap.blocks.tree import Tree


def reduced(items, width):
    shapes: list[str] = []

    def merge(parts):
        shapes.append(f"({' '.join(parts)})")
        return shapes[-1]

    tree = Tree(merge, width)
    for item in items:
        tree.add(item)
    return tree.result()


@given(st.lists(st.text("abc", min_size=1, max_size=1)), st.integers(2, 5))
def test_the_order_of_the_items_is_kept(items, width):
    found = reduced(items, width)
    assert found is None if not items else found.replace("(", "").replace(")", "").split() == items


def test_neighbours_are_reduced_level_by_level():
    assert reduced("abcdefg", 2) == "(((a b) (c d)) ((e f) g))"


def test_a_level_never_holds_more_than_the_width():
    tree = Tree(lambda parts: sum(parts), 4)
    for _ in range(10_000):
        tree.add(1)
        assert all(len(level) < 4 for level in tree._levels)
    assert tree.result() == 10_000
