"""`sparkgap run`, in a process of its own; what it reads and writes, in this one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkgap import ConfigurationError, TaskError
from sparkgap._cli_tasks import Lines, SizedLines, Tally, find, line_of
from sparkgap.scheduled.outcome import Outcome

pytestmark = pytest.mark.local

JOBS = """
import os, signal, threading, time
from pathlib import Path
from helpers import double

class Odd:
    def __repr__(self):
        return "<odd>"

def work(item):
    Path("ran", f"{item['n']}-{time.time_ns()}").touch()
    print("working on", item["n"])
    if item["n"] == 2:
        raise KeyError("two")
    if item["n"] == 3:
        os._exit(7)
    return Odd() if item["n"] == 4 else double(item["n"])

def slow(item):
    Path("ran", str(os.getpid())).touch()
    if item:
        threading.Event().wait(600)

number = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tasks")
    (made / "jobs_of_test.py").write_text(JOBS)
    (made / "helpers.py").write_text("def double(n):\n    return 2 * n\n")
    (made / "broken_of_test.py").write_text("1 / 0\n")
    (made / "needs_of_test.py").write_text("import not_there_of_test\n")
    (made / "items.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(6)) + "\n")
    (made / "good.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in (0, 1, 5)))
    (made / "bad.jsonl").write_text('{"n": 1}\n{"n": \n')
    return made


@pytest.fixture(autouse=True)
def ran(folder: Path) -> Path:
    made = folder / "ran"
    made.mkdir(exist_ok=True)
    for file in made.iterdir():
        file.unlink()
    return made


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sparkgap", "run", *arguments, "--master", "local[2]"]


def sparkgap(folder: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, input=text, capture_output=True, text=True, timeout=280, check=False
    )


def test_outcomes_of_all_kinds(folder: Path, ran: Path) -> None:
    done = sparkgap(folder, "jobs_of_test:work", "items.jsonl", "--out", "out.jsonl")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    head, *failures = done.stderr.splitlines()
    assert head.startswith("6 items in ")
    assert head.endswith(" s: 4 with a value, 2 without (1 exception, 1 exit)")
    assert failures[0] == "  Item 2: 'two' [KeyError]"
    assert failures[1].startswith("  Item 3: ")
    rows = [json.loads(line) for line in (folder / "out.jsonl").open()]
    assert [row["index"] for row in rows] == list(range(6))
    assert [row["item"] for row in rows] == [{"n": n} for n in range(6)]
    assert [row["kind"] for row in rows] == ["ok", "ok", "exception", "exit", "ok", "ok"]
    assert [row["value"] for row in rows] == [0, 2, None, None, "<odd>", 10]
    assert [row.get("value_repr", False) for row in rows] == [False] * 4 + [True, False]
    assert (rows[3]["exit_code"], rows[0]["output"]) == (7, "working on 0\n")
    assert "in work" in rows[2]["error"]


def test_a_journal_is_gone_on_with(folder: Path, ran: Path) -> None:
    call = ("jobs_of_test:work", "good.jsonl", "--journal", "tasks.journal", "--key", "n", "--out", "out.parquet")
    for _ in range(2):
        done = sparkgap(folder, *call)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert done.stderr.endswith("s: 3 with a value\n")
        assert pq.read_table(folder / "out.parquet")["value"].to_pylist() == [0, 2, 10]
        assert len(list(ran.iterdir())) == 3


def test_items_of_stdin_and_the_first_failure(folder: Path) -> None:
    text = "".join(f'{{"n": {n}}}\n' for n in (0, 2, 5))
    done = sparkgap(folder, "jobs_of_test:work", "-", "--out", "-", "--on-error", "raise", "--parallel", "1", text=text)
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[0])["value"] == 0
    assert "sparkgap: Item 1: 'two'" in done.stderr


def test_a_line_of_stdin_that_is_no_json(folder: Path) -> None:
    done = sparkgap(folder, "jobs_of_test:work", "-", text="{n}\n")
    assert done.returncode == 2
    assert "Line 1 of stdin is no JSON value" in done.stderr


def test_ctrl_c_says_where_the_outcomes_are(folder: Path, ran: Path) -> None:
    (folder / "slow.jsonl").write_text("0\n1\n1\n1\n")
    call = command("jobs_of_test:slow", "slow.jsonl", "--journal", "slow.journal", "--out", "-", "--parallel", "1")
    process = subprocess.Popen(
        call, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["kind"] == "ok"  # so it is at the second one
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Cancelled with 1 outcomes; slow.journal has them: the same command goes on from there.\n" in said
    assert "sparkgap: Interrupted.\n" in said
    assert not [file.name for file in ran.iterdir() if os.path.exists(f"/proc/{file.name}")]


WRONG = [
    (("jobs_of_test", "items.jsonl"), "Write module:function"),
    (("nowhere_of_test:work", "items.jsonl"), "There is no module 'nowhere_of_test'"),
    (("nowhere_of_test.sub:work", "items.jsonl"), "There is no module 'nowhere_of_test'"),
    (("needs_of_test:work", "items.jsonl"), "needs 'not_there_of_test', which is not installed"),
    (("broken_of_test:work", "items.jsonl"), "Importing broken_of_test raised ZeroDivisionError"),
    (("jobs_of_test:nothing", "items.jsonl"), "has no 'nothing'; it has Odd, Path, double, slow, work"),
    (("jobs_of_test:number", "items.jsonl"), "is a int, not a function"),
    (("jobs_of_test:work", "none.jsonl"), "There is no file none.jsonl"),
    (("jobs_of_test:work", "bad.jsonl"), "Line 2 of bad.jsonl is no JSON value"),
    (("jobs_of_test:work", "items.jsonl", "--out", "no/folder.jsonl"), "give a file in a folder that is there"),
]


@pytest.mark.parametrize(("call", "words"), WRONG)
def test_wrong_calls_are_named_before_spark_starts(folder: Path, ran: Path, call: tuple[str, ...], words: str) -> None:
    from click.testing import CliRunner

    from sparkgap import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(cli, "_session", lambda *_: pytest.fail("Spark was started"))
        done = CliRunner().invoke(cli.cli, ["run", *call])
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert words in done.stderr


def test_a_wrong_option(folder: Path) -> None:
    done = sparkgap(folder, "jobs_of_test:work", "items.jsonl", "--timeout", "0")
    assert done.returncode == 2
    assert "--timeout" in done.stderr


def test_installed_modules_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark import cloudpickle

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "pack_of_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "part.py").write_text("class Kit:\n    @staticmethod\n    def work(n): return n + 1\n")
    before = set(cloudpickle.list_registry_pickle_by_value())
    assert find("pack_of_test.part:Kit.work")(1) == 2
    assert find("json:dumps") is json.dumps
    assert set(cloudpickle.list_registry_pickle_by_value()) - before == {"pack_of_test"}
    assert b"pack_of_test" in cloudpickle.dumps(find("pack_of_test.part:Kit.work"))
    code = f"import pickle; print(pickle.loads({cloudpickle.dumps(find('pack_of_test.part:Kit.work'))!r})(4))"
    got = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert got.stdout == "5\n", got.stderr
    cloudpickle.unregister_pickle_by_value(sys.modules.pop("pack_of_test"))
    del sys.modules["pack_of_test.part"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.lists(JSON))
def test_items_are_what_the_file_says(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    file = tmp_path_factory.mktemp("lines") / "items.jsonl"
    file.write_text("".join(f"{json.dumps(v)}\n\n" for v in values))
    lines = Lines.of(str(file))
    assert isinstance(lines, SizedLines)
    assert (len(lines), list(lines), list(lines)) == (len(values), values, values)


@given(JSON)
def test_a_json_value_stays(value: Any) -> None:
    row = json.loads(line_of(Outcome(0, None, "ok", value)))
    assert (row["value"], "value_repr" in row) == (value, False)


@pytest.mark.parametrize(
    ("value", "shown", "is_repr"),
    [
        (np.float32(0.5), 0.5, False),
        ({"a": np.arange(3)}, {"a": [0, 1, 2]}, False),
        (float("nan"), "nan", True),
        ({1, 2}, "{1, 2}", True),
        ({(1, 2): 3}, "{(1, 2): 3}", True),
    ],
)
def test_other_values(value: Any, shown: Any, is_repr: bool) -> None:
    row = json.loads(line_of(Outcome(0, None, "ok", value)))
    assert (row["value"], row.get("value_repr", False)) == (shown, is_repr)


def test_the_last_lines() -> None:
    tally = Tally()
    assert tally.text(1) == "0 items in 1.0 s: 0 with a value"
    tally.add(Outcome(0, None, "ok", 1))
    assert tally.text(1) == "1 item in 1.0 s: 1 with a value"
    for index in range(1, 8):
        tally.add(Outcome(index, None, "timeout", error=TaskError(f"Item {index}: too slow\nmore", index, "timeout")))
    head, *rest = tally.text(61.26).splitlines()
    assert head == "8 items in 61.3 s: 1 with a value, 7 without (7 timeout)"
    assert rest == [f"  Item {index}: too slow" for index in range(1, 6)] + ["  and 2 more"]


def test_a_file_is_looked_at_first(tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text("1\n" + "x" * 100)
    with pytest.raises(ConfigurationError, match=r"Line 2 .*: x{60}…$"):
        Lines.of(str(tmp_path / "long.jsonl"))
