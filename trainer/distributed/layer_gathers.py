"""The gathers of a base that is divided among ranks: the same ones on every rank, whatever happens on it.

FSDP gathers a layer when it is about to compute, and has the next one brought in meanwhile; by default it guesses the
next one of a backward from the forwards before it, which differ among ranks. Here each layer names its neighbour, so
that a forward gathers the layers upwards, and a backward downwards, each once. Blocks of the embedding come before the
layers of a forward, and blocks of the unembedding after them. What a pass has gathered is counted as it is issued; a
pass that ends early, or that never came to some parts, is made whole by gathers that nobody uses.
"""

# L layers

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from traceback import clear_frames
from typing import Any, cast

from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from trainer.distributed.counted_gather import CountedGather
from trainer.distributed.gather_traffic import GatherTraffic
from trainer.distributed.layer_all_gather import GatherBuffer, LayerAllGather
from trainer.distributed.peers import lost_peer
from trainer.distributed.vocabulary_blocks import BlockGather, ShardedRows
from trainer.engine.unembedding import blocks_of
from wire.errors import DeviceLost


class LayerGathers:
    """Implements `trainer.engine.gathers.Gathers`. One pass at a time.

    After a forward or a backward nothing of it is left in FSDP: a graph that is dropped needs no backward, and what
    was raised half way disturbs no later pass. Raises DeviceLost where a peer has left a gather, or did not come to it
    in time: nothing can be gathered any more.
    """

    def __init__(
        self,
        backbone: FSDPModule,
        layers: Sequence[FSDPModule],
        num_ranks: int,
        embedding: DTensor | None = None,
        unembedding: DTensor | None = None,
    ) -> None:
        """layers: of the backbone, in the order in which it computes them. embedding, unembedding: weights whose rows
        are divided; one twice if they are tied."""
        self.traffic = GatherTraffic()
        self._backbone = backbone
        self._num_ranks = num_ranks
        self._parts = list[FSDPModule | BlockGather]()
        self._order: Sequence[int] = ()
        self._issued = list[int]()
        self._lost: DeviceLost | None = None
        self._recomputes_head = False
        self.embedding = self._rows(embedding)
        self._layers = self._numbered(layers)
        self.unembedding = self._rows(unembedding)
        self._head = range(self._layers.stop, len(self._parts))

    @contextmanager
    def forward(self) -> Generator[None]:
        """See `Gathers.forward`."""
        with self._whole(range(len(self._parts))):
            yield

    @contextmanager
    def backward(self) -> Generator[None]:
        """See `Gathers.backward`."""
        head = self._head if self._recomputes_head else ()
        with self._whole([*head, *reversed(self._layers)]):
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
    def recomputing_head(self, on: bool) -> Generator[None]:
        """See `Gathers.recomputing_head`."""
        before, self._recomputes_head = self._recomputes_head, on
        try:
            yield
        finally:
            self._recomputes_head = before

    def _rows(self, weight: DTensor | None) -> ShardedRows | None:
        if weight is None:
            return None
        first, blocks = len(self._parts), blocks_of(len(weight))
        gathers = [BlockGather(weight, ids, self._counted(number)) for number, ids in enumerate(blocks, first)]
        self._parts += gathers
        return ShardedRows(weight, gathers)

    def _numbered(self, layers: Sequence[FSDPModule]) -> range:
        first, buffer = len(self._parts), GatherBuffer()
        for number, layer in enumerate(layers):
            layer.set_custom_all_gather(cast(Any, LayerAllGather(buffer, self._counted(first + number))))
            layer.set_modules_to_forward_prefetch(list(layers[number + 1 : number + 2]))
            # The first names itself, which gathers nothing: with no name at all FSDP would guess.
            layer.set_modules_to_backward_prefetch([layers[max(number - 1, 0)]])
        self._parts += layers
        return range(first, len(self._parts))

    def _counted(self, number: int) -> CountedGather:
        return CountedGather(self.traffic, partial(self._issue, number), self._lose)

    @contextmanager
    def _whole(self, order: Sequence[int]) -> Generator[None]:
        """Whatever the block gathers, all parts are gathered once in this order when it has ended."""
        if self._lost is not None:
            raise self._lost
        self._order = order
        self._issued.clear()
        try:
            yield
        except Exception as error:
            # What the pass had computed so far would be in the way of the layers that are still to come.
            clear_frames(error.__traceback__)
            if self._lost is None:
                self._complete()
            raise
        self._complete()

    def _complete(self) -> None:
        self._backbone.reset_iter_state()
        if self._num_ranks == 1:
            return
        for part in self._parts:
            if isinstance(part, BlockGather):
                part.wait()
        issued = len(self._issued)
        if self._issued != list(self._order[:issued]):
            raise RuntimeError(f"layers were gathered in the order {self._issued}, and not from one to the next")
        for number in self._order[issued:]:
            self._idle(number)

    def _idle(self, number: int) -> None:
        part = self._parts[number]
        if isinstance(part, BlockGather):
            part.idle()
        else:
            part.unshard()
            part.reshard()

    def _issue(self, number: int) -> None:
        """Before a part is gathered. Where others compute their heads again and this rank does not, it goes straight to
        the last layer: then the head's blocks are gathered for nobody's use."""
        while number in self._layers and self._expected() in self._head:
            self._idle(self._expected())
        self._issued.append(number)

    def _expected(self) -> int:
        issued = len(self._issued)
        return self._order[issued] if issued < len(self._order) else -1

    def _lose(self, error: Exception) -> DeviceLost:
        self._lost = lost_peer(error)
        return self._lost
