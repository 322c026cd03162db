"""Studies in storages: they go on, count what has finished, and end what dead drivers have left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sparkgap._errors import ConfigurationError
from sparkgap.tuning import marks
from sparkgap.tuning.api import search


def square(trial):
    return trial.suggest_float("x", -1, 1) ** 2


def storage_at(path: Path, kind: str):
    return f"sqlite:///{path / 'study.db'}" if kind == "sqlite" else path / "study.log"


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_study_goes_on(tmp_path, kind):
    storage = storage_at(tmp_path, kind)
    assert len(search(square, trials=4, storage=storage, parallel=2).trials) == 4
    study = search(square, trials=7, storage=storage, parallel=2)
    assert len(study.trials) == 7
    assert study.study_name == f"{__name__}.square"
    with pytest.raises(ConfigurationError, match="minimize, and this search to maximize"):
        search(square, trials=9, storage=storage, direction="maximize")


DRIVER = """
    import os, sys, threading
    sys.path[:0] = {path!r}
    import conftest, test_resume, pytest, optuna
    from sparkgap.scheduled import asking
    from sparkgap.tuning import api

    asking.connect(lambda *q: conftest._here.put(*q))
    api._launch = lambda spark, task, c, **o: conftest.Engine(task, c.numbers(), told=c.told, asked=c.asked, **o)
    hang = threading.Event()

    def objective(trial):
        if trial.number in (3, 5):
            print("hangs", flush=True)
            hang.wait()
        return test_resume.square(trial)

    def callback(study, trial):
        print("finished", flush=True)

    api.search(objective, trials=30, storage=optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend({file!r})), study_name="s", parallel=3, callbacks=[callback])
"""


def test_what_a_killed_driver_has_left_is_ended_and_nothing_is_lost(tmp_path):
    file = str(tmp_path / "study.log")
    code = textwrap.dedent(DRIVER).format(path=[str(Path(__file__).parent)], file=file)
    driver = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    lines = []
    while lines.count("hangs") < 2 or lines.count("finished") < 12:
        lines.append(driver.stdout.readline().strip())
        assert lines[-1], lines
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    rest = driver.stdout.read().count("finished")
    driver.stdout.close()
    study = search(square, trials=30, storage=file, study_name="s", parallel=3)
    ended = [t for t in study.trials if t.state == TrialState.FAIL]
    assert {3, 5} <= {t.number for t in ended}
    assert all(t.user_attrs["kind"] == "driver" and "has ended" in t.user_attrs["error"] for t in ended)
    assert len([t for t in study.trials if t.state == TrialState.COMPLETE]) == 30  # those of the dead driver do not count
    assert len(study.trials) == 30 + len(ended)
    assert lines.count("finished") + rest >= 12


class Killed(BaseException):
    """Stands for the death of the driver at some place."""


@pytest.mark.parametrize("place", ["before asking", "after asking"])
def test_a_driver_may_die_while_a_trial_begins(place, monkeypatch):
    study = optuna.create_study()
    with monkeypatch.context() as patch:
        real = optuna.Study.ask

        def ask(self):
            if place == "before asking":
                raise Killed
            real(self)
            raise Killed

        patch.setattr(optuna.Study, "ask", ask)
        with pytest.raises(Killed):
            search(square, trials=3, study=study, parallel=1)
    search(square, trials=3, study=study, parallel=1)
    states = [t.state.name for t in study.trials]
    assert states.count("COMPLETE") == 3
    assert not {"RUNNING", "WAITING"} & set(states)


def test_trials_of_living_drivers_and_of_others_are_left_alone():
    study = optuna.create_study()
    plain, other, live = study.ask(), study.ask(), study.ask()
    other.set_user_attr(marks.MARK, {"run": "a", "host": "elsewhere", "pid": 1, "began": "1"})
    parent = os.getppid()
    live.set_user_attr(marks.MARK, {"run": "b", "host": marks.platform.node(), "pid": parent, "began": marks.began(parent)})
    with marks.alive("c") as mark:
        study.ask().set_user_attr(marks.MARK, mark)
        assert marks.end_stale(study) == 0
    assert marks.end_stale(study) == 1
    assert {t.number for t in study.get_trials(states=(TrialState.RUNNING,))} == {plain.number, other.number, live.number}


def test_a_process_id_that_is_used_again_is_no_living_driver():
    mark = {"run": "b", "host": marks.platform.node(), "pid": os.getppid(), "began": "12"}
    assert marks.is_dead(mark)
    assert not marks.is_dead(mark | {"began": marks.began(os.getppid())})


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_storage_with_heartbeats(tmp_path):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'a.db'}", heartbeat_interval=60)
    study = search(square, trials=3, storage=storage, parallel=1)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 3


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_drivers_on_other_machines_are_known_by_their_heartbeat(tmp_path, monkeypatch):
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'a.db'}", heartbeat_interval=60)
    study = optuna.create_study(storage=storage)
    with pytest.warns(UserWarning, match="Heartbeat"):
        stale = study.ask()
    monkeypatch.setattr(optuna.storages.RDBStorage, "_get_stale_trial_ids", lambda self, study_id: [stale._trial_id])
    marks.end_stale(study)
    assert study.trials[0].state == TrialState.FAIL


def test_a_trial_that_another_driver_has_ended_is_left_as_it_is():
    study = optuna.create_study()

    def objective(trial):
        if trial.number == 1:
            study.tell(1, state=TrialState.FAIL)
            raise ValueError("late")
        if trial.number == 2:
            study.tell(2, state=TrialState.FAIL)
        return 1.0

    search(objective, trials=4, study=study, parallel=1)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "FAIL", "FAIL", "COMPLETE"]
    assert "error" not in study.trials[1].user_attrs
