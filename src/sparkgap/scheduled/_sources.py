"""Source lines of notebook cells, for tracebacks that come from tasks: only the driver has the text of a cell."""

from __future__ import annotations

import linecache
import re

_FRAME = re.compile(r'(?m)^(  File "(.+)", line (\d+), in .+)\n(?!    )')


def with_sources(traceback: str) -> str:
    """Return a traceback of a task with the lines of source that it lacks, as far as this process has them."""
    return _FRAME.sub(_with_line, traceback)


def _with_line(found: re.Match[str]) -> str:
    line = linecache.getline(found[2], int(found[3])).strip()
    return f"{found[1]}\n    {line}\n" if line else found[0]
