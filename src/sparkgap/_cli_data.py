"""What the command line reads and writes: option values, formats by name, the transform of a command."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from sparkgap._errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FORMATS = ("parquet", "csv", "json", "image")
_SUFFIXES = {
    ".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"), "image"),
}  # fmt: skip
_MAX_LOOKED_AT = 10_000


class Pair(click.ParamType):
    """``KEY=VALUE``."""

    name = "pair"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Split at the first ``=``."""
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is not KEY=VALUE.", param, ctx)
        return key, text


class Size(click.ParamType):
    """``HxW``, or one number for both."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read height and width."""
        match = re.fullmatch(r"([1-9]\d*)(?:[xX]([1-9]\d*))?", str(value))
        if match is None:
            self.fail(f"{value!r} is not HEIGHTxWIDTH, such as 224x224.", param, ctx)
        return int(match[1]), int(match[2] or match[1])


class Floats(click.ParamType):
    """A number, or several with commas between them."""

    name = "floats"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the numbers: one as a float, several as a tuple."""
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a number, or numbers with commas: 0.5 or 0.485,0.456,0.406.", param, ctx)
        return numbers[0] if len(numbers) == 1 else numbers


def prepare(
    *,
    model: str,
    data: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    keep: tuple[str, ...],
    options: tuple[tuple[str, str], ...],
    trust: bool,
    form: str | None,
    partitions: int | None,
    **call: Any,
) -> Callable[[SparkSession], DataFrame]:
    """Check the options and load the model, before a session is started; gives what then makes the result, lazily."""
    import sparkgap as gap

    pixels = {name: call.pop(name) for name in ("image_size", "layout", "mean", "std")}
    form = form or format_of(data)
    if form != "image" and any(pixels[name] is not None for name in ("image_size", "mean", "std")):
        raise ConfigurationError(f"--image-size, --mean and --std are for images, and {data} is {form}. Leave them out.")
    if partitions is not None and (form == "image" or call["boundary"] == "files"):
        raise ConfigurationError(
            "--partitions spreads rows that go through Spark; here executors read the files by themselves. Leave it out."
        )
    feeds = image_feeds(inputs, pixels) if form == "image" else pairs(inputs)
    names = pairs(outputs)
    loaded = gap.load(model, trust=trust, **{key: literal(value) for key, value in options})

    def make(spark: SparkSession) -> DataFrame:
        table = _read(spark, data, form, call["boundary"], partitions)
        return gap.transform(table, loaded, inputs=feeds, outputs=names, keep=list(keep) or None, **call)

    return make


def pairs(texts: tuple[str, ...]) -> Any:
    """``("x", "y")`` gives a list, ``("t=x", "u=a,b")`` a dict whose lists are columns to stack; none gives None.

    Raises:
        ConfigurationError: some have a tensor name and some have not.
    """
    if not texts:
        return None
    named = [text for text in texts if "=" in text]
    if not named:
        return list(texts)
    if len(named) != len(texts):
        raise ConfigurationError(f"Give all of {', '.join(texts)} as TENSOR=COLUMN, or none of them.")
    split = {tensor: column.split(",") for tensor, _, column in (text.partition("=") for text in texts)}
    return {tensor: columns[0] if len(columns) == 1 else columns for tensor, columns in split.items()}


def image_feeds(inputs: tuple[str, ...], pixels: dict[str, Any]) -> Any:
    """Feed the bytes of image files through a decoder; without --input, the model's only tensor."""
    import sparkgap as gap

    picture = gap.image("content", size=pixels["image_size"], layout=pixels["layout"], mean=pixels["mean"], std=pixels["std"])
    named = pairs(inputs)
    if isinstance(named, dict):
        return {tensor: picture if column == "content" else column for tensor, column in named.items()}
    return [picture if column == "content" else column for column in named or ["content"]]


def literal(text: str) -> Any:
    """Read an option's value: JSON where it is JSON (``3``, ``true``, ``[1, 2]``), else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def format_of(path: str) -> str:
    """Tell the format of data by its name; of a local folder, by the names in it.

    Raises:
        ConfigurationError: the path does not exist, or its names do not tell.
    """
    if found := _SUFFIXES.get(PurePosixPath(path).suffix.lower()):
        return found
    local = Path(path)
    if "://" not in path and not any(sign in path for sign in "*?[{") and not local.exists():
        raise ConfigurationError(f"{path} does not exist.")
    kinds = {kind for kind in map(_SUFFIXES.get, _suffixes_in(local)) if kind}
    if len(kinds) == 1:
        return kinds.pop()
    why = f"holds files of several formats ({', '.join(sorted(kinds))})" if kinds else "does not tell its format"
    raise ConfigurationError(f"{path} {why}. Say it: --format {'|'.join(FORMATS)}.")


def _suffixes_in(folder: Path) -> set[str]:
    found: set[str] = set()
    looked_at = 0
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(("_", "."))]
        visible = [name for name in names if not name.startswith(("_", "."))]
        found |= {PurePosixPath(name).suffix.lower() for name in visible}
        looked_at += len(visible)
        if looked_at > _MAX_LOOKED_AT:
            break
    return found


def _read(spark: SparkSession, data: str, form: str, boundary: str, partitions: int | None) -> Any:
    import sparkgap as gap

    if form == "image":
        return gap.images(data)
    if form == "parquet" and boundary == "files":
        return gap.files(data)
    readers = {
        "parquet": spark.read.parquet,
        "json": spark.read.json,
        "csv": spark.read.options(header=True, inferSchema=True, sep="\t" if data.endswith(".tsv") else ",").csv,
    }
    frame = readers[form](data)
    return frame if partitions is None else frame.repartition(partitions)


def output_format(out: str) -> str:
    """Tell by its name how a result is written: Parquet unless it is called otherwise."""
    form = _SUFFIXES.get(PurePosixPath(out).suffix.lower(), "parquet")
    if form == "image":
        raise ConfigurationError(f"{out} is named like an image. Name it .parquet, .csv or .json, or give --write-as.")
    return form


def write(frame: DataFrame, out: str, mode: str, form: str) -> None:
    """Write a result; CSV has no arrays, so there they become JSON text."""
    if form == "csv":
        frame = _flat(frame)
    frame.write.mode(mode).options(**({"header": "true"} if form == "csv" else {})).format(form).save(out)


def _flat(frame: DataFrame) -> DataFrame:
    from pyspark.sql import functions as F
    from pyspark.sql import types as T

    quoted = {f.name: F.col(f"`{f.name.replace('`', '``')}`") for f in frame.schema.fields}
    nested = {f.name for f in frame.schema.fields if isinstance(f.dataType, T.ArrayType | T.MapType | T.StructType)}
    return frame.select(*[F.to_json(c).alias(name) if name in nested else c for name, c in quoted.items()])
