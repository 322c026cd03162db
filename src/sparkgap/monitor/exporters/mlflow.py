"""MLflow: a run of MLflow for each run, with metrics by step, parameters and artifacts."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sparkgap._optional import need
from sparkgap.monitor.events import Artifact
from sparkgap.monitor.exporters.base import Exporter
from sparkgap.monitor.exporters.metrics import USER, samples
from sparkgap.monitor.exporters.registry import no_more
from sparkgap.monitor.exporters.snapshot import Snapshot

BATCH = 1000
"""Metrics that a tracking server takes in one request."""
NUMBERS_EVERY = 10.0
"""Seconds between two writings of the run's own numbers: a tracking server keeps every value for ever."""
_SUFFIX = {"image/png": ".png", "application/json": ".json"}
_ENDED = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MlflowExporter(Exporter):
    """Writes to a tracking server, through MLflow's own client.

    A metric of `gap.report` is ``loss`` for the driver and ``loss/3`` for the task of partition 3. The numbers of the run
    are ``sparkgap/rows_out`` …, with seconds since its start as steps.

    Args:
        uri: of the tracking server; "" for what MLflow itself is set to (``MLFLOW_TRACKING_URI``).
        experiment: name of the experiment, made where there is none.

    Raises:
        MissingDependencyError: mlflow is absent.
    """

    name: ClassVar[str] = "mlflow"

    def __init__(self, uri: str = "", *, experiment: str = "sparkgap") -> None:
        self._library = need("mlflow", extra="mlflow", why="to export to MLflow")
        self._entities = need("mlflow.entities", extra="mlflow", why="to export to MLflow")
        self._uri = uri or None
        self._experiment = experiment
        self._asked: Any = None
        self._runs: dict[str, str] = {}
        self._written: dict[str, float] = {}
        self._over: set[str] = set()

    @classmethod
    def from_spec(cls, target: str, options: Mapping[str, str]) -> MlflowExporter:
        """``mlflow:uri?experiment=name``."""
        left = dict(options)
        experiment = left.pop("experiment", "sparkgap")
        no_more(left, cls.name, "experiment")
        return cls(target, experiment=experiment)

    def export(self, snapshot: Snapshot) -> None:
        """Log what is new; the first export of a run creates it there.

        Raises:
            Exception: what MLflow raises where the server refuses or does not answer.
        """
        run = self._run(snapshot)
        metrics = self._points(snapshot) + self._numbers(snapshot)
        for first in range(0, len(metrics), BATCH):
            self._client().log_batch(run, metrics=metrics[first : first + BATCH])
        for artifact in snapshot.artifacts:
            self._artifact(run, artifact)
        if snapshot.final:
            self._client().set_terminated(run, _ENDED.get(snapshot.status, "FINISHED"), int(snapshot.time * 1000))
            self._over.add(snapshot.run)

    def _client(self) -> Any:
        """Made at the first export: it connects, and a server that is down must fail no `gap.export`."""
        if self._asked is None:
            self._asked = self._library.MlflowClient(tracking_uri=self._uri)
        return self._asked

    def _run(self, snapshot: Snapshot) -> str:
        if snapshot.run not in self._runs:
            found = self._client().get_experiment_by_name(self._experiment)
            experiment = found.experiment_id if found is not None else self._client().create_experiment(self._experiment)
            tags = {"sparkgap.run": snapshot.run, "sparkgap.kind": snapshot.kind}
            made = self._client().create_run(experiment, int(snapshot.started * 1000), tags, snapshot.name or snapshot.run)
            self._runs[snapshot.run] = made.info.run_id
            params = [self._entities.Param(_key(k), v[:500]) for k, v in snapshot.details.items() if v]
            self._client().log_batch(made.info.run_id, params=params[:100])
        elif snapshot.run in self._over:  # another action
            self._over.discard(snapshot.run)
            self._client().update_run(self._runs[snapshot.run], status="RUNNING")
        return self._runs[snapshot.run]

    def _points(self, snapshot: Snapshot) -> list[Any]:
        return [
            self._metric(
                p.name if p.task is None else f"{p.name}/{p.task.partition}",
                p.value, p.time, p.number if p.step is None else int(p.step),
            )
            for p in snapshot.points
        ]  # fmt: skip

    def _numbers(self, snapshot: Snapshot) -> list[Any]:
        if not snapshot.final and snapshot.time - self._written.get(snapshot.run, 0.0) < NUMBERS_EVERY:
            return []
        self._written[snapshot.run] = snapshot.time
        step = int(snapshot.time - snapshot.started)
        return [
            self._metric(f"sparkgap/{m.name}/{label}" if m.label else f"sparkgap/{m.name}", value, snapshot.time, step)
            for m, label, value in samples(snapshot)
            if m is not USER
        ]

    def _metric(self, name: str, value: float, time: float, step: int) -> Any:
        return self._entities.Metric(_key(name), value, int(time * 1000), step)

    def _artifact(self, run: str, artifact: Artifact) -> None:
        task = "" if artifact.task is None else f"-{artifact.task.partition}"
        step = "" if artifact.step is None else f"-{artifact.step}"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{_key(artifact.name).replace('/', '_')}{task}{step}{_SUFFIX.get(artifact.media, '.txt')}"
            path.write_bytes(artifact.data)
            self._client().log_artifact(run, str(path), artifact.kind)


def _key(text: str) -> str:
    """MLflow takes letters, digits, and these."""
    return re.sub(r"[^\w\-./ ]", "_", text, flags=re.ASCII)[:250].lstrip("/. ") or "_"
