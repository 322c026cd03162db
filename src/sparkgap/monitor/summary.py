"""What a run did, told after an action: rows, bad rows with reasons, and where the time went."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkgap._errors import ConfigurationError
from sparkgap.monitor import channel
from sparkgap.monitor.stats import PHASES, TaskStats, add_up

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class RunSummary:
    """Sums over the tasks of the latest action on a transformed DataFrame.

    Args:
        tasks: number of tasks that reported.
        total: their counts and seconds, added up.
        note: why there is nothing to tell, where that is so.
    """

    tasks: int
    total: TaskStats
    note: str | None = None

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
        lines = [
            f"{t.rows_in:,} rows in, {t.rows_out:,} out, {self.tasks} tasks, {t.batches:,} batches of up to "
            f"{t.batch_rows:,} rows"
        ]
        if t.skipped or t.nulled:
            lines.append(f"bad rows: {t.skipped:,} skipped, {t.nulled:,} nulled")
            lines += [f"  {count:,} x {kind}" for kind, count in sorted(t.reasons.items(), key=lambda r: -r[1])]
            lines += [f"  e.g. {example}" for example in t.examples]
        if t.halvings:
            lines.append(f"out of memory: batches were halved {t.halvings} times; use a smaller batch_size")
        lines += [f"{t.seconds[phase]:8.2f} s  {phase:8} {text}" for phase, text in PHASES.items() if phase in t.seconds]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Watched:
    run: str
    host: str | None


_watched: weakref.WeakKeyDictionary[Any, _Watched] = weakref.WeakKeyDictionary()


def watch(frame: DataFrame, run: str, host: str | None) -> None:
    """Remember which run a DataFrame belongs to."""
    _watched[frame] = _Watched(run, host)


def summary(frame: DataFrame) -> RunSummary:
    """Tell what the latest action on a transformed DataFrame did. Driver side; does not wait.

    Args:
        frame: what `transform` returned (not a DataFrame derived from it).

    Raises:
        ConfigurationError: `frame` is not such a DataFrame.
    """
    watched = _watched.get(frame)
    if watched is None:
        raise ConfigurationError(
            "gap.summary wants the DataFrame that gap.transform returned; got another one. Keep a reference: "
            "out = gap.transform(...); out.write.parquet(...); print(gap.summary(out))."
        )
    if watched.host is None:
        return RunSummary(0, TaskStats(), "No summary: the executors of this Spark Connect server cannot reach this client.")
    tasks = channel.hub(watched.host).tasks(watched.run)
    if not tasks:
        return RunSummary(0, TaskStats(), "No summary yet: no action on this DataFrame has finished a task.")
    return RunSummary(len(tasks), add_up(tasks))
