"""What holds for Keras on every backend; run once a backend by test_trainables_keras.py, as a process has one."""

from __future__ import annotations

import os

import keras
import numpy as np
import pytest
from gloo_ranks import run_ranks
from pyspark import cloudpickle
from small_trainables import digest, train

from sparkgap._errors import ConfigurationError, DataError
from sparkgap.cooperative.checkpoints import Checkpoints
from sparkgap.cooperative.strategies.all_reduce import AllReduce
from sparkgap.cooperative.strategies.group import Group
from sparkgap.cooperative.trainables import environment_of, framework_of, trainable_of

layers = keras.layers


def data(rows=12, steps=4, seed=0):
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(rows, 6)).astype("f4"), "y": rng.integers(0, 3, rows)} for _ in range(steps)]


def net(seed=1, last=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([
        layers.Input((6,)), layers.Dense(16, use_bias=False, kernel_regularizer="l2"),
        layers.BatchNormalization(), layers.ReLU(), layers.Dense(3, activation=last),
    ])  # fmt: skip


def image_net():
    keras.utils.set_random_seed(4)
    return keras.Sequential([
        layers.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(), layers.Flatten(),
        layers.Dense(3, activation="softmax"),
    ])  # fmt: skip


def weights(model):
    return [np.array(w) for w in model.get_weights()]


def assert_same(one, other):
    for left, right in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(left, right)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05),
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.05),
}


def compiled(make=net, optimizer="adam", **options):
    model = make()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=make is net)
    model.compile(optimizer=OPTIMIZERS[optimizer](), loss=loss, **options)
    return model


def test_backend():
    assert keras.backend.backend() == os.environ["KERAS_BACKEND"]
    assert environment_of(net()) == {"KERAS_BACKEND": os.environ["KERAS_BACKEND"]}
    assert framework_of(net()) == "keras"


@pytest.mark.parametrize(("make", "name"), [(net, "sgd"), (net, "momentum"), (net, "adam"), (image_net, "momentum")])
@pytest.mark.parametrize("way", ["step", "parts"])
def test_one_worker_is_train_on_batch_bit_for_bit(name, make, way):
    oracle, model = compiled(make, name), make()
    one = trainable_of(model, loss="cross_entropy", optimizer=name, learning_rate=0.05, inputs="x", label="y")
    for batch in data():
        if make is image_net:
            batch = {**batch, "x": np.resize(batch["x"], (12, 8, 8, 1))}
        expected = oracle.train_on_batch(batch["x"], batch["y"], return_dict=True)["loss"]
        if way == "step":
            loss = one.step(batch)
        else:
            loss, gradients = one.gradients(batch)
            one.apply(gradients)
        assert loss == pytest.approx(expected, rel=1e-6)  # Keras tells the sum over the rows, divided by their number
    if way == "step" or keras.backend.backend() != "jax":
        assert_same(model, oracle)
    else:  # two programs may round otherwise than one
        for left, right in zip(weights(model), weights(oracle), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_a_compiled_model_brings_what_it_has():
    oracle, model = compiled(metrics=["accuracy"]), compiled(metrics=["accuracy"])
    one = trainable_of(model, inputs=["x"], label="y")
    for batch in data():
        one.step(batch)
        oracle.train_on_batch(batch["x"], batch["y"])
    assert_same(model, oracle)
    batch = data(steps=1, seed=9)[0]
    oracle.reset_metrics()
    found, before = one.evaluate(batch), weights(model)
    assert found == pytest.approx(oracle.test_on_batch(batch["x"], batch["y"], return_dict=True))
    assert set(found) == {"loss", "accuracy"}
    assert one.evaluate(batch) == found
    for left, right in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(ConfigurationError, match="is compiled, so it brings its own loss.*got loss= too"):
        trainable_of(model, loss="mse", inputs="x", label="y")


def test_training_goes_on_from_a_checkpoint(tmp_path):
    def make():
        keras.utils.set_random_seed(5)
        model = keras.Sequential([layers.Input((6,)), layers.Dropout(0.5, seed=3), net()])
        return trainable_of(
            model, loss="cross_entropy", optimizer="adam", inputs="x", label="y", clip=0.5, schedule=lambda s: 0.9**s
        )

    whole, first, second = make(), make(), make()
    batches = data(steps=6)
    for batch in batches:
        whole.step(batch)
    for batch in batches[:3]:
        first.step(batch)
    kept = Checkpoints(tmp_path)
    kept.save(3, {"parameters": first.parameters(), "buffers": first.buffers(), "optimizer": first.state()})
    state = kept.latest().state
    second.load_parameters(state["parameters"])
    second.load_buffers(state["buffers"])
    second.load_state(state["optimizer"])
    for batch in batches[3:]:
        second.step(batch)
    assert_same(second.model(), whole.model())
    assert second.learning_rate == whole.learning_rate == pytest.approx(0.001 * 0.9**6)


def test_arrays_belong_to_the_caller_and_frozen_layers_stay_out():
    model = net()
    model.layers[0].trainable = False
    one = trainable_of(model, loss="cross_entropy", optimizer="sgd", inputs="x", label="y")
    assert [p.shape for p in one.parameters()] == [(16,), (16,), (16, 3), (3,)]
    assert [b.shape for b in one.buffers()] == [(16,), (16,)]
    frozen = np.array(model.layers[0].kernel)
    _, gradients = one.gradients(data(steps=1)[0])
    for array in (*one.parameters(), *one.buffers(), *gradients):
        assert array.flags.writeable
        assert array.flags.c_contiguous
    one.apply(gradients)
    np.testing.assert_array_equal(frozen, np.array(model.layers[0].kernel))
    one.load_parameters([np.full(p.shape, 2, "f4") for p in one.parameters()])
    assert all((p == 2).all() for p in one.parameters())


def test_functional_models_with_several_inputs():
    left, right = layers.Input((6,), name="left"), layers.Input((6,), name="right")
    keras.utils.set_random_seed(2)
    model = keras.Model({"left": left, "right": right}, layers.Dense(1)(layers.subtract([left, right])))
    one = trainable_of(model, loss="mse", optimizer="sgd", inputs={"right": "b", "left": "a"}, label="y", metrics="mae")
    rng = np.random.default_rng(0)
    batch = {"a": rng.normal(size=(4, 6)), "b": rng.normal(size=(4, 6)), "y": rng.normal(size=4)}
    prediction = (batch["a"] - batch["b"]).astype("f4") @ one.parameters()[0] + one.parameters()[1]
    found = one.evaluate(batch)
    assert found["loss"] == pytest.approx(np.mean((prediction[:, 0] - batch["y"]) ** 2), rel=1e-5)
    assert found["mae"] == pytest.approx(np.mean(np.abs(prediction[:, 0] - batch["y"])), rel=1e-5)
    before = one.parameters()
    one.step(batch)
    assert not np.array_equal(before[0], one.parameters()[0])


def test_embeddings_have_dense_gradients():
    keras.utils.set_random_seed(2)
    model = keras.Sequential([layers.Input((2,), dtype="int32"), layers.Embedding(10, 4), layers.Flatten(), layers.Dense(3)])
    one = trainable_of(model, loss="cross_entropy", optimizer="sgd", inputs="x", label="y")
    _, gradients = one.gradients({"x": np.array([[1, 2], [2, 3]]), "y": np.array([0, 1])})
    assert gradients[0].shape == (10, 4)
    assert gradients[0].any(1).tolist() == [False, True, True, True] + [False] * 6


def test_own_functions_take_the_prediction_first():
    def weighted(prediction, label):
        return keras.ops.mean(prediction * 0 + 2.0 * keras.ops.cast(label, "float32")[:, None])

    def count(prediction, label):
        return keras.ops.sum(prediction * 0 + 1, axis=-1)

    one = trainable_of(net(), loss=weighted, optimizer=OPTIMIZERS["sgd"], inputs="x", label="y", metrics=[count])
    batch = data(steps=1)[0]
    plain = net()
    penalty = float(keras.ops.convert_to_numpy(plain.losses[0]))
    found = one.evaluate(batch)
    assert found["loss"] == pytest.approx(2 * batch["y"].mean() + penalty, rel=1e-5)
    assert found["count"] == 3


def test_binary_models_with_and_without_a_sigmoid_agree():
    found = []
    for last in (None, "sigmoid"):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([layers.Input((6,)), layers.Dense(1, activation=last)])
        one = trainable_of(model, loss="binary_cross_entropy", optimizer="sgd", inputs="x", label="y", metrics="accuracy")
        batch = data(steps=1)[0]
        found.append(one.evaluate({**batch, "y": batch["y"] > 0}))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_what_cannot_be_trained_is_said():
    good = {"loss": "cross_entropy", "optimizer": "sgd", "inputs": "x", "label": "y"}

    class Own(keras.Model):
        def train_step(self, *args):
            raise AssertionError

    inputs = layers.Input((6,))
    with pytest.raises(ConfigurationError, match="Own has a train_step of its own"):
        trainable_of(Own(inputs, layers.Dense(1)(inputs)), **good)
    model = net()
    with pytest.raises(ConfigurationError, match="inputs names .*, z. Give"):
        trainable_of(model, **{**good, "inputs": {model.inputs[0]._keras_history.operation.name: "x", "z": "x"}})
    with pytest.raises(ConfigurationError, match="is not built"):
        trainable_of(keras.Sequential([layers.Dense(1)]), **good)
    with pytest.raises(ConfigurationError, match="set_global_policy"):
        trainable_of(net(), **good, precision="bf16")
    with pytest.raises(ConfigurationError, match="A Keras model needs optimizer="):
        trainable_of(net(), **{**good, "optimizer": None})
    with pytest.raises(ConfigurationError, match="is no Keras optimizer"):
        trainable_of(net(), **{**good, "optimizer": dict})
    with pytest.raises(ConfigurationError, match="clips gradients already"):
        trainable_of(net(), **{**good, "optimizer": keras.optimizers.SGD(clipnorm=1.0)}, clip=1)
    decaying = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5))
    one = trainable_of(net(), **{**good, "optimizer": decaying})
    with pytest.raises(ConfigurationError, match="LearningRateSchedule"):
        one.set_learning_rate(1)
    one.step(data(steps=1)[0])
    assert one.learning_rate == pytest.approx(0.05)
    with pytest.raises(DataError, match="without rows"):
        one.gradients({k: v[:0] for k, v in data(steps=1)[0].items()})


def test_models_travel_and_the_rate_can_be_set():
    one, other = (
        trainable_of(m, inputs="x", label="y") for m in (compiled(), cloudpickle.loads(cloudpickle.dumps(compiled())))
    )
    for trainable in (one, other):
        trainable.set_learning_rate(0.25)
    assert one.learning_rate == 0.25
    for batch in data():
        one.step(batch)
        other.step(batch)
    assert_same(one.model(), other.model())


def dropout_net():
    model = keras.Sequential([
        layers.Input((6,)), layers.Dense(16), layers.BatchNormalization(), layers.Dropout(0.4), layers.GaussianNoise(0.1),
        layers.Dense(3),
    ])  # fmt: skip
    return trainable_of(model, loss="cross_entropy", optimizer="adam", inputs="x", label="y")


def deterministic(group, seed=3):
    if keras.backend.backend() == "torch":
        import torch

        torch.set_num_threads(1)
    keras.utils.set_random_seed(7 + group.rank)  # rank 0's weights count, and nobody's generators
    trainable = dropout_net()
    run = AllReduce(deterministic=True, virtual_workers=4, seed=seed).begin(trainable, group)
    losses = train(run, [*data(16, steps=3), *data(13, steps=1)], group.rank, group.world)
    return digest(trainable), losses


def test_dropout_is_the_same_bits_for_every_number_of_workers(tmp_path):
    ranks = run_ranks(2, tmp_path, deterministic)
    assert ranks[0] == ranks[1] == deterministic(Group.alone())
    assert ranks[0] != deterministic(Group.alone(), seed=4), "the seed of the strategy is the one of dropout"


def test_random_numbers_follow_from_the_seed_alone():
    one = dropout_net()
    batch = data(steps=1)[0]
    seen = []
    for seed in (1, 1, 2):
        one.reseed(seed)
        seen.append([one.gradients(batch)[0] for _ in range(2)])
    assert seen[0] == seen[1]
    assert len({*seen[0], *seen[2]}) == 4
