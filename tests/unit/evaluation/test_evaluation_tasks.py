"""What tasks do, without Spark: states of partitions, merged by key across batches of any size."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from sparkgap.evaluation import task
from sparkgap.evaluation.api import evaluate
from sparkgap.evaluation.planning import plan_of
from sparkgap.evaluation.results import key_table, result_of
from sparkgap.evaluation.states import merged_state


@pytest.fixture
def rows():
    numbers = np.arange(300)
    keys = pa.array(numbers % 11, mask=numbers % 11 == 4)
    return pa.table({"label": numbers % 3, "prediction": numbers * 7 % 5 % 3, "key": keys})


def planned(rows, **options):
    types = {f.name: f.type for f in rows.schema}
    return plan_of(types, label="label", prediction="prediction", probability=None, task="auto", **options)


def partials(plan, rows, size):
    given = rows.select(list(plan.columns)).rename_columns([plan.place(c) for c in plan.columns])
    parts = [given.slice(i, size).to_batches() for i in range(0, rows.num_rows, size)]
    return pa.Table.from_batches([b for part in parts for b in task.partial_states(plan, iter(part))])


@pytest.mark.parametrize("chunk", [1, 2, 5, 1000])
def test_keys_are_merged_across_batches(rows, chunk):
    plan = planned(rows, by="key")
    together = partials(plan, rows, 70).sort_by("k0")
    done = pa.Table.from_batches(list(task.merged_states(plan, iter(together.to_batches(max_chunksize=chunk)))))
    want = evaluate(rows, by="key")
    assert dict(result_of(plan, merged_state(plan, task.unpacked_states(done)))) == pytest.approx(dict(want), rel=1e-12)
    numbers = done.filter(done[task.NUMBERS].is_valid())
    found = key_table(plan, [numbers["k0"]], np.array(numbers[task.NUMBERS].to_pylist(), float)).sort_by("key")
    assert found.num_rows == 11
    assert found.equals(want.table().sort_by("key"))


@pytest.mark.parametrize("by", [None, "key"])
def test_a_refusal_travels_to_the_end(rows, by):
    plan = planned(rows, by=by, nulls="raise")
    broken = rows.set_column(0, "label", pa.array([None, *rows["label"].to_pylist()[1:]]))
    together = partials(plan, broken, 70)
    done = pa.Table.from_batches(list(task.merged_states(plan, iter(together.to_batches()))))
    assert "`label` is null" in done[task.REFUSED].drop_null()[0].as_py()


def test_no_batches_leave_an_empty_state(rows):
    plan = planned(rows)
    one = pa.Table.from_batches(list(task.partial_states(plan, iter([]))))
    (state,) = task.unpacked_states(one)
    assert (state.seen, state.used) == (0, 0)
    assert list(task.merged_states(plan, iter([]))) == []
