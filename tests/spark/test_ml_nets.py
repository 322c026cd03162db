"""Networks of one's own as Spark ML estimators: over all kinds of columns, in pipelines and validators."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pyspark.ml.linalg import Vectors
from pyspark.sql import functions as F

from sparkgap import ml
from sparkgap._errors import ConfigurationError, DataError, SignatureError, UntrustedModelError

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.one_host


class Small(torch.nn.Module):
    """Two classes, from features in one tensor or in two."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Dropout(0.1))
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x))


@pytest.fixture(scope="module")
def sides(spark):
    draw = np.random.default_rng(3)
    points = draw.normal(size=(120, 2))
    rows = [(n, Vectors.dense(x), x.tolist(), float(x[0] + x[1] > 0), n % 4 == 0) for n, x in enumerate(points)]
    high = float(points[0][1])
    rows[0] = (0, Vectors.sparse(2, [1], [high]), [0.0, high], float(high > 0), True)
    frame = spark.createDataFrame(rows, ["id", "features", "array", "label", "held"])
    return frame.repartition(2, "id").cache()


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    return Small()


def classifier(network, **params):
    return ml.TorchClassifier(network=network, **{"learningRate": 0.05, "maxIter": 3, "batchSize": 20, "seed": 1, **params})


def weights(model):
    return [w.detach().numpy().copy() for w in model.network.trained.parameters()]


def test_a_classifier_learns_and_its_columns_are_those_of_spark(sides, small):
    before = [w.detach().numpy().copy() for w in small.parameters()]
    stage = classifier(small, validationIndicatorCol="held", patience=2)
    model = stage.fit(sides)
    assert all((w.detach().numpy() == b).all() for w, b in zip(small.parameters(), before, strict=True))
    assert (model.uid, model.numClasses, model.numFeatures) == (stage.uid, 2, 2)
    assert [one["epoch"] for one in model.history] == [0, 1, 2]
    assert model.history[-1]["val_loss"] < model.history[0]["val_loss"]

    out = model.transform(sides)
    assert out.columns == [*sides.columns, "rawPrediction", "probability", "prediction"]
    rows = out.collect()
    assert sum(row.prediction == row.label for row in rows) > 100
    for row in rows[:3]:
        np.testing.assert_allclose(model.predictRaw(row.features), row.rawPrediction, rtol=1e-5)
        np.testing.assert_allclose(model.predictProbability(row.features), row.probability, rtol=1e-5)
        assert model.predict(row.array) == row.prediction == np.argmax(row.rawPrediction)
    given = model.network.trained.eval()(torch.tensor(np.array([row.array for row in rows], "f4"))).detach().numpy()
    np.testing.assert_allclose([row.rawPrediction.toArray() for row in rows], given, rtol=1e-4, atol=1e-5)

    few = model.copy({model.probabilityCol: "", model.rawPredictionCol: "", model.thresholds: [1.0, 0.0]})
    few = few.copy({few.featuresCol: "array"}).transform(sides)
    assert few.columns == [*sides.columns, "prediction"]
    assert {row.prediction for row in few.collect()} == {1.0}
    with pytest.raises(ConfigurationError, match="more than one column named `rawPrediction`"):
        model.transform(out)


def test_a_regressor_over_columns_of_numbers_and_with_several_workers(sides, kind):
    df = sides.select(F.col("array")[0].alias("a"), F.col("array")[1].alias("b"), (F.col("array")[0] * 2 + 1).alias("label"))
    stage = ml.TorchRegressor(
        network=lambda: torch.nn.Linear(2, 1), inputCols=["a", "b"], learningRate=0.1, batchSize=20, validationFraction=0.2
    )
    model = stage.copy({stage.maxIter: 20}).fit(df)
    rows = model.transform(df).collect()
    np.testing.assert_allclose([row.prediction for row in rows], [row.label for row in rows], atol=0.1)
    assert model.predict([1.0, 5.0]) == pytest.approx(3.0, abs=0.3)
    if kind == "classic":
        alone, together = (stage.copy({stage.numWorkers: workers, stage.maxIter: 1}).fit(df) for workers in (1, 2))
        for one, two in zip(weights(alone), weights(together), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5)


def test_many_settings_share_the_rows_and_give_what_each_alone_gives(sides, small, monkeypatch):
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.tuning import CrossValidator

    from sparkgap.ml import net_fit

    written = []
    real = net_fit.source_of
    monkeypatch.setattr(net_fit, "source_of", lambda *args, **options: written.append(1) or real(*args, **options))
    stage = classifier(small)
    maps = [{stage.learningRate: rate} for rate in (0.0001, 0.05)]
    models = stage.fit(sides, maps)
    assert len(written) == 1
    for one, two in zip(weights(models[1]), weights(stage.fit(sides, maps[1])), strict=True):
        np.testing.assert_array_equal(one, two)
    validator = CrossValidator(
        estimator=stage, estimatorParamMaps=maps, evaluator=MulticlassClassificationEvaluator(metricName="accuracy"),
        numFolds=2, parallelism=2, seed=1,
    )  # fmt: skip
    found = validator.fit(sides)
    assert found.avgMetrics[1] > found.avgMetrics[0]
    assert found.bestModel.numClasses == 2


def test_pipelines_are_saved_and_loaded_by_those_who_trust_them(sides, small, tmp_path):
    from pyspark.ml import Pipeline, PipelineModel
    from pyspark.ml.feature import VectorAssembler

    df = sides.select("id", "label", F.col("array")[0].alias("a"), F.col("array")[1].alias("b"))
    stages = [VectorAssembler(inputCols=["a", "b"], outputCol="features"), classifier(small)]
    Pipeline(stages=stages).save(str(tmp_path / "pipeline"))
    with ml.trusted():
        pipeline = Pipeline.load(str(tmp_path / "pipeline"))
    model = pipeline.fit(df)
    for one, two in zip(weights(model.stages[1]), weights(Pipeline(stages=stages).fit(df).stages[1]), strict=True):
        np.testing.assert_array_equal(one, two)
    model.save(str(tmp_path / "model"))
    with pytest.raises(UntrustedModelError):
        PipelineModel.load(str(tmp_path / "model"))
    with ml.trusted():
        again = PipelineModel.load(str(tmp_path / "model"))
    assert again.stages[1].history == model.stages[1].history
    found, expected = (one.transform(df).select("id", "probability", "prediction") for one in (again, model))
    assert sorted(found.collect()) == sorted(expected.collect())


@pytest.mark.local
@pytest.mark.parametrize("thresholds", [None, (0.0, 0.5), (0.9, 0.1)])
def test_expressions_of_spark_give_what_single_rows_get(spark, thresholds):
    from sparkgap.ml.net_scores import Scores

    outputs = [[1.5, -0.5], [0.25, 0.75], [0.0, 1.0], [1.0, 0.0], [800.0, 0.0], [float("nan"), 1.0]]
    frame = spark.createDataFrame([(n, two, two[1:], two[1]) for n, two in enumerate(outputs)], "id int, two array<float>, "
                                  "one array<float>, none double")  # fmt: skip
    names = {"rawPrediction": "r", "probability": "p", "prediction": "c"}
    for column, width in (("two", 2), ("one", 1), ("none", 0)):
        for logits in (True, False):
            scores = Scores(width, logits, thresholds)
            rows = scores.added(frame.select("id", column), column, names).orderBy("id").collect()
            expected = scores.of(np.array(outputs)[:, 2 - width :] if width else np.array(outputs)[:, 1])
            np.testing.assert_allclose([row.r.toArray() for row in rows], expected["rawPrediction"])
            np.testing.assert_allclose([row.p.toArray() for row in rows], expected["probability"])
            sound = slice(None) if thresholds is None or width < 2 else slice(-1)  # no class is right where NaN is
            assert [row.c for row in rows][sound] == expected["prediction"].tolist()[sound]


def test_wrong_tables_are_told(sides, small):
    stage = classifier(small)
    nothing = F.lit(None).cast("double")
    for df, error, message in [
        (sides.withColumn("label", F.lit("a")), SignatureError, "`label` is string"),
        (sides.drop("features"), SignatureError, "no column `features`"),
        (sides.withColumn("features", F.lit(1)), SignatureError, "`features` is int"),
        (
            sides.withColumn("features", F.array(F.lit(1.0))),
            SignatureError,
            "failed on the first row .*given x: float64",
        ),
        (sides.where("false"), DataError, "no rows"),
        (sides.withColumn("label", F.col("label") + 1), DataError, "A label is 2.0.*as the last layer has 2"),
        (sides.withColumn("label", F.col("label") / 2), DataError, "A label is 0.5"),
        (sides.withColumn("label", nothing), DataError, "`label` .*null"),
    ]:
        with pytest.raises(error, match=message):
            stage.fit(df)
    with pytest.raises(DataError, match="No row is held out"):
        stage.copy({stage.validationIndicatorCol: "held"}).fit(sides.withColumn("held", F.lit(False)))


KERAS = """
import os
import sys
os.environ["KERAS_BACKEND"] = "torch"  # which is there already in processes of tasks
import keras
import numpy as np
import sparkgap as gap
from pyspark.ml import PipelineModel
from sparkgap import ml

def net(last):
    return keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(last[0], activation=last[1])])

spark = gap.session("local[2]", conf={"spark.ui.enabled": "false"})
points = np.random.default_rng(3).normal(size=(200, 2))
rows = [(x.tolist(), int(x[0] + x[1] > 0), float(x[0] - x[1])) for x in points]
df = spark.createDataFrame(rows, "features array<double>, label int, height double")
compiled = net((2, "softmax"))
compiled.compile(optimizer=keras.optimizers.Adam(0.05), loss="sparse_categorical_crossentropy")
before = compiled.get_weights()
stage = ml.KerasClassifier(network=compiled, maxIter=4)
model = stage.fit(df)
assert all((a == b).all() for a, b in zip(before, compiled.get_weights()))
assert model.getFromLogits() is False
out = model.transform(df).collect()
assert sum(r.label == r.prediction for r in out) > 180
assert all(abs(sum(r.probability) - 1) < 1e-5 and r.probability == r.rawPrediction for r in out)
model.save(sys.argv[1])
again = ml.NetworkClassificationModel.load(sys.argv[1], trust=True)
assert again.predictProbability(rows[0][0]) == model.predictProbability(rows[0][0])
line = ml.KerasRegressor(network=lambda: net((1, None)), labelCol="height", learningRate=0.05, maxIter=12).fit(df)
assert max(abs(r.height - r.prediction) for r in line.transform(df).collect()) < 0.2
spark.stop()
print("DONE")
"""


@pytest.mark.classic
@pytest.mark.local
def test_networks_of_keras(tmp_path: Path) -> None:
    """In a process of its own: one process has one backend of Keras, and other tests want others."""
    if importlib.util.find_spec("keras") is None:
        pytest.skip("Keras is not installed")
    script = tmp_path / "program.py"
    script.write_text(KERAS)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "model")], capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.endswith("DONE\n")
