"""Benches that outlive a task: the process that works keeps what it has imported and loaded, from one lease to the next.

In Spark's Python worker, where each lease is a task of its own. A bench that no lease has used for a while is closed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sparkgap._errors import ModelProcessError
from sparkgap.scheduled.bench import Bench
from sparkgap.scheduled.program import Program

_log = logging.getLogger("sparkgap.scheduled")

KEEP_SECONDS = 10.0
"""The driver cannot tell that a run is over; so long do its processes stay for a lease that may come."""

_lock = threading.Lock()
_kept: dict[str, tuple[Bench, threading.Timer]] = {}


@contextmanager
def lent(run: str, program: Program) -> Iterator[Bench]:
    """Lend the bench of a run, a new one if need be; it is kept unless the block raises, or there is another by then."""
    bench = _take(run) or Bench(program)
    try:
        yield bench
    except BaseException:
        bench.close()
        raise
    _keep(run, bench)


def _take(run: str) -> Bench | None:
    with _lock:
        bench, timer = _kept.pop(run, (None, None))
    if timer is not None:
        timer.cancel()
    return bench


def _keep(run: str, bench: Bench) -> None:
    timer = threading.Timer(KEEP_SECONDS, _close, (run, bench))
    timer.daemon = True
    with _lock:
        taken = run in _kept
        if not taken:
            _kept[run] = bench, timer
    if taken:
        bench.close()
    else:
        timer.start()


def _close(run: str, bench: Bench) -> None:
    """Close a bench, unless a lease has taken it."""
    with _lock:
        kept, _ = _kept.get(run, (None, None))
        if kept is not bench:
            return
        del _kept[run]
    try:
        bench.close()
    except ModelProcessError as error:
        _log.warning("The process of a run that seems to be over could not be ended: %s", error)
