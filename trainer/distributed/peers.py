"""What a rank raises when another one is gone, or its own device has failed: the group cannot go on."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

import torch.distributed as dist

from trainer.engine.device_errors import device_error
from wire.errors import DeviceLost, RanksLost

# gloo: [/source/file.cc:537] Connection closed by peer [10.0.0.1]:50090. This is typically caused by …
_PLACE_AND_ADVICE = re.compile(r"^\[[^\]]*\] |\. This is .*")


@contextmanager
def peers_there() -> Generator[None]:
    """The block is a collective. Raises RanksLost where it fails."""
    try:
        yield
    except RuntimeError as error:  # gloo has no class of its own, and DistError is one
        raise lost_peer(error) from error


def lost_peer(error: Exception) -> DeviceLost:
    """For what a collective has raised."""
    if isinstance(error, DeviceLost):
        return error
    reason = _PLACE_AND_ADVICE.sub("", (str(error).splitlines() or [type(error).__name__])[0])
    return RanksLost(f"a rank of this trainer is gone or stands still ({reason}); another trainer goes on")


def lost_behind(error: Exception) -> DeviceLost | None:
    """Why the ranks cannot go on together: this one's device has failed, or a collective has, so that nobody knows what
    the others have seen. None for an error after which they can."""
    if isinstance(error, DeviceLost):
        return error
    if isinstance(found := device_error(error), DeviceLost):
        return found
    is_of_collective = isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(name in str(error) for name in ("gloo", "NCCL"))
    )
    return lost_peer(error) if is_of_collective else None
