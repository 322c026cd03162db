"""What limits ranks that work together, and what would help. A pure function of their seconds by phase."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from sparkgap.monitor.finding import ENOUGH_SECONDS, Verdict
from sparkgap.monitor.ranks import Rank, shares, words_of

APART = 0.25
"""The slowest rank waits for others by so much less of its time than these for it."""
WORTH_TELLING = 0.1


def of_ranks(ranks: Sequence[Rank]) -> Verdict:
    """Find what limits a gang.

    Args:
        ranks: all of it, as far as they have told.
    """
    seconds: Counter[str] = Counter()
    for rank in ranks:
        seconds.update(rank.latest.phases)
    worked = {phase: spent for phase, spent in seconds.items() if phase != "start"}
    if sum(worked.values()) < ENOUGH_SECONDS:
        return Verdict("", 0.0, "too short to tell what limits it")
    if seconds["start"] > sum(worked.values()):
        return _of("start", shares(seconds))
    found = shares(worked)
    return _slowest(ranks) or _of(max(found, key=lambda p: found[p]), found)


def _of(phase: str, found: Mapping[str, float]) -> Verdict:
    words, fix = _WORDS.get(phase, (f"mostly {phase}", "See what it does there."))
    return Verdict(phase, found[phase], f"{words.format(share=f'{found[phase]:.0%}')}{_next(phase, found)}", fix)


def _next(phase: str, found: Mapping[str, float]) -> str:
    """Return what comes second, where it is worth telling."""
    rest = {p: share for p, share in found.items() if p != phase}
    second = max(rest, key=lambda p: rest[p], default="")
    return f" ({rest[second]:.0%} {words_of(second)})" if second and rest[second] >= WORTH_TELLING else ""


def _slowest(ranks: Sequence[Rank]) -> Verdict | None:
    """One rank that the others wait for."""
    if len(ranks) < 2:
        return None
    slow = min(ranks, key=lambda r: r.share("communicate"))
    waiting = statistics.median(r.share("communicate") for r in ranks if r is not slow)
    if waiting < 1 / 3 or waiting - slow.share("communicate") < APART:
        return None
    data = slow.share("data")
    where = f" on {slow.latest.host}" if slow.latest.host else ""
    busy = f"it waits {data:.0%} of its time for data" if data > slow.share("compute") else "it computes longer"
    return Verdict(
        "slowest rank", waiting,
        f"waits for the slowest rank: {waiting:.0%} of the others' time goes into waiting for rank {slow.latest.rank}{where}, "
        f"and {busy}",
        "Bring the shards as near to its machine as to others." if data > slow.share("compute")
        else "Its machine is slower or has other work: give it cores of its own (cpus=), leave it out, or let ranks work "
        "apart: strategy=gap.LocalSGD(period=8) or gap.ParameterServer(staleness=4).",
    )  # fmt: skip


_WORDS = {
    "compute": (
        "compute-bound: {share} in the model",
        "More workers or a GPU, a smaller model, or precision='bf16' would help; nothing else will.",
    ),
    "data": (
        "waits for data: {share} of the ranks' time",
        "Write the shards on faster or nearer storage, with fewer or smaller columns; read further ahead (prefetch=); or have "
        "the work on rows done once, before they are written.",
    ),
    "convert": (
        "bound by converting columns to tensors: {share} of the ranks' time",
        "Write one column of arrays instead of many columns of numbers, in the type that the model takes.",
    ),
    "communicate": (
        "bound by communication: {share} of the ranks' time goes into waiting for each other",
        "Use a larger batch_size, or meet less often: strategy=gap.LocalSGD(period=8), with compression= where the network is "
        "slow. A small model may be faster with fewer workers.",
    ),
    "validate": (
        "bound by validation: {share} of the ranks' time",
        "Look at fewer rows after each epoch: a smaller validation=.",
    ),
    "checkpoint": (
        "bound by checkpoints: {share} of the ranks' time",
        "Keep them less often (checkpoint_every=), or on faster storage.",
    ),
    "write": (
        "bound by what takes the rows: {share} of the ranks' time",
        "Make the sink faster or give it less: fewer or smaller columns.",
    ),
    "start": (
        "bound by starting: {share} of the ranks' time before the first step",
        "Train on more rows or for more epochs at once: imports, the process group and the model have their price.",
    ),
}
