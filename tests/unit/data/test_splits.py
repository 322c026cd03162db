from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkgap.data.splits import MIN_CUT_ROWS, OPEN_COST, WAVES, FilePart, Split, Unit, cut, pack, plan_splits

WEIGHTS = st.lists(st.integers(1, 1 << 32), min_size=1, max_size=60)


def unit(path: str, group: int | None, nbytes: int, rows: int | None = 1000) -> Unit:
    return Unit(FilePart("", path, nbytes, 1, None if group is None else (group,)), nbytes, rows)


UNITS = st.lists(
    st.builds(lambda nbytes, rows: (nbytes, rows), st.integers(0, 1 << 30), st.integers(1, 100_000)), min_size=1, max_size=30
).map(lambda sizes: [unit(f"f{i // 3}", i % 3, n, r) for i, (n, r) in enumerate(sizes)])


class TestPack:
    @settings(deadline=None)
    @given(WEIGHTS, st.integers(1, 80), st.integers(1, 1 << 33))
    def test_runs(self, weights: list[int], bins: int, limit: int) -> None:
        runs = pack(weights, bins=bins, limit=limit)
        assert [a for a, _ in runs] == [0, *[b for _, b in runs[:-1]]]
        assert runs[-1][1] == len(weights)
        assert all(a < b for a, b in runs)
        assert len(runs) >= min(bins, len(weights))
        assert all(b - a == 1 or sum(weights[a:b]) <= max(limit, max(weights)) for a, b in runs)

    @settings(deadline=None)
    @given(WEIGHTS, st.integers(1, 80))
    def test_balance(self, weights: list[int], bins: int) -> None:
        runs = pack(weights, bins=bins, limit=1 << 62)
        assert len(runs) == min(bins, len(weights))
        heaviest = max(sum(weights[a:b]) for a, b in runs)
        assert heaviest <= sum(weights) / len(runs) + max(weights)

    def test_least_maximum(self) -> None:
        assert pack([7, 2, 5, 10, 8], bins=2, limit=1 << 20) == [(0, 3), (3, 5)]
        assert pack([1] * 6, bins=3, limit=1 << 20) == [(0, 2), (2, 4), (4, 6)]
        assert pack([5, 5, 5, 5], bins=1, limit=10) == [(0, 2), (2, 4)]


class TestPlan:
    @settings(deadline=None)
    @given(UNITS, st.integers(1, 50), st.integers(1 << 20, 1 << 31))
    def test_every_row_once_in_order(self, units: list[Unit], tasks: int, max_bytes: int) -> None:
        splits = plan_splits(units, tasks=tasks, max_bytes=max_bytes)
        flat = [(p.path, g, p.start, p.stop) for s in splits for p in s.parts for g in p.groups or ()]
        sizes = {(u.part.path, u.part.groups[0]): u.rows or 0 for u in units if u.part.groups}
        seen: dict[tuple[str, int], int] = {}
        for path, group, start, stop in flat:
            assert start == seen.get((path, group), 0)
            seen[path, group] = sizes[path, group] if stop is None else stop
        assert seen == sizes
        assert [(p, g) for p, g, start, _ in flat if start == 0] == [
            (u.part.path, u.part.groups[0]) for u in units if u.part.groups
        ]
        assert sum(s.rows or 0 for s in splits) == sum(sizes.values())

    @settings(deadline=None)
    @given(UNITS, st.integers(1, 50))
    def test_as_many_as_tasks(self, units: list[Unit], tasks: int) -> None:
        splits = plan_splits(units, tasks=tasks, max_bytes=1 << 40)
        possible = sum(max(1, (u.rows or 0) // MIN_CUT_ROWS) for u in units)
        if tasks <= len(units):
            assert len(splits) == (min(WAVES * tasks, len(units)) if tasks > 1 else 1)
            assert all(p.start == 0 and p.stop is None for s in splits for p in s.parts)
        else:
            assert len(splits) == min(tasks, possible)

    @settings(deadline=None)
    @given(UNITS, st.integers(1 << 20, 1 << 31))
    def test_size(self, units: list[Unit], max_bytes: int) -> None:
        for split in plan_splits(units, tasks=1, max_bytes=max_bytes):
            groups = sum(len(p.groups or ()) for p in split.parts)
            assert groups == 1 or split.nbytes + groups * OPEN_COST <= max(max_bytes, max(u.nbytes for u in units)) + OPEN_COST

    def test_small_files_share_a_task(self) -> None:
        splits = plan_splits([unit(f"f{i}", 0, 1000) for i in range(10_000)], tasks=4, max_bytes=1 << 30)
        counts = [len(s.parts) for s in splits]
        assert len(counts) == 4 * WAVES
        assert (min(counts), max(counts)) == (297, 313)

    def test_opening_counts(self) -> None:
        many = [unit(f"f{i}", 0, 1000) for i in range(1000)]
        splits = plan_splits([*many, unit("big", 0, 1_000_000)], tasks=2, max_bytes=1 << 30)
        counts = [len(s.parts) for s in splits]
        assert len(counts) == 2 * WAVES
        assert max(counts) <= 64  # the big one weighs as much as fifteen small ones, and has fewer beside it
        assert counts[-1] == 1000 + 1 - sum(counts[:-1]) < 64

    def test_groups_of_a_file_are_one_part(self) -> None:
        units = [unit("a", 0, 10), unit("a", 2, 10), unit("b", 0, 10)]
        (split,) = plan_splits(units, tasks=1, max_bytes=1 << 30)
        expected = (FilePart("", "a", 10, 1, (0, 2)), FilePart("", "b", 10, 1, (0,)))
        assert split == Split(expected, 30, 3000)

    def test_nothing(self) -> None:
        assert plan_splits([], tasks=8, max_bytes=1) == ()

    def test_whole_files_of_unknown_rows_are_not_cut(self) -> None:
        splits = plan_splits([unit("a", None, 10, None), unit("b", None, 20, None)], tasks=8, max_bytes=1 << 30)
        assert [s.parts[0].path for s in splits] == ["a", "b"]
        assert [s.rows for s in splits] == [None, None]


class TestCut:
    def test_heaviest_first(self) -> None:
        pieces = cut([unit("a", 0, 300, 3000), unit("b", 0, 100, 1000)], 4)
        assert [(p.part.path, p.part.start, p.part.stop, p.rows, p.nbytes) for p in pieces] == [
            ("a", 0, 1000, 1000, 100), ("a", 1000, 2000, 1000, 100), ("a", 2000, 3000, 1000, 100), ("b", 0, None, 1000, 100),
        ]  # fmt: skip

    @pytest.mark.parametrize(("rows", "expected"), [(MIN_CUT_ROWS * 2 - 1, 1), (MIN_CUT_ROWS * 2, 2), (MIN_CUT_ROWS * 9, 9)])
    def test_not_into_crumbs(self, rows: int, expected: int) -> None:
        assert len(cut([unit("a", 0, 100, rows)], 100)) == expected

    def test_values_stay(self) -> None:
        base = unit("a", 0, 100, 1000)
        pieces = cut([replace(base, part=replace(base.part, values=(3, "x")))], 2)
        assert [p.part.values for p in pieces] == [(3, "x")] * 2
        assert math.isclose(sum(p.nbytes for p in pieces), 100, abs_tol=1)
