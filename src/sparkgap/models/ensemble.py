"""One model of several: the mean of their outputs, or the label that most of them give."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal

import numpy as np

from sparkgap._errors import ConfigurationError, ModelOutputError, SignatureError
from sparkgap.models.carried import Carried
from sparkgap.models.model import Model, load
from sparkgap.tensors.spec import Block, Signature, TensorSpec, dtype_name

Average = Literal["mean", "vote"]
AVERAGES = ("mean", "vote")
_FLOATS = ("float16", "bfloat16", "float32", "float64")


def ensemble_of(members: Sequence[Model], average: Average | Mapping[str, Average] = "mean") -> Model:
    """Return one model that averages the outputs of several. Its bundle holds theirs. Driver side.

    It has their signature. The members run one after the other in the same process, on the CPU.

    Args:
        members: at least one.
        average: ``"mean"``, for floats; ``"vote"``, for labels: what most members give, of equally many the smallest (as
            scikit-learn's ``VotingClassifier`` does). Or one of them for each output, by name; others are averaged.

    Raises:
        ConfigurationError: there are no members, or `average` is something else.
        SignatureError: the members do not take and give the same tensors, or these cannot be averaged so.
    """
    check_average(average)
    if not members:
        raise ConfigurationError("An ensemble needs at least one model; got none.")
    signature = agreed([member.signature for member in members])
    for spec in signature.outputs:
        if spec.dtype is not None and (why := _unfit(_of(average, spec.name), spec.dtype)):
            raise SignatureError(f"Output `{spec.name}` of the members: {why}")
    if not isinstance(average, str) and signature.outputs and (why := _unknown(average, [s.name for s in signature.outputs])):
        raise SignatureError(why)
    model = Averaged(members, average, [s.name for s in signature.inputs])
    return load(model, adapter="function", signature=signature)


def check_average(average: Any) -> None:
    """Refuse what `ensemble_of` would not take.

    Raises:
        ConfigurationError: it is neither ``"mean"`` nor ``"vote"``, nor a mapping to these.
    """
    ways = list(average.values()) if isinstance(average, Mapping) else [average]
    if any(way not in AVERAGES for way in ways):
        raise ConfigurationError(f"average={average!r}: 'mean', 'vote', or a dict with one of them for each output.")


class Averaged:
    """The members as one function of tensors. Pickles with all their files, so that it needs nothing else where it runs.

    Args:
        members: the models.
        average: see `ensemble_of`.
        inputs: names of their inputs.
    """

    def __init__(self, members: Sequence[Model], average: str | Mapping[str, str], inputs: Sequence[str]) -> None:
        self._members = tuple(members)
        self._average = average if isinstance(average, str) else dict(average)
        self._inputs = tuple(inputs)
        kind = inspect.Parameter.KEYWORD_ONLY
        self.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in self._inputs])

    def __getstate__(self) -> dict[str, Any]:
        refs = [member.ref for member in self._members]
        carried = {ref.digest: Carried.of(member) for ref, member in zip(refs, self._members, strict=True)}
        return {
            "members": [(ref.digest, ref.signature) for ref in refs], "carried": carried, "average": self._average,
            "inputs": self._inputs,
        }  # fmt: skip

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        models = {digest: carried.unpack() for digest, carried in state["carried"].items()}
        members = [models[digest].with_signature(Signature.from_json(text)) for digest, text in state["members"]]
        self.__init__(members, state["average"], state["inputs"])  # type: ignore[misc]  # which is all there is to restore

    def __call__(self, **block: np.ndarray) -> Block:
        """Return the averaged outputs of a block.

        Raises:
            ModelOutputError: the members' outputs differ in name or shape, or cannot be averaged so.
        """
        given: list[Block] = []
        for number, member in enumerate(self._members):
            given.append(member.predict(block, threads=_threads()))
            _check_alike(number, given[0], given[-1])
        if not isinstance(self._average, str) and (why := _unknown(self._average, list(given[0]))):
            raise ModelOutputError(why)
        return {name: averaged(name, [one[name] for one in given], _of(self._average, name)) for name in given[0]}


def averaged(name: str, arrays: Sequence[np.ndarray], average: str) -> np.ndarray:
    """Return the mean, or the most frequent value, of arrays of equal shape, in their type. Pure.

    Args:
        name: of the output, for messages.
        arrays: of the members.
        average: ``"mean"`` or ``"vote"``.

    Raises:
        ModelOutputError: their type does not allow it.
    """
    if why := _unfit(average, dtype_name(arrays[0])):
        raise ModelOutputError(f"Output `{name}` of the members: {why}")
    return _mean(arrays) if average == "mean" else _vote(arrays)


def agreed(signatures: Sequence[Signature]) -> Signature:
    """Return what several signatures say together; each may leave parts open. Pure.

    Raises:
        SignatureError: two contradict each other.
    """
    first = signatures[0]
    for number, other in enumerate(signatures[1:], 1):
        if other.batch != first.batch:
            raise SignatureError(
                f"Member 0 takes {_rows(first.batch)} a call and member {number} {_rows(other.batch)}. Export them alike."
            )
    inputs = [_agreed_specs("input", number, first.inputs, other.inputs) for number, other in enumerate(signatures)]
    outputs = [_agreed_specs("output", number, first.outputs, other.outputs) for number, other in enumerate(signatures)]
    return Signature(reduce(_merged, inputs), reduce(_merged, outputs), first.batch)


def _agreed_specs(
    kind: str, number: int, first: tuple[TensorSpec, ...], other: tuple[TensorSpec, ...]
) -> tuple[TensorSpec, ...]:
    by_name = {spec.name: spec for spec in other}
    if kind == "output" and not (first and other):  # one of them does not tell its outputs
        return other
    if {spec.name for spec in first} != set(by_name):
        raise SignatureError(
            f"Member 0 has the {kind}s {_names(first)} and member {number} {_names(other)}. The members of an ensemble must "
            "take and give the same tensors."
        )
    for spec in first:
        if not _compatible(spec, by_name[spec.name]):
            raise SignatureError(
                f"{kind.capitalize()} `{spec.name}` is {spec.describe()} in member 0 and {by_name[spec.name].describe()} in "
                f"member {number}. The members of an ensemble must take and give the same tensors."
            )
    return tuple(by_name[spec.name] for spec in first)


def _compatible(one: TensorSpec, two: TensorSpec) -> bool:
    if one.dtype and two.dtype and one.dtype != two.dtype:
        return False
    if one.shape is None or two.shape is None:
        return True
    return len(one.shape) == len(two.shape) and all(
        a is None or b is None or a == b for a, b in zip(one.shape, two.shape, strict=True)
    )


def _merged(one: tuple[TensorSpec, ...], two: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    known = {spec.name: spec for spec in two}
    return tuple(spec.merge(known[spec.name]) if spec.name in known else spec for spec in one) or two


def _check_alike(number: int, first: Block, other: Block) -> None:
    shapes = [{name: array.shape for name, array in block.items()} for block in (first, other)]
    if shapes[0] != shapes[1]:
        raise ModelOutputError(
            f"Member 0 gives tensors of shapes {shapes[0]} and member {number} {shapes[1]} for the same rows. The members of "
            "an ensemble must give the same tensors (classifiers: trained with the same classes)."
        )


def _unfit(average: str, dtype: str) -> str:
    """Say why values of a type cannot be averaged so; "" where they can."""
    if average == "mean" and dtype not in _FLOATS:
        return (
            f"{dtype} has no mean. For class labels set average='vote', or have the members give probabilities "
            "(scikit-learn: load={'method': 'predict_proba'})."
        )
    if average == "vote" and dtype in _FLOATS:
        return f"a vote is for labels, and these are {dtype}. Set average='mean', or have the members give labels."
    return ""


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    total = np.zeros(arrays[0].shape, np.float64)
    for array in arrays:
        total += array
    total /= len(arrays)
    return total.astype(arrays[0].dtype)


def _vote(arrays: Sequence[np.ndarray]) -> np.ndarray:
    labels, codes = np.unique(np.stack(arrays), return_inverse=True)
    codes = np.sort(codes.reshape(len(arrays), *arrays[0].shape), axis=0)  # so that the first of equals is the smallest
    counts = np.stack([(codes == one).sum(axis=0) for one in codes])
    winner = np.take_along_axis(codes, counts.argmax(axis=0)[None], axis=0)[0]
    chosen: np.ndarray = labels[winner]
    return chosen.astype(arrays[0].dtype, copy=False)


def _unknown(average: Mapping[str, str], outputs: Sequence[str]) -> str:
    """Say which outputs are named that there are not; "" where there are all."""
    unknown = sorted(set(average) - set(outputs))
    if not unknown:
        return ""
    return f"average names {', '.join(unknown)}, which the members do not give; their outputs are {', '.join(outputs)}."


def _threads() -> int:
    """Return the cores of this task; on the driver, those of the machine."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return (os.cpu_count() or 1) if context is None else int(context.cpus())


def _of(average: str | Mapping[str, str], output: str) -> str:
    return average if isinstance(average, str) else average.get(output, "mean")


def _names(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(spec.name for spec in specs) or "(none)"


def _rows(batch: int | None) -> str:
    return "any number of rows" if batch is None else f"exactly {batch} rows"
