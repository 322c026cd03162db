from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from pyspark import cloudpickle  # noqa: E402

from sparkgap._errors import ConfigurationError, DataError  # noqa: E402
from sparkgap.cooperative.checkpoints import Checkpoints  # noqa: E402
from sparkgap.cooperative.trainables import Recipe, framework_of, train_by, trainable_of  # noqa: E402

nn, functional = torch.nn, torch.nn.functional


def data(rows=12, steps=5, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"x": rng.normal(size=(rows, 6)).astype(np.float32), "y": rng.integers(0, 3, rows), "z": rng.normal(size=rows)}
        for _ in range(steps)
    ]


def net(seed=1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


def line(seed=1):
    torch.manual_seed(seed)
    return nn.Linear(6, 1)


def same(one, other):
    left, right = one.state_dict(), other.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.05),
}


def plain_loop(module, optimizer, batches, loss=functional.cross_entropy, clip=None, schedule=None):
    losses = []
    for step, batch in enumerate(batches):
        if schedule:
            optimizer.param_groups[0]["lr"] = 0.05 * schedule(step)
        module.train()
        optimizer.zero_grad()
        found = loss(module(torch.from_numpy(batch["x"])), torch.from_numpy(batch["y"]))
        found.backward()
        if clip:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
        losses.append(found.item())
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("way", ["step", "parts"])
def test_one_worker_is_the_plain_loop_bit_for_bit(name, way):
    oracle = net()
    expected = plain_loop(oracle, OPTIMIZERS[name](oracle.parameters()), data(), clip=0.7, schedule=lambda s: 1 / (1 + s))
    one = trainable_of(
        net(), loss="cross_entropy", optimizer=name, learning_rate=0.05, inputs=["x"], label="y", clip=0.7,
        schedule=lambda s: 1 / (1 + s),
    )  # fmt: skip
    losses = []
    for batch in data():
        if way == "step":
            losses.append(one.step(batch))
        else:
            loss, gradients = one.gradients(batch)
            one.apply([g.copy() for g in gradients])
            losses.append(loss)
    assert losses == expected
    same(one.model(), oracle)


def test_own_loss_optimizer_and_inputs_by_name():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 3)

        def forward(self, features, scale):
            return self.layer(features) * scale[:, None]

    torch.manual_seed(3)
    module, oracle = Two(), Two()
    oracle.load_state_dict(module.state_dict())
    one = trainable_of(
        module, loss=nn.CrossEntropyLoss(), optimizer=OPTIMIZERS["adam"], inputs={"scale": "z", "features": "x"}, label="y"
    )
    optimizer = OPTIMIZERS["adam"](oracle.parameters())
    for batch in data():
        narrow = {**batch, "y": batch["y"].astype(np.int32)}  # torch wants int64
        one.step(narrow)
        optimizer.zero_grad()
        scale = torch.from_numpy(batch["z"]).float()
        functional.cross_entropy(oracle(torch.from_numpy(batch["x"]), scale), torch.from_numpy(batch["y"])).backward()
        optimizer.step()
    same(module, oracle)


def test_several_columns_of_scalars_are_one_tensor():
    rng = np.random.default_rng(0)
    one = trainable_of(nn.Linear(2, 1), loss="mse", optimizer="sgd", learning_rate=0.1, inputs=["x1", "x2"], label="y")
    for _ in range(300):
        x = rng.normal(size=(2, 64))
        one.step({"x1": x[0], "x2": x[1], "y": 3.14 * x[0] + 1.618 * x[1]})
    np.testing.assert_allclose(one.parameters()[0], [[3.14, 1.618]], atol=5e-3)


@pytest.mark.parametrize(("loss", "expected"), [
    ("mse", lambda p, y: functional.mse_loss(p, y)), ("mae", lambda p, y: functional.l1_loss(p, y)),
    ("huber", lambda p, y: functional.huber_loss(p, y)),
    ("binary_cross_entropy", lambda p, y: functional.binary_cross_entropy_with_logits(p, (y > 0).float())),
])  # fmt: skip
def test_a_label_of_one_number_meets_a_prediction_of_one_number(loss, expected):
    """(batch,) against (batch, 1) would be broadcast to (batch, batch)."""
    batch = data(steps=1)[0]
    label = batch["z"] > 0 if loss == "binary_cross_entropy" else batch["z"]
    one = trainable_of(line(), loss=loss, optimizer="sgd", inputs="x", label="z")
    found = one.evaluate({**batch, "z": label})["loss"]
    assert found == expected(line()(torch.from_numpy(batch["x"]))[:, 0], torch.from_numpy(batch["z"]).float()).item()


def test_gradients_are_the_callers_and_zeros_where_nothing_was_reached():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(6, 3), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    one = trainable_of(Spare(), loss="cross_entropy", optimizer="adamw", inputs="x", label="y")
    first, second = data(steps=2)
    _, before = one.gradients(first)
    kept = [g.copy() for g in before]
    one.gradients(second)
    assert all(np.array_equal(a, b) for a, b in zip(before, kept, strict=True))
    assert [g.shape for g in kept] == [p.shape for p in one.parameters()]
    assert not kept[2].any()
    assert not kept[3].any()
    assert all(g.flags.writeable and g.flags.c_contiguous for g in before)


def test_parameters_are_views_and_load_back_with_the_buffers():
    one, other = (trainable_of(net(s), loss="cross_entropy", optimizer="sgd", inputs="x", label="y") for s in (1, 2))
    one.step(data(steps=1)[0])
    other.load_parameters(one.parameters())
    other.load_buffers(one.buffers())
    same(one.model(), other.model())
    one.parameters()[0][:] = 7
    assert (one.model()[0].weight == 7).all()
    with pytest.raises(ConfigurationError, match=r"Array 0 of 6 parameters has the shape \(16, 6\), and got \(2,\)"):
        one.load_parameters([np.zeros(2)] * 6)
    with pytest.raises(ConfigurationError, match="The model has 6 gradients, and got 1"):
        one.apply([np.zeros((16, 6))])


def test_frozen_parameters_are_not_trained():
    module = net()
    module[0].requires_grad_(False)
    before = module[0].weight.clone()
    one = trainable_of(module, loss="cross_entropy", optimizer="adamw", inputs="x", label="y")
    assert len(one.parameters()) == 4
    one.step(data(steps=1)[0])
    assert torch.equal(module[0].weight, before)


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path):
    def make():
        return trainable_of(
            net(), loss="cross_entropy", optimizer="adam", learning_rate=0.05, inputs="x", label="y", schedule=lambda s: 0.9**s
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
    same(second.model(), whole.model())
    assert second.learning_rate == whole.learning_rate == pytest.approx(0.05 * 0.9**6)


def test_evaluation_changes_nothing_and_counts():
    module = nn.Sequential(nn.Dropout(0.9), net())
    module[1][1].eval()  # a user's frozen statistics stay so
    one = trainable_of(
        module, loss="cross_entropy", optimizer="sgd", inputs="x", label="y",
        metrics=["accuracy", lambda p, y: (p.argmax(1) != y).float().mean()],
    )  # fmt: skip
    before, batch = [b.copy() for b in one.buffers()], data(steps=1)[0]
    found = one.evaluate(batch)
    assert found == one.evaluate(batch)
    assert found["accuracy"] + found["<lambda>"] == pytest.approx(1)
    assert all(np.array_equal(a, b) for a, b in zip(before, one.buffers(), strict=True))
    assert module[0].training
    assert not module[1][1].training


def test_binary_accuracy_takes_logits():
    one = trainable_of(line(), loss="binary_cross_entropy", optimizer="sgd", inputs="x", label="y", metrics="accuracy")
    batch = data(steps=1)[0]
    logits = line()(torch.from_numpy(batch["x"]))[:, 0].detach().numpy()
    assert one.evaluate({**batch, "y": logits > 0})["accuracy"] == 1
    assert one.evaluate({**batch, "y": logits <= 0})["accuracy"] == 0


def test_learning_rate_can_be_set_and_groups_keep_their_ratio():
    def groups(parameters):
        first, *others = parameters
        return torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": others, "lr": 0.2}])

    one = trainable_of(net(), loss="cross_entropy", optimizer=groups, inputs="x", label="y")
    assert one.learning_rate == 0.1
    one.set_learning_rate(0.3)
    assert [g["lr"] for g in one.optimizer.param_groups] == pytest.approx([0.3, 0.6])
    assert one.learning_rate == 0.3


def test_mixed_precision_keeps_the_weights_and_learns():
    one = trainable_of(net(), loss="cross_entropy", optimizer="adam", inputs="x", label="y", precision="bf16")
    exact = trainable_of(net(), loss="cross_entropy", optimizer="adam", inputs="x", label="y")
    batch = data(steps=1)[0]
    losses = [one.step(batch) for _ in range(30)]
    other = [exact.step(batch) for _ in range(30)]
    assert losses != other
    np.testing.assert_allclose(losses, other, rtol=0.1)
    assert {p.dtype for p in one.parameters()} == {np.dtype("f4")}


def test_loss_scaling_is_exact_and_passes_over_overflow():
    """The scaler of a GPU, here on the CPU: what `gradients` gives is unscaled, and all ranks skip the same steps."""
    oracle, one = (
        trainable_of(net(), loss="cross_entropy", optimizer="adam", inputs="x", label="y", clip=0.5) for _ in range(2)
    )
    one._scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
    for number, batch in enumerate(data()):
        loss, gradients = one.gradients(batch)
        expected, plain = oracle.gradients(batch)
        assert loss == expected
        for found, right in zip(gradients, plain, strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-9)
        if number == 2:
            before, scale = [p.copy() for p in one.parameters()], one._scaler.get_scale()
            one.apply([np.full_like(g, np.inf) for g in gradients])
            assert all(np.array_equal(a, b) for a, b in zip(before, one.parameters(), strict=True))
            assert one._scaler.get_scale() == scale / 2
        one.apply(plain)
        oracle.apply(plain)
    same(one.model(), oracle.model())


def test_a_rank_without_rows_and_columns_that_are_absent():
    one = trainable_of(net(), loss="cross_entropy", optimizer="sgd", inputs="x", label="y")
    empty = {k: v[:0] for k, v in data(steps=1)[0].items()}
    for call in (one.gradients, one.evaluate, one.step):
        with pytest.raises(DataError, match="without rows has no mean loss"):
            call(empty)
    with pytest.raises(DataError, match="no column `y` in the batch; it has x"):
        one.step({"x": np.zeros((2, 6), "f4")})
    with pytest.raises(DataError, match="fractions such as"):
        one.step({"x": np.zeros((2, 6), "f4"), "y": np.array([0.5, 1])})
    with pytest.raises(DataError, match="text or lists"):
        one.step({"x": np.array(["a"], object), "y": np.zeros(1, "i8")})
    wrong = trainable_of(net(), loss="mse", optimizer="sgd", inputs="x", label="y")
    with pytest.raises(DataError, match=r"predicts the shape \(12, 3\) and the label has \(12,\)"):
        wrong.step(data(steps=1)[0])


@pytest.mark.parametrize(("change", "message"), [
    ({"loss": "crossentropy"}, "no loss 'crossentropy'. Give one of cross_entropy, binary"),
    ({"optimizer": "rmsprop"}, "no optimizer 'rmsprop'. Give one of sgd, momentum, adam, adamw"),
    ({"metrics": ["auc"]}, "no metric 'auc'. Give one of accuracy"),
    ({"loss": None}, "A torch model needs loss=: one of cross_entropy"),
    ({"optimizer": lambda p: 3}, "makes no torch optimizer"),
    ({"optimizer": torch.optim.SGD(line().parameters(), lr=1)}, "parameters that are not among"),
    ({"optimizer": lambda p: torch.optim.SGD(p, lr=1), "learning_rate": 0.1}, "learning_rate is for a named optimizer"),
    ({"precision": "fp8"}, "precision is 'fp8'"),
    ({"clip": -1}, "clip is -1"),
    ({"schedule": 0.5}, "schedule is 0.5"),
    ({"device": "tpu"}, "PyTorch runs on cpu"),
    ({"inputs": {"y": "x"}}, "The model takes the tensors input; inputs names y"),
    ({"inputs": []}, "inputs names no column"),
    ({"label": ""}, "label is ''"),
])  # fmt: skip
def test_what_makes_no_sense_is_said_at_once(change, message):
    with pytest.raises(ConfigurationError, match=message):
        trainable_of(net(), **{"loss": "cross_entropy", "optimizer": "sgd", "inputs": "x", "label": "y", **change})


def test_a_module_that_cannot_be_trained():
    with pytest.raises(ConfigurationError, match="lazy layers"):
        trainable_of(nn.LazyLinear(2), loss="mse", optimizer="sgd", inputs="x", label="y")
    with pytest.raises(ConfigurationError, match="nothing to train"):
        trainable_of(nn.Linear(1, 1).requires_grad_(False), loss="mse", optimizer="sgd", inputs="x", label="y")
    with pytest.raises(ConfigurationError, match=r"A builtins\.dict is no model"):
        trainable_of({}, loss="mse", optimizer="sgd", inputs="x", label="y")
    with pytest.raises(ConfigurationError, match=r"schedule\(0\) returned None"):
        trainable_of(
            net(), loss="cross_entropy", optimizer="sgd", inputs="x", label="y", schedule=lambda s: None
        ).step(data(steps=1)[0])  # fmt: skip


def test_model_and_recipe_travel():
    recipe = Recipe("x", "y", lambda p, y: functional.cross_entropy(p, y), lambda p: torch.optim.Adam(p, lr=0.05))
    module, again = cloudpickle.loads(cloudpickle.dumps((net(), recipe)))
    one, other = train_by(net(), recipe), train_by(module, again)
    for batch in data():
        assert one.step(batch) == other.step(batch)
    assert framework_of(module) == "torch"


def test_wrapping_replaces_what_is_called():
    one = trainable_of(net(), loss="cross_entropy", optimizer="sgd", inputs="x", label="y")
    calls = []
    one.wrap(type("Counted", (nn.Module,), {"forward": lambda self, x: (calls.append(len(x)), net()(x))[1]})())
    one.backward(one.loss_of(data(steps=1)[0]))
    assert calls == [12]
