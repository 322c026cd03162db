"""`gap.run` and `gap.search` out of a real Jupyter kernel: what is defined in cells works, and what cells show is readable."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytestmark = [pytest.mark.classic, pytest.mark.local]

CELLS = {
    "session": """
import math, sys
import sparkgap as gap
spark = gap.session("local[2]", conf={"spark.ui.enabled": "false"})
""",
    "helper": """
def area(radius):
    return math.pi * radius**2
""",
    "run": """
def volume(radius, height=2):
    return height * area(radius)

print([round(v, 3) for v in gap.run(volume, range(4)).values()])
""",
    "helper again": "def area(radius): return radius",
    "run again": "print(gap.run(volume, range(4)).values())",
    "class": """
class Cube:
    def __init__(self, side): self.side = side
    def volume(self): return self.side**3

print([(type(c) is Cube, c.volume()) for c in gap.run(Cube, [2, 3]).values()])
""",
    "raises": """
def broken(n):
    if n == 2:
        raise ValueError("two is broken")
    return area(n)

gap.run(broken, range(4)).values()
""",
    "exits": """
def leaves(n):
    if n:
        sys.exit(7)
    return n

print([(o.kind, o.exit_code) for o in gap.run(leaves, [0, 1], on_error="collect")])
""",
    "search": """
def objective(trial):
    return (trial.suggest_float("x", -1, 1) - area(0.5)) ** 2

study = gap.search(objective, trials=6)
print(len(study.trials), sorted(study.best_params), study.best_value < 2.3)
""",
    "progress": """
import time
len(gap.run(time.sleep, [0.3] * 8).values())
""",
    "stop": "spark.stop()",
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What each cell showed, run one after the other in one kernel."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text.strip()) for text in CELLS.values()])
    folder = str(tmp_path_factory.mktemp("notebook"))
    client = nbclient.NotebookClient(
        book, timeout=240, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": folder}}
    )
    client.execute()
    return dict(zip(CELLS, (cell.outputs for cell in book.cells), strict=True))


def shown(cell: list[Any]) -> str:
    """The text of a cell's outputs. What is printed while a run's line is drawn comes as display data."""
    return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in cell)


def test_no_cell_fails_but_the_one_that_raises(outputs: dict[str, list[Any]]) -> None:
    errors = {name: o.evalue for name, cell in outputs.items() for o in cell if o.output_type == "error"}
    assert list(errors) == ["raises"], errors


def test_a_function_of_a_cell_uses_other_cells(outputs: dict[str, list[Any]]) -> None:
    assert "[0.0, 6.283, 25.133, 56.549]" in shown(outputs["run"])


def test_a_cell_that_is_run_again_counts(outputs: dict[str, list[Any]]) -> None:
    assert "[0, 2, 4, 6]" in shown(outputs["run again"])


def test_objects_of_a_cells_class_come_back_as_such(outputs: dict[str, list[Any]]) -> None:
    assert "[(True, 8), (True, 27)]" in shown(outputs["class"])


def test_an_exception_names_the_function_and_the_line_of_its_cell(outputs: dict[str, list[Any]]) -> None:
    error = outputs["raises"][-1]
    assert (error.ename, error.evalue.splitlines()[0]) == ("TaskError", "Item 2: two is broken")
    assert re.search(r'File ".*", line 3, in broken\n    .*\nValueError: two is broken', error.evalue), error.evalue


def test_an_exception_shows_the_line_of_its_cell(outputs: dict[str, list[Any]]) -> None:
    assert 'raise ValueError("two is broken")' in outputs["raises"][-1].evalue


def test_sys_exit_is_an_outcome(outputs: dict[str, list[Any]]) -> None:
    assert "[('ok', None), ('exit', 7)]" in shown(outputs["exits"])


def test_an_objective_of_a_cell_is_searched(outputs: dict[str, list[Any]]) -> None:
    assert "6 ['x'] True" in shown(outputs["search"])


def test_progress_is_no_flood(outputs: dict[str, list[Any]]) -> None:
    cell = outputs["progress"]
    assert cell[-1].output_type == "execute_result"
    assert cell[-1].data["text/plain"] == "8"
    assert len(cell) <= 4
    for name, cell in outputs.items():
        assert len(shown(cell)) < 3000, name
        assert not re.search(r"\x1b\[\d*[A-HJKST]|\r", shown(cell)), name  # a notebook has no cursor to move


def test_progress_does_not_ask_for_ipywidgets(outputs: dict[str, list[Any]]) -> None:
    asked = {name: shown(cell) for name, cell in outputs.items() if 'install "ipywidgets"' in shown(cell)}
    assert not asked  # by rich, that is; tqdm asks for it in its own words
