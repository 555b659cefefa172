"""The gathers of a base whose layers FSDP2 has divided: the same ones on every rank, whatever happens on it.

FSDP gathers a layer when it is about to compute, and has the next one brought in meanwhile; by default it guesses the
next one of a backward from the forwards before it, which differ among ranks. Here each layer names its neighbour, so
that a forward gathers the layers upwards, and a backward downwards, each once. What a pass has gathered is counted as
it is issued; a pass that ends early, or that never came to some layers, is made whole by gathers that nobody uses.
"""

# L layers

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from traceback import clear_frames
from typing import Any, cast

from torch.distributed.fsdp import FSDPModule

from trainer.distributed.gather_traffic import GatherTraffic
from trainer.distributed.layer_all_gather import GatherBuffer, LayerAllGather
from trainer.distributed.peers import lost_peer
from wire.errors import DeviceLost


class LayerGathers:
    """Implements `trainer.engine.gathers.Gathers`. One pass at a time.

    After a forward or a backward nothing of it is left in FSDP: a graph that is dropped needs no backward, and what
    was raised half way disturbs no later pass. Raises DeviceLost where a peer has left a gather, or did not come to it
    in time: nothing can be gathered any more.
    """

    def __init__(self, backbone: FSDPModule, layers: Sequence[FSDPModule], num_ranks: int) -> None:
        """layers: of the backbone, in the order in which it computes them."""
        self.traffic = GatherTraffic()
        self._backbone = backbone
        self._layers = layers
        self._num_ranks = num_ranks
        self._issued = list[int]()
        self._lost: DeviceLost | None = None
        buffer = GatherBuffer()
        for number, layer in enumerate(layers):
            gather = LayerAllGather(buffer, self.traffic, partial(self._issue, number), self._lose)
            layer.set_custom_all_gather(cast(Any, gather))
            layer.set_modules_to_forward_prefetch(list(layers[number + 1 : number + 2]))
            # The first names itself, which gathers nothing: with no name at all FSDP would guess.
            layer.set_modules_to_backward_prefetch([layers[max(number - 1, 0)]])

    @contextmanager
    def forward(self) -> Generator[None]:
        """See `Gathers.forward`."""
        with self._whole(range(len(self._layers))):
            yield

    @contextmanager
    def backward(self) -> Generator[None]:
        """See `Gathers.backward`."""
        with self._whole(range(len(self._layers) - 1, -1, -1)):
            yield

    def idle_forward(self) -> None:
        """See `Gathers.idle_forward`."""
        with self.forward():
            pass

    def idle_backward(self) -> None:
        """See `Gathers.idle_backward`."""
        with self.backward():
            pass

    @contextmanager
    def _whole(self, order: Sequence[int]) -> Generator[None]:
        """Whatever the block gathers, all layers are gathered once in this order when it has ended."""
        if self._lost is not None:
            raise self._lost
        self._issued.clear()
        try:
            yield
        except Exception as error:
            # What the pass had computed so far would be in the way of the layers that are still to come.
            clear_frames(error.__traceback__)
            if self._lost is None:
                self._complete(order)
            raise
        self._complete(order)

    def _complete(self, order: Sequence[int]) -> None:
        self._backbone.reset_iter_state()
        if self._num_ranks == 1:
            return
        issued = len(self._issued)
        if self._issued != list(order[:issued]):
            raise RuntimeError(f"layers were gathered in the order {self._issued}, and not from one to the next")
        for number in order[issued:]:
            self._layers[number].unshard()
            self._layers[number].reshard()

    def _issue(self, layer: int) -> None:
        self._issued.append(layer)

    def _lose(self, error: Exception) -> DeviceLost:
        self._lost = lost_peer(error)
        return self._lost
