"""A verdict: what was found to limit a run."""

from __future__ import annotations

from dataclasses import dataclass

ENOUGH_SECONDS = 0.5
"""A run of less work than this has no verdict: starting it is what takes the time."""


@dataclass(frozen=True)
class Verdict:
    """What limits a run.

    Attributes:
        limit: ``"model"``, ``"small batches"``, ``"threads"``, ``"waiting model"``, ``"read"``, ``"decode"``,
            ``"encode"``, ``"write"``, ``"load"``, ``"straggler"``, ``"idle slots"``, of a training also ``"compute"``,
            ``"data"``, ``"convert"``, ``"communicate"``, ``"slowest rank"``, ``"validate"``, ``"checkpoint"`` or ``"start"``;
            ``""`` where it cannot be told.
        share: the part of the time of the tasks (stragglers, idle slots: of the slots; trainings: of the ranks) that it
            takes, 0 to 1.
        text: one line for people.
        fix: what to change, in words.
    """

    limit: str
    share: float
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.text}. {self.fix}" if self.fix else self.text
