"""What the adapters of several frameworks share: reading foreign files, options, devices."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from sparkgap._errors import ConfigurationError, MissingDependencyError, ModelFormatError, SparkGapError
from sparkgap.tensors.spec import Dim


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Turn whatever a framework raises while it reads a model into our errors.

    Args:
        name: what is read, e.g. the file's name.
        what: what it should be, with its article, e.g. ``"an ONNX model"``.

    Raises:
        ModelFormatError: it is unreadable.
        MissingDependencyError: it needs a Python module that does not import here.
    """
    try:
        yield
    except (SparkGapError, MemoryError):
        raise
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} needs a Python module that does not import on this machine: {error}. Install it here and on "
            "every executor, or ship the module with spark.addArtifacts(…, pyfile=True)."
        ) from error
    except Exception as error:  # parsers of foreign formats raise anything, down to UnicodeDecodeError
        reason = " ".join(str(error).split())[:400] or "no reason was given"
        raise ModelFormatError(
            f"{name} cannot be read as {what}: {type(error).__name__}: {reason}. It may be truncated, or written "
            "by another version: copy or export it again."
        ) from error


def choose(options: Mapping[str, Any], known: Iterable[str], title: str) -> str:
    """Return the option ``method``, the first of `known` where it is not given.

    Raises:
        ConfigurationError: it is none of `known`.
    """
    names = tuple(known)
    method = options.get("method", names[0])
    if method not in names:
        raise ConfigurationError(f"{title} has no method {method!r}. Set method to one of: {', '.join(names)}.")
    return str(method)


def plain_constants(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the option ``constants`` as plain JSON values, by name of the input.

    Raises:
        ConfigurationError: it is no mapping, or a value is no number, text, bool or nested list of them.
    """
    given = options.get("constants") or {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(
            f"constants is {given!r}; give a dict from the name of an input to its value, e.g. {{'sr': 16000}}."
        )
    values = {k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in given.items()}
    for name, value in values.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"Constant {name!r} is {value!r}; it must be a number, text, bool or nested list of them."
            ) from error
    return values


def fixed_batch(first: Mapping[str, Dim], title: str) -> int | None:
    """Return the batch size that a model is fixed to, None where it takes any.

    Args:
        first: name of each input -> length of its first axis; None where it is free.
        title: what the model is, for the message.

    Raises:
        ModelFormatError: two inputs are fixed to different lengths, so that they cannot both be batches.
    """
    fixed = {name: n for name, n in first.items() if n is not None}
    if len(set(fixed.values())) > 1:
        lengths = ", ".join(f"`{name}`: {n}" for name, n in fixed.items())
        raise ModelFormatError(
            f"The inputs of this {title} are fixed to different lengths of the first axis ({lengths}), so there is "
            "no common batch axis. Export it with a free batch axis, or set inputs that are the same for every "
            "row with constants={name: value}."
        )
    return next(iter(fixed.values()), None)


def cuda_index(device: str, title: str) -> int | None:
    """Return the CUDA device number of ``"cuda"`` or ``"cuda:1"``; None for ``"cpu"``.

    Raises:
        ConfigurationError: the device is neither.
    """
    if device == "cpu":
        return None
    kind, _, index = device.partition(":")
    if kind != "cuda" or not (index or "0").isdigit():
        raise ConfigurationError(f"{title} runs on cpu, cuda or cuda:N; got device {device!r}.")
    return int(index or 0)
