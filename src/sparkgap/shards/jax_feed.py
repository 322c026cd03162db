"""Shards as JAX arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sparkgap._errors import ConfigurationError
from sparkgap._optional import need
from sparkgap.shards.feeds import NumpyFeed, check_tensors

_WIDE = ("int64", "uint64", "float64")


class JaxFeed:
    """The batches of a feed on a device, one on its way there while another is used. An iterator; ends as `NumpyFeed`.

    Args:
        feed: whose batches.
        device: a device or sharding; None for JAX's default.

    Raises:
        ConfigurationError: a column is not numbers of one shape.
        MissingDependencyError: JAX is not installed.
    """

    def __init__(self, feed: NumpyFeed, device: Any = None) -> None:
        self._jax = need("jax", extra="jax", why="to feed JAX")
        check_tensors(feed.specs, "JAX")
        wide = [s.name for s in feed.specs if s.dtype in _WIDE]
        if wide and not self._jax.config.jax_enable_x64:
            raise ConfigurationError(
                f"Column `{wide[0]}` has 64-bit numbers, which JAX would cut to 32 bits. Cast it before the shards are "
                'written, leave it out with columns=, or allow them: jax.config.update("jax_enable_x64", True).'
            )
        self.feed = feed
        self._device = device
        self._iterator = self._iterate()

    def __len__(self) -> int:
        return len(self.feed)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self._iterator)

    def __enter__(self) -> JaxFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the thread that reads ahead."""
        self._iterator.close()
        self.feed.close()

    def _iterate(self) -> Any:
        coming = None
        for block in self.feed:
            # Returns at once; the copy goes on while the caller computes. The arrays are never written to again.
            put = self._jax.device_put(block, self._device)
            if coming is not None:
                yield coming
            coming = put
        if coming is not None:
            yield coming
