"""JSON lines: one line an export, appended to a file. For scripts, `jq` and log shippers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sparkgap._errors import ConfigurationError
from sparkgap.monitor.exporters.base import Exporter
from sparkgap.monitor.exporters.metrics import samples
from sparkgap.monitor.exporters.registry import no_more
from sparkgap.monitor.exporters.snapshot import Snapshot


class JsonLinesExporter(Exporter):
    """Appends a line for each export. The bytes of shown things are left out.

    Args:
        path: the file; its folder must exist.

    Raises:
        ConfigurationError: the file cannot be written.
    """

    name: ClassVar[str] = "jsonl"

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.open("ab").close()
        except OSError as error:
            raise ConfigurationError(
                f"Exporter jsonl cannot write {str(path)!r} ({error}). Name a file in a folder that exists."
            ) from error

    @classmethod
    def from_spec(cls, target: str, options: Mapping[str, str]) -> JsonLinesExporter:
        """``jsonl:file``."""
        no_more(options, cls.name, "")
        if not target:
            raise ConfigurationError('Exporter jsonl needs a file. Write e.g. "jsonl:runs.jsonl".')
        return cls(Path(target).expanduser())

    def export(self, snapshot: Snapshot) -> None:
        """Append one line, in one write."""
        line = json.dumps(as_dict(snapshot), allow_nan=False, ensure_ascii=False)
        with self.path.open("ab") as file:
            file.write(line.encode() + b"\n")


def as_dict(snapshot: Snapshot) -> dict[str, Any]:
    """Return a snapshot as plain JSON values; a number that JSON cannot say is null."""
    numbers: dict[str, Any] = {}
    for metric, label, value in samples(snapshot):
        if metric.label:
            numbers.setdefault(metric.full, {})[label] = _number(value)
        else:
            numbers[metric.full] = _number(value)
    return {
        "time": snapshot.time, "run": snapshot.run, "name": snapshot.name, "kind": snapshot.kind,
        "details": dict(snapshot.details), "status": snapshot.status, "final": snapshot.final, "verdict": snapshot.verdict,
        "numbers": numbers, "latency": list(snapshot.latency),
        "points": [
            {"name": p.name, "partition": p.task.partition if p.task else None, "attempt": p.task.attempt if p.task else None,
             "time": p.time, "step": p.step, "number": p.number, "value": _number(p.value)}
            for p in snapshot.points
        ],
        "artifacts": [
            {"name": a.name, "kind": a.kind, "media": a.media, "bytes": len(a.data), "step": a.step, "caption": a.caption}
            for a in snapshot.artifacts
        ],
        "failures": [{"error": f.error, "message": f.message, "traceback": f.traceback} for f in snapshot.failures],
    }  # fmt: skip


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
