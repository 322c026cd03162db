"""The command line without Spark: usage, option values, formats by name, plain errors."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import sparkgap as gap
from sparkgap import _console
from sparkgap._cli_data import Floats, Pair, Size, format_of, image_feeds, literal, pairs
from sparkgap.cli import cli

PIXELS = {"image_size": (8, 8), "layout": "HWC", "mean": None, "std": None}
FAILED_TASK = """An exception was thrown from the Python worker:
Traceback (most recent call last):
  File "/x/scoring.py", line 3, in decode
    raise ValueError("Traceback: no")
ValueError: broken

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/x/worker.py", line 9, in run
    raise RowError(text)
sparkgap._errors.RowError: Row 37 (id=37): input `x` has 2 elements,
expected 4.

\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator.handlePythonException(PythonRunner.scala:581)
\tat java.base/java.lang.Thread.run(Thread.java:840)
"""


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, list(arguments))
    return result.exit_code, result.output


def test_help_of_the_whole() -> None:
    code, text = run("--help")
    assert code == 0
    assert all(command in text for command in ("transform", "explain", "demo", "Exit codes: 0 done"))


@pytest.mark.parametrize("command", ["transform", "explain", "demo"])
def test_help_of_a_command(command: str) -> None:
    code, text = run(command, "--help")
    assert code == 0
    assert "--master" in text


def test_help_shows_examples_line_by_line() -> None:
    assert "  sparkgap transform net.onnx table.parquet scored.parquet --input x --keep id\n" in run("transform", "-h")[1]


def test_version() -> None:
    assert run("--version") == (0, f"sparkgap {gap.__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("transform", "m", "d"), "Missing argument 'OUT'"),
        (("transform", "m", "d", "o", "--conf", "novalue"), "'novalue' is not KEY=VALUE"),
        (("transform", "m", "d", "o", "--image-size", "axb"), "'axb' is not HEIGHTxWIDTH, such as 224x224"),
        (("transform", "m", "d", "o", "--mean", "a,b"), "'a,b' is not a number, or numbers with commas"),
        (("transform", "m", "d", "o", "--batch-size", "0"), "0 is not in the range x>=1"),
        (("transform", "m", "d", "o", "--on-error", "ignore"), "'ignore' is not one of 'raise', 'null', 'skip'"),
        (("nothing",), "No such command 'nothing'"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    code, text = run(*arguments)
    assert code == 2
    assert message in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.onnx", "/no/such", "o"), "sparkgap: /no/such does not exist.\n"),
        (("none.onnx", "d.csv", "o", "--mean", "1"), "--mean and --std are for images, and d.csv is csv. Leave them out."),
        (("none.onnx", "d.png", "o", "--partitions", "2"), "--partitions spreads rows that go through Spark"),
        (("none.onnx", "d.csv", "o", "--input", "a=b", "--input", "c"), "Give all of a=b, c as TENSOR=COLUMN"),
        (("none.onnx", "d.csv", "o.png"), "o.png is named like an image. Name it .parquet, .csv or .json"),
    ],
)
def test_a_wrong_call_is_told_before_spark_starts(arguments: tuple[str, ...], message: str) -> None:
    code, text = run("transform", *arguments, "--master", "sc://127.0.0.1:1")
    assert code == 2
    assert message in text


def test_a_model_that_is_not_there_is_told_before_spark_starts() -> None:
    code, text = run("transform", "none.onnx", "d.csv", "o", "--master", "sc://127.0.0.1:1")
    assert code in (1, 2)
    assert "none.onnx" in text
    assert "Connect" not in text


@pytest.mark.parametrize(("text", "value"), [("k=v", ("k", "v")), ("k=a=b", ("k", "a=b")), ("k=", ("k", ""))])
def test_pair(text: str, value: tuple[str, str]) -> None:
    assert Pair().convert(text, None, None) == value


@pytest.mark.parametrize(("text", "value"), [("224x192", (224, 192)), ("64", (64, 64)), ("1X2", (1, 2))])
def test_size(text: str, value: tuple[int, int]) -> None:
    assert Size().convert(text, None, None) == value


def test_floats() -> None:
    assert Floats().convert("0.5,1", None, None) == (0.5, 1.0)
    assert Floats().convert("0.5", None, None) == 0.5
    with pytest.raises(click.BadParameter, match="is not a number"):
        Floats().convert("", None, None)


@pytest.mark.parametrize(
    ("texts", "value"),
    [
        ((), None),
        (("x", "y"), ["x", "y"]),
        (("t=x",), {"t": "x"}),
        (("t=x", "u=a,b"), {"t": "x", "u": ["a", "b"]}),
    ],
)
def test_pairs(texts: tuple[str, ...], value: object) -> None:
    assert pairs(texts) == value


def test_pairs_half_named() -> None:
    with pytest.raises(gap.ConfigurationError, match=r"Give all of t=x, y as TENSOR=COLUMN, or none"):
        pairs(("t=x", "y"))


def test_image_feeds() -> None:
    picture = gap.image("content", size=(8, 8), layout="HWC")
    same = pickle.dumps(picture)
    alone = image_feeds((), PIXELS)
    assert pickle.dumps(alone[0]) == same
    assert len(alone) == 1
    named = image_feeds(("in=content", "extra=length"), PIXELS)
    assert pickle.dumps(named["in"]) == same
    assert named["extra"] == "length"


@pytest.mark.parametrize(("text", "value"), [("3", 3), ("true", True), ("[1, 2]", [1, 2]), ("predict_proba", "predict_proba")])
def test_literal(text: str, value: object) -> None:
    assert literal(text) == value


@pytest.mark.parametrize(
    ("path", "form"),
    [("a/b.PARQUET", "parquet"), ("s3://x/*.csv", "csv"), ("x.jsonl", "json"), ("x.jpeg", "image"), ("x.tsv", "csv")],
)
def test_format_of_a_name(path: str, form: str) -> None:
    assert format_of(path) == form


def test_format_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    (tmp_path / "_SUCCESS").touch()
    with pytest.raises(gap.ConfigurationError, match=r"does not tell its format\. Say it: --format parquet\|csv"):
        format_of(str(tmp_path))
    (tmp_path / "day=1" / "part-0.snappy.parquet").touch()
    (tmp_path / "day=1" / ".part-0.csv").touch()
    assert format_of(str(tmp_path)) == "parquet"
    (tmp_path / "day=1" / "x.png").touch()
    with pytest.raises(gap.ConfigurationError, match=r"holds files of several formats \(image, parquet\)"):
        format_of(str(tmp_path))


def test_format_of_nothing() -> None:
    with pytest.raises(gap.ConfigurationError, match="/no/such does not exist"):
        format_of("/no/such")


def test_plain_text_of_our_error_inside_a_traceback() -> None:
    assert _console.from_traceback(FAILED_TASK) == "Row 37 (id=37): input `x` has 2 elements,\nexpected 4."


def test_plain_text_of_another_error_inside_a_traceback() -> None:
    text = FAILED_TASK.partition("\nThe above")[0]
    assert _console.from_traceback(text) == "ValueError: broken"


def test_plain_text_of_a_jvm_error() -> None:
    from pyspark.errors import PySparkException

    error = PySparkException("[X] Path is not there.\n\nJVM stacktrace:\norg.apache.X\n\tat a.b(C.scala:1)")
    assert _console.plain(error) == "[X] Path is not there."


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (gap.ConfigurationError("wrong option"), "wrong option", 2),
        (gap.SignatureError("no column"), "no column", 2),
        (gap.UntrustedModelError("needs trust"), "needs trust", 2),
        (gap.MissingDependencyError("no torch"), "no torch", 2),
        (gap.SessionError("no Java"), "no Java", 1),
        (gap.RowError("row 3"), "row 3", 1),
        (KeyError("k"), "KeyError: 'k'", 1),
        (RuntimeError(), "RuntimeError", 1),
        (KeyboardInterrupt(), "Interrupted.", 130),
    ],
)
def test_errors_and_exit_codes(error: BaseException, text: str, code: int) -> None:
    assert _console.plain(error) == text
    assert _console.exit_code(error) == code


@pytest.mark.parametrize("arguments", [["-m", "sparkgap", "--help"], ["-m", "sparkgap", "transform", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, env=os.environ
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in shown.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & {"pyspark", "numpy", "pandas", "pyarrow", "rich", "torch", "tensorflow"}


def test_jvm_noise_goes_to_the_file_and_python_stays_on_the_terminal() -> None:
    script = (
        "import os, sys\nfrom sparkgap._console import spark_log\n"
        "with spark_log(False) as log:\n    os.write(2, b'from the JVM')\n    print('from Python', file=sys.stderr)\n"
        "os.write(2, b'after')\nprint(log.read_text(), end='')\nlog.unlink()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("from the JVM", "from Python\nafter")
