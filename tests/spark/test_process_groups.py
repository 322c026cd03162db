"""The process groups of JAX and TensorFlow in `gap.train`: made for the user, and taken down, again and again."""

from __future__ import annotations

import importlib.util
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

import sparkgap as gap
from sparkgap.cooperative.worker import Worker

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.local  # what differs between kinds of sessions lies far from here


def needs(module: str) -> None:
    if importlib.util.find_spec(module) is None:  # not importorskip: the ranks import it, and not this process
        pytest.skip(f"{module} is not installed")


def in_jax(worker: Worker) -> Any:
    import jax
    from jax.experimental import multihost_utils

    everywhere = multihost_utils.process_allgather(jax.numpy.array([worker.rank + 1.0]))
    summed = jax.jit(jax.numpy.sum)(
        multihost_utils.host_local_array_to_global_array(
            jax.numpy.array([worker.rank + 1.0]), jax.make_mesh((2,), ("ranks",)), jax.sharding.PartitionSpec("ranks")
        )
    )
    return jax.process_count(), jax.process_index(), everywhere.tolist(), float(summed)


def test_jax_finds_its_peers_each_time(spark: SparkSession) -> None:
    needs("jax")
    for _ in range(2):
        result = gap.train(in_jax, workers=2, backend="jax", returns="all")
        assert result.values == [(2, rank, [[1.0], [2.0]], 3.0) for rank in range(2)]
        assert result.attempts == 1


def test_the_cause_is_told_where_jax_loses_a_peer(spark: SparkSession) -> None:
    needs("jax")

    def broken(worker: Worker) -> None:
        if worker.rank == 1:
            raise LookupError("no such layer")
        in_jax(worker)

    with pytest.raises(gap.RankError, match=r"Rank 1 of 2 raised LookupError.*no such layer"):
        gap.train(broken, workers=2, backend="jax")


def in_tensorflow(worker: Worker) -> Any:
    import tensorflow

    config = json.loads(os.environ["TF_CONFIG"])
    strategy = tensorflow.distribute.MultiWorkerMirroredStrategy()

    @tensorflow.function
    def summed() -> Any:
        def of_replica() -> Any:
            mine = tensorflow.constant([worker.rank + 1.0])
            return tensorflow.distribute.get_replica_context().all_reduce("SUM", mine)

        return strategy.run(of_replica)

    return strategy.num_replicas_in_sync, len(set(config["cluster"]["worker"])), config["task"], summed().numpy().tolist()


def test_tensorflow_finds_its_peers_each_time(spark: SparkSession) -> None:
    needs("tensorflow")
    for _ in range(2):
        result = gap.train(in_tensorflow, workers=2, backend="tensorflow", returns="all")
        assert result.values == [(2, 2, {"type": "worker", "index": rank}, [3.0]) for rank in range(2)]
        assert result.attempts == 1


def test_fit_says_that_it_needs_torch_distributed(spark: SparkSession) -> None:
    needs("jax")
    needs("torch")

    def net() -> Any:
        import torch

        return torch.nn.Linear(1, 1)

    rows = spark.range(8).selectExpr("cast(id AS float) AS x", "cast(id AS float) AS y")
    with pytest.raises(gap.RankError, match=r"need a process group of torch.distributed.*leave out backend="):
        gap.fit(net, rows, inputs="x", label="y", loss="mse", workers=2, backend="jax")
