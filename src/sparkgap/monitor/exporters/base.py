"""The `Exporter` seam: how what the monitor knows goes to another system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from sparkgap.monitor.exporters.snapshot import Snapshot


class Exporter(ABC):
    """Gives runs on to one other system. It lives on the driver.

    Attributes:
        name: how `gap.export` calls it: the part of the spec before the first colon.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def from_spec(cls, target: str, options: Mapping[str, str]) -> Exporter:
        """Make an exporter from a spec ``name:target?option=value``.

        Args:
            target: what stands between the name and the question mark; "" where there is nothing.
            options: what stands after the question mark. Unknown ones are an error.

        Raises:
            ConfigurationError: the spec cannot be used; the message says what to write.
            MissingDependencyError: a package is absent.
        """

    @abstractmethod
    def export(self, snapshot: Snapshot) -> None:
        """Take a run as it is now.

        Called about once a second for each run that has changed, by one thread that is this exporter's own: it may wait
        for the network, with a limit of some seconds. Runs come by turns. Counters are totals, so a call that fails costs
        them nothing; the new points of a call that fails are not given again.

        Args:
            snapshot: the run; with `final` set once it is over, and whenever it is over again after another action.

        Raises:
            Exception: anything; it is logged once, counted, and the work goes on.
        """

    def close(self) -> None:  # noqa: B027 - many have nothing to close
        """Let go of files, sockets and threads. Called after the last export; a second call does nothing."""
