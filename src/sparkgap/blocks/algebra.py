"""Whether a program can be applied to its own results, as reductions do. Driver side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparkgap._errors import ConfigurationError, ModelOutputError
from sparkgap.blocks.cells import cell_spec
from sparkgap.blocks.job import Job
from sparkgap.blocks.probing import Trial, free, open_lengths, run_here
from sparkgap.blocks.subject import Subject
from sparkgap.tensors.spec import Block, TensorSpec

_INPUT = "_input"


def without_suffix(names: Sequence[str], subject: Subject) -> dict[str, str]:
    """Let the parameter ``x_input`` read column ``x``, where there is no column of its own name."""
    short = {n: n.removesuffix(_INPUT) for n in names if n.endswith(_INPUT) and n not in subject.types}
    return {name: column for name, column in short.items() if column in subject.types}


def algebraic(job: Job, verb: str) -> tuple[dict[str, str], tuple[TensorSpec, ...]]:
    """Check that a program can be applied to its own results.

    Returns:
        Output -> its parameter, and the specs of the outputs, which are cells.

    Raises:
        ConfigurationError: outputs and parameters do not belong together.
        ModelOutputError: what it makes of its results is of another dtype or rank.
    """
    _, given = job.tried()
    pairs = _pairs(job, given, verb)
    specs = tuple(cell_spec(name, array) for name, array in given.items())
    run = run_here(job.model)
    for _ in range(2):  # the first time may widen the dtype, as sums of int32 do
        cells = {pairs[name]: np.stack([array, array]) for name, array in given.items()}
        again = _again(run, cells, job, verb)
        found = tuple(cell_spec(name, array) for name, array in again.items())
        if found == specs:
            return pairs, tuple(free(s, job.inputs) for s in specs)
        if [s.name for s in found] != [s.name for s in specs] or any(
            a.shape != b.shape for a, b in zip(found, specs, strict=True)
        ):
            break
        given, specs = again, found
    raise ModelOutputError(
        f"The program `{job.name}` cannot be applied to its own results: of a block it made "
        f"{', '.join(_shown(s) for s in specs)}, and of several of these {', '.join(_shown(s) for s in found)}. "
        f"{verb} needs a "
        'program that makes one cell of many, e.g. {"x": x.sum(axis=0)}.'
    )


def _shown(spec: TensorSpec) -> str:
    return f"`{spec.name}` {spec.dtype} {spec.shape}"


def _again(run: Trial, cells: Block, job: Job, verb: str) -> Block:
    try:
        with np.errstate(all="ignore"):
            return run(cells)
    except Exception as error:
        shapes = ", ".join(f"{name}: {array.dtype} {array.shape}" for name, array in cells.items())
        raise ModelOutputError(
            f"The program `{job.name}` failed when it was applied to its own results, as {verb} does ({type(error).__name__}: "
            f"{error}). It was given {shapes}. Its parameters are blocks of cells, and so are its results, stacked."
        ) from error


def _pairs(job: Job, given: Block, verb: str) -> dict[str, str]:
    parameters = [] if job.takes_nothing else [i.spec.name for i in job.inputs]
    pairs = {n if n in given else n.removesuffix(_INPUT): n for n in parameters}
    without = [p for o, p in pairs.items() if o not in given]
    extra = [o for o in given if o not in pairs]
    if without or extra or len(pairs) < len(parameters):
        raise ConfigurationError(
            f"The program `{job.name}` takes {', '.join(parameters) or 'nothing'} and returns "
            f"{', '.join(given)}. For {verb} each parameter `x` (or `x_input`) needs an output `x` and each "
            "output a parameter, as its results are its input again."
        )
    return {o: pairs[o] for o in given}


def columns_of_pairs(names: Sequence[str], subject: Subject) -> dict[str, str]:
    """Let the parameters ``x_1`` and ``x_2`` read column ``x``.

    Raises:
        ConfigurationError: a parameter has no partner.
    """
    wrong = [n for n in names if n[-2:] not in ("_1", "_2") or n[:-2] + ("_2" if n.endswith("_1") else "_1") not in names]
    if wrong:
        raise ConfigurationError(
            f"The parameters of the function are {', '.join(names)}; reduce_rows wants two for each column, x_1 and x_2, and "
            f"{', '.join(wrong)} has no partner. E.g. lambda x_1, x_2: {{'x': x_1 + x_2}}."
        )
    return {name: name[:-2] for name in names}


def pair_outputs(job: Job) -> tuple[TensorSpec, ...]:
    """Check that a function of two rows can be applied to its own results, and return the specs of its outputs.

    Raises:
        ConfigurationError: outputs and parameters do not belong together.
        ModelOutputError: what it makes is of another dtype or rank than the columns.
    """
    columns = sorted({i.spec.name[:-2] for i in job.inputs})

    def first(run: Trial) -> Trial:
        return lambda block: run({name: array[0] for name, array in block.items()})

    _, given = job.tried(first)
    if sorted(given) != columns:
        raise ConfigurationError(
            f"The function `{job.name}` takes pairs of {', '.join(columns)} and returns {', '.join(given)}. "
            "reduce_rows needs one "
            "output for each pair of parameters: {'x': ...} for x_1 and x_2."
        )
    cells = {f"{name}_{side}": array for name, array in given.items() for side in (1, 2)}
    again = _again(run_here(job.model), cells, job, "reduce_rows")
    specs = tuple(open_lengths(cell_spec(name, given[name])) for name in given)
    found = tuple(open_lengths(cell_spec(name, again[name])) for name in given)
    types = {i.spec.name[:-2]: (i.spec.dtype, len(i.spec.shape or ())) for i in job.inputs}
    if specs != found or any((s.dtype, len(s.shape or ())) != types[s.name] for s in specs):
        raise ModelOutputError(
            f"The function `{job.name}` makes {', '.join(_shown(s) for s in found)} of two cells of "
            f"{', '.join(f'`{n}` {d} of rank {r}' for n, (d, r) in types.items())}. reduce_rows needs the dtype "
            "and rank of the column."
        )
    return specs
