"""Ranks on this machine: processes that stay, and compute what a test sends them.

They are forked from one that has imported torch and the engine, which takes each process 8 s of a processor otherwise.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch

from tests.plain_tracebacks import draw_no_locals
from trainer.distributed.group import RankGroup, start_group
from trainer.engine import unembedding

LIMIT_S = 30.0
BLOCK_ROWS = 32
"""Of the 89 of a tiny base's vocabulary: three blocks, which lie across the rows of some ranks."""
_IMPORTED_ONCE = ["tests.distributed.training", "torch.distributed.tensor", "pytest"]
_START_S, _ANSWER_S = 90.0, 200.0

Parameters = ParamSpec("Parameters")
Found = TypeVar("Found")


class RankFailed(AssertionError):
    """What a rank raised, or that it ended."""


class RankProcesses:
    """So many ranks, one thread each, over gloo. Started when they are first asked for something."""

    def __init__(
        self, size: int, limit_s: float = LIMIT_S, answer_s: float = _ANSWER_S, block_rows: int = BLOCK_ROWS
    ) -> None:
        """block_rows: of the vocabulary, in a block that ranks gather."""
        self.size = size
        self._block_rows = block_rows
        self._limit_s = limit_s
        self.answer_s = answer_s
        self._ranks: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

    def run(
        self,
        function: Callable[Concatenate[RankGroup, Parameters], Found],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> list[Found]:
        """What the function, one of a module, returns on each rank. Raises RankFailed, and ends all ranks, if it raises
        on any."""
        answers = self.outcomes(function, *args, **kwargs)
        if failed := [f"rank {rank}: {answer.args[0]}" for rank, answer in enumerate(answers) if _failed(answer)]:
            self.close()
            raise RankFailed("\n".join(failed))
        return answers

    def outcomes(
        self,
        function: Callable[Concatenate[RankGroup, Parameters], Any],
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> list[Any]:
        """As `run`, with a RankFailed in the place of what a rank does not return."""
        if not self._ranks:
            self._start()
        for _, connection in self._ranks:
            connection.send((function, args, kwargs))
        return [_answer(process, connection, self.answer_s) for process, connection in self._ranks]

    def process(self, rank: int) -> multiprocessing.process.BaseProcess:
        """Of this rank, to be sent signals."""
        return self._ranks[rank][0]

    def close(self) -> None:
        """End all ranks, at once."""
        for process, connection in self._ranks:
            process.kill()
            process.join()
            connection.close()
        self._ranks = []

    def _start(self) -> None:
        context = processes_with_torch()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            arguments = (rank, self.size, port, self._limit_s, self._block_rows, theirs)
            process = context.Process(target=_serve, args=arguments, name=f"rank-{rank}", daemon=True)
            process.start()
            theirs.close()
            self._ranks.append((process, ours))
        started = [_answer(process, connection, _START_S) for process, connection in self._ranks]
        assert not any(map(_failed, started)), started


def processes_with_torch() -> ForkServerContext:
    """Whose processes are forked from the one that has imported what ranks do."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED_ONCE)
    return context


def _failed(answer: object) -> bool:
    return isinstance(answer, RankFailed)


def _answer(process: multiprocessing.process.BaseProcess, connection: Connection, timeout_s: float) -> Any:
    try:
        if connection.poll(timeout_s):
            return connection.recv()
    except EOFError:
        process.join(timeout_s)
        return RankFailed(f"ended with {process.exitcode}")
    return RankFailed(f"no answer within {timeout_s:.0f} s")


def _serve(rank: int, size: int, port: int, limit_s: float, block_rows: int, connection: Connection) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
    }
    draw_no_locals()
    torch.set_num_threads(1)
    unembedding.BLOCK_ROWS = block_rows
    group = start_group("cpu", limit_s)
    connection.send(None)
    while True:
        function, args, kwargs = _received(connection)
        try:
            answer: Any = function(group, *args, **kwargs)
        except Exception:
            answer = RankFailed(traceback.format_exc())
        connection.send(answer)


def _received(connection: Connection) -> Sequence[Any]:
    try:
        return connection.recv()
    except EOFError:
        os._exit(0)
