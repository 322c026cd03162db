"""Real sentences: what scikit-image and scikit-learn say about the pictures and tables they bring along."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SHORTEST, _LONGEST = 4, 45  # words
# Lines that are no prose: headings, tables, lists, directives, doctests.
_MARKUP = re.compile(r"\s|[-=~*^:|+]{2}|>>>|\.\. |[-*] |:\w|[|#]")
_SECTIONS = re.compile(r"\n(?=[A-Z][a-z]+\n-{3,})")
_ROLE = re.compile(r":\w+:`~?([^`<]*)`")
_LINK = re.compile(r"`+([^`<]*?)\s*(?:<[^>]*>)?`+_{0,2}")
_REFERENCE = re.compile(r"\s*\[\d+\]_?")
# A full stop after one capital letter ("R.A. Fisher") or a short form ends no sentence.
_END = re.compile(r"(?<=[.!?])(?<![A-Z]\.)(?<!al\.)(?<!et\.)(?<!Prof\.)\s+(?=[A-Z])")
# Left over where a reference or an address stood.
_TORN = re.compile(r"[\[\]_]|http|pp\.|\b(?:at|in|of)[.:]")


@dataclass(frozen=True)
class Sentence:
    """One sentence and where it stands.

    Args:
        source: e.g. ``"scikit-image: astronaut"``.
        text: the sentence, without markup.
    """

    source: str
    text: str


def sentences(skimage: Path, sklearn: Path) -> list[Sentence]:
    """Read the sentences from the installed packages; nothing of them is imported.

    Args:
        skimage: folder of scikit-image.
        sklearn: folder of scikit-learn.

    Returns:
        Each sentence once, in the order of the files.
    """
    found: dict[str, Sentence] = {}
    for source, paragraph in [*_pictures(skimage), *_tables(sklearn)]:
        for text in _prose(paragraph):
            found.setdefault(text, Sentence(source, text))
    return list(found.values())


def _pictures(package: Path) -> Iterator[tuple[str, str]]:
    """Yield the paragraphs of the documentation of `skimage.data`, without the sections on calling it."""
    tree = ast.parse((package / "data" / "_fetchers.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith(("_", "download", "lbp")):
            for section in _SECTIONS.split(ast.get_docstring(node) or ""):
                title, _, body = section.partition("\n---")
                if body and title != "Notes":
                    continue
                for paragraph in re.split(r"\n\s*\n", body.lstrip("-\n") or section):
                    yield f"scikit-image: {node.name.replace('_', ' ')}", paragraph


def _tables(package: Path) -> Iterator[tuple[str, str]]:
    for file in sorted((package / "datasets" / "descr").glob("*.rst")):
        for paragraph in re.split(r"\n\s*\n", file.read_text(encoding="utf-8")):
            yield f"scikit-learn: {file.stem.replace('_', ' ')}", paragraph


def _prose(paragraph: str) -> Iterator[str]:
    lines = paragraph.strip("\n").splitlines()
    if not lines or any(_MARKUP.match(line) for line in lines):
        return
    text = _LINK.sub(r"\1", _ROLE.sub(r"\1", " ".join(" ".join(lines).split())))
    for sentence in _END.split(_REFERENCE.sub("", text).replace("*", "")):
        whole = sentence.endswith((".", "!", "?")) and sentence[:1].isupper() and not _TORN.search(sentence)
        if whole and _SHORTEST <= len(sentence.split()) <= _LONGEST:
            yield sentence
