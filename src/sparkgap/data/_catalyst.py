"""What a plan of a classic Spark session says, as plain Python values: the only calls into the JVM of `data`.

Everything here reads; nothing is changed, and no job is started. Only methods that Spark 4.0 to 4.3 have are called;
whoever calls this must be ready for any error of py4j.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

PROJECT = "org.apache.spark.sql.catalyst.plans.logical.Project"
FILTER = "org.apache.spark.sql.catalyst.plans.logical.Filter"
RELATION = "org.apache.spark.sql.execution.datasources.LogicalRelation"
IN_SET = "org.apache.spark.sql.catalyst.expressions.InSet"

Json = Any


@dataclass(frozen=True)
class Node:
    """A node of an optimized plan.

    Args:
        kind: name of its class.
        expressions: for a Project its list, for a Filter its condition: each the nodes of a tree, in prefix order.
        handle: the object in the JVM.
    """

    kind: str
    expressions: tuple[list[Json], ...] = ()
    handle: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Scan:
    """A relation over files.

    Args:
        relation: class of the relation.
        format: class of the file format.
        index: class of the list of files.
        streaming: whether it is a stream.
        bucketed: whether it is divided into buckets.
        catalogued: whether a catalog keeps the list of its partitions.
        output: (expression id, name) of each column, hidden ones last.
        data: schema of the files, as JSON.
        partitions: schema of the folders, as JSON.
        options: of the reader.
        handle: the object in the JVM.
    """

    relation: str
    format: str
    index: str
    streaming: bool
    bucketed: bool
    catalogued: bool
    output: tuple[tuple[int, str], ...]
    data: Json
    partitions: Json
    options: dict[str, str]
    handle: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ListedFile:
    """A file as Spark listed it; `mtime_ms` is its modification time, `values` those of its folders."""

    path: str
    size: int
    mtime_ms: int
    values: tuple[Any, ...]


def is_classic(df: DataFrame) -> bool:
    """Whether the plan can be looked at."""
    return not type(df).__module__.startswith("pyspark.sql.connect") and hasattr(df, "_jdf")


def chain(df: DataFrame) -> Iterator[Node]:
    """Yield the projections and filters of a plan from the top, and then the first node that is neither."""
    node = df._jdf.queryExecution().optimizedPlan()
    while True:
        kind = node.getClass().getName()
        if kind == PROJECT:
            yield Node(kind, tuple(json.loads(e.toJSON()) for e in _items(node.projectList())), node)
        elif kind == FILTER:
            yield Node(kind, (_with_sets(node.condition()),), node)
        else:
            yield Node(kind, (), node)
            return
        node = node.child()


def scan(node: Node) -> Scan | None:
    """Return what a relation reads; None where it is not one of files."""
    relation = node.handle.relation()
    if relation.getClass().getName() != "org.apache.spark.sql.execution.datasources.HadoopFsRelation":
        return None
    table = node.handle.catalogTable()
    output = [json.loads(a.toJSON())[0] for a in _items(node.handle.output())]
    return Scan(
        relation.getClass().getName(),
        relation.fileFormat().getClass().getName(),
        relation.location().getClass().getName(),
        node.handle.isStreaming(),
        relation.bucketSpec().isDefined(),
        table.isDefined() and table.get().tracksPartitionsInCatalog(),
        tuple((a["exprId"]["id"], a["name"]) for a in output),
        json.loads(relation.dataSchema().json()),
        json.loads(relation.partitionSchema().json()),
        {pair._1(): pair._2() for pair in _items(relation.options().toSeq())},
        relation,
    )


def hadoop_setting(found: Scan, key: str) -> str | None:
    """Return a setting of the Hadoop configuration that the files are read with."""
    value = found.handle.location().hadoopConf().get(key)
    return None if value is None else str(value)


def count_files(found: Scan) -> int:
    """Return how many files there are, without asking for each of them."""
    return sum(directory.files().size() for directory in _directories(found))


def listed_files(found: Scan) -> list[ListedFile]:
    """Return the files that Spark would read, with the typed values of their folders.

    A value of a type that is not supported is None: the caller must not use that column.
    """
    kinds = [f["type"] for f in found.partitions["fields"]]
    files = []
    for directory in _directories(found):
        row = directory.values()
        values = tuple(_value(row, i, kind) for i, kind in enumerate(kinds))
        for status in _items(directory.files()):
            path, size, mtime = status.getPath().toString(), status.getLen(), status.getModificationTime()
            files.append(ListedFile(path, size, mtime, values))
    return files


def _directories(found: Scan) -> list[Any]:
    location = found.handle.location()
    nothing = location.rootPaths().take(0)  # an empty Seq: no filters
    return list(_items(location.listFiles(nothing, nothing)))


def _items(seq: Any) -> Iterator[Any]:
    iterator = seq.iterator()
    while iterator.hasNext():
        yield iterator.next()


def _value(row: Any, i: int, kind: Json) -> Any:
    if row.isNullAt(i):
        return None
    if kind == "string":
        return row.getUTF8String(i).toString()
    getters = {"boolean": row.getBoolean, "byte": row.getByte, "short": row.getShort, "integer": row.getInt,
               "long": row.getLong, "date": row.getInt}  # fmt: skip
    return getters[kind](i) if isinstance(kind, str) and kind in getters else None


def _with_sets(expression: Any) -> list[Json]:
    """Return an expression as JSON, with the values of its InSet nodes, which JSON leaves out."""
    nodes: list[Json] = json.loads(expression.toJSON())
    if any(n["class"] == IN_SET for n in nodes):
        handles = list(_prefix(expression))
        for node, handle in zip(nodes, handles, strict=True):
            if node["class"] == IN_SET:
                node["hset"] = [_plain(v) for v in _items(handle.hset())]
    return nodes


def _prefix(expression: Any) -> Iterator[Any]:
    yield expression
    for child in _items(expression.children()):
        yield from _prefix(child)


def _plain(value: Any) -> str | None:
    """Return a literal as JSON of a Literal would have it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else str(value.toString())
