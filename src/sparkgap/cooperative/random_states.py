"""The states of the random number generators of a process: Python's, NumPy's and, where it is loaded, PyTorch's."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np


def rng_state() -> dict[str, Any]:
    """Return the states of the global generators, as a checkpoint can hold them.

    The seeds of Keras layers are in ``Trainable.state``; JAX has no global generator.
    """
    found: dict[str, Any] = {"python": random.getstate(), "numpy": np.random.get_state(legacy=False)}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["torch"] = torch.get_rng_state()
        if torch.cuda.is_initialized():
            found["cuda"] = torch.cuda.get_rng_state_all()
    return found


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set the generators to what `rng_state` has returned; those of which it says nothing stay as they are."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    if "torch" in state:
        import torch

        torch.set_rng_state(state["torch"])
        if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])
