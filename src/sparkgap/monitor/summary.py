"""What a run did, told after an action: rows, bad rows with reasons, where the time went, and what limits it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkgap._errors import ConfigurationError
from sparkgap.monitor.finding import Verdict
from sparkgap.monitor.stats import TaskStats, add_up
from sparkgap.monitor.verdict import ITEM_KINDS, of_run, unit_of, words_of

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from sparkgap.monitor.driver import Opened
    from sparkgap.monitor.state import RunState


@dataclass(frozen=True)
class RunSummary:
    """Sums over the tasks of the latest action on a transformed DataFrame.

    Args:
        tasks: number of tasks that are over and count; a retried one counts once.
        total: their counts and seconds, added up.
        note: why there is nothing to tell, where that is so.
        verdict: what limits the run.
        retries: attempts that failed or were lost.
        dropped: what tasks had to say and dropped, by type of event.
        run: id of the run, for `sparkgap watch` and the page.
        kind: of the run, which says what its rows are: ``"transform"``, ``"search"`` ….
    """

    tasks: int
    total: TaskStats
    note: str | None = None
    verdict: Verdict | None = None
    retries: int = 0
    dropped: dict[str, int] | None = None
    run: str = ""
    kind: str = ""

    @property
    def rows_in(self) -> int:
        """Rows read."""
        return self.total.rows_in

    @property
    def rows_out(self) -> int:
        """Rows given back."""
        return self.total.rows_out

    @property
    def skipped(self) -> int:
        """Rows left out by `on_error="skip"`."""
        return self.total.skipped

    @property
    def nulled(self) -> int:
        """Rows kept with null outputs by `on_error="null"`."""
        return self.total.nulled

    @property
    def reasons(self) -> dict[str, int]:
        """Kind of bad row -> how many."""
        return dict(self.total.reasons)

    @property
    def examples(self) -> list[str]:
        """First bad rows, with place and reason."""
        return list(self.total.examples)

    @property
    def seconds(self) -> dict[str, float]:
        """Phase -> seconds, added over tasks; see `sparkgap.monitor.stats.PHASES`."""
        return dict(self.total.seconds)

    def __str__(self) -> str:
        if self.note is not None:
            return self.note
        t = self.total
        lines = [self._head()]
        if self.retries:
            lines.append(f"{self.retries} attempts failed or were lost; what they did is not counted")
        if t.skipped or t.nulled:
            lines.append(f"bad rows: {t.skipped:,} skipped, {t.nulled:,} nulled")
            lines += [f"  {count:,} x {kind}" for kind, count in sorted(t.reasons.items(), key=lambda r: -r[1])]
            lines += [f"  e.g. {example}" for example in t.examples]
        if t.halvings:
            lines.append(f"out of memory: batches were halved {t.halvings} times; use a smaller batch_size")
        if self.dropped:
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(self.dropped.items()))
            lines.append(f"tasks said more than was sent: {kinds} events were dropped")
        words = words_of(self.kind)
        lines += [f"{t.seconds[phase]:8.2f} s  {phase:8} {text}" for phase, text in words.items() if phase in t.seconds]
        if self.verdict is not None and self.verdict.limit:
            lines.append(str(self.verdict))
        return "\n".join(lines)

    def _head(self) -> str:
        t = self.total
        if self.kind in ITEM_KINDS:  # groups are read as rows
            read = "rows" if self.kind == "grouped" else unit_of(self.kind)
            return f"{t.rows_in:,} {read} in, {t.rows_out:,} {unit_of(self.kind)} done, {self.tasks} tasks"
        batches = f"{t.batches:,} batches of up to {t.batch_rows:,} rows"
        return f"{t.rows_in:,} rows in, {t.rows_out:,} out, {self.tasks} tasks, {batches}"


_watched: weakref.WeakKeyDictionary[Any, Opened] = weakref.WeakKeyDictionary()


def watch(frame: Any, opened: Opened) -> None:
    """Remember which run a DataFrame or a column function belongs to."""
    _watched[frame] = opened


def summary(frame: DataFrame | Callable[..., Any]) -> RunSummary:
    """Tell what the latest action on a transformed DataFrame, or with a column function, did. Driver side; does not wait.

    Args:
        frame: what `transform` or `udf` returned (not a DataFrame derived from it).

    Raises:
        ConfigurationError: `frame` is neither.
    """
    opened = _watched.get(frame)
    if opened is None:
        raise ConfigurationError(
            "gap.summary wants the DataFrame that gap.transform returned; got another one. Keep a reference: "
            "out = gap.transform(...); out.write.parquet(...); print(gap.summary(out))."
        )
    if opened.address is None:
        return RunSummary(0, TaskStats(), f"No summary. {opened.note}", run=opened.run)
    from sparkgap.monitor.driver import monitor

    monitor().look()
    with monitor().store.reading(opened.run) as state:
        return of_state(state) if state is not None else _nothing(opened.run)


def of_state(state: RunState) -> RunSummary:
    """Sum up the latest action of a run."""
    counted = [a for a in state.counted() if a.status == "ok"]
    if not counted:
        return _nothing(state.run)
    return RunSummary(
        len(counted),
        add_up([a.stats for a in counted]),
        verdict=of_run(state),
        retries=state.retries(),
        dropped=dict(state.dropped()),
        run=state.run,
        kind=state.kind,
    )


def _nothing(run: str) -> RunSummary:
    return RunSummary(0, TaskStats(), "No summary yet: no action on this DataFrame has finished a task.", run=run)
