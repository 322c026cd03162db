"""What the tests of formats share: files of one format, written and read without Spark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from sparkgap.records.format import Policy, RecordFile, RecordFormat
from sparkgap.records.output import Folder, Made, TaskOutput
from sparkgap.records.read import open_source


def read(path: Path | str, format: str = "auto", schema: pa.Schema | None = None, **given: Any) -> pa.Table:
    """Read as tasks do, all in this process."""
    columns, decode, skip = given.pop("columns", None), given.pop("decode", None), given.pop("skip", False)
    source = open_source(path, format, schema, columns, decode, skip, None, given)
    splits = source.splits(tasks=2)
    chunks = [c for s in splits for c in source.read(s, columns=source.schema.names, rows=1000)]
    return pa.Table.from_batches([c.batch for c in chunks], source.schema)


def write(path: Path, form: RecordFormat, table: pa.Table, *, partition: int = 0) -> list[Made]:
    """Write as one task does, and commit."""
    form.check(table.schema)
    folder = Folder("", str(path))
    folder.prepare(overwrite=True)
    output = TaskOutput(folder, partition)
    writer = form.writer(table.schema, output, partition)
    for batch in table.to_batches(max_chunksize=700):
        writer.add(batch)
    writer.close()
    import json

    folder.commit(output.made, form.index([(m.name, json.loads(m.entry)) for m in output.made]))
    return output.made


__all__ = ["Policy", "RecordFile", "read", "write"]
