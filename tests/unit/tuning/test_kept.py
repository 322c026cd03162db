"""What the best trials have made stays, and that of the others goes."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.tuning.kept import KEPT, KeptFolder, best_of


def trial(study: optuna.Study, folder: KeptFolder, value: float | tuple[float, ...] | None) -> int:
    """End a trial that has kept its number; None: it failed."""
    asked = study.ask()
    asked.set_user_attr(KEPT, folder.write(asked.number, {"number": asked.number}))
    if value is None:
        study.tell(asked, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(asked, value)
    folder.prune(study)
    return asked.number


def there(path: Path) -> set[int]:
    return {int(p.stem.rpartition("-")[2]) for p in path.glob("*.pkl")}


@pytest.mark.parametrize(("direction", "best"), [("minimize", [3, 1]), ("maximize", [2, 0])])
def test_the_best_stay(tmp_path: Path, direction: str, best: list[int]) -> None:
    study = optuna.create_study(direction=direction)
    folder = KeptFolder.of(tmp_path, "a study/of 1", 2)
    (tmp_path / "a_study_of_2-trial-0.pkl").write_text("another study's")
    running = study.ask()
    folder.write(running.number, "still running")
    for value in (5.0, 2.0, 7.0, 1.0, None):
        trial(study, folder, value)
    wanted = {running.number, *(n + 1 for n in best)}
    assert there(tmp_path) - {0} == wanted - {0}
    assert (tmp_path / "a_study_of_2-trial-0.pkl").exists()
    assert best_of(study) == {"number": best[0] + 1}
    assert best_of(study, study.trials[best[1] + 1]) == {"number": best[1] + 1}
    with pytest.raises(DataError, match="cannot be read"):
        best_of(study, study.trials[5])


def test_of_several_objectives_the_front_stays(tmp_path: Path) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    folder = KeptFolder.of(tmp_path, "s", 1)
    for values in ((1.0, 1.0), (2.0, 2.0), (3.0, 0.0)):
        trial(study, folder, values)
    assert there(tmp_path) == {0, 1}


def test_a_later_value_replaces_an_earlier_one(tmp_path: Path) -> None:
    study = optuna.create_study()
    folder = KeptFolder.of(tmp_path, "s", 1)
    asked = study.ask()
    folder.write(asked.number, "first")
    asked.set_user_attr(KEPT, folder.write(asked.number, "second"))
    study.tell(asked, 1.0)
    assert best_of(study) == "second"


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    study = optuna.create_study()
    study.tell(study.ask(), 1.0)
    with pytest.raises(ConfigurationError, match=r"Trial 0 has kept nothing.*checkpoint="):
        best_of(study)
    with pytest.raises(DataError, match=r"a generator cannot be pickled .*state_dict"):
        KeptFolder.of(tmp_path, "s", 1).write(0, (n for n in range(3)))
