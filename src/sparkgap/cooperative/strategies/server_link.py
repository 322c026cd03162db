"""Between the workers and the shards of a parameter server: messages of a process group, one thread for each peer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparkgap.cooperative.strategies.server_shard import Push, Shard
from sparkgap.cooperative.telling import within

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group

_PULL, _PUSH, _SETTLE, _END = range(4)
_QUESTION, _MORE, _ANSWER = 7100, 7101, 7102  # tags: questions come to threads, answers to the one who asked

Shape = tuple[np.dtype, tuple[int, ...]]


class Server:
    """Serves a shard to the other ranks, a thread each. The own rank uses the shard directly.

    Args:
        shard: of this rank.
        shapes: type and shape of each of its vectors, then of its tables.
        tables: how many of these are tables.
        group: the ranks.
    """

    def __init__(self, shard: Shard, shapes: Sequence[Shape], tables: int, group: Group) -> None:
        self._shard, self._group = shard, group
        self._vectors, self._tables = list(shapes[: len(shapes) - tables]), list(shapes[len(shapes) - tables :])
        peers = [rank for rank in range(group.world) if rank != group.rank]
        self._threads = [threading.Thread(target=self._serve, args=(peer,), daemon=True) for peer in peers]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until every peer has said that it is done."""
        for thread in self._threads:
            thread.join()

    def _serve(self, peer: int) -> None:
        try:
            while self._answer(peer):
                pass
        except BaseException as error:  # it is raised where the shard is waited for
            self._shard.fail(error)

    def _answer(self, peer: int) -> bool:
        header = np.zeros(2 + len(self._tables), np.int64)
        self._group.receive_(header, peer, _QUESTION).wait()
        kind, clock, *counts = (int(n) for n in header)
        if kind == _END:
            return False
        if kind == _SETTLE:
            self._group.send(pack(self._shard.settled(clock)), peer, _ANSWER).wait()
            return True
        rows: list[Shape] = [(np.dtype(np.int64), (count,)) for count in counts]
        values = [(kind_, (count, *shape[1:])) for (kind_, shape), count in zip(self._tables, counts, strict=True)]
        if kind == _PULL:
            found = self._shard.pull(clock, self._more(peer, rows))
            self._group.send(pack(found), peer, _ANSWER).wait()
            return True
        parts = self._more(peer, [*rows, *self._vectors, *values])
        first = len(rows) + len(self._vectors)
        self._shard.push(peer, Push(parts[len(rows) : first], parts[: len(rows)], parts[first:]))
        return True

    def _more(self, peer: int, shapes: Sequence[Shape]) -> list[np.ndarray]:
        data = np.empty(size_of(shapes), np.uint8)
        if len(data):
            self._group.receive_(data, peer, _MORE).wait()
        return unpack(data, shapes)


class Client:
    """Asks the server of another rank.

    Args:
        peer: that rank.
        shapes: type and shape of each vector there, then of each table.
        tables: how many of these are tables.
        group: the ranks.
    """

    def __init__(self, peer: int, shapes: Sequence[Shape], tables: int, group: Group) -> None:
        self._peer, self._group = peer, group
        self._shapes, self._tables = list(shapes), list(shapes[len(shapes) - tables :])

    def ask(self, clock: int, rows: Sequence[np.ndarray]) -> None:
        """Ask for the vectors and for rows of the tables; `answer` gives them."""
        self._send(_PULL, clock, rows, [])
        vectors = self._shapes[: len(self._shapes) - len(self._tables)]
        self._coming = [*vectors, *((k, (len(r), *s[1:])) for (k, s), r in zip(self._tables, rows, strict=True))]

    def ask_all(self, clock: int, copies: int) -> None:
        """Ask for everything, with the optimizer's memory where `copies` is 2; `answer` gives it."""
        self._send(_SETTLE, clock, [], [])
        self._coming = self._shapes * copies

    def answer(self) -> list[np.ndarray]:
        """Wait for what was asked for."""
        data = np.empty(size_of(self._coming), np.uint8)
        with within("communicate"):
            self._group.receive_(data, self._peer, _ANSWER).wait()
        return unpack(data, self._coming)

    def push(self, push: Push) -> None:
        """Send a step's part."""
        self._send(_PUSH, 0, push.rows, [*push.dense, *push.values])

    def end(self) -> None:
        """Let the server's thread for this rank go."""
        self._send(_END, 0, [], [])

    def _send(self, kind: int, clock: int, rows: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> None:
        header = np.zeros(2 + len(self._tables), np.int64)
        header[:2] = kind, clock
        header[2 : 2 + len(rows)] = [len(r) for r in rows]
        data = pack([*rows, *values])
        works = [self._group.send(header, self._peer, _QUESTION)]
        if len(data):
            works.append(self._group.send(data, self._peer, _MORE))
        for work in works:
            work.wait()


def pack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the bytes of arrays, one after the other."""
    return np.concatenate([np.empty(0, np.uint8), *(np.ascontiguousarray(a).reshape(-1).view(np.uint8) for a in arrays)])


def unpack(data: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
    """Return the arrays that `pack` was given."""
    found, place = [], 0
    for shape in shapes:
        size = size_of([shape])
        found.append(data[place : place + size].copy().view(shape[0]).reshape(shape[1]))
        place += size
    return found


def size_of(shapes: Sequence[Shape]) -> int:
    """Return the bytes of arrays."""
    return sum(kind.itemsize * int(np.prod(shape, dtype=np.int64)) for kind, shape in shapes)
