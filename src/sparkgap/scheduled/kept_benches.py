"""Benches that outlive a task: the process that works keeps what it has imported and loaded, from one lease to the next.

In Spark's Python worker, where each lease is a task of its own. A bench that no lease has used for a while is closed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sparkgap._errors import ModelProcessError
from sparkgap.devices.assign import granted_gpus
from sparkgap.scheduled.bench import Bench
from sparkgap.scheduled.program import Program

_log = logging.getLogger("sparkgap.scheduled")

KEEP_SECONDS = 10.0
"""The driver cannot tell that a run is over; so long do its processes stay for a lease that may come."""

_lock = threading.Lock()
_Key = tuple[str, tuple[str, ...]]  # a run, and the GPUs of the tasks whose benches it has
_kept: dict[_Key, tuple[Bench, threading.Timer]] = {}


@contextmanager
def lent(run: str, program: Program) -> Iterator[Bench]:
    """Lend the bench of a run, a new one if need be; it is kept unless the block raises, or there is another by then."""
    key = (run, granted_gpus())
    bench = _take(key) or Bench(program)
    try:
        yield bench
    except BaseException:
        bench.close()
        raise
    _keep(key, bench)


def _take(key: _Key) -> Bench | None:
    with _lock:
        bench, timer = _kept.pop(key, (None, None))
    if timer is not None:
        timer.cancel()
    return bench


def _keep(key: _Key, bench: Bench) -> None:
    timer = threading.Timer(KEEP_SECONDS, _close, (key, bench))
    timer.daemon = True
    with _lock:
        taken = key in _kept
        if not taken:
            _kept[key] = bench, timer
    if taken:
        bench.close()
    else:
        timer.start()


def _close(key: _Key, bench: Bench) -> None:
    """Close a bench, unless a lease has taken it."""
    with _lock:
        kept, _ = _kept.get(key, (None, None))
        if kept is not bench:
            return
        del _kept[key]
    try:
        bench.close()
    except ModelProcessError as error:
        _log.warning("The process of a run that seems to be over could not be ended: %s", error)
