"""What the collectives of a process move and how long they take, counted where torch.distributed is called."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

_WAITED_FOR = ("all_to_all_single", "all_gather", "all_gather_object", "broadcast", "broadcast_object_list", "barrier")


@dataclass(slots=True)
class Traffic:
    """received_bytes: of tensors, from other ranks. seconds: in the calls, other ranks' lateness included; none for
    gathers of weights, which go on while something else is computed."""

    number: int = 0
    received_bytes: float = 0.0
    seconds: float = 0.0


class Collectives:
    """Counts while `counted` is open."""

    def __init__(self) -> None:
        self._found: dict[str, Traffic] = defaultdict(Traffic)

    @contextmanager
    def counted(self) -> Generator[None]:
        """What is called in the block, one process's."""
        originals = {name: getattr(dist, name) for name in (*_WAITED_FOR, "all_gather_single")}
        for name in _WAITED_FOR:
            setattr(dist, name, partial(self._waited_for, name, originals[name]))
        dist.all_gather_single = partial(self._issued, originals["all_gather_single"])
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(dist, name, original)

    def to_json(self) -> dict[str, dict[str, float]]:
        """By name."""
        return {name: asdict(traffic) for name, traffic in self._found.items()}

    def _waited_for(self, name: str, original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = original(*arguments, **named)
        if "group_src" in named:  # rows of a block
            self._weights(arguments[0].nbytes if dist.get_rank() != named["group_src"] else 0)
            return result
        traffic = self._found[name]
        traffic.number += 1
        traffic.seconds += time.perf_counter() - started
        traffic.received_bytes += _received(name, *arguments)
        return result

    def _issued(self, original: Callable[..., Any], output: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        self._weights(output.nbytes * (dist.get_world_size() - 1) / dist.get_world_size())
        # When it has ended is not asked for: a callback of ours in a thread of gloo's may outlive the interpreter.
        return original(output, *arguments, **named)

    def _weights(self, received_bytes: float) -> None:
        traffic = self._found["weights"]
        traffic.number += 1
        traffic.received_bytes += received_bytes


def _received(name: str, *arguments: Any) -> float:
    size = dist.get_world_size()
    if name == "all_to_all_single":
        received, sent = arguments[:2]
        return received.nbytes - sent.nbytes / size  # what stays is as much as goes to each other rank
    if name == "all_gather":
        return sum(part.nbytes for part in arguments[0]) * (size - 1) / size
    return 0.0
