"""`gap.parallel_backend`: joblib's `Parallel`, and so the `n_jobs` of scikit-learn, on Spark. Driver side.

Importing this module also makes the name known to joblib: ``joblib.parallel_config("sparkgap", cpus=2)``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.scheduled.resources import Placement, placement

need("joblib", extra="joblib", why="to run joblib's Parallel on Spark")

from joblib import parallel_config, register_parallel_backend  # noqa: E402
from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend  # noqa: E402

from sparkgap.scheduled.joblib_call import Call, Job, Wishes  # noqa: E402
from sparkgap.scheduled.joblib_task import TaskThreads  # noqa: E402

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NAME = "sparkgap"


@contextmanager
def parallel_backend(
    *,
    parallel: int | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    memory: int | str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    fresh: bool = False,
    preload: Sequence[str] = (),
    spark: SparkSession | None = None,
) -> Iterator[None]:
    """Run what uses joblib inside the block on the cluster: `joblib.Parallel`, and the ``n_jobs`` of scikit-learn.

    Each call of `Parallel` is a run as of `gap.run`, seen by the monitor. joblib puts calls that take less than 0.2 s
    together in batches, and a batch is an item. ``n_jobs`` that is not given means all slots; ``n_jobs=1``, and a cluster
    with one slot, means that joblib works in this process. `Parallel` inside a task has threads, as many as the task has
    cores.

    What a call raises is raised here, as its own type where that can be rebuilt, with the task's traceback in a `TaskError`
    as its cause; a task that died otherwise raises that `TaskError`. Arguments travel with each batch, arrays too: for large
    data that all tasks share, use ``data=`` of `gap.run`. joblib must be installed on the executors.

    Args:
        parallel: tasks at the same time; by default as many as the cluster runs.
        cpus: cores a task, which its libraries use as threads; Spark's ``spark.task.cpus`` by default.
        gpus: GPUs a task, fractions too, where Spark has them.
        memory: resident memory of a task's processes above which they are killed: bytes, or ``"2g"``.
        timeout: seconds that a batch may take; the one of `Parallel` is for the wait for a result.
        retries: further attempts of a batch that failed: that raised, or whose process died.
        fresh: give each batch a new process.
        preload: modules that are imported before the processes of tasks begin: ``("sklearn",)``.
        spark: the session; the active one by default.

    Raises:
        ConfigurationError: an option makes no sense.
        MissingDependencyError: joblib is not installed.

    Example:
        >>> import sparkgap as gap
        >>> from joblib import Parallel, delayed
        >>> spark = gap.session()
        >>> with gap.parallel_backend():
        ...     Parallel(n_jobs=2)(delayed(divmod)(n, 3) for n in range(4))
        [(0, 0), (0, 1), (0, 2), (1, 0)]
    """
    backend = SparkBackend(
        parallel=parallel, cpus=cpus, gpus=gpus, memory=memory, timeout=timeout, retries=retries, fresh=fresh,
        preload=tuple(preload), spark=spark,
    )  # fmt: skip
    with parallel_config(backend=backend):
        yield


class SparkBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """The backend itself, for joblib; see `parallel_backend` for its options.

    Args:
        nesting_level: of joblib.
        inner_max_num_threads: refused by joblib before it comes here; `cpus` says it.
        wishes: the options.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1  # who names a cluster wants it all, as with joblib's other clusters

    def __init__(self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **wishes: Any) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._wishes = _wishes(wishes)
        self.parallel: Any = None
        self._n_jobs = 1
        self._lock = threading.Lock()  # joblib submits from its caller's thread and from ours, and aborts meanwhile
        self._aborted = False
        self._call: Call | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks will run at the same time.

        Raises:
            SessionError: there is no session.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs=0 has no meaning. Give a number of tasks from 1, or -1 for all that the cluster runs.")
        if n_jobs == 1:
            return 1
        most = self._placement().parallel
        if n_jobs is None:
            return most
        return min(n_jobs, most) if n_jobs > 0 else max(1, most + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
        """Get ready for a `Parallel`. Each has a backend of its own: several may be at work with the one of a block."""
        if self.parallel is not parallel:
            raise FallbackToBackend(self._own(parallel))
        self._n_jobs = self.effective_n_jobs(n_jobs)
        if self._n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        return self._n_jobs

    def start_call(self) -> None:
        """Take batches again."""
        self._aborted = False

    def submit(self, func: Callable[[], list[Any]], callback: Callable[[Job], None] | None = None) -> Job:
        """Hand one batch to the run of this call, which begins with the first."""
        with self._lock:
            while not self._aborted:
                if self._call is None:
                    self._call = self._begin(_name(func))
                if (job := self._call.submit(func, callback)) is not None:
                    return job
                self._call = None  # it was idle, and has ended
        return Job(func, None, 0)  # from a thread that did not know: nobody waits for it

    def apply_async(self, func: Callable[[], list[Any]], callback: Callable[[Job], None] | None = None) -> Job:
        """Do what `submit` does: its name before joblib 1.5."""
        return self.submit(func, callback)

    def retrieve_result_callback(self, out: Job) -> list[Any]:
        """Return the results of a batch that has ended, or raise what it raised."""
        return out.get()

    def stop_call(self) -> None:
        """End the run of a call that is over."""
        with self._lock:
            call, self._call = self._call, None
        if call is not None:
            call.close()

    def terminate(self) -> None:
        """Forget what was learnt about the duration of calls."""
        self.stop_call()
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End the run of a call at once."""
        with self._lock:
            self._aborted = True
            call, self._call = self._call, None
        if call is not None:
            call.abort()

    def get_nested_backend(self) -> tuple[Any, int | None]:
        """Return what `Parallel` uses inside a task."""
        return TaskThreads(self._placement().cpus, (self.nesting_level or 0) + 1), None

    def _own(self, parallel: Any) -> SparkBackend:
        own = SparkBackend(nesting_level=self.nesting_level, **vars(self._wishes))
        own.parallel = parallel
        return own

    def _begin(self, title: str) -> Call:
        place, spark = self._placement(), self._session()
        return Call(spark, place, self._wishes, parallel=min(self._n_jobs, place.parallel), title=title)

    def _session(self) -> SparkSession:
        return self._wishes.spark or _spark.active_session()

    def _placement(self) -> Placement:
        wishes = self._wishes
        return placement(self._session(), cpus=wishes.cpus, gpus=wishes.gpus, parallel=wishes.parallel)


def _wishes(given: dict[str, Any]) -> Wishes:
    """Check what can be checked before there is a session.

    Raises:
        ConfigurationError: an option makes no sense, or there is none of that name.
    """
    try:
        wishes = Wishes(**given)
    except TypeError as error:
        raise ConfigurationError(f"{error}. The options are: {', '.join(Wishes.__dataclass_fields__)}.") from None
    if wishes.retries < 0:
        raise ConfigurationError(f"retries={wishes.retries!r}: further attempts, from 0.")
    if wishes.timeout is not None and not wishes.timeout > 0:
        raise ConfigurationError(f"timeout={wishes.timeout!r}: seconds above 0, or None for no limit.")
    return wishes


def _name(batch: Any) -> str:
    """Return the name of the function that a batch calls, for those who look on."""
    function = batch.items[0][0]
    return str(getattr(function, "__name__", type(function).__name__))


register_parallel_backend(NAME, SparkBackend)
