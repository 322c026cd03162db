"""What the best trials of a search have made: kept in a folder, while that of the others is deleted.

A trial's task writes (`KeptFolder.write`), the driver deletes (`KeptFolder.prune`), and users read (`best_of`). The name of a
trial's file lies in its user attribute ``"kept"``.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.data import storage
from sparkgap.shards.whole_files import WholeFiles

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

KEPT = "kept"
"""User attribute of a trial: where what it made lies."""


@dataclass(frozen=True)
class KeptFolder:
    """A folder for what trials make. A value that travels.

    Args:
        files: the folder, which all machines share.
        study: name of the study; part of each file's name.
        most: how many trials it is kept of: the best ones; with several objectives the whole Pareto front.
    """

    files: WholeFiles
    study: str
    most: int

    @classmethod
    def of(cls, place: str | Path, study: str, most: int) -> KeptFolder:
        """Return the folder of a local path or URI.

        Raises:
            ConfigurationError: nobody knows the scheme.
        """
        return cls(WholeFiles(*storage.locate(place)), re.sub(r"[^\w.-]", "_", study), most)

    def write(self, number: int, value: Any) -> str:
        """Keep what a trial has made, in the place of what it made before. In its task; returns where that is.

        Raises:
            DataError: it cannot be pickled, or written.
        """
        from pyspark import cloudpickle

        try:
            raw = cloudpickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # of any class: it is about the user's objects
            raise DataError(
                f"trial.keep: a {type(value).__qualname__} cannot be pickled ({type(error).__name__}: {error}). Keep weights, "
                "for example a state_dict, or write a file of its own."
            ) from error
        with self.files.telling(self._name(number), "written"):
            self.files.write(self._name(number), [memoryview(raw)])
        return self.files.name(self._name(number))

    def prune(self, study: optuna.Study) -> None:
        """Delete what trials have made that are not among the best and run no more. On the driver."""
        best = {self._name(t.number) for t in self._best(study)}
        running = {self._name(t.number) for t in study.get_trials(deepcopy=False) if not t.state.is_finished()}
        mine = re.compile(re.escape(f"{self.study}-trial-") + r"\d+\.pkl")
        with self.files.telling("what other trials made", "deleted"):
            for name in self.files.files():
                if mine.fullmatch(name) and name not in best | running:
                    self.files.remove(name)

    def _best(self, study: optuna.Study) -> list[FrozenTrial]:
        if len(study.directions) > 1:
            return list(study.best_trials)
        sign = -1.0 if study.direction.name == "MAXIMIZE" else 1.0
        done = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE" and KEPT in t.user_attrs]
        return sorted(done, key=lambda t: (sign * t.values[0], t.number))[: self.most]

    def _name(self, number: int) -> str:
        return f"{self.study}-trial-{number}.pkl"


def best_of(study: optuna.Study, trial: FrozenTrial | None = None) -> Any:
    """Return what a trial of a search has kept, by default the best one. It is unpickled: only for studies of your own.

    Args:
        study: what `gap.search` returned.
        trial: one of its trials.

    Raises:
        ConfigurationError: the trial has kept nothing.
        DataError: it cannot be read.
    """
    chosen = trial or study.best_trial
    place = chosen.user_attrs.get(KEPT)
    if place is None:
        raise ConfigurationError(
            f"Trial {chosen.number} has kept nothing. Call trial.keep(value) in the objective, and give gap.search a folder: "
            "checkpoint=."
        )
    folder, _, name = str(place).rpartition("/")
    files = WholeFiles(*storage.locate(folder))
    with files.telling(name, "read"):
        raw = files.read(name)
    return pickle.loads(raw.data)
