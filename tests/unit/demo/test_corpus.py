from __future__ import annotations

from pathlib import Path

import pytest

from sparkgap.demo.corpus import Sentence, sentences

_PICTURES = '''
def camera():
    """Gray-level "camera" image of a man.

    Made in 1978 at the institute by R.A. Fisher.
    Brick wall.

    It is used `by everybody <https://example.org/x>`__ since then [1]_.

    Parameters
    ----------
    one : int
        Not prose at all here.

    Notes
    -----
    No copyright restrictions are known.

    References
    ----------
    .. [1] This is not taken either.
    """

def _hidden():
    """This sentence is not public."""

def download_all():
    """This sentence is about downloads."""
'''
_TABLE = """.. _wines:

Wine recognition
----------------

=== ===
a   b
=== ===

The wines grow in the same region. The full table is available at.
The :func:`sklearn.datasets.load_wine` function loads them all.

- A list is not taken at all.
"""


@pytest.fixture
def installed(tmp_path: Path) -> tuple[Path, Path]:
    skimage, sklearn = tmp_path / "skimage", tmp_path / "sklearn"
    (skimage / "data").mkdir(parents=True)
    (skimage / "data" / "_fetchers.py").write_text(_PICTURES)
    (sklearn / "datasets" / "descr").mkdir(parents=True)
    (sklearn / "datasets" / "descr" / "wine_data.rst").write_text(_TABLE)
    return skimage, sklearn


def test_prose_without_markup(installed: tuple[Path, Path]) -> None:
    assert sentences(*installed) == [
        Sentence("scikit-image: camera", 'Gray-level "camera" image of a man.'),
        Sentence("scikit-image: camera", "Made in 1978 at the institute by R.A. Fisher."),
        Sentence("scikit-image: camera", "It is used by everybody since then."),
        Sentence("scikit-image: camera", "No copyright restrictions are known."),
        Sentence("scikit-learn: wine data", "The wines grow in the same region."),
    ]
