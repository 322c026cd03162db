"""Perceptrons on Spark: in place of MLlib's, over all kinds of columns, in pipelines and validators."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from pyspark.ml.linalg import DenseVector, Vectors, VectorUDT
from pyspark.sql import functions as F

from sparkgap._errors import ConfigurationError, DataError, SignatureError
from sparkgap.ml.mlp import MultilayerPerceptronClassifier, MultilayerPerceptronRegressor
from sparkgap.ml.mlp_model import MultilayerPerceptronClassificationModel
from sparkgap.ml.mlp_summary import (
    MultilayerPerceptronClassificationSummary,
    MultilayerPerceptronClassificationTrainingSummary,
)

pytest.importorskip("torch")

ELSEWHERE = {
    "connect": (
        "one_step", "wrong_tables", "thresholds", "several_workers", "held_out", "regressor", "validator", "many_settings",
    ),
    "cluster": ("one_step", "several_workers", "many_settings"),
}  # fmt: skip
"""Parts of the names of tests for which the kind of session makes a difference."""


@pytest.fixture(autouse=True)
def _where_it_matters(request, kind):
    if kind != "classic" and not any(part in request.function.__name__ for part in ELSEWHERE[kind]):
        pytest.skip("the same arithmetic as on the classic session")


@pytest.fixture(scope="module")
def xor(spark):
    rows = [(Vectors.dense(a, b), float(a ^ b)) for a in (0, 1) for b in (0, 1)]
    return spark.createDataFrame(rows, ["features", "label"])


@pytest.fixture(scope="module")
def four(spark):
    rows = [
        (1.0, 1.0, Vectors.dense(0.0, 5.0)), (0.0, 2.0, Vectors.dense(1.0, 2.0)), (1.0, 3.0, Vectors.dense(2.0, 1.0)),
        (0.0, 4.0, Vectors.dense(3.0, 3.0)),
    ]  # fmt: skip
    return spark.createDataFrame(rows, ["label", "weight", "features"]).coalesce(1)


@pytest.fixture(scope="module")
def blobs(spark):
    draw = np.random.default_rng(4)
    labels = draw.integers(0, 3, 200)
    features = draw.normal(size=(200, 4)) + 1.5 * np.eye(4)[labels]
    rows = [(n, x.tolist(), int(y), n % 3) for n, (x, y) in enumerate(zip(features, labels, strict=True))]
    return spark.createDataFrame(rows, "id long, features array<double>, label int, fold int").repartition(3, "id").cache()


def test_one_step_gives_the_numbers_that_mllib_gives(four, tmp_path):
    stage = MultilayerPerceptronClassifier(layers=[2, 2], maxIter=1, seed=1)
    assert (stage.getLayers(), stage.getMaxIter(), stage.getSeed()) == ([2, 2], 1, 1)
    model = stage.fit(four)
    assert model.uid == stage.uid
    assert (model.numClasses, model.numFeatures) == (2, 2)
    weights = [0.435627363, 0.364580202, -1.411272939, -1.264359105, 1.151259524, 0.785731770]  # MLlib's
    np.testing.assert_allclose(model.weights.toArray(), weights, atol=1e-8)
    row = Vectors.dense(0.0, 5.0)
    assert model.predict(row) == 1.0
    np.testing.assert_allclose(model.predictRaw(row), [-5.905105169, -5.536063756], atol=1e-8)
    np.testing.assert_allclose(model.predictProbability(row), [0.408772670, 0.591227330], atol=1e-8)

    out = model.transform(four)
    columns = ["label", "weight", "features", "rawPrediction", "probability", "prediction"]
    assert out.columns == columns
    assert out.count() == 4

    assert model.hasSummary
    told = model.summary()
    assert isinstance(told, MultilayerPerceptronClassificationTrainingSummary)
    assert (told.labels, told.accuracy, told.predictions.columns) == ([0.0, 1.0], 0.75, columns)
    assert told.totalIterations == 1
    np.testing.assert_allclose(told.objectiveHistory, [0.860682679, 0.666527577], atol=1e-8)
    other = model.evaluate(four)
    assert isinstance(other, MultilayerPerceptronClassificationSummary)
    assert not isinstance(other, MultilayerPerceptronClassificationTrainingSummary)
    assert (other.labels, other.accuracy, other.predictions.columns) == ([0.0, 1.0], 0.75, columns)

    stage.write().overwrite().save(str(tmp_path / "same"))
    again = MultilayerPerceptronClassifier.load(str(tmp_path / "same"))
    assert str(again) == str(stage)
    assert {p.name: v for p, v in again.extractParamMap().items()} == {p.name: v for p, v in stage.extractParamMap().items()}
    model.write().overwrite().save(str(tmp_path / "same"))
    loaded = MultilayerPerceptronClassificationModel.load(str(tmp_path / "same"))
    assert (str(loaded), loaded.weights, loaded.getLayers()) == (str(model), model.weights, model.getLayers())
    assert not loaded.hasSummary
    assert sorted(loaded.transform(four).collect()) == sorted(out.collect())


def test_exclusive_or_is_exact_and_predict_is_transform(xor):
    model = MultilayerPerceptronClassifier(layers=[2, 5, 2], blockSize=1, seed=123, maxIter=100).fit(xor)
    rows = model.transform(xor).collect()
    assert [row.prediction for row in rows] == [row.label for row in rows]
    for row in rows:
        assert model.predict(row.features) == row.prediction
        np.testing.assert_allclose(model.predictRaw(row.features), row.rawPrediction, rtol=1e-9)
        np.testing.assert_allclose(model.predictProbability(row.features), row.probability, atol=1e-12)


def test_probabilities_are_calibrated(spark):
    rows = [
        ((1, 2, 3, 4), 0, (1.0, 0.0)),
        ((4, 3, 2, 1), 1, (0.0, 1.0)),
        ((1, 1, 1, 1), 0, (0.5, 0.5)),
        ((1, 1, 1, 1), 1, (0.5, 0.5)),
    ]
    df = spark.createDataFrame([(Vectors.dense(x), y, list(p)) for x, y, p in rows], ["features", "label", "expected"])
    model = MultilayerPerceptronClassifier(layers=[4, 5, 2], blockSize=1, seed=123, maxIter=100).fit(df)
    for row in model.transform(df).collect():
        np.testing.assert_allclose(row.probability, row.expected, atol=1e-3)


def test_the_whole_way_is_that_of_mllib(xor):
    from pyspark.ml.classification import MultilayerPerceptronClassifier as Theirs

    options = {"layers": [2, 5, 2], "seed": 7, "blockSize": 4, "maxIter": 12}
    one = xor.coalesce(1)
    ours, expected = MultilayerPerceptronClassifier(**options).fit(one), Theirs(**options).fit(one)
    np.testing.assert_allclose(ours.weights, expected.weights, rtol=1e-6)
    np.testing.assert_allclose(ours.summary().objectiveHistory, expected.summary().objectiveHistory, rtol=1e-6)
    assert repr(ours).partition(", ")[2] == repr(expected).partition(", ")[2]
    taken = MultilayerPerceptronClassifier(**{**options, "maxIter": 0}, initialWeights=expected.weights).fit(xor)
    assert taken.weights == expected.weights
    pairs = zip(taken.transform(one).collect(), expected.transform(one).collect(), strict=True)
    for row, wanted in pairs:
        np.testing.assert_allclose(row.probability, wanted.probability, atol=1e-9)
        np.testing.assert_allclose(row.rawPrediction, wanted.rawPrediction, atol=1e-9)
    for column in ("rawPrediction", "probability", "prediction"):
        found, wanted = (out.schema[column] for out in (taken.transform(one), expected.transform(one)))
        assert found.dataType == wanted.dataType
        assert found.metadata["ml_attr"] == wanted.metadata["ml_attr"]


def test_summaries_are_those_of_mllib(blobs):
    from pyspark.ml.classification import MultilayerPerceptronClassifier as Theirs

    df = blobs.withColumn("features", F.udf(lambda x: Vectors.dense(x), VectorUDT())("features"))
    first = Theirs(layers=[4, 3], maxIter=2, seed=3).fit(df)
    ours = MultilayerPerceptronClassifier(layers=[4, 3], maxIter=0, initialWeights=first.weights).fit(df)
    found, wanted = ours.evaluate(df), first.evaluate(df)
    assert 0 < found.accuracy < 1
    for name in (
        "labels", "accuracy", "truePositiveRateByLabel", "falsePositiveRateByLabel", "precisionByLabel", "recallByLabel",
        "weightedTruePositiveRate", "weightedFalsePositiveRate", "weightedPrecision", "weightedRecall", "labelCol",
        "predictionCol", "weightCol",
    ):  # fmt: skip
        assert getattr(found, name) == pytest.approx(getattr(wanted, name)), name
    assert found.fMeasureByLabel(2.0) == pytest.approx(wanted.fMeasureByLabel(2.0))
    assert found.weightedFMeasure() == pytest.approx(wanted.weightedFMeasure())


def test_three_classes_as_logistic_regression(spark):
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.functions import array_to_vector

    draw = np.random.default_rng(1)
    x = draw.normal([5.843, 3.057, 3.758, 1.199], np.sqrt([0.6856, 0.1899, 3.116, 0.581]), (1000, 4))
    slopes = np.array([[0, 0, 0, 0, 0], [-0.57997, 0.912083, -0.371077, -0.819866, 2.688191],
                       [-0.16624, -0.84355, -0.048509, -0.301789, 4.170682]])  # fmt: skip
    odds = np.exp(x @ slopes[:, :4].T + slopes[:, 4])
    labels = [int(draw.choice(3, p=p)) for p in odds / odds.sum(axis=1, keepdims=True)]
    df = spark.createDataFrame(
        [(row.tolist(), y) for row, y in zip(x, labels, strict=True)], "features array<double>, label int"
    )
    df = df.withColumn("features", array_to_vector("features")).cache()

    def confusion(model):
        rows = model.transform(df).groupBy("label", "prediction").count().collect()
        return {(row.label, row.prediction): row["count"] for row in rows}

    ours = confusion(MultilayerPerceptronClassifier(layers=[4, 5, 4, 3], seed=11, maxIter=100).fit(df))
    theirs = confusion(LogisticRegression(maxIter=100).fit(df))
    assert sum(ours.values()) == 1000
    assert all(abs(ours.get(pair, 0) - theirs.get(pair, 0)) <= 100 for pair in ours.keys() | theirs.keys())
    df.unpersist()


def test_equal_first_weights_give_equal_weights(xor):
    stage = MultilayerPerceptronClassifier(layers=[2, 5, 2], seed=12, maxIter=1)
    first = stage.fit(xor).weights
    one, two = (stage.copy({stage.initialWeights: first, stage.seed: seed}).fit(xor).weights for seed in (1, 2))
    assert one == two
    assert one != first


def test_all_types_of_labels_and_features(spark, xor):
    stage = MultilayerPerceptronClassifier(layers=[2, 2], maxIter=1, seed=1)
    kinds = ["tinyint", "smallint", "int", "bigint", "float", "double", "decimal(10,0)"]
    labels = [xor.withColumn("label", F.col("label").cast(kind)) for kind in kinds]
    arrays = spark.createDataFrame([([a, b], a ^ b) for a in (0, 1) for b in (0, 1)], "features array<int>, label int")
    features = [arrays.withColumn("features", F.col("features").cast(f"array<{kind}>")) for kind in ("int", "float", "double")]
    rows = [
        (Vectors.sparse(2, [(i, 1.0) for i, v in enumerate(x) if v]), x[0] ^ x[1]) for x in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    features.append(spark.createDataFrame(rows, ["features", "label"]))
    found = [stage.fit(df) for df in [*labels, *features]]
    for model in found:
        np.testing.assert_allclose(model.weights, found[0].weights, rtol=1e-12)
    for df in features:
        assert found[0].transform(df).select("prediction").count() == 4
        assert {row.prediction for row in found[0].transform(df).collect()} <= {0.0, 1.0}


def test_wrong_tables_are_told(xor):
    stage = MultilayerPerceptronClassifier(layers=[2, 2], maxIter=1)
    nothing = F.lit(None).cast("double")
    for df, error, message in [
        (xor.withColumn("label", F.lit("a")), SignatureError, "`label` is string"),
        (xor.drop("label"), SignatureError, "no column `label`"),
        (xor.withColumn("features", F.lit(1)), SignatureError, "`features` is int"),
        (xor.withColumn("features", F.array(F.lit(1.0))), SignatureError, "has 1 features, and the first of layers"),
        (xor.where("false"), DataError, "no rows"),
        (xor.withColumn("label", F.col("label") + 1), DataError, "A label is 2.0"),
        (xor.withColumn("label", nothing), DataError, "`label` .*null"),
        (xor.withColumn("features", F.array(F.lit(1.0), F.lit(float("nan")))), DataError, "^Feature 1 of a row is nan"),
        (xor.withColumn("features", F.array(F.lit(1.0), nothing)), DataError, "`features` .*null"),
    ]:
        with pytest.raises(error, match=message):
            stage.fit(df)


def test_thresholds_and_columns_that_are_left_out(four):
    model = MultilayerPerceptronClassifier(layers=[2, 2], maxIter=1, seed=1, thresholds=[1.0, 0.0]).fit(four)
    assert {row.prediction for row in model.transform(four).collect()} == {1.0}
    assert {row.prediction for row in model.transform(four, {model.thresholds: [0.0, 1.0]}).collect()} == {0.0}
    few = model.copy({model.probabilityCol: "", model.rawPredictionCol: "", model.predictionCol: "p"})
    assert few.transform(four).columns == ["label", "weight", "features", "p"]
    only = model.copy({model.probabilityCol: "q", model.rawPredictionCol: "", model.predictionCol: ""}).transform(four)
    assert only.columns == ["label", "weight", "features", "q"]
    assert isinstance(only.first().q, DenseVector)
    with pytest.raises(ConfigurationError, match="more than one column named"):
        model.transform(model.transform(four))


def test_several_workers_train_the_same_net(blobs):
    stage = MultilayerPerceptronClassifier(layers=[4, 5, 3], maxIter=8, seed=3)
    one, two = stage.fit(blobs), stage.copy({stage.numWorkers: 2}).fit(blobs)
    np.testing.assert_allclose(two.weights, one.weights, rtol=1e-6)
    batches = stage.copy({stage.solver: "adam", stage.batchSize: 50})
    one, two = batches.fit(blobs), batches.copy({stage.numWorkers: 2}).fit(blobs)
    np.testing.assert_allclose(two.summary().objectiveHistory, one.summary().objectiveHistory, rtol=1e-4)


def test_rows_are_held_out_by_a_column_or_a_share(blobs):
    stage = MultilayerPerceptronClassifier(layers=[4, 20, 3], seed=3, patience=2, maxIter=60)
    column = stage.copy({stage.validationIndicatorCol: "held"}).fit(blobs.withColumn("held", F.col("fold") == 0))
    share = stage.copy({stage.validationFraction: 0.3}).fit(blobs)
    for model in (column, share):
        told = model.summary()
        assert told.totalIterations < 60
        assert len(told.validationHistory) == len(told.objectiveHistory) == told.totalIterations + 1
        assert told.validationHistory[-1] > min(told.validationHistory)


def test_a_regressor(spark, tmp_path):
    from sparkgap.ml.mlp_model import MultilayerPerceptronRegressionModel

    df = spark.range(100).selectExpr("array(id / 100, id % 7 / 7) AS features", "3 * id / 100 - id % 7 / 7 AS label")
    model = MultilayerPerceptronRegressor(layers=[2, 4, 1], hiddenActivation="tanh", seed=2).fit(df)
    assert model.summary().r2 > 0.99
    row = model.transform(df).first()
    assert row.prediction == pytest.approx(model.predict(row.features))
    rows = model.transform(df).collect()
    errors = np.array([row.prediction - row.label for row in rows])
    told = model.evaluate(df)
    assert told.rootMeanSquaredError == pytest.approx(np.sqrt((errors**2).mean()))
    assert told.meanAbsoluteError == pytest.approx(abs(errors).mean())
    assert told.numInstances == 100
    model.save(str(tmp_path / "m"))
    assert MultilayerPerceptronRegressionModel.load(str(tmp_path / "m")).predict(row.features) == model.predict(row.features)


def test_a_validator_picks_the_same_model_in_parallel(blobs):
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.tuning import CrossValidator, ParamGridBuilder

    stage = MultilayerPerceptronClassifier(layers=[4, 3], seed=3)
    grid = ParamGridBuilder().addGrid(stage.layers, [[4, 3], [4, 6, 3]]).addGrid(stage.maxIter, [1, 12]).build()
    found = []
    for parallelism in (1, 2):
        validator = CrossValidator(
            estimator=stage, estimatorParamMaps=grid, evaluator=MulticlassClassificationEvaluator(metricName="accuracy"),
            numFolds=2, foldCol="part", parallelism=parallelism,
        )  # fmt: skip
        found.append(validator.fit(blobs.withColumn("part", F.col("fold") % 2)))
    assert found[0].avgMetrics == found[1].avgMetrics
    assert len(set(found[0].avgMetrics)) > 1
    assert found[0].bestModel.weights == found[1].bestModel.weights


def test_many_settings_share_the_rows_and_give_what_each_alone_gives(blobs, monkeypatch):
    from sparkgap.ml import mlp_fit

    written = []
    real = mlp_fit.source_of
    monkeypatch.setattr(mlp_fit, "source_of", lambda *args, **options: written.append(1) or real(*args, **options))
    stage = MultilayerPerceptronClassifier(layers=[4, 3], maxIter=3)
    maps = [{stage.seed: seed} for seed in range(4)]
    models = stage.fit(blobs, maps)
    assert len(written) == 1
    assert [model.getSeed() for model in models] == [0, 1, 2, 3]
    assert models[2].weights == stage.fit(blobs, maps[2]).weights


def test_a_pipeline_is_loaded_in_another_process(blobs, tmp_path):
    from pyspark.ml import Pipeline, PipelineModel
    from pyspark.ml.feature import VectorAssembler

    df = blobs.selectExpr("id", "label", *[f"features[{n}] AS x{n}" for n in range(4)])
    stages = [
        VectorAssembler(inputCols=[f"x{n}" for n in range(4)], outputCol="features"),
        MultilayerPerceptronClassifier(layers=[4, 3], maxIter=5, initialWeights=np.linspace(-1, 1, 15)),
    ]
    Pipeline(stages=stages).save(str(tmp_path / "pipeline"))
    assert Pipeline.load(str(tmp_path / "pipeline")).getStages()[1].getInitialWeights() == stages[1].getInitialWeights()
    model = Pipeline(stages=stages).fit(df)
    model.save(str(tmp_path / "model"))
    expected = sorted((row.id, row.prediction, *row.probability) for row in model.transform(df).collect())
    here = sorted(
        (r.id, r.prediction, *r.probability) for r in PipelineModel.load(str(tmp_path / "model")).transform(df).collect()
    )
    assert here == expected
    df.write.parquet(str(tmp_path / "rows"))
    program = f"""
import sparkgap as gap
from pyspark.ml import PipelineModel
spark = gap.session("local[1]", conf={{"spark.ui.enabled": "false"}})
rows = PipelineModel.load({str(tmp_path / "model")!r}).transform(spark.read.parquet({str(tmp_path / "rows")!r})).collect()
print("FOUND", sorted((r.id, r.prediction, *map(float, r.probability)) for r in rows))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = eval(done.stdout.rpartition("FOUND ")[2])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
