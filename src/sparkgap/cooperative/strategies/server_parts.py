"""Which part of the parameters lies where in a parameter server, and asking all servers at once. In a rank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparkgap.cooperative.strategies.server_link import Client, Server
from sparkgap.cooperative.strategies.server_shard import Push, ServerOptimizer, Shard

if TYPE_CHECKING:
    from sparkgap.cooperative.strategies.group import Group


class Parts:
    """All servers, seen from one rank; this rank's own is among them.

    Of a vector a server has a range; of a table every n-th row, as the first rows of vocabularies are used most.

    Args:
        arrays: vectors, then tables; the same on all ranks.
        memory: of the optimizer, as `arrays`; empty without one.
        tables: how many of `arrays` are tables.
        servers: how many ranks serve, from rank 0 on.
        staleness: see `Shard`.
        optimizer: see `Shard`.
        group: the ranks.
    """

    def __init__(
        self,
        arrays: Sequence[np.ndarray],
        memory: Sequence[np.ndarray],
        *,
        tables: int,
        servers: int,
        staleness: float,
        optimizer: ServerOptimizer | None,
        group: Group,
    ) -> None:
        self._vectors, self._servers, self._group, self._clock = len(arrays) - tables, servers, group, 0
        self._like, self._has_memory = [np.empty_like(a) for a in arrays], bool(memory)
        self._clients = {}
        self._shard: Shard | None = None
        for server in range(servers):
            mine = self._pieces(arrays, server)
            shapes = [(piece.dtype, piece.shape) for piece in mine]
            if server != group.rank:
                self._clients[server] = Client(server, shapes, tables, group)
                continue
            kept = self._pieces(memory, server) if memory else []
            self._shard = Shard(
                mine[: self._vectors], mine[self._vectors :], kept, world=group.world, staleness=staleness, optimizer=optimizer
            )
            self._server = Server(self._shard, shapes, tables, group)

    def pull(self, touched: Sequence[np.ndarray], into: Sequence[np.ndarray]) -> None:
        """Read the vectors, and the touched rows (numbers, each once) of each table, into `into`.

        Raises:
            RunError: a rank was lost.
        """
        rows = {s: [t[t % self._servers == s] for t in touched] for s in range(self._servers)}
        for server, client in self._clients.items():
            client.ask(self._clock, self._local(rows[server]))
        for server in range(self._servers):
            own = self._shard if server not in self._clients else None
            found = self._clients[server].answer() if own is None else own.pull(self._clock, self._local(rows[server]))
            for piece, value in zip(self._pieces(into[: self._vectors], server), found, strict=False):
                piece[...] = value
            for table, numbers, value in zip(into[self._vectors :], rows[server], found[self._vectors :], strict=True):
                table[numbers] = value

    def push(self, change: Sequence[np.ndarray], touched: Sequence[np.ndarray]) -> None:
        """Send a step's change: of whole vectors, and of the touched rows of each table."""
        self._clock += 1
        vectors, values = change[: self._vectors], change[self._vectors :]
        for server in range(self._servers):
            masks = [t % self._servers == server for t in touched]
            rows = self._local([t[m] for t, m in zip(touched, masks, strict=True)])
            push = Push(self._pieces(vectors, server), rows, [v[m] for v, m in zip(values, masks, strict=True)])
            if server in self._clients:
                self._clients[server].push(push)
            elif self._shard is not None:
                self._shard.push(self._group.rank, push)

    def settle(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Wait until all ranks have pushed as many steps, read everything, and end the servers. Returns arrays and memory.

        Raises:
            RunError: a rank was lost.
        """
        arrays, memory = [np.empty_like(a) for a in self._like], [np.empty_like(a) for a in self._like]
        for client in self._clients.values():
            client.ask_all(self._clock, 2 if self._has_memory else 1)
        for server in range(self._servers):
            own = self._shard if server not in self._clients else None
            found = self._clients[server].answer() if own is None else own.settled(self._clock)
            for whole, values in ((arrays, found[: len(arrays)]), (memory, found[len(arrays) :])):
                for piece, value in zip(self._pieces(whole, server), values, strict=False):
                    piece[...] = value
        for client in self._clients.values():
            client.end()
        if self._shard is not None:
            self._server.join()
        self._group.barrier()
        return arrays, memory if self._has_memory else []

    def _pieces(self, arrays: Sequence[np.ndarray], server: int) -> list[np.ndarray]:
        """Return views of what a server has."""
        count = self._servers
        vectors = [v[len(v) * server // count : len(v) * (server + 1) // count] for v in arrays[: self._vectors]]
        return [*vectors, *(table[server::count] for table in arrays[self._vectors :])]

    def _local(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the numbers that rows have in the server that has them."""
        return [r // self._servers for r in rows]
