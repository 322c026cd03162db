"""The monitor of a driver process: the store, and the ways by which events come to it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparkgap import _spark
from sparkgap._errors import ConfigurationError
from sparkgap._folders import runs_folder
from sparkgap.monitor import events, terminal
from sparkgap.monitor.history import History
from sparkgap.monitor.hub import Follower, Hub
from sparkgap.monitor.stages import StageWatch
from sparkgap.monitor.store import Store
from sparkgap.monitor.wire import Address

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ENABLED = "spark.sparkgap.monitor.enabled"
PORT = "spark.sparkgap.monitor.port"
PROGRESS = "spark.sparkgap.monitor.progress"
FOLDER = "spark.sparkgap.monitor.dir"
CERTIFICATE = "spark.sparkgap.monitor.tls.certificate"
KEY = "spark.sparkgap.monitor.tls.key"


@dataclass(frozen=True)
class Opened:
    """A run that tasks can tell about.

    Attributes:
        run: its id.
        address: where their events go; None where they have no way.
        note: why there is no way, in that case.
    """

    run: str
    address: Address | None
    note: str = ""


class Monitor:
    """Everything of one process that watches. Use `monitor()`.

    Args:
        folder: where the history is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store(History(folder))
        self._hubs: dict[tuple[str, int, str], Hub] = {}
        self._followers: dict[Path, Follower] = {}
        self._stages = StageWatch(self.store)
        self._lock = threading.Lock()

    def open(self, spark: SparkSession, kind: str, name: str, details: Mapping[str, str]) -> Opened:
        """Announce a run and make its way for events.

        Args:
            spark: the session that will work.
            kind: which pattern.
            name: for people.
            details: facts of the plan.

        Raises:
            ConfigurationError: a setting of the monitor is wrong.
        """
        run = time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:8]
        opened = self._way(spark, run)
        if opened.address is not None:
            self.store.say(events.RunStarted(run=run, time=time.time(), kind=kind, name=name, details=dict(details)))
            self._stages.watch(spark)
            wanted = _spark.conf(spark, PROGRESS, "auto").lower()
            terminal.begin(self.store, wanted, _spark.conf(spark, "spark.ui.showConsoleProgress", "false") == "true")
        return opened

    def _way(self, spark: SparkSession, run: str) -> Opened:
        if _spark.conf(spark, ENABLED, "true").lower() not in ("true", "1", "yes"):
            return Opened(run, None, f"The monitor is off: {ENABLED} is not true.")
        folder = _spark.conf(spark, FOLDER, "")
        if folder:
            return Opened(run, self._follow(Path(folder).expanduser(), run))
        host = _spark.driver_host(spark)
        if host is None:
            return Opened(
                run, None,
                "The executors of this Spark Connect server cannot reach this client. Name a folder that both see: "
                f"{FOLDER}=/shared/folder.",
            )  # fmt: skip
        bind = _spark.bind_address(spark, host)
        return Opened(run, self._hub(bind, _port(spark), certificate(spark)).address(host))

    def _hub(self, bind: str, port: int, certificate: tuple[Path, Path] | None) -> Hub:
        key = bind, port, str(certificate)
        with self._lock:
            if key not in self._hubs:
                try:
                    self._hubs[key] = Hub(self.store, bind, port, certificate)
                except OSError as error:
                    raise ConfigurationError(
                        f"The monitor cannot listen on {bind}:{port} ({error}). Choose another port with {PORT}, or 0 for a "
                        "free one."
                    ) from error
            return self._hubs[key]

    def _follow(self, folder: Path, run: str) -> Address:
        with self._lock:
            if folder not in self._followers:
                self._followers[folder] = Follower(self.store, folder)
            follower = self._followers[folder]
        try:
            follower.follow(run)
        except OSError as error:
            raise ConfigurationError(f"{FOLDER}={folder}: the folder cannot be made ({error}).") from error
        return follower.address()

    def look(self) -> None:
        """Read now what tasks have written into shared folders; for those who want to be up to date."""
        for follower in list(self._followers.values()):
            follower.look()

    def close(self) -> None:
        """Stop listening and following; the store stays, and the next run opens everything anew."""
        with self._lock:
            for hub in self._hubs.values():
                hub.close()
            for follower in self._followers.values():
                follower.close()
            self._hubs.clear()
            self._followers.clear()
            self._stages.close()
            self._stages = StageWatch(self.store)


def _port(spark: SparkSession) -> int:
    text = _spark.conf(spark, PORT, "0")
    if not text.isdigit() or int(text) > 65535:
        raise ConfigurationError(f"{PORT}={text!r} is not a port: 0 for a free one, or 1 to 65535.")
    return int(text)


def certificate(spark: SparkSession) -> tuple[Path, Path] | None:
    """Return the files of the driver's certificate and its key; None where connections are not to be encrypted.

    Raises:
        ConfigurationError: one is not there, or only one is set.
    """
    paths = [_spark.conf(spark, name, "") for name in (CERTIFICATE, KEY)]
    if not any(paths):
        return None
    for name, text in zip((CERTIFICATE, KEY), paths, strict=True):
        if not text or not Path(text).is_file():
            raise ConfigurationError(f"{name}={text!r} is not a file. TLS needs both {CERTIFICATE} and {KEY}, in PEM form.")
    return Path(paths[0]), Path(paths[1])


_monitor: Monitor | None = None
_making = threading.Lock()


def monitor() -> Monitor:
    """Return the monitor of this process, made at first use."""
    global _monitor
    with _making:
        if _monitor is None:
            _monitor = Monitor(runs_folder())
        return _monitor
