"""Models as stages of Spark ML pipelines, and as functions of SQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import sparkgap as gap
from sparkgap import ml
from sparkgap.ml.columns import as_array, as_vector

pytestmark = pytest.mark.one_host


@pytest.fixture(scope="module")
def points(spark):
    return spark.range(0, 24, 1, 3).selectExpr("id", "array(double(id), 1.0D) AS v", "double(id > 11) AS label").cache()


def scaled(v):
    return {"scaled": v / 10, "total": v.sum(axis=1)}


def stage(**params):
    return ml.ModelTransformer(model=scaled, inputCols=["v"], outputCols=["features", "total"], vectorOutput=True, **params)


@pytest.fixture(scope="module")
def fitted(points):
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import LogisticRegression

    return Pipeline(stages=[stage(batchSize=5), LogisticRegression(maxIter=3)]).fit(points)


def answers(frame):
    return [(r.id, r.features, r.total, r.prediction) for r in frame.orderBy("id").collect()]


def test_vectors_come_out_and_feed_an_estimator(fitted, points):
    found = answers(fitted.transform(points))
    assert [a[0] for a in found] == list(range(24))
    assert [a[1].toArray().tolist() for a in found] == [[i / 10, 0.1] for i in range(24)]
    assert [a[2] for a in found] == [i + 1.0 for i in range(24)]
    assert [a[3] for a in found][::23] == [0.0, 1.0]


def test_vectors_go_in_dense_and_sparse(spark):
    from pyspark.ml.linalg import Vectors

    rows = [(0, Vectors.dense(1.0, 2.0)), (1, Vectors.sparse(2, [1], [3.0])), (2, None)]
    frame = spark.createDataFrame(rows, ["id", "v"])
    out = stage(onError="null").transform(frame).orderBy("id").collect()
    assert [r.total for r in out] == [3.0, 3.0, None]
    assert [r.features for r in out] == [Vectors.dense(0.1, 0.2), Vectors.dense(0.0, 0.3), None]
    arrays = frame.select("id", as_array("v", frame.schema)).orderBy("id")
    assert [r.v for r in arrays.collect()] == [[1.0, 2.0], [0.0, 3.0], None]
    back = arrays.select("id", as_vector("v").alias("v")).orderBy("id").collect()
    assert [r.v for r in back] == [Vectors.dense(1.0, 2.0), Vectors.dense(0.0, 3.0), None]


@pytest.mark.parametrize(("given", "made"), [("array<float>", "array<float>"), ("array<int>", "array<double>")])
def test_arrays_stay_arrays(spark, given, made):
    frame = spark.sql(f"SELECT CAST(array(1, 2) AS {given}) AS `a.b`")
    out = frame.select(as_array("a.b", frame.schema))
    assert (out.schema["a.b"].dataType.simpleString(), out.first()[0]) == (made, [1.0, 2.0])


def test_what_is_no_vector(spark):
    frame = spark.sql("SELECT 'a' AS s")
    with pytest.raises(gap.SignatureError, match="`s` is string"):
        as_array("s", frame.schema)
    with pytest.raises(gap.SignatureError, match="no column `t`"):
        as_array("t", frame.schema)


def test_wrong_columns_are_seen_before_anything_runs(points):
    with pytest.raises(gap.SignatureError, match="no column `w`"):
        stage().setInputCols(["w"]).transform(points)
    with pytest.raises(gap.ConfigurationError, match="more than one column named label"):
        stage().setOutputCols(["features", "label"]).transform(points)
    with pytest.raises(gap.ConfigurationError, match="names 1 columns and the model gives 2"):
        stage().setOutputCols(["features"]).transform(points)


def test_params_of_one_call(points):
    sizes = ml.ModelTransformer(model=lambda v: {"n": np.full(len(v), len(v))}, inputCols=["v"])
    out = sizes.transform(points.coalesce(1), {sizes.batchSize: 8})
    assert {r.n for r in out.collect()} == {8}
    assert sizes.getBatchSize() is None


def test_a_saved_pipeline_predicts_the_same(fitted, points, tmp_path):
    from pyspark.ml import PipelineModel

    place = str(tmp_path / "pipeline")
    fitted.save(place)
    with pytest.raises(gap.UntrustedModelError, match=r"models/model holds a function model.*sparkgap\.ml\.trusted"):
        PipelineModel.load(place)
    with ml.trusted():
        back = PipelineModel.load(place)
    assert [s.uid for s in back.stages] == [s.uid for s in fitted.stages]
    assert back.stages[0].getBatchSize() == 5
    assert answers(back.transform(points)) == answers(fitted.transform(points))


def test_overwrite_is_asked_for(points, tmp_path):
    place = str(tmp_path / "stage")
    stage().save(place)
    with pytest.raises(gap.ConfigurationError, match=r"something at .*overwrite\(\)"):
        stage().save(place)
    other = ml.ModelTransformer(model=lambda v: {"y": v[:, 0]}, inputCols=["v"])
    other.write().overwrite().save(f"file://{place}")
    back = ml.ModelTransformer.load(place, trust=True)
    assert (back.uid, back.getModel().ref.digest) == (other.uid, other.getModel().ref.digest)
    back.write().overwrite().save(place)  # over the folder that it was loaded from
    assert ml.ModelTransformer.load(place, trust=True).transform(points).where("y = 3").count() == 1


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(gap.ModelError, match="no saved stage"):
        ml.ModelTransformer.load(str(tmp_path / "nothing"))
    ml.TextEmbedder().save(str(tmp_path / "embedder"))
    with pytest.raises(gap.ModelError, match="holds a sparkgap.ml.featurizers.TextEmbedder, not a"):
        ml.ModelTransformer.load(str(tmp_path / "embedder"))
    assert ml.TextEmbedder.load(str(tmp_path / "embedder")).getOutputCol() == "features"


def test_validators_are_saved(points, tmp_path, kind):
    validator = {"classic": "CrossValidator", "connect": "TrainValidationSplit"}[
        kind
    ]  # they share what is tested: one is enough
    from pyspark.ml import Pipeline, tuning
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.evaluation import BinaryClassificationEvaluator

    featurizer, learner = stage(), LogisticRegression(maxIter=1)
    grid = tuning.ParamGridBuilder().addGrid(learner.regParam, [0.0, 0.5]).addGrid(featurizer.batchSize, [7]).build()
    made = getattr(tuning, validator)(
        estimator=Pipeline(stages=[featurizer, learner]), estimatorParamMaps=grid, evaluator=BinaryClassificationEvaluator(),
        seed=1, **({"numFolds": 2} if validator == "CrossValidator" else {}),
    )  # fmt: skip
    made.save(str(tmp_path / "validator"))
    model = made.fit(points)
    model.save(str(tmp_path / "model"))
    with ml.trusted():
        again = getattr(tuning, validator).load(str(tmp_path / "validator"))
        back = getattr(tuning, f"{validator}Model").load(str(tmp_path / "model"))
    assert [set(m.values()) for m in again.getEstimatorParamMaps()] == [{0.0, 7}, {0.5, 7}]
    assert answers(back.transform(points)) == answers(model.transform(points))


FRESH = """
import json, sys
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
frame = spark.range(0, 24).selectExpr("id", "array(double(id), 1.0D) AS v")
out = PipelineModel.load(sys.argv[1]).transform(frame).orderBy("id").collect()
open(sys.argv[2], "w").write(json.dumps([[r.id, r.features.toArray().tolist(), r.prediction] for r in out]))
"""


@pytest.mark.local
def test_a_fresh_process_predicts_the_same(points, tmp_path):
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import LogisticRegression

    tenth = ml.ModelTransformer(model=save_onnx(tmp_path), inputCols=["v"], outputCols=["features"], vectorOutput=True)
    model = Pipeline(stages=[tenth, LogisticRegression(maxIter=3)]).fit(points)
    model.save(str(tmp_path / "pipeline"))
    script = tmp_path / "fresh.py"
    script.write_text(FRESH)
    env = {**os.environ, "SPARKGAP_CACHE": str(tmp_path / "other cache"), "PYSPARK_PYTHON": sys.executable}
    command = [sys.executable, str(script), str(tmp_path / "pipeline"), str(tmp_path / "out.json")]
    subprocess.run(command, check=True, env=env, timeout=200)
    rows = model.transform(points).orderBy("id").collect()
    assert json.loads((tmp_path / "out.json").read_text()) == [
        [r.id, r.features.toArray().tolist(), r.prediction] for r in rows
    ]


def save_onnx(folder):
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.DOUBLE
    ends = [helper.make_tensor_value_info(n, kind, ["n", 2]) for n in ("x", "y")]
    ten = helper.make_tensor("ten", kind, [1], [10.0])
    graph = helper.make_graph([helper.make_node("Div", ["x", "ten"], ["y"])], "tenth", ends[:1], ends[1:], [ten])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "tenth.onnx")
    return folder / "tenth.onnx"


def test_transfer_learning_in_seven_lines(spark, tmp_path):
    torch = pytest.importorskip("torch")
    image = pytest.importorskip("PIL.Image")
    for number in range(12):  # dark and bright ones
        image.new("RGB", (20, 16), (20 * (number % 2) + 10 * number, 5, 5)).save(tmp_path / f"{number % 2}-{number}.png")
    network = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import LogisticRegression

    photos = (
        gap.images(str(tmp_path)).to_df(spark).selectExpr("content", "double(substring_index(path, '/', -1) LIKE '1-%') label")
    )
    featurizer = ml.ImageFeaturizer(model=network, cut="last", size=8)
    model = Pipeline(stages=[featurizer, LogisticRegression()]).fit(photos)
    row = model.transform(photos).first()
    assert len(row.features) == 3  # what the last layer would have read
    assert {r.prediction for r in model.transform(photos).collect()} <= {0.0, 1.0}


def test_image_files_are_read_by_executors(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number in range(3):
        image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    red = ml.ImageFeaturizer(model=lambda x: {"red": x.mean(axis=(2, 3))}, size=2, scale=1.0, mean=[0] * 3, std=[1] * 3)
    out = red.transform(gap.images(str(tmp_path)))
    assert out.columns == ["path", "features"]
    assert sorted(r.features[0] for r in out.collect()) == [0.0, 1.0, 2.0]


def test_texts_become_vectors(spark):
    def embed(text):
        return {"embedding": np.array([[len(t), t.count("a")] for t in text], np.float32)}

    frame = spark.createDataFrame([(0, "banana"), (1, "kiwi"), (2, None)], ["id", "text"])
    out = ml.TextEmbedder(model=embed, onError="null").transform(frame).orderBy("id").collect()
    assert [None if r.features is None else r.features.toArray().tolist() for r in out] == [[6.0, 3.0], [4.0, 0.0], None]


def first(v):
    return {"low": v.min(axis=1), "high": v.max(axis=1)}


def second(high, low):
    return {"range": high - low}


def third(x):
    return {"root": np.sqrt(x)}


def test_three_ways_are_equal(spark, points):
    by_frame = points
    for model in (first, second):
        by_frame = gap.transform(by_frame, model, batch_size=5)
    by_frame = gap.transform(by_frame, third, inputs=["range"], batch_size=5)
    expected = [r.root for r in by_frame.orderBy("id").collect()]
    assert expected[:3] == [1.0, 0.0, 1.0]

    points.createOrReplaceTempView("ml_points")
    chain = ml.register("chained", [first, second, third], spark, like=points.select("v"), batch_size=5)
    assert [r[0] for r in spark.sql("SELECT chained(v) FROM ml_points ORDER BY id").collect()] == expected
    assert [r[0] for r in points.orderBy("id").select(chain("v")).collect()] == expected

    spread = ml.register("spread", lambda v: {"range": v.max(axis=1) - v.min(axis=1)}, like=points.select("v"), batch_size=5)
    ml.register("root", third, like=by_frame.select("range"), inputs=["range"], batch_size=5)
    assert [r[0] for r in spark.sql("SELECT root(spread(v)) FROM ml_points ORDER BY id").collect()] == expected
    assert spread is not None


def test_nulls_go_through_a_chain(spark, points):
    points.selectExpr("id", "IF(id = 3, NULL, v) AS v").createOrReplaceTempView("ml_holes")
    ml.register("holes", [first, second], like=points.select("v"), on_error="null")
    out = [r[0] for r in spark.sql("SELECT holes(v) FROM ml_holes ORDER BY id").collect()]
    assert out == [None if i == 3 else abs(i - 1.0) for i in range(24)]


def test_chains_that_do_not_fit(points):
    with pytest.raises(gap.ConfigurationError, match="list of models is empty"):
        ml.register("none", [])
    with pytest.raises(gap.ConfigurationError, match="Model 1 of the chain gives low, high, and model 2 takes x"):
        ml.register("wrong", [first, third], like=points.select("v"))
    with pytest.raises(gap.ConfigurationError, match="does not tell its outputs"):
        ml.register("untold", [first, second])
