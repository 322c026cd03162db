"""TensorBoard: scalars, pictures, histograms and texts as event files, without TensorFlow and PyTorch."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.monitor.events import Artifact
from sparkgap.monitor.exporters.base import Exporter
from sparkgap.monitor.exporters.metrics import USER, samples
from sparkgap.monitor.exporters.registry import no_more
from sparkgap.monitor.exporters.snapshot import Snapshot


class TensorBoardExporter(Exporter):
    """Writes event files, a folder a run: ``folder/name-id``.

    A metric of `gap.report` is a tag ``loss`` for the driver and ``loss/3`` for the task of partition 3. The numbers of the
    run are tags ``sparkgap/rows_out`` …, with seconds since its start as steps.

    Args:
        folder: where; made at the first export.

    Raises:
        MissingDependencyError: tensorboardX is absent.
    """

    name: ClassVar[str] = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self._library = need("tensorboardX", extra="tensorboard", why="to write files for TensorBoard")
        self._protocol = need("tensorboardX.proto.summary_pb2", extra="tensorboard", why="to write pictures for TensorBoard")
        self.folder = folder
        self._writers: dict[str, Any] = {}
        self._opened = 0

    @classmethod
    def from_spec(cls, target: str, options: Mapping[str, str]) -> TensorBoardExporter:
        """``tensorboard:folder``."""
        no_more(options, cls.name, "")
        if not target:
            raise ConfigurationError('Exporter tensorboard needs a folder. Write e.g. "tensorboard:logs".')
        return cls(Path(target).expanduser())

    def export(self, snapshot: Snapshot) -> None:
        """Write what is new, and flush it.

        Raises:
            OSError: the folder cannot be written.
        """
        writer = self._writer(snapshot)
        for point in snapshot.points:
            tag = point.name if point.task is None else f"{point.name}/{point.task.partition}"
            writer.add_scalar(tag, point.value, point.number if point.step is None else int(point.step), point.time)
        for artifact in snapshot.artifacts:
            self._artifact(writer, artifact)
        step = int(snapshot.time - snapshot.started)
        for metric, label, value in samples(snapshot):
            if metric is not USER:
                tag = f"sparkgap/{metric.name}/{label}" if metric.label else f"sparkgap/{metric.name}"
                writer.add_scalar(tag, value, step, snapshot.time)
        writer.flush()
        if snapshot.final:  # another action goes on in another file of the same folder
            self._writers.pop(snapshot.run).close()

    def close(self) -> None:
        """Close the files."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _writer(self, snapshot: Snapshot) -> Any:
        if snapshot.run not in self._writers:
            name = f"{(snapshot.name or snapshot.kind)[:60]}-{snapshot.run}".lstrip("-.")
            folder = self.folder / re.sub(r"[^\w.-]", "_", name)
            self._opened += 1  # files of one second have one name otherwise, and the later would replace the earlier
            suffix = f".{os.getpid()}.{self._opened}"
            self._writers[snapshot.run] = self._library.SummaryWriter(str(folder), filename_suffix=suffix)
        return self._writers[snapshot.run]

    def _artifact(self, writer: Any, artifact: Artifact) -> None:
        tag = artifact.name if artifact.task is None else f"{artifact.name}/{artifact.task.partition}"
        step = artifact.step or 0
        if artifact.media == "image/png":
            self._picture(writer, tag, artifact, step)
        elif artifact.kind in ("tensor", "histogram"):
            _histogram(writer, tag, artifact, step)
        else:
            writer.add_text(tag, artifact.data.decode(errors="replace"), step, artifact.time)

    def _picture(self, writer: Any, tag: str, artifact: Artifact, step: int) -> None:
        """The PNG goes in as it is; its size stands in bytes 16 to 23."""
        width, height = struct.unpack(">II", artifact.data[16:24])
        image = self._protocol.Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=artifact.data)
        summary = self._protocol.Summary(value=[self._protocol.Summary.Value(tag=tag, image=image)])
        writer.file_writer.add_summary(summary, step, artifact.time)


def _histogram(writer: Any, tag: str, artifact: Artifact, step: int) -> None:
    found = json.loads(artifact.data)
    counts, mean, std = found.get("counts"), found.get("mean"), found.get("std")
    if not counts or mean is None or std is None:  # nothing finite in it
        writer.add_text(tag, artifact.caption, step, artifact.time)
        return
    number = sum(counts)
    writer.add_histogram_raw(
        tag, found["min"], found["max"], number, mean * number, (std**2 + mean**2) * number, found["edges"][1:], counts,
        step, walltime=artifact.time,
    )  # fmt: skip
