"""Which group runs where: packs groups into partitions, the largest first. Pure.

Spark starts the tasks of a stage in the order of its partitions. So partition 0 gets the largest group, and the small ones
come last, several to a partition: at the end of a run, where one task more or less is felt, only small ones are left.
"""

from __future__ import annotations

from collections.abc import Sequence

WAVES = 4
"""Partitions a slot, at most: enough to even out groups that take longer than their rows tell."""
_SEED = 42  # of Spark's hash partitioning
_MASK = 0xFFFFFFFF


def pack(rows: Sequence[int], slots: int) -> list[int]:
    """Return the partition of each group; there are at most ``WAVES * slots + 1``, numbered from 0 without gaps.

    What a group takes is not known. Half of all work is taken to be in the rows, the other half to be the same for each
    group: by rows alone, a thousand small models beside a huge one would come to lie in one task.

    Args:
        rows: of each group, in descending order.
        slots: tasks that run at the same time.
    """
    total = sum(rows)
    same = total / max(1, len(rows))
    full = 2 * total / (WAVES * slots)
    found: list[int] = []
    partition, weight = 0, 0.0
    for count in rows:
        if weight >= full:
            partition, weight = partition + 1, 0.0
        found.append(partition)
        weight += count + same
    return found


def places(partitions: int) -> list[int]:
    """Return, for each partition, an integer that Spark's ``repartition(partitions, column)`` sends there.

    It sends a row to ``pmod(hash(column), partitions)``; here the hash is searched backwards. Spark 4.1 has
    `repartitionById` for this, 4.0 does not. Were the hash another one, only order and balance of the tasks would suffer.
    """
    found: dict[int, int] = {}
    number = 0
    while len(found) < partitions:
        found.setdefault(spark_hash(number) % partitions, number)
        number += 1
    return [found[p] for p in range(partitions)]


def spark_hash(number: int) -> int:
    """Return Spark's ``hash`` of an int column: Murmur3, 32 bits, signed."""
    mixed = _rotated(number * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK
    state = (_rotated(_SEED ^ mixed, 13) * 5 + 0xE6546B64) & _MASK
    state ^= 4  # bytes of an int
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    state ^= state >> 16
    return state - (1 << 32) if state >> 31 else state


def _rotated(number: int, by: int) -> int:
    return (number << by | number >> 32 - by) & _MASK
