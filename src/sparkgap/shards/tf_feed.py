"""Shards as a ``tf.data.Dataset``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparkgap._optional import need
from sparkgap.shards.feeds import WEIGHT, check_tensors
from sparkgap.tensors.spec import OBJECTS, Block

if TYPE_CHECKING:
    from sparkgap.shards.dataset import Shards


def dataset(shards: Shards, batch_size: int, **options: Any) -> Any:
    """Return the batches of one epoch, which can be iterated again; see `Shards.to_tf`.

    Raises:
        ConfigurationError: an option is wrong, or a column is neither numbers of one shape nor text nor bytes.
        MissingDependencyError: TensorFlow is not installed.
    """
    tf = need("tensorflow", extra="tensorflow", why="to feed TensorFlow")
    feed = shards.to_numpy(batch_size, **options)  # not iterated: checks the options
    check_tensors([s for s in feed.specs if s.dtype not in OBJECTS or s.shape != ()], "TensorFlow")
    signature = {
        s.name: tf.TensorSpec((None, *(s.shape or ())), tf.string if s.dtype in OBJECTS else s.dtype) for s in feed.specs
    }
    if options.get("last") == "pad":
        signature[WEIGHT] = tf.TensorSpec((None,), tf.float32)

    def blocks() -> Iterator[Block]:
        with shards.to_numpy(batch_size, **options) as again:
            yield from again

    made = tf.data.Dataset.from_generator(blocks, output_signature=signature)
    return made.apply(tf.data.experimental.assert_cardinality(len(feed)))
