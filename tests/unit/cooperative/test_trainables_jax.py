from __future__ import annotations

import pytest

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import numpy as np  # noqa: E402
from pyspark import cloudpickle  # noqa: E402

from sparkgap._errors import ConfigurationError, DataError  # noqa: E402
from sparkgap.cooperative.checkpoints import Checkpoints  # noqa: E402
from sparkgap.cooperative.trainables import framework_of, trainable_of  # noqa: E402
from sparkgap.cooperative.trainables.jax_model import JaxModel  # noqa: E402

jnp = jax.numpy


def data(rows=12, steps=4, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"x": rng.normal(size=(rows, 6)).astype("f4"), "y": rng.integers(0, 3, rows), "z": rng.normal(size=rows)}
        for _ in range(steps)
    ]


def net(seed=1, outputs=3):
    rng = np.random.default_rng(seed)
    shapes = {"a": (6, 16), "b": (16,), "c": (16, outputs)}
    return {name: rng.normal(size=shape).astype("f4") * 0.3 for name, shape in shapes.items()}


def apply(params, x):
    return jnp.tanh(x @ params["a"] + params["b"]) @ params["c"]


def logistic(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(apply(params, x), y).mean()


OPTIMIZERS = {
    "sgd": optax.sgd(0.05),
    "momentum": optax.sgd(0.05, momentum=0.9),
    "adam": optax.adam(0.05),
    "adamw": optax.adamw(0.05),
}


def plain_loop(transform, batches, params):
    @jax.jit
    def step(params, slots, x, y):
        loss, gradients = jax.value_and_grad(logistic)(params, x, y)
        updates, slots = transform.update(gradients, slots, params)
        return loss, optax.apply_updates(params, updates), slots

    params = jax.tree.map(jnp.asarray, params)
    slots = transform.init(params)
    for batch in batches:
        _, params, slots = step(params, slots, batch["x"], batch["y"])
    return params


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("own", [True, False])
def test_one_worker_is_the_plain_loop(name, own):
    """Bit for bit with the user's own loss and transformation; else the formulas are the same, and the roundings nearly."""
    expected = plain_loop(OPTIMIZERS[name], data(), net())
    options = {"loss": "cross_entropy", "optimizer": name, "learning_rate": 0.05}
    if own:
        loss = lambda p, y: optax.softmax_cross_entropy_with_integer_labels(p, y)  # noqa: E731
        options = {"loss": loss, "optimizer": OPTIMIZERS[name]}
    one, parts = (trainable_of((apply, net()), inputs="x", label="y", **options) for _ in range(2))
    for batch in data():
        one.step(batch)
        loss, gradients = parts.gradients(batch)
        parts.apply(gradients)
    for key, right in expected.items():
        (np.testing.assert_array_equal if own else np.testing.assert_allclose)(one.model().params[key], right, **(
            {} if own else {"rtol": 1e-4, "atol": 1e-6}
        ))  # fmt: skip
        np.testing.assert_allclose(parts.model().params[key], right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("loss", "expected"), [
    ("mse", lambda p, y: np.mean((p - y) ** 2)), ("mae", lambda p, y: np.mean(np.abs(p - y))),
    ("huber", lambda p, y: optax.huber_loss(p, y).mean()),
    ("binary_cross_entropy", lambda p, y: optax.sigmoid_binary_cross_entropy(p, y > 0).mean()),
])  # fmt: skip
def test_losses_of_one_number(loss, expected):
    batch = data(steps=1)[0]
    prediction = np.asarray(apply(net(outputs=1), batch["x"]))[:, 0]
    label = batch["z"] > 0 if loss == "binary_cross_entropy" else batch["z"]
    one = trainable_of((apply, net(outputs=1)), loss=loss, optimizer="sgd", inputs="x", label="z")
    assert one.evaluate({**batch, "z": label})["loss"] == pytest.approx(float(expected(prediction, batch["z"])), rel=1e-5)


def test_probabilities_as_labels_and_metrics():
    batch = data(steps=1)[0]
    one = trainable_of((apply, net()), loss="cross_entropy", optimizer="sgd", inputs="x", label="y", metrics=["accuracy"])
    found = one.evaluate(batch)
    assert found["accuracy"] == np.mean(np.asarray(apply(net(), batch["x"])).argmax(1) == batch["y"])
    assert one.evaluate({**batch, "y": np.eye(3)[batch["y"]]}) == pytest.approx(found)


def test_clipping_is_that_of_the_norm_of_all_together():
    batch = data(steps=1)[0]
    one = trainable_of(
        (apply, net()), loss="cross_entropy", optimizer="sgd", learning_rate=1.0, inputs="x", label="y", clip=0.01
    )
    one.step(batch)
    moved = [p - q for p, q in zip(one.parameters(), [net()[k] for k in "abc"], strict=True)]
    assert np.sqrt(sum((m.astype("f8") ** 2).sum() for m in moved)) == pytest.approx(0.01, rel=1e-3)


def test_a_model_with_a_state_that_travels_and_goes_on_from_a_checkpoint(tmp_path):
    def counted(params, state, x, *, training):
        return apply(params, x - state["mean"]), {"mean": 0.9 * state["mean"] + 0.1 * x.mean() if training else state["mean"]}

    def make():
        model = cloudpickle.loads(cloudpickle.dumps(JaxModel(counted, net(), {"mean": np.zeros((), "f4")})))
        assert framework_of(model) == "jax"
        return trainable_of(
            model, loss="cross_entropy", optimizer="adam", inputs=["x"], label="y", schedule=lambda s: 0.9**s
        )  # fmt: skip

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
    for left, right in zip(second.parameters() + second.buffers(), whole.parameters() + whole.buffers(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert whole.buffers()[0] != 0
    assert second.learning_rate == whole.learning_rate == pytest.approx(0.001 * 0.9**6)
    before = whole.buffers()
    whole.evaluate(batches[0])
    assert before == whole.buffers()


def test_arrays_belong_to_the_caller():
    one = trainable_of((apply, net()), loss="cross_entropy", optimizer="sgd", inputs="x", label="y")
    _, gradients = one.gradients(data(steps=1)[0])
    given = [np.full(p.shape, 2, "f4") for p in one.parameters()]
    one.load_parameters(given)
    for array in given:
        array[:] = 9
    assert all((p == 2).all() for p in one.parameters())
    assert all(a.flags.writeable and a.flags.c_contiguous for a in (*gradients, *one.parameters()))


def test_learning_rates_of_optax_can_be_set_where_they_are_injected():
    batch = data(steps=1)[0]
    options = {"loss": "cross_entropy", "inputs": "x", "label": "y"}
    one = trainable_of((apply, net()), optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), **options)
    assert one.learning_rate == pytest.approx(0.1)
    one.set_learning_rate(0.0)
    one.step(batch)
    np.testing.assert_array_equal(one.parameters()[0], net()["a"])
    fixed = trainable_of((apply, net()), optimizer=optax.sgd(0.1), **options)
    with pytest.raises(ConfigurationError, match="inject_hyperparams"):
        fixed.set_learning_rate(1)
    with pytest.raises(ConfigurationError, match="inject_hyperparams"):
        trainable_of((apply, net()), optimizer=optax.sgd(0.1), schedule=lambda s: 1, **options)


def test_bfloat16_keeps_the_weights_and_learns():
    batch = data(steps=1)[0]
    one, exact = (
        trainable_of((apply, net()), loss="cross_entropy", optimizer="adam", inputs="x", label="y", precision=p)
        for p in ("bf16", "32")
    )
    losses, other = ([t.step(batch) for _ in range(20)] for t in (one, exact))
    assert losses != other
    np.testing.assert_allclose(losses, other, rtol=0.1)
    assert {p.dtype for p in one.parameters()} == {np.dtype("f4")}


@pytest.mark.parametrize(("model", "change", "message"), [
    ((apply, {"n": np.arange(3)}), {}, "a pytree of floats; got int32"),
    ((apply, {}), {}, "got one without arrays"),
    ((apply, net()), {"optimizer": dict}, "no optax transformation"),
    ((apply, net()), {"precision": "16"}, "needs loss scaling"),
    ((apply, net()), {"inputs": {"z": "x"}}, "takes the tensors x; inputs names z"),
    ((apply, net()), {"device": "cuda:7"}, "JAX does not see it"),
])  # fmt: skip
def test_what_makes_no_sense_is_said_at_once(model, change, message):
    with pytest.raises(ConfigurationError, match=message):
        trainable_of(model, **{"loss": "cross_entropy", "optimizer": "sgd", "inputs": "x", "label": "y", **change})


def test_sizes_that_cannot_be_compared_and_no_rows():
    one = trainable_of((apply, net()), loss="mse", optimizer="sgd", inputs="x", label="y")
    with pytest.raises(DataError, match=r"predicts the shape \(12, 3\) and the label has \(12,\)"):
        one.step(data(steps=1)[0])
    with pytest.raises(DataError, match="without rows"):
        one.step({k: v[:0] for k, v in data(steps=1)[0].items()})
